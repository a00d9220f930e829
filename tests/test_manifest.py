"""A saved folder is believed only as far as its manifest holds; what does not hold is named, all at once."""

import json
import os
import threading

import onnx
import pytest
import torch
from conftest import SmallNet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torch2trt_onnx import Input, Options, convert, find_backend
from torch2trt_onnx.backends import library
from torch2trt_onnx.backends.layers import Binding
from torch2trt_onnx.errors import EngineMismatchError, ManifestError
from torch2trt_onnx.files import replace_atomically
from torch2trt_onnx.fitness import PLATFORM, Engine, FileEntry
from torch2trt_onnx.hashing import hash_file
from torch2trt_onnx.inspection import read
from torch2trt_onnx.manifest import FILES, Manifest

OPTIONS = Options(timeout=600.0)
SIGNATURE = {"inputs": [["image"]], "nested": {"a": None}}
IMAGE = Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 8, 8), max_shape=(4, 3, 16, 16), name="image")


@pytest.fixture(scope="module")
def conversion():
    torch.manual_seed(0)
    return convert(SmallNet().eval(), [IMAGE], {"fp32", "fp16"}, backend="rtx", options=OPTIONS)


def written(conversion, folder, backend="rtx", **more):
    """The manifest of a conversion that is saved with it."""
    folder.mkdir(exist_ok=True)
    with replace_atomically(folder) as fresh:
        conversion.save(fresh)
        about = Manifest.of(conversion.report, OPTIONS, find_backend(backend), signature=SIGNATURE, **more)
        manifest = about.with_files(fresh)
        manifest.write(fresh)
    return manifest


@pytest.fixture
def saved(conversion, tmp_path):
    written(conversion, tmp_path / "out", source_sha256="5" * 64)
    return tmp_path / "out"


def changed(folder, change):
    """Change the manifest of a folder as JSON."""
    data = json.loads((folder / "manifest.json").read_text())
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data))


class TestContent:
    def test_it_says_where_the_engine_comes_from_what_it_is_and_where_it_runs(self, saved, conversion):
        manifest = Manifest.read(saved)
        assert manifest.source == {"name": "SmallNet", "sha256": "5" * 64}
        assert manifest.made_by["torch"] == torch.__version__
        assert manifest.asked["precisions"] == ["fp16", "fp32"]
        assert manifest.options["compute_capabilities"] == ["8.9", "12.0"]
        assert manifest.plan["counts"] == conversion.plan.counts()
        engine = manifest.engine
        assert (engine.product, engine.title, engine.typing) == ("rtx", "TensorRT-RTX", "strong")
        assert engine.version == library.version("rtx")
        assert engine.compute_capabilities == ("8.9", "12.0")
        assert engine.bindings == tuple(conversion.report.bindings)
        assert engine.bindings[0].profiles == (((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 16, 16)),)
        assert engine.verdicts == {n.plan.name: n.verdict for n in conversion.report.nodes if n.verdict}
        assert sum(json.loads((saved / "manifest.json").read_text())["engine"]["verdicts"]["counts"].values()) == len(
            engine.verdicts
        )
        assert manifest.signature == SIGNATURE

    def test_it_hashes_each_file_that_was_saved(self, saved):
        files = Manifest.read(saved).files
        assert set(files) == {"model.onnx", "model.engine", "report.json"}
        for name, entry in files.items():
            assert entry == FileEntry(hash_file(saved / name), (saved / name).stat().st_size)

    def test_the_graph_has_one_hash_with_its_weights_inside_or_beside_it(self, saved, conversion):
        before = Manifest.read(saved)
        model = onnx.load(saved / "model.onnx")
        onnx.save(
            model,
            saved / "model.onnx",
            save_as_external_data=True,
            location="model.onnx.data",
            size_threshold=0,
            convert_attribute=True,
        )
        after = Manifest.of(conversion.report, OPTIONS).with_files(saved)
        assert after.graph == before.graph
        assert after.plan == before.plan
        assert set(after.files) == set(FILES)
        assert after.files["model.onnx"] != before.files["model.onnx"]

    def test_without_a_back_end_it_says_nothing_of_an_engine(self, net, tmp_path):
        conversion = convert(net, [Input((2, 3, 8, 8))], backend="none", options=OPTIONS)
        written(conversion, tmp_path, "none")
        manifest = Manifest.read(tmp_path)
        assert manifest.engine is None
        manifest.check(tmp_path, device="9.0", product_version="0", every=True)


class TestReading:
    def test_it_is_read_as_it_was_written(self, conversion, tmp_path):
        manifest = written(conversion, tmp_path)
        assert Manifest.read(tmp_path) == manifest
        assert Manifest.from_json(manifest.to_json()) == manifest

    @settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_any_manifest_is_read_as_it_was_written(self, tmp_path, data):
        text, number = st.text(max_size=9), st.integers(-1, 2**60)
        shape = st.lists(number, max_size=3).map(tuple)
        ranges = st.lists(st.lists(shape, max_size=3).map(tuple), max_size=2).map(tuple)
        binding = st.builds(Binding, text, text, text, shape, text, ranges, st.booleans())
        word = st.dictionaries(text, text, max_size=3)
        texts, bindings = st.lists(text).map(tuple), st.lists(binding, max_size=2).map(tuple)
        product = st.sampled_from(["tensorrt", "rtx"])
        engine = st.builds(Engine, product, text, text, text, texts, bindings, word, text, text, st.booleans())
        sha = st.sampled_from(["0" * 64, "f" * 64])
        entry = st.builds(FileEntry, sha, number)
        json_like = st.recursive(st.none() | st.booleans() | number | text, lambda inner: st.lists(inner, max_size=2))
        about = st.dictionaries(text, json_like, max_size=3)
        manifest = data.draw(
            st.builds(
                Manifest,
                word,
                st.fixed_dictionaries({"name": text, "sha256": st.none() | sha}),
                st.fixed_dictionaries({"model.onnx": entry, "report.json": entry, "model.engine": entry}),
                sha,
                st.fixed_dictionaries({"sha256": sha, "counts": st.dictionaries(text, number, max_size=2)}),
                about,
                about,
                engine,
                st.none() | about,
            )
        )
        manifest.write(tmp_path)
        assert Manifest.read(tmp_path) == manifest

    def test_a_manifest_from_the_future_says_what_to_install(self, saved):
        changed(saved, lambda data: data.update(format=2, files="in another form"))
        with pytest.raises(ManifestError, match=r"format 2.*reads up to 1") as error:
            Manifest.read(saved)
        assert "install a later torch2trt_onnx" in str(error.value)

    @pytest.mark.parametrize(
        "name",
        ["../x", "a/b", "/etc/passwd", "..", ".", "", "a\\b", "C:x", ".hidden", "a\nb", "a\0b", "model.onnx/../../x"],
    )
    def test_a_name_that_leads_out_of_the_folder_is_refused(self, saved, name):
        changed(saved, lambda data: data["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
        with pytest.raises(ManifestError, match="has the name"):
            Manifest.read(saved)

    @pytest.mark.parametrize(
        "change",
        [
            *(
                lambda data, key=key: data.pop(key)
                for key in ("format", "files", "graph", "engine", "signature", "plan")
            ),
            *(lambda data, key=key: data["engine"].pop(key) for key in ("version", "bindings", "compute_capabilities")),
            lambda data: data.update(format="1"),
            lambda data: data.update(format=True),
            lambda data: data.update(files=[]),
            lambda data: data.update(graph="0"),
            lambda data: data.update(graph="0" * 64 + "\n"),
            lambda data: data["files"]["model.onnx"].update(bytes=1.5),
            lambda data: data["files"]["model.onnx"].update(sha256="G" * 64),
            lambda data: data["files"].pop("report.json"),
            lambda data: data["files"].pop("model.engine"),
            lambda data: data.update(engine=None),
            lambda data: data["engine"].update(compute_capabilities="8.9"),
            lambda data: data["engine"].update(product="another"),
            lambda data: data["engine"]["bindings"][0].update(dims=[1, None]),
            lambda data: data["engine"]["bindings"][0].update(profiles=[1]),
            lambda data: data["engine"]["verdicts"].update(nodes={"a": 1}),
        ],
    )
    def test_what_is_missing_or_of_the_wrong_type_is_named(self, saved, change):
        changed(saved, change)
        with pytest.raises(ManifestError, match="damaged") as error:
            Manifest.read(saved)
        assert error.value.where == str(saved / "manifest.json")
        assert error.value.why

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", "1", "\0", "[" * 100_000, '{"format": 1' + "0" * 9999 + "}"]
    )
    def test_what_is_no_manifest_is_an_error(self, tmp_path, text):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ManifestError):
            Manifest.read(tmp_path)

    def test_a_folder_without_a_manifest_is_an_error(self, tmp_path):
        with pytest.raises(ManifestError, match="no manifest"):
            Manifest.read(tmp_path)
        with pytest.raises(ManifestError, match="no manifest"):
            Manifest.read(tmp_path / "none")


class TestChecking:
    def test_a_folder_as_it_was_saved_fits(self, saved):
        manifest = Manifest.read(saved)
        manifest.check(saved, device="8.9", every=True)
        manifest.check(saved, device="12.0")
        assert manifest.mismatches(saved) == []

    def test_an_engine_that_was_cut_is_found_by_its_size(self, saved):
        os.truncate(saved / "model.engine", 100)
        with pytest.raises(EngineMismatchError, match=r"model\.engine.*one of 100 bytes") as error:
            Manifest.read(saved).check(saved)
        assert "save it again" in error.value.fix

    @pytest.mark.parametrize("name", ["model.engine", "model.onnx", "report.json"])
    def test_one_changed_bit_is_found_by_the_hash(self, saved, name):
        data = bytearray((saved / name).read_bytes())
        data[len(data) // 2] ^= 4
        (saved / name).write_bytes(bytes(data))
        manifest = Manifest.read(saved)
        assert [m.what for m in manifest.mismatches(saved, every=True)] == [name]
        assert [m.what for m in manifest.damage(saved)] == [name]
        assert [m.what for m in manifest.mismatches(saved)] == ([name] if name == "model.engine" else [])

    def test_another_version_is_an_error_that_says_what_to_install(self, saved):
        version = library.version("rtx")
        with pytest.raises(EngineMismatchError, match="version: the manifest says TensorRT-RTX") as error:
            Manifest.read(saved).check(saved, product_version="9.9.9")
        assert f"install TensorRT-RTX {version}" in error.value.fix
        assert Manifest.read(saved).mismatches(saved, product_version=f"{version}.post1") == []

    def test_without_any_tensorrt_that_is_what_does_not_fit(self, saved, monkeypatch):
        monkeypatch.setattr(library, "is_installed", lambda product: False)
        (found,) = Manifest.read(saved).mismatches(saved)
        assert (found.what, found.found) == ("version", "no TensorRT-RTX")

    @pytest.mark.parametrize("device", ["9.0", "8.6", "12.1", "8.90"])
    def test_another_gpu_is_an_error_that_says_how_to_build_for_it(self, saved, device):
        with pytest.raises(EngineMismatchError, match=r"compute capability 8\.9, 12\.0; here is") as error:
            Manifest.read(saved).check(saved, device=device)
        assert f"compute_capabilities=('8.9', '12.0', '{device}')" in error.value.fix

    def test_all_that_does_not_fit_is_told_at_once_the_cheap_questions_first(self, saved):
        (saved / "report.json").unlink()
        os.truncate(saved / "model.onnx", 5)
        (saved / "model.onnx.data").write_bytes(b"of another conversion")
        data = bytearray((saved / "model.engine").read_bytes())
        data[-1] ^= 1
        (saved / "model.engine").write_bytes(bytes(data))
        manifest = Manifest.read(saved)
        found = manifest.mismatches(saved, device="9.0", product_version="1.0", every=True)
        whats = [m.what for m in found]
        assert sorted(whats[:3]) == ["model.onnx", "model.onnx.data", "report.json"]
        assert whats[3:] == ["version", "device", "model.engine"]
        with pytest.raises(EngineMismatchError) as error:
            manifest.check(saved, device="9.0", product_version="1.0", every=True)
        assert all(str(mismatch) in str(error.value) for mismatch in found)
        assert all(mismatch.fix in error.value.fix for mismatch in found)

    def test_no_hash_is_taken_of_a_file_whose_size_tells_already(self, saved, monkeypatch):
        os.truncate(saved / "model.engine", 1)
        monkeypatch.setattr("torch2trt_onnx.fitness.hash_file", lambda path: pytest.fail("it was read"))
        assert [m.what for m in Manifest.read(saved).mismatches(saved)] == ["model.engine"]

    @pytest.mark.parametrize("odd", ["folder", "fifo", "link to nothing"])
    def test_what_is_no_file_any_more_is_a_mismatch_and_does_not_hang(self, saved, odd):
        path = saved / "model.engine"
        path.unlink()
        {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "link to nothing": lambda: path.symlink_to("none")}[
            odd
        ]()
        assert [m.what for m in Manifest.read(saved).mismatches(saved)] == ["model.engine"]


class TestVersions:
    @pytest.mark.parametrize(
        ("product", "built", "here", "is_compatible", "runs"),
        [
            ("tensorrt", "10.13.3.9", "10.13.3.9", False, True),
            ("tensorrt", "10.13.3.9", "10.13.3.9.post1", False, True),
            ("tensorrt", "10.13.3.9", "10.14.0", False, False),
            ("tensorrt", "10.13.3.9", "10.14.0", True, True),
            ("tensorrt", "10.13.3.9", "10.9.0", True, False),
            ("tensorrt", "10.13.3.9", "11.0.0", True, True),
            ("tensorrt", "8.6.1", "10.13.0", True, True),
            ("tensorrt", "8.6.1", "11.0.0", True, False),
            ("rtx", "1.7.1.116", "1.7.1.116", False, True),
            ("rtx", "1.7.1.116", "1.7.2.1", True, False),
            ("rtx", "1.7.1.116", "", False, False),
            ("rtx", "unknown", "1.7.1.116", False, False),
        ],
    )
    def test_an_engine_runs_on_its_own_version_and_where_it_was_built_so_on_later_ones(
        self, product, built, here, is_compatible, runs
    ):
        engine = Engine(product, "T", built, "strong", ("8.9",), version_compatible=is_compatible)
        assert ([m.what for m in engine.mismatches("8.9", here)] == []) is runs

    def test_an_engine_of_tensorrt_stays_on_its_system_and_one_of_rtx_does_not(self):
        there = {"platform": "win32 AMD64", "compute_capabilities": ("8.9",)}
        engine = Engine("tensorrt", "TensorRT", "10.1", "weak", **there)
        assert [(m.what, m.found) for m in engine.mismatches("8.9", "10.1")] == [("platform", PLATFORM)]
        assert Engine("rtx", "TensorRT-RTX", "1.7", "strong", **there).mismatches("8.9", "1.7") == []

    def test_an_engine_of_tensorrt_for_another_gpu_is_to_be_built_there(self):
        engine = Engine("tensorrt", "TensorRT", "10.1", "weak", ("8.9",), device="a GPU")
        (found,) = engine.mismatches("9.0", "10.1")
        assert (found.what, found.fix) == ("device", "convert again on this GPU")


class TestOverwriting:
    def test_the_manifest_is_the_last_to_appear(self, tmp_path, monkeypatch):
        order = []
        replace = type(tmp_path).replace
        monkeypatch.setattr(type(tmp_path), "replace", lambda self, to: (order.append(self.name), replace(self, to))[1])
        with replace_atomically(tmp_path) as fresh:
            for name in ("manifest.json", *FILES):
                (fresh / name).write_text(name)
        assert order[0] == "model.onnx.data"
        assert order[-1] == "manifest.json"

    @pytest.mark.parametrize("done", range(5))
    def test_a_reader_between_two_renames_notices(self, saved, tmp_path, done):
        """Whatever is there after `done` of the files were replaced, it is one conversion or the other, or a mismatch."""
        other = convert(torch.nn.Linear(8, 8), [Input((2, 8))], options=OPTIONS, backend="rtx")
        written(other, tmp_path / "other")
        names = ["model.engine", "model.onnx", "report.json", "manifest.json"]
        for name in names[:done]:
            (tmp_path / "other" / name).replace(saved / name)
        found = Manifest.read(saved).mismatches(saved, every=True)
        assert [m.what for m in found] == ([] if done in (0, 4) else [n for n in FILES if n in names[:done]])

    def test_readers_beside_writers_see_a_whole_folder_or_a_mismatch_and_never_crash(self, tmp_path):
        conversions = [convert(torch.nn.Linear(n, n), [Input((2, n))], backend="none") for n in (8, 64)]
        written(conversions[0], tmp_path, "none")
        stop = threading.Event()

        def write():
            while not stop.is_set():
                for conversion in conversions:
                    written(conversion, tmp_path, "none")

        writer = threading.Thread(target=write)
        writer.start()
        found = set()
        try:
            for _ in range(200):
                manifest = Manifest.read(tmp_path)
                found.update(m.what for m in manifest.mismatches(tmp_path, every=True))
                assert read(tmp_path).plan.nodes
        finally:
            stop.set()
            writer.join()
        assert found <= set(FILES)
