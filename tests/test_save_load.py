"""Saved folders and the cache, through `convert`, `Conversion.save`, `Conversion.load` and the command line."""

import json

import onnx
import pytest
import torch
from click.testing import CliRunner
from conftest import SmallNet

from torch2trt_onnx import Conversion, ConversionWarning, Input, Options, convert, result
from torch2trt_onnx.backends import Backend
from torch2trt_onnx.cache import Cache
from torch2trt_onnx.cli import main
from torch2trt_onnx.errors import EngineMismatchError, OutputError
from torch2trt_onnx.hashing import hash_model
from torch2trt_onnx.manifest import Manifest

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
