"""Plans from and to Polygraphy, and the real `polygraphy` command on what is written here."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch2trt_onnx import Input, convert
from torch2trt_onnx.errors import ConversionError, ConversionWarning, PrecisionError
from torch2trt_onnx.inputs import Output
from torch2trt_onnx.interop import FlagError, Port, read, read_polygraphy
from torch2trt_onnx.interop.polygraphy import flags, script, text
from torch2trt_onnx.plan import COMPILER, Asked, NodePlan, PrecisionPlan
from torch2trt_onnx.precision import ElementType, Precision

FP32, FP16, BF16, INT8, INT4 = Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.INT4
F32, F16 = ElementType.of("fp32"), ElementType.of("fp16")
DOUBLES = Path(__file__).parent / "doubles"
COMMAND = Path(sys.executable).with_name("polygraphy")


def node(name, precision="fp16", *, op="Conv", origin="weights", outputs=None, quantized=""):
    return NodePlan(name, op, precision, origin, "", outputs or (precision,), quantized=quantized)


def planned(*nodes, **asked):
    return PrecisionPlan(nodes, Asked(**asked))


def told(imported, name):
    found = [rule.precision.value for rule in imported.rules if rule.matches(name, "", "", [])]
    return found[-1] if found else None


def polygraphy(*words, **environment):
    """Run the real command."""
    env = {**os.environ, "POLYGRAPHY_AUTOINSTALL_DEPS": "0", **environment}
    return subprocess.run(
        [COMMAND, *map(str, words)], check=False, env=env, capture_output=True, text=True, timeout=300
    )


# --- in


def test_a_command_line_as_people_write_it():
    found = read(
        "polygraphy run model.onnx --trt --onnxrt --fp16 --precision-constraints=obey --atol 1e-3 --rtol 1e-3 --tf32 \\\n"
        "  --layer-precisions Conv_1:float32 'a:b':half --trt-min-shapes x:[1,3,8,8] --trt-opt-shapes x:[2,3,8,8] "
        "--trt-max-shapes x:[4,3,8,8] --save-engine m.engine --load-inputs in.json -vv"
    )
    assert (found.model, found.precisions, found.strict, found.typing) == ("model.onnx", {FP32, FP16}, True, "weak")
    assert (told(found, "Conv_1"), told(found, "a:b"), found.tf32) == ("fp32", "fp16", True)
    assert found.inputs == (Port("x", profiles=(((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)),)),)
    assert found.ignored == (
        "--trt",
        "--onnxrt",
        "--atol 1e-3",
        "--rtol 1e-3",
        "--save-engine m.engine",
        "--load-inputs in.json",
        "-vv",
    )


def test_a_flag_before_the_model_takes_no_more_words_than_it_may():
    found = read_polygraphy("convert --fp16 -o m.engine model.onnx --int8 --bf16")
    assert found.model == "model.onnx" and found.precisions == {FP32, FP16, INT8, BF16}
    with pytest.raises(FlagError, match="knows no argument"):
        read_polygraphy("convert a.onnx b.onnx")


def test_without_flags_polygraphy_computes_in_fp32_and_not_in_tf32():
    found = read("polygraphy convert model.onnx -o model.engine")
    assert (found.precisions, found.tf32, found.typing, found.strict) == ({FP32}, False, None, False)


def test_types_and_formats_of_tensors_go_by_name():
    found = read_polygraphy(
        "convert m.onnx -o e --tensor-datatypes image:float16 out:float32 --tensor-formats image:[hwc8,linear] "
        "--input-shapes image:[1,8,4,4]"
    )
    (image,) = found.bound_inputs(["image"])
    assert (image.dtype, image.format, image.profiles) == (F16, "HWC8", (((1, 8, 4, 4),) * 3,))
    assert found.bound_outputs(["out"]) == [Port("out", F32)]
    assert found.as_inputs()[0].format == "HWC8"
    both = read_polygraphy("convert m.onnx -o e --all-tensor-dtypes float16 --all-tensor-formats linear")
    assert both.bound_inputs(["a", "b"]) == [Port("a", F16, "LINEAR"), Port("b", F16, "LINEAR")]


def test_several_profiles_stand_one_behind_the_other():
    found = read_polygraphy(
        "run m.onnx --trt --input-shapes y:[7] --trt-min-shapes x:[1] --trt-opt-shapes x:[2] --trt-max-shapes x:[3] "
        "--trt-min-shapes x:[4] --trt-opt-shapes x:[5] --trt-max-shapes x:[6]"
    )
    assert {p.name: p.profiles for p in found.inputs} == {
        "x": (((1,), (2,), (3,)), ((4,), (5,), (6,))),
        "y": (((7,),) * 3, ((7,),) * 3),
    }


def test_precisions_of_layers_that_have_no_effect_are_left_out():
    for line in (
        "run m.onnx --trt --fp16 --layer-precisions a:float16",
        "run m.onnx --trt --strongly-typed --precision-constraints obey --layer-precisions a:float16",
    ):
        found = read_polygraphy(line)
        assert found.rules == () and any("left out" in note for note in found.notes), line
    found = read_polygraphy("run m.onnx --int8 --precision-constraints prefer --layer-precisions a:int8 b:int32")
    assert found.rules == () and sum("left out" in note for note in found.notes) == 2


def test_a_script_of_somebody_else_is_not_run(tmp_path):
    other = tmp_path / "other.py"
    other.write_text("raise SystemExit('run')\n")
    found = read_polygraphy(
        ["convert", "m.onnx", "-o", "e", "--precision-constraints", "obey", "--trt-npps", f"{other}:edit"]
    )
    assert found.rules == () and any("not run" in note for note in found.notes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run m.onnx --layer-precisions a", "NAME:VALUE"),
        ("run m.onnx --layer-precisions a:floaty", "no type"),
        ("run m.onnx --tensor-formats a:[nchw]", "no format"),
        ("run m.onnx --trt-min-shapes x:[1,N]", "no shape"),
        ("run m.onnx --trt-min-shapes x:[1] --trt-opt-shapes x:[1]", "tells no shape"),
    ],
)
def test_what_polygraphy_refuses_is_refused(line, words):
    with pytest.raises(ConversionError, match=words):
        read_polygraphy(line)


# --- out


def test_the_flags_allow_what_is_planned_and_run_the_script():
    plan = planned(node("a"), node("b", quantized="int8"), strict=True)
    image = Input(
        min_shape=(1, 8, 4, 4),
        opt_shape=(2, 8, 4, 4),
        max_shape=(4, 8, 4, 4),
        name="image",
        dtype="fp16",
        format="channels_last",
    )
    words = flags(
        plan,
        model="m.onnx",
        engine="m.engine",
        script_path="p.py",
        inputs=[image, Input((3,), name="s")],
        outputs=[Output("y")],
    )
    assert " ".join(words) == (
        "convert m.onnx -o m.engine --fp16 --int8 --precision-constraints obey --trt-network-postprocess-script p.py:postprocess "
        "--tensor-formats image:[hwc8] --trt-min-shapes image:[1,8,4,4] --trt-opt-shapes image:[2,8,4,4] "
        "--trt-max-shapes image:[4,8,4,4]"
    )
    assert "'image:[1,8,4,4]'" in text(words)


def test_strong_typing_needs_no_script():
    assert flags(planned(node("a")), typing="strong", tf32=True) == [
        "convert", "model.onnx", "-o", "model.engine", "--strongly-typed", "--tf32",
    ]  # fmt: skip
    with pytest.raises(PrecisionError, match="no weak typing"):
        flags(planned(node("a")), version="11.0")


def test_int4_has_no_flag_and_that_is_told():
    with pytest.warns(ConversionWarning, match="no flag for int4"):
        assert "--int4" not in flags(planned(node("a", quantized="int4")))


def test_a_name_that_looks_like_a_flag_is_an_error():
    x = Input(min_shape=(1,), opt_shape=(1,), max_shape=(2,), name="--x")
    with pytest.raises(FlagError, match="for a flag"):
        flags(planned(node("a")), inputs=[x])


NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12) | st.text(
    ":/.[]?!\\ \"'=+-_re:\n{}*,", min_size=1
)


@given(
    st.dictionaries(
        NAMES, st.tuples(st.sampled_from(["fp32", "fp16", "bf16"]), st.sampled_from(["rule", COMPILER])), min_size=1
    ),
    st.booleans(),
)
def test_what_is_written_is_read_as_the_same_plan(tmp_path_factory, names, strict):
    plan = planned(
        *(node(name, precision, origin=origin) for name, (precision, origin) in names.items()), strict=strict
    )
    file = tmp_path_factory.mktemp("script") / "plan.py"
    file.write_text(script(plan))
    words = flags(plan, script_path=str(file))
    for given_words in (words, text(words)):
        found = read(given_words)
        assert found.strict == strict and not found.tf32 and found.model == "model.onnx"
        assert found.precisions == {FP32, *(Precision(n.precision) for n in plan.nodes)}
        assert {n.name: told(found, n.name) for n in plan.nodes} == {
            n.name: None if n.is_free else n.precision for n in plan.nodes
        }


# --- the script, on a network that is made by hand


class Tensor:
    def __init__(self, name, dtype="FLOAT", is_shape_tensor=False):
        self.name, self.dtype, self.is_shape_tensor = name, dtype, is_shape_tensor


class Layer:
    """A layer before TensorRT 11. `told` is what it is told."""

    def __init__(self, name, kind, outputs, inputs=(), metadata=""):
        self.name, self.type, self.metadata = name, types.SimpleNamespace(name=kind), metadata
        self.outputs, self.inputs = outputs, list(inputs)
        self.precision, self.told = None, {}
        self.num_outputs, self.num_inputs = len(self.outputs), len(self.inputs)

    def get_output(self, index):
        return self.outputs[index]

    def get_input(self, index):
        return self.inputs[index]

    def set_output_type(self, index, kind):
        assert self.outputs[index].dtype == "FLOAT", "an integer"
        self.told[index] = kind


class Network:
    def __init__(self, layers, outputs=(), strong=False):
        self.layers, self.outputs, self.strong = layers, list(outputs), strong
        self.num_layers, self.num_outputs = len(layers), len(self.outputs)

    def get_layer(self, index):
        return self.layers[index]

    def get_output(self, index):
        return self.outputs[index]

    def get_flag(self, flag):
        return flag == "STRONGLY_TYPED" and self.strong


@pytest.fixture
def run(monkeypatch):
    """Run the script of a plan on a network, with a library of TensorRT's types."""
    flag = types.SimpleNamespace(STRONGLY_TYPED="STRONGLY_TYPED")
    library = types.SimpleNamespace(float32="FLOAT", float16="HALF", NetworkDefinitionCreationFlag=flag)
    monkeypatch.setitem(sys.modules, "tensorrt", library)

    def call(network, plan, **given):
        module = {}
        exec(compile(script(plan, **given), "plan.py", "exec"), module)
        module["postprocess"](network=network)

    return call


def test_all_layers_of_a_node_are_told_by_their_metadata(run):
    first = Layer("x", "MATRIX_MULTIPLY", [Tensor("t")], metadata="[ONNX Layer: fc]")
    second = Layer("fc_3", "ELEMENTWISE", [Tensor("u")], metadata="[ONNX Layer: fc | Block_1 (pkg.Block)]")
    other = Layer("fc", "ELEMENTWISE", [Tensor("v")], metadata="[ONNX Layer: another]")
    odd = Layer("odd", "ELEMENTWISE", [Tensor("w")], metadata="[ONNX Layer: a], [b | c]")
    run(Network([first, second, other, odd]), planned(node("fc"), node("a], [b | c")))
    assert [layer.precision for layer in (first, second, other, odd)] == ["HALF", "HALF", None, "HALF"]


def test_all_layers_of_a_node_are_told_by_their_names_where_there_is_no_metadata(run):
    names = ["fc", "fc_12", "Relu", "Relu_1", "fc_x"]
    layers = [Layer(name, "ACTIVATION", [Tensor(name)]) for name in names]
    run(Network(layers), planned(node("fc"), node("Relu", "fp32"), node("Relu_1", origin=COMPILER)))
    assert [layer.precision for layer in layers] == ["HALF", "HALF", "FLOAT", None, None]


def test_what_cannot_be_told_a_precision_is_told_none(run):
    topk = Layer("topk", "TOPK", [Tensor("values"), Tensor("indices", "INT32")])
    shape = Layer("gather", "GATHER", [Tensor("s", "INT32", True)])
    weights = Layer("w", "CONSTANT", [Tensor("w")], metadata="[ONNX Layer: topk]")
    cast = Layer("c", "IDENTITY", [Tensor("c")], [Tensor("i", "INT32")], metadata="[ONNX Layer: topk]")
    topk.metadata = "[ONNX Layer: topk]"
    run(
        Network([topk, shape, weights, cast]),
        planned(node("topk", outputs=("fp16", "int64")), node("gather", "fp32", outputs=("int64",))),
    )
    assert [layer.precision for layer in (topk, shape, weights, cast)] == ["HALF", None, None, None]
    assert topk.told == {0: "HALF"}


def test_the_outputs_of_the_network_get_their_types(run):
    y, ids = Tensor("y"), Tensor("ids", "INT32")
    run(
        Network([Layer("a", "ACTIVATION", [y])], [y, ids]),
        planned(node("a")),
        outputs=[Output("y", dtype="fp16"), Output("ids", dtype="int64")],
    )
    assert (y.dtype, ids.dtype) == ("HALF", "INT32")


def test_a_planned_node_that_the_network_has_not_is_a_loud_error(run, capsys):
    network, plan = Network([Layer("a", "ACTIVATION", [Tensor("y")])]), planned(node("a"), node("gone"), node("lost"))
    with pytest.raises(RuntimeError, match="2 planned nodes are not in the network: 'gone', 'lost'"):
        run(network, plan)
    assert network.layers[0].precision is None, "nothing is told where not all can be"
    with pytest.raises(RuntimeError, match="1 planned outputs"):
        run(network, planned(node("a")), outputs=[Output("z", dtype="fp16")])
    run(network, plan, missing="say")
    assert network.layers[0].precision == "HALF" and "'gone', 'lost'" in capsys.readouterr().out
    with pytest.raises(FlagError, match="missing is"):
        script(plan, missing="ignore")


def test_a_type_that_tensorrt_lacks_is_a_loud_error(run):
    with pytest.raises(RuntimeError, match="no bf16"):
        run(Network([Layer("a", "ACTIVATION", [Tensor("y")])]), planned(node("a", "bf16")))


def test_nothing_is_told_where_the_types_in_the_file_are_the_plan(run, capsys):
    layer = Layer("a", "ACTIVATION", [Tensor("y")])
    run(Network([layer], strong=True), planned(node("a"), node("folded")))
    assert layer.precision is None and "strongly typed" in capsys.readouterr().out
    run(Network([types.SimpleNamespace(name="a")]), planned(node("a")))  # TensorRT 11
    assert "the types in the ONNX file are the plan" in capsys.readouterr().out


# --- the real command


@pytest.fixture
def image():
    return Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 16, 16), max_shape=(4, 3, 32, 32), name="image")


def test_polygraphy_inspects_our_graph_and_finds_our_nodes_and_their_types(net, image, tmp_path):
    conversion = convert(net, [image], backend="none")
    shown = polygraphy(
        "inspect", "model", conversion.save(tmp_path) / "model.onnx", "--show", "layers", "attrs", "weights"
    )
    assert shown.returncode == 0, shown.stderr
    blocks = {
        found[1]: (found[2], found[3])
        for found in re.finditer(r"Node \d+ +\| ([^\n]+) \[Op: (\w+)\]\n(.*?)(?=\n *\n|\Z)", shown.stdout, re.DOTALL)
    }
    assert {name: op for name, (op, _) in blocks.items()} == {n.name: n.op for n in conversion.plan.nodes}
    for n in conversion.plan.nodes:
        made = blocks[n.name][1].rpartition("-> {")[2]
        assert f"[dtype={ElementType.of(n.outputs[0]).name}, " in made, (n.name, made)
    casts = {n.name: ElementType.of(n.outputs[0]).name for n in conversion.plan.nodes if n.op == "Cast"}
    assert sorted(casts.values()) == ["float16", "float32"]
    assert all(f"{name}.to = {kind}" in shown.stdout for name, kind in casts.items())
    assert "second.weight [dtype=float16" in shown.stdout and "first.weight [dtype=float32" in shown.stdout


class Rounds(torch.nn.Module):
    """The author rounds to fp16 between layers in fp32, and computes nothing in it."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(16, 16)
        self.second = torch.nn.Linear(16, 16)

    def forward(self, x):
        return self.second(self.first(x).half().transpose(1, 2).float().transpose(1, 2))


def relative(folder):
    """The largest |a - b| / (1 + |b|) of what Polygraphy saved of two models."""
    from polygraphy.comparator import RunResults

    final, source = (RunResults.load(str(folder / f"{name}.json"))[0][1][0] for name in ("final", "source"))
    assert set(final) == set(source) and final
    pairs = ((np.asarray(final[name]), np.asarray(source[name])) for name in source)
    return max(float((np.abs(a - b) / (1 + np.abs(b))).max()) for a, b in pairs)


def test_polygraphy_measures_the_difference_that_our_comparison_reports(tmp_path):
    """ONNX Runtime must not compute in fp16 here: on the CPU it makes fp32 of that, which our comparison emulates instead."""
    x = torch.randn(2, 4, 16) * 20
    source = convert(Rounds().eval(), [x], backend="none").save(tmp_path / "source") / "model.onnx"
    with pytest.warns(ConversionWarning, match="fp16"):
        conversion = convert(source, [Input(x.shape, example=x)], {"fp32"}, backend="none")
    final = conversion.save(tmp_path / "final") / "model.onnx"
    (ours,) = conversion.report.comparison.outputs
    name = conversion.report.bindings[0].name
    np.save(tmp_path / "x.npy", x.numpy())
    loader = tmp_path / "loader.py"
    loader.write_text(
        f"import numpy\n\n\ndef load_data():\n    yield {{{name!r}: numpy.load({str(tmp_path / 'x.npy')!r})}}\n"
    )
    inputs = tmp_path / "inputs.json"
    ran = polygraphy(
        "run", source, "--onnxrt", "--data-loader-script", loader, "--save-inputs", inputs, "--save-outputs", tmp_path / "source.json",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ran = polygraphy("run", final, "--onnxrt", "--load-inputs", inputs, "--save-outputs", tmp_path / "final.json")
    assert ran.returncode == 0, ran.stderr
    assert relative(tmp_path) == pytest.approx(ours.relative, rel=1e-2) and ours.relative > 1e-4
    for tolerance in (10 * ours.relative, ours.relative / 10):
        says = polygraphy(
            "run", final, "--onnxrt", "--load-inputs", inputs, "--load-outputs", tmp_path / "source.json",
            "--rtol", tolerance, "--atol", tolerance,
        )  # fmt: skip
        assert (says.returncode == 0) == (ours.relative <= tolerance), says.stdout


# --- the real command, on a double of TensorRT


@pytest.fixture
def recording():
    return pytest.importorskip("doubles.recording", reason="there is no double of TensorRT")


def test_polygraphy_takes_our_flags_and_tells_the_layers_what_is_planned(net, image, tmp_path, recording):
    conversion = convert(net, [image], backend="none")
    model = conversion.save(tmp_path) / "model.onnx"
    outputs = [b for b in conversion.report.bindings if b.mode == "Output"]
    (tmp_path / "plan.py").write_text(script(conversion.plan, outputs=outputs))
    words = flags(
        conversion.plan,
        model=str(model),
        engine=str(tmp_path / "model.engine"),
        script_path=str(tmp_path / "plan.py"),
        inputs=[image],
        outputs=outputs,
    )
    record = tmp_path / "record"
    ran = polygraphy(*words, PYTHONPATH=str(DOUBLES / "tensorrt_10_13"), TENSORRT_DOUBLE_RECORD=str(record))
    # The double makes no engine that Polygraphy can describe; all that concerns the network has come before.
    assert ran.returncode == 0 or "the double of TensorRT does not model" in ran.stderr, ran.stderr
    calls = recording.read(record)
    precisions = {c.name: c.value for c in calls if c.set == "precision"}
    kinds = {"fp32": "DataType.FLOAT", "fp16": "DataType.HALF"}
    tied = {n.name: kinds[n.precision] for n in conversion.plan.nodes if n.op != "Cast"}
    assert {name: precisions[name] for name in tied} == tied
    # The bias of the Gemm is a layer without a name, and is known by what it makes.
    assert {n: k for n, k in precisions.items() if n not in tied} == {"(Unnamed Layer* 9) [ElementWise]": kinds["fp32"]}
    assert {c.name: c.args[1] for c in calls if c.call == "set_output_type"} == precisions
    flags_set = {c.args[0] for c in calls if c.call == "set_flag"}
    assert {"BuilderFlag.FP16", "BuilderFlag.PREFER_PRECISION_CONSTRAINTS"} <= flags_set
    assert [c.args for c in calls if c.call == "set_shape"] == [["image", [1, 3, 8, 8], [2, 3, 16, 16], [4, 3, 32, 32]]]
