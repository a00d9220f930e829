"""`fidelity="pytorch"`: the pass, what it does to the numbers, and what it makes TensorRT compute."""

import io
import json
import math

import numpy as np
import onnx
import pytest
import torch
from bench.inside import generated_calls
from click.testing import CliRunner
from graphs import Scene, assert_rewrites, parse
from onnx.reference import ReferenceEvaluator
from rich.console import Console
from torch import nn
from torch.nn import functional

from torch2trt_onnx import Options, convert
from torch2trt_onnx.cli import main
from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.graph import PREFIX
from torch2trt_onnx.inspection import read
from torch2trt_onnx.passes import FoldWeightCasts, MatchPyTorch
from torch2trt_onnx.passes.match_pytorch import DIFFERENT, differences, differs_inside
from torch2trt_onnx.report import Report
from torch2trt_onnx.tables import summary

HALVES = np.array([1.5, -2.5], np.float16)
ONE = np.ones((), np.float16)
CLOSE = {"relative": 2e-3}  # ONNX Runtime computes the graph before in fp32 as well, but for the last rounding


def from_one_call(text, arrays=None):
    """A graph whose nodes are marked as the exporters mark what comes from one call of PyTorch's."""
    model = parse(text, arrays)
    for node in model.graph.node:
        node.metadata_props.add(key=f"{PREFIX}call", value="torch/nn/functional.py:2445")
    return model


CASES = {
    "a Softmax gets a Cast to fp32 in front, and one back behind": (
        "g (float16[2] x) => (float16[2] y) { y = Softmax(x) }",
        "g (float16[2] x) => (float16[2] y) { v = Cast<to=1>(x)  w = Softmax(v)  y = Cast<to=10>(w) }",
        CLOSE,
    ),
    "bf16 too, and the result goes back to bf16": (
        "g (bfloat16[2] x) => (bfloat16[2] y) { y = Gelu(x) }",
        "g (bfloat16[2] x) => (bfloat16[2] y) { v = Cast<to=1>(x)  w = Gelu(v)  y = Cast<to=16>(w) }",
        {"numbers": False},  # no runtime has a bf16 Gelu
    ),
    "scale and bias get Casts too, one for both where they are the same": (
        "g (float16[2] x) => (float16[2] y) { y = LayerNormalization(x, w, w) }",
        """g (float16[2] x) => (float16[2] y) { v = Cast<to=1>(x)  u = Cast<to=1>(w)
            t = LayerNormalization(v, u, u)  y = Cast<to=10>(t) }""",
        {"arrays": {"w": HALVES}, **CLOSE},
    ),
    "separate calls are rounded between": (
        "g (float16[2] x) => (float16[2] y) { a = Softmax(x)  y = Gelu(a) }",
        """g (float16[2] x) => (float16[2] y) { v = Cast<to=1>(x)  b = Softmax(v)  a = Cast<to=10>(b)
            w = Cast<to=1>(a)  c = Gelu(w)  y = Cast<to=10>(c) }""",
        CLOSE,
    ),
    "two readers share one Cast": (
        "g (float16[2] x) => (float16[2] y, float16[2] z) { y = Softmax(x)  z = Gelu(x) }",
        """g (float16[2] x) => (float16[2] y, float16[2] z) { v = Cast<to=1>(x)  b = Softmax(v)  c = Gelu(v)
            y = Cast<to=10>(b)  z = Cast<to=10>(c) }""",
        CLOSE,
    ),
    "the author's Sigmoid and Mul are two calls, and round between": (
        "g (float16[2] x) => (float16[2] y) { s = Sigmoid(x)  y = Mul(x, s) }",
        """g (float16[2] x) => (float16[2] y) { v = Cast<to=1>(x)  a = Sigmoid(v)  s = Cast<to=10>(a)  y = Mul(x, s) }""",
        CLOSE,
    ),
    "one over a root is rsqrt, which rounds once": (
        "g (float16[2] x) => (float16[2] y) { a = Abs(x)  s = Sqrt(a)  y = Div(one, s) }",
        """g (float16[2] x) => (float16[2] y) { a = Abs(x)  v = Cast<to=1>(a)  s = Sqrt(v)  o = Cast<to=1>(one)
            t = Div(o, s)  y = Cast<to=10>(t) }""",
        {"arrays": {"one": ONE}, **CLOSE},
    ),
    "two over a root is not": (
        "g (float16[2] x) => (float16[2] y) { a = Abs(x)  s = Sqrt(a)  y = Div(two, s) }",
        "g (float16[2] x) => (float16[2] y) { a = Abs(x)  s = Sqrt(a)  y = Div(two, s) }",
        {"arrays": {"two": ONE + ONE}},
    ),
    "bodies are treated as well": (
        """g (bool c, float16[2] x) => (float16[2] y) {
            y = If(c) <then_branch = t() => (float16[2] a) { a = Softmax(x) }, else_branch = e() => (float16[2] b) { b = Relu(x) }>
        }""",
        """g (bool c, float16[2] x) => (float16[2] y) {
            y = If(c) <then_branch = t() => (float16[2] a) { v = Cast<to=1>(x)  w = Softmax(v)  a = Cast<to=10>(w) },
                       else_branch = e() => (float16[2] b) { b = Relu(x) }>
        }""",
        CLOSE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in CASES.items()])
def test_match_pytorch(case):
    before, after, options = case
    assert_rewrites(before, after, [MatchPyTorch()], **options)


FUSED = {
    "silu stays in fp32 to its end": (
        "g (float16[2] x) => (float16[2] y) { s = Sigmoid(x)  y = Mul(x, s) }",
        "g (float16[2] x) => (float16[2] y) { v = Cast<to=1>(x)  s = Sigmoid(v)  t = Mul(v, s)  y = Cast<to=10>(t) }",
    ),
    "mish too": (
        "g (float16[2] x) => (float16[2] y) { p = Softplus(x)  q = Tanh(p)  y = Mul(x, q) }",
        """g (float16[2] x) => (float16[2] y) { v = Cast<to=1>(x)  p = Softplus(v)  q = Tanh(p)  t = Mul(v, q)
            y = Cast<to=10>(t) }""",
    ),
    "group_norm too, with its parameters": (
        """g (float16[1,2,2] x) => (float16[1,2,2] y) <int64[3] s = {1, 2, 2}> {
            n = InstanceNormalization(x, w, w)  r = Reshape(n, s)  m = Mul(r, w)  y = Add(m, w) }""",
        """g (float16[1,2,2] x) => (float16[1,2,2] y) <int64[3] s = {1, 2, 2}> { v = Cast<to=1>(x)  u = Cast<to=1>(w)
            n = InstanceNormalization(v, u, u)  r = Reshape(n, s)  m = Mul(r, u)  t = Add(m, u)  y = Cast<to=10>(t) }""",
    ),
    "a Sigmoid that others read as well is rounded for itself": (
        "g (float16[2] x) => (float16[2] y, float16[2] z) { s = Sigmoid(x)  y = Mul(x, s)  z = Neg(s) }",
        """g (float16[2] x) => (float16[2] y, float16[2] z) { v = Cast<to=1>(x)  t = Sigmoid(v)  s = Cast<to=10>(t)
            y = Mul(x, s)  z = Neg(s) }""",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in FUSED.items()])
def test_what_pytorch_computes_in_one_kernel(case):
    before, after = case
    arrays = {"w": HALVES}
    assert_rewrites(from_one_call(before, arrays), after, [MatchPyTorch()], arrays=arrays, **CLOSE)


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"g (float16[2] x) => (float16[2] y) {{ y = {op}(x) }}"
            for op in ("Relu", "Exp", "Log", "Tanh", "Erf", "Sqrt", "Sin", "Identity")
        ),
        "g (float16[2] x) => (float16[2] y) { y = Add(x, x) }",
        "g (float16[2] x) => (float16[1] y) { y = ReduceSum(x) }",
        "g (float16[2] x) => (float16[1] y) { y = ReduceL2(x) }",
        "g (float16[2] x) => (float16[2] y) { y = Pow(x, x) }",
        "g (float[2] x) => (float[2] y) { y = Softmax(x) }",
        "g (int32[2] x) => (int32[2] y) { y = Mod(x, x) }",
    ],
)
def test_where_nothing_differs_inside_nothing_changes(text):
    scene = Scene(text)
    assert scene.run(MatchPyTorch()) == []
    assert [differs_inside(node) for node in scene.graph.nodes()] == [""]


def test_the_squares_of_a_bf16_norm_differ_and_those_of_an_fp16_one_do_not():
    assert len(Scene("g (bfloat16[2] x) => (bfloat16[1] y) { y = ReduceL2(x) }").run(MatchPyTorch())) == 1


def test_each_operator_of_the_table_is_named_with_what_it_rounds():
    scene = Scene("g (float16[2] x) => (float16[2] y) { y = Softmax(x) }")
    scene.run()
    assert [differs_inside(node) for node in scene.graph.nodes()] == [
        f"in fp16 inside, where PyTorch computes in fp32: {DIFFERENT['Softmax']}"
    ]


def test_operators_of_other_domains_are_left_alone():
    scene = Scene("g (float16[2] x) => (float16[2] y) { y = com.example.Softmax(x) }")
    assert scene.run(MatchPyTorch()) == []


def test_a_rule_of_the_user_wins():
    scene = Scene("g (float16[2] x) => (float16[2] y) { a = Softmax(x)  y = Gelu(a) }")
    first = next(scene.graph.nodes())
    first.metadata[f"{PREFIX}origin"] = "rule"
    assert [change.node.partition("_")[0] for change in scene.run(MatchPyTorch())] == ["Gelu"]


def test_the_metadata_tells_what_was_changed_and_what_the_author_had():
    scene = Scene("g (float16[2] x) => (float16[2] y) { y = Softmax(x) }")
    node = next(scene.graph.nodes())
    node.metadata |= {f"{PREFIX}authored": "fp16", f"{PREFIX}precision": "fp16", f"{PREFIX}module": "head"}
    scene.run(MatchPyTorch())
    assert {key.removeprefix(PREFIX): value for key, value in node.metadata.items()} == {
        "authored": "fp16",
        "module": "head",
        "precision": "fp32",
        "origin": "fidelity",
        "reason": "PyTorch computes Softmax in fp32 and rounds once, and TensorRT would round to fp16 inside",
    }
    casts = [n for n in scene.graph.nodes() if n.op == "Cast"]
    assert [n.metadata[f"{PREFIX}precision"] for n in casts] == ["fp32", "fp16"]
    assert {n.metadata[f"{PREFIX}origin"] for n in casts} == {"fidelity"}


def test_constants_are_stored_in_fp32():
    scene = Scene("g (float16[2] x) => (float16[2] y) { y = LayerNormalization(x, w, w) }", {"w": HALVES})
    scene.run(MatchPyTorch(), FoldWeightCasts())
    norm = next(n for n in scene.graph.nodes() if n.op == "LayerNormalization")
    np.testing.assert_array_equal(scene.constant(norm.inputs[1].name), HALVES.astype(np.float32), strict=True)


# --- the numbers


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def compared(a, b):
    """The share of values in which two fp16 arrays differ, and by how many fp16 numbers at most."""
    bits = [np.asarray(x, np.float16).view(np.int16).astype(np.int64) for x in (a, b)]
    ordered = [np.where(x < 0, -(x & 0x7FFF), x) for x in bits]
    steps = np.abs(ordered[0] - ordered[1])
    return np.count_nonzero(steps) / steps.size, int(steps.max())


def batch_norm():
    norm = nn.BatchNorm1d(64)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def layer_norm():
    norm = nn.LayerNorm(64)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    return norm


MODULES = {
    "softmax": lambda: nn.Softmax(-1),
    "log_softmax": lambda: nn.LogSoftmax(-1),
    "layer_norm": layer_norm,
    "batch_norm": batch_norm,
    "group_norm": lambda: nn.Sequential(nn.Unflatten(1, (8, 8)), nn.GroupNorm(2, 8)),
    "gelu": nn.GELU,
    "tanh gelu": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "silu by hand": lambda: Called(lambda x: x * torch.sigmoid(x)),
    "glu": nn.GLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "leaky_relu": nn.LeakyReLU,
    "rsqrt": lambda: Called(lambda x: torch.rsqrt(x.abs() + 1)),
    "two in a row": lambda: nn.Sequential(nn.GELU(), nn.Softmax(-1)),
}


def data():
    return torch.randn(256, 64, generator=torch.Generator().manual_seed(1)).mul(3).half()


CANCELS = {"gelu": (0.1, 8), "tanh gelu": (0.1, 8)}
"""Where fp32 itself loses digits, so that no two libraries agree: next to 0, where 1 + erf(x) and 1 + tanh(x) cancel."""


@pytest.mark.parametrize("name", MODULES)
def test_the_result_is_that_of_pytorch_but_for_one_step(name):
    module, x = MODULES[name]().half().eval(), data()
    final = convert(module, [x], fidelity="pytorch", backend="none").onnx
    (found,) = ReferenceEvaluator(final).run(None, {final.graph.input[0].name: x.numpy()})
    with torch.no_grad():
        # PyTorch's log_softmax rounds inside on the CPU, and does not on a GPU.
        expected = module(x.float()).half() if name == "log_softmax" else module(x)
    share, steps = compared(found, expected.numpy())
    most = CANCELS.get(name, (0.005, 1))
    assert share <= most[0]
    assert steps <= most[1]


def softmax_in_half(x):
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.astype(np.float32).sum(-1, keepdims=True).astype(np.float16)


def layer_norm_in_half(x, weight, bias):
    wide = x.astype(np.float32)
    scaled = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + np.float32(1e-5))
    return scaled.astype(np.float16) * weight + bias


def gelu_in_half(x):
    erf = np.array([math.erf(v) for v in (x / np.float16(math.sqrt(2))).ravel()]).reshape(x.shape).astype(np.float16)
    return x * (erf + np.float16(1)) * np.float16(0.5)


def silu_in_half(x):
    return x * (1 / (1 + np.exp(-x.astype(np.float32)))).astype(np.float16)


def test_without_it_the_roundings_inside_show():
    """NumPy rounds each fp16 operation, and here does them in the order of the plan's source. (Its silu differs even more.)"""
    x = data()
    norm = layer_norm().half()
    weight, bias = (p.detach().numpy() for p in (norm.weight, norm.bias))
    with torch.no_grad():
        apart = {
            "softmax": compared(softmax_in_half(x.numpy()), functional.softmax(x, -1)),
            "layer_norm": compared(layer_norm_in_half(x.numpy(), weight, bias), norm(x)),
            "gelu": compared(gelu_in_half(x.numpy()), functional.gelu(x)),
            "silu": compared(silu_in_half(x.numpy()), functional.silu(x)),
        }
    assert {name: (share > 0.1, steps > 1) for name, (share, steps) in apart.items()} == dict.fromkeys(
        apart, (True, True)
    )
    assert min(apart["layer_norm"][1], apart["gelu"][1]) > 100  # next to 0


# --- the engine

ENGINES = {
    "softmax": ({"exp", "sub", "div", "maximum"}, lambda: nn.Softmax(-1)),
    "layer_norm": ({"mul", "add"}, layer_norm),
    "gelu": ({"mul", "add", "div"}, nn.GELU),
    "silu": ({"silu"}, nn.SiLU),
}


@pytest.mark.parametrize("name", ENGINES)
def test_tensorrt_computes_in_fp32_inside_with_it_and_in_fp16_without(name):
    functions, make = ENGINES[name]
    module, x = make().half().eval(), data()
    without = generated_calls(convert(module, [x], backend="rtx").engine)
    within = generated_calls(convert(module, [x], fidelity="pytorch", backend="rtx").engine)
    assert {(function, "half") for function in functions} <= without
    assert {(function, "float") for function in functions} <= within
    assert not any(kind == "half" for _, kind in within)


# --- the conversion


def test_the_plan_says_fidelity_and_the_network_has_fp32():
    module = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Softmax(-1)).half().eval()
    conversion = convert(module, [data()], {"fp32", "fp16"}, strict=True, fidelity="pytorch", backend="rtx")
    found = {n.plan.op: (n.plan.precision, n.plan.origin, set(n.network)) for n in conversion.report.nodes}
    assert found["Gelu"] == found["Softmax"] == ("fp32", "fidelity", {"fp32"})
    assert found["Gemm"] == ("fp16", "weights", {"fp16"})
    assert conversion.report.comparison.ok


def test_a_rule_keeps_its_node_in_fp16():
    module = nn.Sequential(nn.GELU(), nn.Softmax(-1)).half().eval()
    rules = [{"op": "Gelu", "precision": "fp16"}]
    plan = convert(module, [data()], rules=rules, fidelity="pytorch", backend="none").plan
    assert {n.op: n.precision for n in plan.nodes if n.op != "Cast"} == {"Gelu": "fp16", "Softmax": "fp32"}


def test_strict_fp16_alone_contradicts_it():
    with pytest.raises(PrecisionError, match=r"When strict is True.*\(fp16\).*needs fp32 among them"):
        convert(nn.GELU().half(), [data()], {"fp16"}, strict=True, fidelity="pytorch", backend="none")


def test_without_strict_fp32_stays_a_way_out():
    plan = convert(nn.GELU().half(), [data()], {"fp16"}, fidelity="pytorch", backend="none").plan
    assert {n.op: n.precision for n in plan.nodes if n.op != "Cast"} == {"Gelu": "fp32"}


@pytest.mark.parametrize("exporter", ["trace", "script", "dynamo"])
def test_silu_is_known_as_one_call_on_each_way(exporter):
    module = nn.Sequential(nn.SiLU(), Called(lambda x: x * torch.sigmoid(x))).half().eval()
    if exporter == "script":
        module = torch.jit.script(SiluTwice().half().eval())
    options = Options(exporter="dynamo" if exporter == "dynamo" else "torchscript")
    plan = convert(module, [data()], fidelity="pytorch", backend="none", options=options).plan
    work = [(n.op, n.precision) for n in plan.nodes if n.op != "Cast"]
    assert work == [("Sigmoid", "fp32"), ("Mul", "fp32"), ("Sigmoid", "fp32"), ("Mul", "fp16")]


class SiluTwice(nn.Module):
    def forward(self, x):
        y = functional.silu(x)
        return y * torch.sigmoid(y)


def test_the_final_graph_passes_the_full_check_of_onnx():
    module = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.LayerNorm(64)).half().eval()
    onnx.checker.check_model(convert(module, [data()], fidelity="pytorch", backend="none").onnx, full_check=True)


# --- the report


def test_the_report_says_which_nodes_differ_inside_and_how():
    module = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Softmax(-1)).half().eval()
    report = convert(module, [data()], backend="none").report
    assert {n.plan.op for n in report.nodes if n.inside} == {"Gelu", "Softmax"}
    assert (
        "inside 2 nodes in fp16 compute in steps that PyTorch computes in fp32 (fidelity='pytorch' changes that)"
        in told(report)
    )
    again = Report.from_json(json.loads(json.dumps(report.to_json())))
    assert [n.inside for n in again.nodes] == [n.inside for n in report.nodes]
    assert not any(n.inside for n in convert(module, [data()], fidelity="pytorch", backend="none").report.nodes)


def test_the_report_says_of_nodes_under_a_rule_that_they_stay_different():
    module = nn.Sequential(nn.GELU(), nn.Softmax(-1)).half().eval()
    rules = [{"op": "Gelu", "precision": "fp16"}]
    report = convert(module, [data()], rules=rules, fidelity="pytorch", backend="none").report
    assert {n.plan.op for n in report.nodes if n.inside} == {"Gelu"}
    assert "1 node in fp16 compute" in told(report)
    assert "rules keep" in told(report)


def test_what_differs_is_what_the_pass_changes():
    text = "g (float16[2] x) => (float16[2] y) { a = Abs(x)  s = Sqrt(a)  q = Div(one, s)  y = Softmax(q) }"
    scene = Scene(text, {"one": ONE})
    scene.run()
    expected = differences(scene.graph)
    assert {change.node for change in scene.run(MatchPyTorch())} == set(expected)
    assert [words.rpartition(": ")[2] for words in expected.values()][:2] == ["rsqrt is rounded once, at its end"] * 2
    assert differences(scene.graph) == {}


def told(report):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary(report))
    return " ".join(console.export_text().split())


def test_the_command_has_it_as_an_option(tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.script(nn.GELU().half()).save(str(path))
    words = [
        "convert",
        path,
        "-i",
        "x:2x8:float16",
        "--fidelity",
        "pytorch",
        "--backend",
        "none",
        "-o",
        tmp_path / "out",
    ]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert {n.plan.op: n.plan.precision for n in read(tmp_path / "out").nodes}["Gelu"] == "fp32"
