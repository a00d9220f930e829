"""Saved folders and the cache, through `convert`, `Conversion.save`, `Conversion.load` and the command line."""

import contextlib
import copy
import json
import os
import pickle
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner
from conftest import Layers, SmallNet

from torch2trt_onnx import Conversion, ConversionWarning, Input, Options, convert, identity, inspection, result
from torch2trt_onnx.backends import Backend
from torch2trt_onnx.cache import Cache
from torch2trt_onnx.cli import main
from torch2trt_onnx.errors import EngineMismatchError, ManifestError, OutputError, SourceError
from torch2trt_onnx.hashing import hash_model
from torch2trt_onnx.manifest import Manifest
from torch2trt_onnx.plan import Asked

IMAGE = Input((2, 3, 8, 8), name="image")


@pytest.fixture
def builds(monkeypatch):
    """Grows by one with each engine that is built."""
    count = []
    build = Backend.build

    def counted(self, *given):
        count.append(self.name)
        return build(self, *given)

    monkeypatch.setattr(Backend, "build", counted)
    return count


@pytest.mark.parametrize("kind", ["module", "TorchScript file", "ONNX file"])
def test_a_second_conversion_is_taken_from_the_cache_and_is_the_first(kind, script_file, tmp_path, builds):
    inputs = None if kind == "ONNX file" else [IMAGE]

    def model():
        torch.manual_seed(0)
        if kind == "ONNX file":
            convert(SmallNet().eval(), [IMAGE], backend="none").save(tmp_path / "onnx")
            return tmp_path / "onnx" / "model.onnx"
        return SmallNet().eval() if kind == "module" else script_file

    first = convert(model(), inputs, cache=tmp_path / "cache")
    second = convert(model(), inputs, cache=tmp_path / "cache", options=Options(timeout=99.0))
    assert len(builds) == 1
    assert json.dumps(first.report.to_json()) == json.dumps(second.report.to_json())
    assert first.engine == second.engine != b""
    assert hash_model(first.onnx) == hash_model(second.onnx)
    assert (first.plan, first.signature) == (second.plan, second.signature)
    first.save(tmp_path / "first")
    second.save(tmp_path / "second")
    manifest = Manifest.read(tmp_path / "first")
    assert manifest == Manifest.read(tmp_path / "second")
    assert (manifest.source["sha256"] is None) == (kind == "module"), "a module in memory has no bytes of its own"
    convert(model(), inputs, cache=tmp_path / "cache", options=Options(tf32=True))
    assert len(builds) == 2


def test_a_saved_conversion_is_loaded_whole_its_weights_beside_it(net, tmp_path, monkeypatch):
    monkeypatch.setattr(result, "INLINE_LIMIT", 0)
    net.head = torch.nn.Linear(8, 400)
    first = convert(net, [IMAGE])
    first.save(tmp_path / "first")
    assert (tmp_path / "first" / "model.onnx.data").exists()
    second = Conversion.load(tmp_path / "first", device="8.9")
    second.save(tmp_path / "second")
    assert Manifest.read(tmp_path / "first") == Manifest.read(tmp_path / "second")
    saved = onnx.load(tmp_path / "second" / "model.onnx")
    assert hash_model(saved) == hash_model(second.onnx) == hash_model(first.onnx)


def test_a_gpu_that_the_engine_was_not_built_for_is_refused(net, tmp_path):
    convert(net, [IMAGE]).save(tmp_path)
    with pytest.raises(EngineMismatchError, match=r"the manifest says compute capability 8.9, 12.0; here is 9.0"):
        Conversion.load(tmp_path, device="9.0")


def test_an_engine_of_an_earlier_conversion_does_not_stay_beside_another_graph(net, tmp_path):
    convert(net, [IMAGE]).save(tmp_path)
    convert(net, [IMAGE], backend="none").save(tmp_path)
    assert not (tmp_path / "model.engine").exists()
    assert Conversion.load(tmp_path).engine == b""


def test_a_loaded_conversion_computes_what_the_model_did(net, tmp_path):
    image = torch.rand(2, 3, 8, 8)
    convert(net, [image], backend="none").save(tmp_path)
    with pytest.warns(ConversionWarning, match="ONNX Runtime on the CPU"):
        found = Conversion.load(tmp_path)(image)
    torch.testing.assert_close(found, net(image), rtol=6e-3, atol=6e-3)


def test_a_disk_that_is_too_full_for_the_cache_is_a_warning(net, tmp_path, monkeypatch):
    def full(*_):
        raise OutputError("the disk is full")

    monkeypatch.setattr(Cache, "put", full)
    with pytest.warns(ConversionWarning, match="was not cached: the disk is full"):
        assert convert(net, [IMAGE], cache=tmp_path / "cache", backend="none").onnx


def test_what_the_first_conversion_warned_of_the_cached_one_warns_of_again(tmp_path):
    for _ in range(2):
        with pytest.warns(ConversionWarning, match="fp64"):
            convert(torch.nn.Linear(4, 4).double(), [Input((2, 4), dtype="float64")], cache=tmp_path, backend="none")


@pytest.mark.parametrize("limit", [0, result.INLINE_LIMIT], ids=["weights beside", "weights inside"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_loaded_conversion_is_as_good_as_a_new_one_in_every_use(dtype, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(result, "INLINE_LIMIT", limit)
    x = torch.rand(2, 64)
    new = convert(Layers(b=dtype), [x], backend="none")
    new.save(tmp_path / "new")
    loaded = Conversion.load(tmp_path / "new")
    loaded.save(tmp_path / "again")
    assert Manifest.read(tmp_path / "new") == Manifest.read(tmp_path / "again")
    ways = [loaded, loaded.module(), Conversion.load(tmp_path / "again"), convert(loaded.onnx, backend="none")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        expected = new(x)
        for way in ways:
            assert torch.equal(way(x), expected)
        loaded.save(tmp_path / "new")  # after it ran, and over the folder that it came from
        assert torch.equal(Conversion.load(tmp_path / "new")(x), expected)


def test_a_loaded_conversion_does_not_need_its_folder_nor_see_what_is_written_there(net, tmp_path):
    convert(net, [IMAGE], backend="none").save(tmp_path)
    loaded = Conversion.load(tmp_path)
    before = hash_model(loaded.onnx)
    (tmp_path / "model.onnx").write_bytes(b"in place, as onnx.save does")
    assert hash_model(loaded.onnx) == before


def test_a_folder_of_symbolic_links_is_loaded(net, tmp_path):
    convert(net, [IMAGE], backend="none").save(tmp_path / "real")
    (tmp_path / "links").mkdir()
    for path in (tmp_path / "real").iterdir():
        (tmp_path / "links" / path.name).symlink_to(f"../real/{path.name}")
    assert Conversion.load(tmp_path / "links").plan == Conversion.load(tmp_path / "real").plan


def test_a_folder_that_is_saved_over_while_it_is_read_is_refused(net, tmp_path, monkeypatch):
    first, second = (convert(net, [IMAGE], backend="none", options=Options(opset=n)) for n in (20, 21))
    first.save(tmp_path)
    replace, copy = Path.replace, shutil.copyfile

    def half_way(path, target):
        if path.name == "manifest.json":
            raise OSError("it dies before the last file")
        return replace(path, target)

    def copied(*given):
        monkeypatch.setattr(shutil, "copyfile", copy)
        monkeypatch.setattr(Path, "replace", half_way)
        with pytest.raises(OutputError):
            second.save(tmp_path)
        return copy(*given)

    monkeypatch.setattr(shutil, "copyfile", copied)
    with pytest.raises(ManifestError):
        Conversion.load(tmp_path)


def test_a_file_that_cannot_be_replaced_leaves_all_as_they_were(net, tmp_path):
    (tmp_path / "report.json").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"report\.json"):
        convert(net, [IMAGE], backend="none").save(tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_saving_holds_no_engine_in_memory(net, tmp_path, monkeypatch):
    conversion = convert(net, [IMAGE])
    engine = conversion.engine
    monkeypatch.setattr(Conversion, "engine", property(lambda _: pytest.fail("the engine was read whole")))
    conversion.save(tmp_path)
    assert (tmp_path / "model.engine").read_bytes() == engine


def test_a_conversion_is_not_pickled_or_copied(net):
    conversion = convert(net, [IMAGE], backend="none")
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="save it, and load it"):
            attempt(conversion)


def test_files_that_are_gone_are_named(net, tmp_path):
    conversion = convert(net, [IMAGE])
    shutil.rmtree(conversion._onnx_path.parent)
    uses = (lambda: conversion.onnx, lambda: conversion.engine, conversion, lambda: conversion.save(tmp_path / "out"))
    for use in uses:
        with pytest.raises(OutputError, match="the files of this conversion are gone"):
            use()
    assert not (tmp_path / "out").exists()


def test_a_fork_that_ends_leaves_the_files_to_its_parent(net):
    conversion = convert(net, [IMAGE], backend="none")
    child = os.fork()
    if child == 0:
        conversion._cleanup()  # as at the end of a process
        os._exit(0)
    os.waitpid(child, 0)
    assert conversion.onnx.graph.node


def test_threads_may_make_the_first_call_together():
    x = torch.rand(2, 64)
    model = Layers(b=torch.float16)
    conversion = convert(model, [x], backend="none")
    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("ignore")
        found = list(pool.map(lambda _: conversion(x), range(8)))
    assert all(torch.equal(one, found[0]) for one in found)


def test_warnings_are_in_the_name_of_the_caller(tmp_path):
    def make(**given):
        return convert(torch.nn.Linear(4, 4).double(), [Input((2, 4), dtype="float64")], backend="none", **given)

    with pytest.warns(ConversionWarning, match="fp64"):
        make().save(tmp_path / "saved")
    for use in (make, lambda: make(cache=tmp_path / "cache"), lambda: Conversion.load(tmp_path / "saved")) * 2:
        with pytest.warns(ConversionWarning, match="fp64") as caught:
            use()
        assert {Path(w.filename).name for w in caught if w.category is ConversionWarning} == {Path(__file__).name}


def test_the_same_file_elsewhere_is_found_and_told_by_its_new_name(script_file, tmp_path):
    convert(script_file, [IMAGE], backend="none", cache=tmp_path / "cache")
    moved = script_file.rename(tmp_path / "moved.pt")
    found = convert(moved, [IMAGE], backend="none", cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    found.save(tmp_path / "out")
    assert found.report.source == Manifest.read(tmp_path / "out").source["name"] == str(moved)


def test_an_input_that_is_used_again_is_the_same_input(script_file, tmp_path):
    image = Input((2, 3, 8, 8))
    for _ in range(2):
        convert(script_file, [image], backend="none", cache=tmp_path / "cache")
    assert image.name is None and len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("setting", ["default dtype", "autocast", "matmul"])
def test_settings_of_pytorch_count(setting, script_file, tmp_path):
    def key():
        return identity.key(source_sha256="0" * 64, inputs=None, asked=Asked(), options=Options())

    before = key()
    with contextlib.ExitStack() as stack:
        if setting == "default dtype":
            torch.set_default_dtype(torch.float64)
            stack.callback(torch.set_default_dtype, torch.float32)
        elif setting == "autocast":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        else:
            torch.set_float32_matmul_precision("medium")
            stack.callback(torch.set_float32_matmul_precision, "highest")
        assert key() != before
    assert key() == before


def test_modules_with_one_trace_are_told_apart_by_what_tracing_warned_of(tmp_path):
    text = "class Model(torch.nn.Module):\n    def forward(self, x):\n        return x * 2"
    found = []
    for tail in ("", " if x.shape[0] == 2 else x * 3"):
        names = {"torch": torch}
        exec(compile(text + tail, str(tmp_path / "model.py"), "exec"), names)
        x = Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(4, 4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(convert(names["Model"](), [x], backend="none", cache=tmp_path / "cache"))
    assert [conversion.report.comparison.ok for conversion in found] == [True, False]


def test_an_entry_that_cannot_be_used_is_not_written_to(net, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    convert(net, [IMAGE], backend="none", cache=cache)
    entry = next(cache.iterdir())
    before = {path.name: path.read_bytes() for path in entry.iterdir()}

    def fail(*_):
        raise ManifestError("the folder was replaced while it was read")

    monkeypatch.setattr(Conversion, "taken", fail)
    convert(net, [IMAGE], backend="none", cache=cache)
    assert {path.name: path.read_bytes() for path in entry.iterdir()} == before


class TestReport:
    """What `inspect` and `Conversion.load` say of a report of another version, or of none."""

    @pytest.fixture
    def folder(self, net, tmp_path):
        convert(net, [IMAGE]).save(tmp_path)
        return tmp_path

    def damage(self, folder, **change):
        data = {**json.loads((folder / "report.json").read_text()), **change}
        (folder / "report.json").write_text(json.dumps({k: v for k, v in data.items() if v != "gone"}))

    @pytest.mark.parametrize(
        "key", ["constraints", "targets", "nodes", "source", "sizes", "plan", "weights", "log", "stages"]
    )
    def test_a_key_that_an_earlier_version_had_not_is_named(self, folder, key):
        self.damage(folder, **{key: "gone"})
        with pytest.raises(SourceError, match=f"the report has no '{key}'(.|\n)*convert and save it again"):
            inspection.read(folder)

    @pytest.mark.parametrize(
        "change",
        [
            {"nodes": [1]},
            {"nodes": "x"},
            {"seconds": [1]},
            {"warnings": None},
            {"source": 3},
            {"sizes": {}},
            {"plan": {}},
            {"bindings": [{}]},
            {"layers": [{"name": "x"}]},
            {"comparison": {"made": True}},
            {"weights": [{"name": "w"}]},
            {"log": [1]},
            {"stages": [{"file": "00-export.onnx"}]},
        ],
    )
    def test_a_report_of_another_form_is_an_error_of_ours(self, folder, change):
        self.damage(folder, **change)
        with pytest.raises(SourceError, match="the report of the conversion cannot be read"):
            inspection.read(folder)

    def test_no_report_is_said_to_be_none(self, tmp_path):
        with pytest.raises(SourceError, match="the folder holds no report"):
            inspection.read(tmp_path)


class TestCommandLine:
    def run(self, *words):
        return CliRunner().invoke(main, [str(word) for word in words])

    def test_check_says_that_a_folder_fits_or_all_that_does_not(self, script_file, tmp_path):
        made = self.run(
            "convert", script_file, "-i", "image:2x3x8x8", "-o", tmp_path / "out", "--cache", tmp_path / "cache"
        )
        assert made.exit_code == 0, made.output
        assert "3 files are as they were saved" in self.run("check", tmp_path / "out", "--device", "8.9").stdout
        engine = tmp_path / "out" / "model.engine"
        engine.write_bytes(engine.read_bytes()[:-1])
        failed = self.run("check", tmp_path / "out", "--device", "7.5")
        assert failed.exit_code == 1
        assert "model.engine: the manifest says" in failed.stderr and "device: the manifest says" in failed.stderr
        told = json.loads(self.run("check", tmp_path / "out", "--device", "7.5", "--json").stdout)
        assert {row["what"] for row in told} == {"model.engine", "device"}

    def test_a_folder_without_a_manifest_is_an_error(self, tmp_path):
        failed = self.run("check", tmp_path)
        assert failed.exit_code == 1 and "the folder has no manifest" in failed.stderr
