"""The stages of a conversion: files that other tools open, one set of weights, and an index that tells what each pass did."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from conftest import Layers
from graphs import parse
from hypothesis import HealthCheck, given, settings
from random_graphs import models, random_feeds

from torch2trt_onnx import Conversion, Input, Options, convert, stages
from torch2trt_onnx.cli import main
from torch2trt_onnx.errors import GraphError, OutputError, SourceError
from torch2trt_onnx.hashing import hash_model
from torch2trt_onnx.weights import WeightStore

POLYGRAPHY = Path(sys.executable).with_name("polygraphy")
X = Input((2, 64))
RULE = [{"module": "a", "precision": "fp16"}]

pytestmark = pytest.mark.filterwarnings("ignore::torch2trt_onnx.ConversionWarning")


class Branches(torch.nn.Module):
    """An If with weights in both branches."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64).half()

    def forward(self, x):
        if bool(x.sum() > 0):
            return self.a(x)
        return self.b(x.half()).float()


def constants():
    """A graph with a large weight in a Constant node, as an exporter may write it."""
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    model = parse("g (float[2,64] x) => (float[2,64] y) { y = MatMul(x, w) }")
    tensor = onnx.numpy_helper.from_array(values, "w")
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], "weight", value=tensor))
    return model


MODELS = {
    "weights in two types, some of them retyped": (lambda: Layers(b=torch.float16), [X], {"rules": RULE}),
    "bf16": (lambda: Layers(b=torch.bfloat16), [X], {}),
    "fp64, which becomes fp32": (lambda: Layers(b=torch.float64), [X], {}),
    "branches with weights": (lambda: torch.jit.script(Branches()), [X], {"rules": RULE}),
    "a weight in a Constant node": (constants, None, {"precisions": {"fp16"}}),
}
RUNNABLE = [name for name in MODELS if name != "bf16"]


def make(name, **given):
    model, inputs, asked = MODELS[name]
    return convert(model(), inputs, backend="none", **asked, **given)


def opened(path):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def told(folder):
    """Name of the file -> the first step that it stands for."""
    found = {}
    for stage in stages.read(folder):
        found.setdefault(stage.file, stage.name)
    return found


@pytest.mark.parametrize("name", RUNNABLE)
def test_each_stage_opens_as_it_lies_before_and_after_saving(name, tmp_path):
    make(name, keep_stages=tmp_path / "kept").save(tmp_path / "out")
    for folder in (tmp_path / "kept", tmp_path / "out" / "stages"):
        files = told(folder)
        assert next(iter(files.values())) == "export" and "plan" in files.values()
        assert {p.name for p in folder.iterdir()} == {*files, "stages.json", "stages.weights"}
        for file in files:
            onnx.checker.check_model(str(folder / file), full_check=True)
            assert opened(folder / file).get_outputs()
            assert sum(t.data_location == onnx.TensorProto.EXTERNAL for t in weights(folder / file)), (
                "nothing is beside"
            )


def test_stages_in_bf16_are_valid_and_onnx_runtime_refuses_them_as_it_does_the_model(tmp_path):
    make("bf16", keep_stages=True).save(tmp_path)
    for path in (*(tmp_path / "stages").glob("*.onnx"), tmp_path / "model.onnx"):
        onnx.checker.check_model(str(path), full_check=True)
        with pytest.raises(Exception, match="implementation for Gemm"):
            opened(path)


def weights(path):
    """The initializers and the values of Constant nodes of a file, those of bodies too; external ones are references."""
    model = onnx.load(path, load_external_data=False)
    return [*onnx.external_data_helper._get_all_tensors(model)]


def test_polygraphy_opens_all_of_them(tmp_path):
    make("weights in two types, some of them retyped", keep_stages=tmp_path)
    for path in sorted(tmp_path.glob("*.onnx")):
        words = [POLYGRAPHY, "inspect", "model", path, "--show", "layers", "weights"]
        done = subprocess.run(
            words, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "Initializer(s)" in done.stdout and "Gemm" in done.stdout


@pytest.mark.parametrize("name", RUNNABLE)
def test_they_end_with_the_graph_that_is_saved(name, tmp_path):
    conversion = make(name, keep_stages=True)
    folder = conversion.save(tmp_path) / "stages"
    last = stages.read(folder)[-1].file
    assert hash_model(onnx.load(folder / last)) == hash_model(conversion.onnx)
    x = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    both = [opened(path) for path in (folder / last, tmp_path / "model.onnx")]
    a, b = (session.run(None, {session.get_inputs()[0].name: x})[0] for session in both)
    assert np.array_equal(a, b)


def test_each_weight_is_there_once(tmp_path):
    make("weights in two types, some of them retyped", keep_stages=tmp_path)
    places = {}
    for path in tmp_path.glob("*.onnx"):
        for tensor in weights(path):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                where = {entry.key: entry.value for entry in tensor.external_data}
                assert where["location"] == "stages.weights"
                places.setdefault((int(where["offset"]), int(where["length"])), set()).add(tensor.name)
    assert all(len(names) == 1 for names in places.values())
    assert {name for names in places.values() for name in names} == {"a.weight", "b.weight", "a.weight_fp16"}
    assert (tmp_path / "stages.weights").stat().st_size == sum(length for _, length in places) == 64 * 64 * (4 + 2 + 2)


def test_what_no_stage_refers_to_is_not_among_their_weights(tmp_path):
    """`max_error` stores weights in other types to try them out."""
    asked = {"precisions": {"fp32", "fp16"}, "max_error": 4e-4, "calibration": [{"x": torch.rand(2, 64)}]}
    conversion = convert(Layers(), [X], backend="none", keep_stages=tmp_path, **asked)
    named = {tensor.name for path in tmp_path.glob("*.onnx") for tensor in weights(path) if tensor.external_data}
    sizes = {name: 64 * 64 * (2 if name.endswith("fp16") else 4) for name in named}
    assert (tmp_path / "stages.weights").stat().st_size == sum(sizes.values())
    assert conversion.report.trade is not None


def test_the_index_tells_what_each_pass_did_and_which_did_nothing(tmp_path):
    report = make("weights in two types, some of them retyped", keep_stages=True).report
    conversion = make("weights in two types, some of them retyped", keep_stages=tmp_path)
    index = stages.read(tmp_path)
    names = [stage.name for stage in index]
    assert names[:3] == ["export", "RepairBFloat16", "LiftConstants"] and names[-1] == "GuardRecurrentCasts"
    assert names.index("AnnotatePrecision") + 1 == names.index("plan") == names.index("Retype") - 1
    for at, stage in enumerate(index):
        is_new = stage.file == f"{at:02}-{stage.name}.onnx"
        assert is_new or stage.file == index[at - 1].file
        assert is_new or not stage.changes
        assert is_new or not at or stage.nodes == index[at - 1].nodes
    by_name = {stage.name: stage for stage in index if stage.changes}
    assert [change[:2] for change in by_name["Retype"].changes] == [("/a/Gemm", "narrowed from fp32 to fp16")]
    assert by_name["plan"].changes[0][:2] == ("/a/Gemm", "planned fp16, from fp32")
    assert "rule 1" in by_name["plan"].changes[0][2]
    counted = {stage.file: sum(1 for _ in onnx.load(tmp_path / stage.file).graph.node) for stage in index}
    assert all(counted[stage.file] == stage.nodes for stage in index)
    kept = {row["name"]: row for row in conversion.report.stages}
    assert list(kept) == ["export", "AnnotatePrecision", "plan", "Retype", "FoldWeightCasts", "MergeCasts"]
    assert kept["Retype"]["changes"] == 1 and kept["Retype"]["file"] == f"stages/{names.index('Retype'):02}-Retype.onnx"
    assert [row["file"] for row in report.stages] == [row["file"] for row in conversion.report.stages]


def test_the_changes_of_the_passes_are_those_of_the_report(tmp_path):
    report = make("fp64, which becomes fp32", keep_stages=tmp_path).report
    said = [(s.name, *change) for s in stages.read(tmp_path) for change in s.changes]
    assert [change for change in said if change[0] not in ("AnnotatePrecision", "plan")] == report.changes != []


def test_what_the_plan_keeps_in_fp32_stands_among_its_changes(tmp_path):
    asked = {"precisions": {"fp32", "fp16"}, "policy": "auto", "calibration": False}
    convert(
        torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64)),
        [X],
        backend="none",
        keep_stages=tmp_path,
        **asked,
    )
    plan = next(stage for stage in stages.read(tmp_path) if stage.name == "plan")
    assert {action for _, action, _ in plan.changes} == {"planned fp16, from fp32", "kept in fp32"}


def test_without_it_nothing_is_kept(tmp_path):
    conversion = make("weights in two types, some of them retyped")
    conversion.save(tmp_path)
    assert conversion.report.stages == [] and not (tmp_path / "stages").exists()
    assert not [path for path in conversion._onnx_path.parent.iterdir() if path.is_dir()]


ILL_TYPED = "g (float16[2,64] x) => (float16[2,64] z) { y = LayerNormalization(x, s, s)  z = Relu(y) }"


def test_a_stage_before_the_repairs_is_as_ill_typed_as_the_model_and_from_then_on_all_load(tmp_path):
    model = parse(ILL_TYPED, {"s": np.ones(64, np.float32)})
    convert(model, None, backend="none", keep_stages=tmp_path)
    files = {name: file for file, name in told(tmp_path).items()}
    with pytest.raises(Exception, match="Type"):
        opened(tmp_path / files.pop("export"))
    assert "RepairNormalization" in files
    for file in files.values():
        onnx.checker.check_model(str(tmp_path / file), full_check=True)
        opened(tmp_path / file)


@settings(derandomize=True, database=None, deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(models())
def test_the_stages_of_random_graphs_load_and_compute_what_the_model_does(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("stages")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        conversion = convert(
            model,
            [Input((2, 2)) for _ in model.graph.input],
            backend="none",
            keep_stages=folder,
            options=Options(compare=False),
        )
    assert hash_model(onnx.load(folder / stages.read(folder)[-1].file)) == hash_model(conversion.onnx)
    feeds = random_feeds(model, 0)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = []
    for file in told(folder):
        onnx.checker.check_model(str(folder / file), full_check=True)
        found.append(ort.InferenceSession(str(folder / file), options).run(None, feeds))
    for outputs in found:
        assert all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(found[0], outputs, strict=True))


class TestSaving:
    def test_stages_of_an_earlier_conversion_do_not_stay_and_what_is_the_users_does(self, tmp_path):
        make("fp64, which becomes fp32", keep_stages=True).save(tmp_path)
        (tmp_path / "stages" / "notes.txt").write_text("mine")
        (tmp_path / "stages" / "03-mine.onnx").write_text("mine")
        make("bf16", keep_stages=True).save(tmp_path)
        folder = tmp_path / "stages"
        assert {path.name for path in folder.iterdir()} == {*stages.names(folder), "notes.txt", "03-mine.onnx"}
        make("bf16").save(tmp_path)
        assert {path.name for path in folder.iterdir()} == {"notes.txt", "03-mine.onnx"}

    def test_the_folder_goes_where_nothing_else_is_in_it(self, tmp_path):
        make("bf16", keep_stages=True).save(tmp_path)
        make("bf16").save(tmp_path)
        assert not (tmp_path / "stages").exists()

    def test_they_go_with_the_conversion_to_each_folder_that_it_is_saved_to(self, tmp_path):
        conversion = make("bf16", keep_stages=True)
        for name in ("one", "two"):
            conversion.save(tmp_path / name)
            assert [row["file"] for row in conversion.report.stages] == [
                f"stages/{file}" for file in told(tmp_path / name / "stages")
            ]
            assert all((tmp_path / name / row["file"]).is_file() for row in conversion.report.stages)

    def test_a_loaded_conversion_has_none_and_its_folder_is_whole_all_the_same(self, tmp_path):
        make("bf16", keep_stages=True).save(tmp_path / "out")
        shutil.rmtree(tmp_path / "out" / "stages")
        loaded = Conversion.load(tmp_path / "out")
        assert loaded.report.stages == []
        assert not (loaded.save(tmp_path / "again") / "stages").exists()

    def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_what_was_there(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "stages").write_text("a file")
        with pytest.raises(OutputError):
            make("bf16", keep_stages=True).save(tmp_path / "out")
        assert (tmp_path / "out" / "stages").read_text() == "a file" and len(list((tmp_path / "out").iterdir())) == 1
        with pytest.raises(OutputError):
            make("bf16", keep_stages=tmp_path / "out" / "stages")

    def test_a_disk_that_is_full_leaves_the_earlier_stages(self, tmp_path, monkeypatch):
        make("bf16", keep_stages=tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(stages.Packing, "write", full)
        with pytest.raises(OutputError, match="No space left"):
            make("fp64, which becomes fp32", keep_stages=tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_conversion_that_fails_leaves_the_stages_up_to_there(tmp_path):
    model = parse("g (float[2,2] x, float16[2,2] y) => (float[2,2] z) { v = Relu(x)  z = Add(v, y) }")
    with pytest.raises(GraphError, match="ill-typed"):
        convert(model, None, backend="none", keep_stages=tmp_path)
    assert stages.read(tmp_path)[0].name == "export"
    assert onnx.load(tmp_path / "00-export.onnx").graph.node[1].op_type == "Add"


def test_one_that_fails_before_there_is_a_graph_leaves_nothing(tmp_path):
    with pytest.raises(SourceError):
        convert(tmp_path / "no.onnx", None, keep_stages=tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_with_stages_the_cache_is_neither_asked_nor_filled(tmp_path):
    cache = tmp_path / "cache"
    assert make("bf16", cache=cache, keep_stages=True).report.stages
    assert not cache.exists() or not list(cache.iterdir())
    make("bf16", cache=cache)
    (entry,) = cache.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in entry.iterdir()}
    assert make("bf16", cache=cache, keep_stages=True).report.stages
    assert {path.name: path.stat().st_mtime_ns for path in entry.iterdir()} == before
    assert make("bf16", cache=cache).report.stages == []


class TestFinding:
    @pytest.fixture
    def saved(self, tmp_path):
        return make("weights in two types, some of them retyped", keep_stages=True).save(tmp_path / "saved")

    def test_a_stage_is_meant_by_its_number_or_its_pass_and_a_folder_by_its_graph(self, saved):
        folder = saved / "stages"
        index = stages.read(folder)
        assert stages.find(saved) == saved / "model.onnx"
        assert stages.find(folder / "00") == stages.find(folder / "0") == folder / "00-export.onnx"
        for at, stage in enumerate(index):  # those that changed nothing, too
            assert stages.find(folder / f"{at:02}") == stages.find(folder / stage.file) == folder / stage.file
        assert [stage.name for stage in index].count("FoldWeightCasts") == 2
        assert stages.find(folder / "FoldWeightCasts").name.endswith(
            "FoldWeightCasts.onnx"
        )  # the other changed nothing

    def test_what_is_not_there_is_named_with_what_is(self, saved, tmp_path):
        with pytest.raises(SourceError, match=r"no stage 'Rtype'(.|\n)*Retype"):
            stages.find(saved / "stages" / "Rtype")
        with pytest.raises(SourceError, match=r"no model\.onnx(.|\n)*name a stage of it"):
            stages.find(saved / "stages")
        with pytest.raises(SourceError, match=r"no model\.onnx(.|\n)*name an ONNX file"):
            stages.find(tmp_path)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("{", "Expecting"),
            ("[]", "the index is"),
            ('{"format": 1}', "has no 'stages'"),
            ('{"format": 1, "stages": [{"name": "x"}]}', "has no 'file'"),
            ('{"format": 1, "stages": [{"name": "x", "file": "../y", "nodes": 1, "seconds": 0, "changes": []}]}', "names the file"),
            ('{"format": 1, "stages": [{"name": "x", "file": "y", "nodes": 1, "seconds": 0, "changes": [1]}]}', "changes of 'x'"),
            ('{"format": 1, "stages": [{"name": "x", "file": "y", "nodes": 1, "seconds": 0, "changes": [["a", 1, []]]}]}', "int"),
        ],
    )  # fmt: skip
    def test_an_index_of_another_form_is_an_error_of_ours(self, tmp_path, text, why):
        (tmp_path / "stages.json").write_text(text)
        with pytest.raises(SourceError, match=why):
            stages.read(tmp_path)
        assert stages.names(tmp_path) == set()

    def test_no_index_is_said_to_be_none(self, tmp_path):
        with pytest.raises(SourceError, match=r"holds no stages(.|\n)*--keep-stages"):
            stages.read(tmp_path)


def test_the_command_writes_them_where_it_is_told_and_beside_the_rest(script_file, tmp_path):
    words = ["convert", script_file, "-i", "image:2x3x8x8", "--backend", "none", "--keep-stages", tmp_path / "kept"]
    done = CliRunner().invoke(main, [str(word) for word in [*words, "-o", tmp_path / "out"]])
    assert done.exit_code == 0, done.output
    assert told(tmp_path / "kept") == told(tmp_path / "out" / "stages")
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["stages"]
    assert [row["file"] for row in rows] == [f"stages/{file}" for file in told(tmp_path / "kept")]


def test_a_packing_keeps_each_tensor_at_an_aligned_place(tmp_path):
    store = WeightStore(tmp_path)
    tensors = [store.put_array(f"w{n}", np.full(n, n, np.float32), onnx.TensorProto.FLOAT) for n in (300, 401, 999)]
    graph = onnx.helper.make_graph([], "g", [], [], [tensors[2], tensors[0], tensors[2]])
    model = onnx.helper.make_model(graph)
    packing = stages.Packing("packed.weights")
    packing.add(model)
    packing.write(store, tmp_path)
    onnx.save(model, tmp_path / "model.onnx")
    loaded = onnx.load(tmp_path / "model.onnx")
    assert [onnx.numpy_helper.to_array(t)[0] for t in loaded.graph.initializer] == [999, 300, 999]
    assert (tmp_path / "packed.weights").stat().st_size == 4 * 999 + (-4 * 999 % 64) + 4 * 300
