"""A cache gives what was put, whole and checked, or nothing; whatever dies, and whoever else writes."""

import contextlib
import dataclasses
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import SmallNet

from torch2trt_onnx import Input, Options, Output, convert, find_backend, identity
from torch2trt_onnx.cache import DAY, Cache, take
from torch2trt_onnx.errors import ConversionWarning, InputError, ManifestError, OutputError
from torch2trt_onnx.exporters import export, source
from torch2trt_onnx.hashing import hash_model
from torch2trt_onnx.manifest import Manifest
from torch2trt_onnx.plan import Asked
from torch2trt_onnx.precision import Precision
from torch2trt_onnx.rules import Rule
from torch2trt_onnx.weights import WeightStore

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A saved folder with its manifest."""
    folder = tmp_path_factory.mktemp("template")
    conversion = convert(SmallNet().eval(), [Input((2, 3, 8, 8))], backend="none")
    conversion.save(folder)
    (folder / "model.onnx.data").write_bytes(random.Random(0).randbytes(1 << 20))
    Manifest.of(conversion.report, Options()).with_files(folder).write(folder)
    return folder


@pytest.fixture
def fill(template):
    return lambda folder: shutil.copytree(template, folder, dirs_exist_ok=True)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def names(cache):
    return sorted(path.name for path in cache.folder.iterdir())


PARTS = {
    "source_sha256": "0" * 64,
    "inputs": [Input((2, 3), name="x", dtype="float32")],
    "asked": Asked(frozenset({Precision.FP16, Precision.FP32})),
    "options": Options(),
    "engine": ("rtx", "strong", "TensorRT-RTX 1.7.1.116"),
}


class TestKey:
    def key(self, **changes):
        return identity.key(**{**PARTS, **changes})

    @pytest.mark.parametrize("options", [Options(timeout=5.0), Options(memory_limit=1 << 33)])
    def test_limits_do_not_change_it(self, options):
        assert self.key(options=options) == self.key()

    def test_it_is_the_same_in_another_process(self):
        code = f"import sys; sys.path.insert(0, {str(os.path.dirname(__file__))!r}); import test_cache; print(test_cache.TestKey().key())"  # noqa: PTH120
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == self.key()

    @pytest.mark.parametrize(
        "change",
        [
            {"source_sha256": "1" * 64},
            {"is_exported": True},
            {"outputs": "float16"},
            {"outputs": {"y": Output(dtype="float16")}},
            {"outputs": [Output("y", format="HWC8")]},
            {"asked": Asked(frozenset({Precision.FP32}))},
            {"asked": Asked()},
            {"asked": Asked(PARTS["asked"].precisions, strict=True)},
            {"asked": Asked(PARTS["asked"].precisions, policy="source")},
            {"asked": Asked(PARTS["asked"].precisions, rules=(Rule(Precision.FP32, op="Conv"),))},
            {"asked": Asked(PARTS["asked"].precisions, weightless="free")},
            {"asked": Asked(PARTS["asked"].precisions, fidelity="pytorch")},
            {"engine": ()},
            {"engine": ("tensorrt", "strong", "TensorRT-RTX 1.7.1.116")},
            {"engine": ("rtx", "weak", "TensorRT-RTX 1.7.1.116")},
            {"engine": ("rtx", "strong", "TensorRT-RTX 1.7.1.117")},
            {"engine": ("rtx", "strong", "TensorRT-RTX 1.7.1.116", "a GPU", "8.9")},
            {"signature": {"outputs": ["y"]}},
            {"inputs": None},
            *({"inputs": [Input((2, 3), **given)]} for given in ({"name": "y"}, {"name": "x", "dtype": "float16"})),
            {"inputs": {"x": Input((2, 3), name="x", dtype="float32")}},
            {"inputs": (Input((2, 3), name="x", dtype="float32"),)},
            {"inputs": [PARTS["inputs"][0], None]},
            {"inputs": [PARTS["inputs"][0], 1]},
            {"inputs": [PARTS["inputs"][0], True]},
            {"inputs": [PARTS["inputs"][0], 1.0]},
            {"inputs": [PARTS["inputs"][0], {"scale": 2}]},
        ],
    )
    def test_anything_that_changes_the_result_changes_it(self, change):
        assert self.key(**change) != self.key()

    @pytest.mark.parametrize(
        "given",
        [
            {"shape": (2, 4)},
            {"shape": (2, 3), "format": "LINEAR"},
            {"shape": (2, 3), "dtype": "float16"},
            {"shape": (2, 3), "example": torch.zeros(2, 3)},
            {"shape": (2, 3), "example": torch.ones(2, 3)},
            {"min_shape": (1, 3), "opt_shape": (2, 3), "max_shape": (4, 3)},
            {"min_shape": (1, 3), "opt_shape": (2, 3), "max_shape": (8, 3)},
            {"min_shape": (1, 3), "opt_shape": (3, 3), "max_shape": (4, 3)},
            {"profiles": [[(1, 3), (2, 3), (4, 3)], [(4, 3), (8, 3), (8, 3)]]},
            {"shape": (2,), "min_values": (1, 1), "opt_values": (2, 2), "max_values": (4, 4)},
            {"shape": (2,), "min_values": (1, 1), "opt_values": (2, 2), "max_values": (4, 8)},
        ],
    )
    def test_all_that_an_input_says_counts(self, given):
        keys = [self.key(inputs=[Input(**each)]) for each in (given, given, {"shape": (2, 3)})]
        assert keys[0] == keys[1] != keys[2]

    def test_no_two_inputs_have_one_key(self):
        found = [
            {"shape": (2, 3), "example": torch.zeros(2, 3)},
            {"shape": (2, 3), "example": torch.zeros(2, 3, dtype=torch.bfloat16)},
            {"shape": (2, 3), "example": torch.zeros(2, 3, dtype=torch.int32)},
            {"shape": (2, 3), "example": torch.zeros(3, 2).t()},
            {"shape": (2, 3), "example": torch.ones(2, 3)},
            {"shape": (2, 3)},
        ]
        keys = {self.key(inputs=[Input(**given)]) for given in found} | {self.key(inputs=[torch.zeros(2, 3)])}
        assert len(keys) == len(found) + 1

    @pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Options)])
    def test_every_option_counts_but_the_limits(self, field):
        others = {"exporter": "dynamo", "opset": 21, "compute_capabilities": ("8.6",), "tf32": True, "timeout": 9.0}
        others |= {"memory_limit": 1 << 40, "compare": False, "tolerance": float("inf")}
        assert field in others, "say here what else the new option can be"
        is_other = self.key(options=Options(**{field: others[field]})) != self.key()
        assert is_other is (field not in identity.LIMITS)

    def test_an_engine_for_the_gpu_that_is_here_depends_on_it_and_one_for_a_list_of_them_does_not(self, monkeypatch):
        rtx = find_backend("rtx")
        assert identity.engine_facts(rtx, Options()) == ("rtx", "strong", rtx.title)
        assert identity.engine_facts(None, Options()) == ()
        here = type(rtx)("tensorrt-weak", "tensorrt", "weak")
        can = dataclasses.replace(rtx.capabilities, targets=False)
        monkeypatch.setattr(type(rtx), "capabilities", can)
        monkeypatch.setattr(type(rtx), "title", "TensorRT 10.1")
        monkeypatch.setattr("torch2trt_onnx.backends.own_capability", lambda: ("8.9",))
        monkeypatch.setattr(identity, "gpu_name", lambda: "a GPU")
        assert identity.engine_facts(here, Options()) == ("tensorrt", "weak", "TensorRT 10.1", "a GPU", "8.9")

    @pytest.mark.parametrize("package", identity.MADE_WITH)
    def test_the_version_of_each_library_counts(self, package, monkeypatch):
        before = self.key()
        real = identity.versions
        monkeypatch.setattr(identity, "versions", lambda packages: {**real(packages), package: "99"})
        assert self.key() != before

    def test_the_code_of_this_package_counts_and_the_system(self, monkeypatch):
        before = self.key()
        with monkeypatch.context() as patched:
            patched.setattr(identity, "_own_code", lambda: "changed")
            assert self.key() != before
        monkeypatch.setattr(sys, "platform", "win32")
        assert self.key() != before

    @pytest.mark.parametrize("value", [object(), iter([np.zeros(9)]), torch.zeros(3).to_sparse(), {1, 2}, lambda: 0])
    def test_what_cannot_be_told_apart_is_an_error(self, value):
        with pytest.raises(InputError, match="a cache cannot tell"):
            self.key(inputs=[value])

    @pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
    def test_a_module_in_memory_has_the_key_of_its_exported_graph(self, exporter, tmp_path):
        if exporter == "dynamo":
            pytest.importorskip("onnxscript")
        found = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            (folder := tmp_path / str(len(found))).mkdir()
            inputs = [Input((2, 3, 8, 8))]
            exported = export(source.load(SmallNet().eval()), inputs, WeightStore(folder), exporter=exporter)
            found.append(self.key(source_sha256=hash_model(exported.model, folder), is_exported=True))
        assert found[0] == found[1] != found[2]


class TestEntries:
    def test_what_was_put_is_found_and_nothing_else(self, cache, fill, template):
        assert cache.get(KEY) is None
        entry = cache.put(KEY, fill)
        assert cache.get(KEY) == entry == cache.folder / KEY
        assert {p.name: p.read_bytes() for p in template.iterdir()}.items() <= {
            p.name: p.read_bytes() for p in entry.iterdir()
        }.items()
        assert cache.get(OTHER) is None
        assert names(cache) == [KEY]
        assert Cache(cache.folder).get(KEY) == entry

    @pytest.mark.parametrize("key", ["", "..", "x/y", "A" * 64, "a" * 65, KEY + "\n"])
    def test_what_is_no_key_is_refused(self, cache, key):
        with pytest.raises(ValueError, match="no key"):
            cache.get(key)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda entry: os.truncate(entry / "model.onnx.data", 9),
            lambda entry: (entry / "model.onnx.data").write_bytes(bytes(1 << 20)),
            lambda entry: (entry / "model.onnx").unlink(),
            lambda entry: (entry / "manifest.json").unlink(),
            lambda entry: (entry / "manifest.json").write_text("{"),
            lambda entry: (entry / "report.json").write_text("{}"),
            lambda entry: (entry / "model.engine").write_text("of another"),
            lambda entry: (entry / "used").unlink(),
            lambda entry: (entry / "used").write_bytes(b"\xff"),
            lambda entry: entry.rename(entry.with_name(OTHER)),
        ],
    )
    def test_a_damaged_entry_is_a_miss_is_told_and_is_made_again(self, cache, fill, damage):
        damage(cache.put(KEY, fill))
        (key,) = names(cache)
        with pytest.warns(ConversionWarning, match="damaged entry"):
            assert cache.get(key) is None
        assert names(cache) == []
        cache.put(key, fill)
        assert cache.get(key) is not None

    def test_what_the_filler_raises_is_raised_and_leaves_nothing(self, cache, fill):
        def interrupted(folder):
            fill(folder)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cache.put(KEY, interrupted)
        with pytest.raises(ManifestError):
            cache.put(KEY, lambda folder: None)
        assert names(cache) == []

    def test_the_first_of_two_stays(self, cache, fill, template):
        def late(folder):
            fill(folder)
            cache.put(KEY, fill)

        cache.put(KEY, late)
        assert cache.get(KEY) is not None
        assert names(cache) == [KEY]

    def test_a_miss_reads_no_large_file(self, cache, fill, monkeypatch):
        monkeypatch.setattr("torch2trt_onnx.fitness.hash_file", lambda path: pytest.fail(f"{path} was read"))
        assert cache.get(KEY) is None
        cache.put(KEY, fill)

    def test_files_that_were_taken_stay_when_the_entry_goes(self, cache, fill, template, tmp_path):
        (tmp_path / "mine").mkdir()
        take(cache.put(KEY, fill), tmp_path / "mine", may_link=True)
        # onnx.load refuses weights in a file that has two names.
        assert {p.name for p in (tmp_path / "mine").iterdir() if p.stat().st_nlink == 1} == {"model.onnx.data"}
        shutil.rmtree(cache.folder / KEY)
        kept = {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()}
        assert kept == {p.name: p.read_bytes() for p in template.iterdir() if p.name != "manifest.json"}
        with pytest.raises(ManifestError):
            take(cache.folder / KEY, tmp_path / "mine")

    def test_files_are_copied_where_there_are_no_links(self, cache, fill, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "link", _no_link)
        (tmp_path / "mine").mkdir()
        take(cache.put(KEY, fill), tmp_path / "mine", may_link=True)
        assert {p.stat().st_nlink for p in (tmp_path / "mine").iterdir()} == {1}

    def test_who_may_read_the_cache_may_read_its_entries(self, cache, fill):
        cache.folder.chmod(0o755)
        assert cache.put(KEY, fill).stat().st_mode & 0o777 == 0o755

    def test_an_entry_that_another_user_keeps_to_himself_stays(self, cache, fill, monkeypatch):
        cache.put(KEY, fill)
        with monkeypatch.context() as context:
            context.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may read everything
            assert cache.get(KEY) is None
        assert cache.get(KEY) is not None


def _no_link(*_):
    raise OSError(95, "Operation not supported")


class TestLimit:
    def put(self, cache, fill, *keys):
        for key in keys:
            cache.put(key, fill)
            for index, entry in enumerate(sorted(cache.folder.iterdir(), key=lambda e: (e / "used").stat().st_mtime)):
                os.utime(entry / "used", (0, 1000 + index))  # clocks of file systems are coarse

    def test_the_least_recently_used_goes_first(self, tmp_path, fill):
        cache = Cache(tmp_path / "cache")
        self.put(cache, fill, "a" * 64, "b" * 64, "c" * 64)
        one = sum(p.stat().st_size for p in (cache.folder / KEY).iterdir())
        assert cache.get(KEY) is not None  # and so it is used
        small = Cache(cache.folder, limit_bytes=3 * one + 1)
        self.put(small, fill, "d" * 64)
        assert names(cache) == ["a" * 64, "c" * 64, "d" * 64]

    def test_the_newest_stays_though_it_is_larger_than_the_limit(self, tmp_path, fill):
        cache = Cache(tmp_path / "cache", limit_bytes=10)
        self.put(cache, fill, KEY, OTHER)
        assert names(cache) == [OTHER]

    def test_a_limit_that_makes_no_sense_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="limit"):
            Cache(tmp_path, limit_bytes=0)


class TestDisk:
    def test_a_full_disk_is_an_error_and_leaves_nothing(self, cache, fill):
        with small_files(), pytest.raises(OutputError, match="File too large"):
            cache.put(KEY, fill_or_raise(fill))
        assert names(cache) == []
        assert cache.get(KEY) is None

    def test_a_folder_that_cannot_be_made_is_an_error(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputError, match="folder of the cache"):
            Cache(tmp_path / "file")

    def test_a_folder_that_went_is_an_error_of_put_and_a_miss(self, cache, fill):
        cache.folder.rmdir()
        assert cache.get(KEY) is None
        with pytest.raises(OutputError):
            cache.put(KEY, fill)


def fill_or_raise(fill):
    """`shutil.copytree` gathers what goes wrong in an error of its own, which is no OSError with a number."""

    def filled(folder):
        try:
            fill(folder)
        except shutil.Error as error:
            raise OSError(27, "File too large") from error

    return filled


@contextlib.contextmanager
def small_files():
    """No file may grow beyond 1 kB, so that writes fail as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITER = """
import shutil, sys, time
from pathlib import Path
from torch2trt_onnx.cache import Cache

folder, template, key, begin = sys.argv[1:5]

def fill(into):
    for path in sorted(Path(template).iterdir()):
        with path.open("rb") as source, (into / path.name).open("wb") as target:
            while piece := source.read(4096):
                target.write(piece)

cache = Cache(folder)
print("ready", flush=True)
while not Path(begin).exists():
    time.sleep(0.001)
for count in range(int(sys.argv[5])):
    print("wrote", cache.put(key if count == 0 else f"{count:064x}", fill), flush=True)
"""


class TestProcesses:
    @pytest.fixture
    def start(self, cache, template, tmp_path):
        running = []

        def start(count=1):
            arguments = [str(cache.folder), str(template), KEY, str(tmp_path / "begin"), str(count)]
            running.append(
                subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True)
            )
            return running[-1]

        yield start
        for process in running:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def test_two_that_put_the_same_both_succeed_and_one_entry_is_there(self, cache, start, tmp_path, fill):
        writers = [start(), start()]
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        (tmp_path / "begin").touch()
        told = [writer.communicate(timeout=60)[0] for writer in writers]
        assert [w.returncode for w in writers] == [0, 0]
        assert told == [f"wrote {cache.folder / KEY}\n"] * 2
        assert names(cache) == [KEY]
        assert cache.get(KEY) is not None

    def test_one_that_is_killed_leaves_whole_entries_or_none_and_what_is_unfinished_is_swept(
        self, cache, start, tmp_path
    ):
        chance, unfinished = random.Random(1), 0
        for _ in range(10):
            (tmp_path / "begin").unlink(missing_ok=True)
            writer = start(1000)
            assert writer.stdout.readline() == "ready\n"
            (tmp_path / "begin").touch()
            time.sleep(chance.uniform(0.0, 0.05))
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
            left = names(cache)
            unfinished += any(name.startswith(".") for name in left)
            found = [cache.get(name) for name in left if not name.startswith(".")]  # a warning would be an error here
            assert all(found)
            again = Cache(cache.folder)
            assert names(again) == sorted(path.name for path in found)
            for path in found:
                shutil.rmtree(path)
        assert unfinished

    def test_what_a_living_process_has_not_finished_is_left_alone_for_a_day(self, cache, start, fill):
        def looked_at(folder):
            Cache(cache.folder)
            fill(folder)
            os.utime(folder, (0, time.time() - DAY + 60))
            Cache(cache.folder)
            assert (folder / "manifest.json").is_file()

        assert cache.put(KEY, looked_at).is_dir()
        for name in (".unfinished-elsewhere-1-x", ".unfinished-", ".unfinished-a-b-c"):
            (cache.folder / name).mkdir()
        Cache(cache.folder)
        assert len(names(cache)) == 4
        for name in names(cache):
            os.utime(cache.folder / name, (0, time.time() - DAY - 60))
        Cache(cache.folder)
        assert names(cache) == [KEY]
