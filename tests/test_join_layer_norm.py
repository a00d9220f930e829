"""LayerNorms that are spelled out: which ones `JoinLayerNorm` takes for one, and which it leaves alone."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from graphs import Scene, assert_rewrites, assert_same_numbers
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import nn

from torch2trt_onnx import ConversionWarning, Input, Options, convert, pipeline
from torch2trt_onnx.diagnosis import debug
from torch2trt_onnx.graph import PREFIX
from torch2trt_onnx.passes import AnnotatePrecision, JoinLayerNorm
from torch2trt_onnx.plan import AUTO, COMPILER, SOURCE, Asked
from torch2trt_onnx.precision import Precision
from torch2trt_onnx.preview import preview
from torch2trt_onnx.rules import Rule

ARRAYS = {
    "one": np.array(1, np.float32),
    "two": np.array(2, np.float32),
    "three": np.array(3, np.float32),
    "eps": np.array(0.5, np.float32),
    "zero": np.array(0, np.float32),
    "minus": np.array(-0.125, np.float32),
    "infinite": np.array(np.inf, np.float32),
    "half": np.array(0.5, np.float16),
    "last": np.array([-1]),
    "middle": np.array([1]),
    "both": np.array([2, 1]),
    "none": np.array([], np.int64),
    "first": np.array([0]),
    "scale": np.array([1, 2, 3, 4], np.float32),
    "bias": np.array([4, 3, 2, 1], np.float32),
    "scale3": np.array([[[1, 2, 3, 4]]], np.float32),
    "bias4": np.ones((1, 1, 1, 4), np.float32),
    "ones": np.ones(4, np.float32),
    "rows": np.full((3, 1), 0.5, np.float32),
    "table": np.arange(12, dtype=np.float32).reshape(3, 4),
    "biases": np.tile(np.array([4, 3, 2, 1], np.float32), (3, 1)),
}
CORE = "m = ReduceMean(x, last)  d = Sub(x, m)  s = Mul(d, d)  v = ReduceMean(s, last)  a = Add(v, eps)  r = Sqrt(a)"
END = "n = Div(d, r)  p = Mul(n, scale)  y = Add(p, bias)"
NORM = "LayerNormalization<axis=-1, epsilon=0.5, stash_type=1>"
WHOLE = f"y = {NORM}(x, scale, bias)"


def graph(nodes, inputs="float[2,3,4] x", outputs="float[2,3,4] y"):
    return f"g ({inputs}) => ({outputs}) {{ {nodes} }}"


def rewrites(before, after, **options):
    return assert_rewrites(before, after, [JoinLayerNorm()], arrays=ARRAYS, relative=1e-5, **options)


JOINED = {
    "with a scale and a bias": (f"{CORE} {END}", WHOLE),
    "whose scale and bias are the first operands": (
        f"{CORE} n = Div(d, r)  p = Mul(scale, n)  y = Add(bias, p)",
        WHOLE,
    ),
    "by way of the reciprocal": (f"{CORE} i = Reciprocal(r)  {END.replace('Div(d, r)', 'Mul(d, i)')}", WHOLE),
    "by way of one divided by the root": (f"{CORE} i = Div(one, r)  {END.replace('Div(d, r)', 'Mul(i, d)')}", WHOLE),
    "with a power of two": (f"{CORE.replace('Mul(d, d)', 'Pow(d, two)')} {END}", WHOLE),
    "whose epsilon is the first operand": (f"{CORE.replace('Add(v, eps)', 'Add(eps, v)')} {END}", WHOLE),
    "whose difference is there twice": (f"{CORE} e = Sub(x, m)  {END.replace('Div(d', 'Div(e')}", WHOLE),
    "whose mean is there twice": (
        f"{CORE} k = ReduceMean(x, last)  e = Sub(x, k)  {END.replace('Div(d', 'Div(e')}",
        WHOLE,
    ),
    "whose square is the product of two equal differences": (
        f"{CORE.replace('s = Mul(d, d)', 'e = Sub(x, m)  s = Mul(d, e)')} {END}",
        WHOLE,
    ),
    "without a bias": (f"{CORE} n = Div(d, r)  y = Mul(n, scale)", f"y = {NORM}(x, scale)"),
    "without a scale, for which ones are made": (
        f"{CORE} n = Div(d, r)  y = Add(n, bias)",
        f"y = {NORM}(x, ones, bias)",
    ),
    "without both": (f"{CORE} y = Div(d, r)", f"y = {NORM}(x, ones)"),
    "without both, by way of the reciprocal": (f"{CORE} i = Reciprocal(r)  y = Mul(d, i)", f"y = {NORM}(x, ones)"),
    "whose scale has more dimensions": (f"{CORE} n = Div(d, r)  y = Mul(n, scale3)", f"y = {NORM}(x, scale)"),
    "whose parameters are reshaped to what is computed from its input": (
        f"{CORE} n = Div(d, r)  h = Shape<start=2>(x)  c = Reshape(scale3, h)  b = Reshape(bias, h)  p = Mul(n, c)  y = Add(p, b)",
        WHOLE,
    ),
    "whose parameters are single numbers": (
        f"{CORE} n = Div(d, r)  p = Mul(n, one)  y = Add(p, one)",
        f"y = {NORM}(x, ones, ones)",
    ),
    "over two dimensions": (
        f"{CORE.replace('last', 'both')} n = Div(d, r)  p = Mul(n, table)  y = Add(p, bias)",
        "y = LayerNormalization<axis=-2, epsilon=0.5, stash_type=1>(x, table, biases)",
    ),
    "up to what multiplies it by row": (
        f"{CORE} n = Div(d, r)  y = Mul(n, table)",
        f"n = {NORM}(x, ones)  y = Mul(n, table)",
    ),
    "up to what is added by row": (
        f"{CORE} n = Div(d, r)  p = Mul(n, scale)  y = Add(p, rows)",
        f"p = {NORM}(x, scale)  y = Add(p, rows)",
    ),
    "up to a sum of two tensors": (
        f"{CORE} n = Div(d, r)  p = Mul(n, scale)  y = Add(p, x)",
        f"p = {NORM}(x, scale)  y = Add(p, x)",
    ),
    "up to a scale with more dimensions than its input": (
        f"{CORE} n = Div(d, r)  p = Mul(n, bias4)  y = Squeeze(p, first)",
        f"n = {NORM}(x, ones)  p = Mul(n, bias4)  y = Squeeze(p, first)",
    ),
    "up to a result that is read twice": (
        f"{CORE} n = Div(d, r)  p = Mul(n, scale)  y = Add(p, n)",
        f"n = {NORM}(x, ones)  p = Mul(n, scale)  y = Add(p, n)",
    ),
    "up to a square of the result": (f"{CORE} n = Div(d, r)  y = Mul(n, n)", f"n = {NORM}(x, ones)  y = Mul(n, n)"),
}


@pytest.mark.parametrize(("before", "after"), JOINED.values(), ids=JOINED)
def test_a_norm_is_joined(before, after):
    (change,) = rewrites(graph(before), graph(after))
    assert change.action.endswith("nodes to one LayerNormalization")


def test_up_to_a_result_that_the_graph_puts_out():
    before, after = f"{CORE} n = Div(d, r)  y = Mul(n, scale)", f"n = {NORM}(x, ones)  y = Mul(n, scale)"
    both = "float[2,3,4] y, float[2,3,4] n"
    rewrites(graph(before, outputs=both), graph(after, outputs=both))


def test_two_in_a_row():
    second = CORE.replace("x", "y") + " n = Div(d, r)  z = Mul(n, bias)"
    for word in "mdsvarn":
        second = second.replace(f"{word} =", f"{word}2 =").replace(f"({word}, ", f"({word}2, ")
        second = second.replace(f", {word})", f", {word}2)").replace(f"({word})", f"({word}2)")
    rewrites(graph(f"{CORE} {END} {second}", outputs="float[2,3,4] z"),
             graph(f"{WHOLE} z = {NORM}(y, bias)", outputs="float[2,3,4] z"))  # fmt: skip


def test_in_bodies():
    in_loop = """m2 = ReduceMean(h, last)  d2 = Sub(h, m2)  s2 = Mul(d2, d2)  v2 = ReduceMean(s2, last)  a2 = Add(v2, eps)  r2 = Sqrt(a2)
        n2 = Div(d2, r2)  o = Mul(n2, scale)"""
    text = """g (bool c, int64 trips, float[2,3,4] x) => (float[2,3,4] z, float[2,3,4] l) {{
        z = If(c) <then_branch = t() => (float[2,3,4] y) {{ {} }}, else_branch = e() => (float[2,3,4] w) {{ w = Neg(x) }}>
        l = Loop(trips, , x) <body = b(int64 i, bool go, float[2,3,4] h) => (bool on, float[2,3,4] o) {{ on = Identity(go)  {} }}>
    }}"""
    before, after = text.format(f"{CORE} {END}", in_loop), text.format(WHOLE, f"o = {NORM}(h, scale)")
    assert len(rewrites(before, after)) == 2


@pytest.mark.parametrize("opset", [16, 17])
def test_from_opset_17_on(opset):
    axes = CORE.replace("(x, last)", "<axes=[2]>(x)").replace("(s, last)", "<axes=[-1]>(s)")
    before = graph(f"{axes} {END}")
    rewrites(before, graph(WHOLE) if opset == 17 else before, opset=opset)


ALONE = {
    "in fp16": (graph(f"{CORE.replace('eps', 'half')}  y = Div(d, r)", "float16[2,3,4] x", "float16[2,3,4] y"),),
    "an RMS norm": (graph("s = Mul(x, x)  v = ReduceMean(s, last)  a = Add(v, eps)  r = Sqrt(a)  y = Div(x, r)"),),
    "a standard deviation": (graph(f"{CORE} y = Div(x, r)"),),
    "what divides by the difference": (graph(f"{CORE} y = Div(r, d)"),),
    "the root in another place": (graph(f"{CORE} y = Mul(d, r)"),),
    "what divides something by the root and multiplies": (graph(f"{CORE} i = Div(two, r)  y = Mul(d, i)"),),
    "a mean minus its values": (graph(f"{CORE.replace('Sub(x, m)', 'Sub(m, x)')} y = Div(d, r)"),),
    "a power of three": (graph(f"{CORE.replace('Mul(d, d)', 'Pow(d, three)')} y = Div(d, r)"),),
    "a power of powers": (graph(f"{CORE.replace('Mul(d, d)', 'Pow(d, scale)')} y = Div(d, r)"),),
    "a product that is no square": (graph(f"{CORE.replace('Mul(d, d)', 'Mul(d, x)')} y = Div(d, r)"),),
    "a sum of squares": (graph(f"{CORE.replace('ReduceMean(s', 'ReduceSum(s')} y = Div(d, r)"),),
    "differences of two tensors": (
        graph(f"{CORE.replace('Sub(x', 'Sub(z')} y = Div(d, r)", "float[2,3,4] x, float[2,3,4] z"),
    ),
    "a square of one difference under another": (
        graph(f"k = ReduceMean(z, last)  e = Sub(z, k)  {CORE} y = Div(e, r)", "float[2,3,4] x, float[2,3,4] z"),
    ),
    "over a dimension in the middle": (graph(f"{CORE.replace('last', 'middle')} y = Div(d, r)"),),
    "over two dimensions, its mean over one": (graph(f"{CORE.replace('s, last', 's, both')} y = Div(d, r)"),),
    "over no dimensions that are told": (graph(f"{CORE.replace('last', 'none')} y = Div(d, r)"),),
    "over dimensions that are an input": (
        graph(f"{CORE.replace('last', 'k')} y = Div(d, r)", "float[2,3,4] x, int64[1] k"),
        {"numbers": False},  # a random dimension is none
    ),
    "that drops the dimension": (
        graph(f"{CORE.replace('ReduceMean(s', 'ReduceMean<keepdims=0>(s')} y = Div(d, r)", "float[4,4] x", "float[4,4] y"),
    ),
    "of a size that is not known": (graph(f"{CORE} {END}", "float[2,3,N] x"), {"numbers": False}),
    "whose epsilon is nothing": (graph(f"{CORE.replace('eps', 'zero')} y = Div(d, r)"),),
    "whose epsilon is negative": (graph(f"{CORE.replace('eps', 'minus')} y = Div(d, r)"),),
    "whose epsilon is infinite": (graph(f"{CORE.replace('eps', 'infinite')} y = Div(d, r)"),),
    "whose epsilon is one of each row": (graph(f"{CORE.replace('eps', 'rows')} y = Div(d, r)"),),
    "whose epsilon is an input": (graph(f"{CORE.replace('eps', 'z')} y = Div(d, r)", "float[2,3,4] x, float z"), {"numbers": False}),
    "without epsilon": (graph(f"{CORE.replace('a = Add(v, eps)', '').replace('(a)', '(v)')} y = Div(d, r)"), {"numbers": False}),
    "of which a part is read in a body": (
        graph(f"""{CORE} {END}  z = If(c) <then_branch = t() => (float[2,3,4] t1) {{ t1 = Neg(d) }},
            else_branch = e() => (float[2,3,4] e1) {{ e1 = Neg(x) }}>""", "bool c, float[2,3,4] x", "float[2,3,4] y, float[2,3,4] z"),
    ),
    "that is partly in a body": (
        graph(f"""{CORE} z = If(c) <then_branch = t() => (float[2,3,4] y) {{ {END} }},
            else_branch = e() => (float[2,3,4] e1) {{ e1 = Neg(x) }}>""", "bool c, float[2,3,4] x", "float[2,3,4] z"),
    ),
    **{
        f"of which {part!r} is {how}": (graph(f"{CORE} {END} {more}", outputs=f"float[2,3,4] y, float[2,3,{size}] {out}"),)
        for part, size in {"m": 1, "d": 4, "s": 4, "v": 1, "a": 1, "r": 1}.items()
        for how, more, out in (("read elsewhere", f"z = Neg({part})", "z"), ("an output", "", part))
    },
}  # fmt: skip


@pytest.mark.parametrize("case", ALONE.values(), ids=ALONE)
def test_left_alone(case):
    text, *options = case
    assert rewrites(text, text, **(options[0] if options else {})) == []


def test_that_it_is_over_rows_decides_and_not_how_many_there_are():
    rewrites(
        graph(f"{CORE} {END}", "float[N,M,4] x", "float[N,M,4] y"), graph(WHOLE, "float[N,M,4] x", "float[N,M,4] y")
    )


# --- what it tells


def about(scene):
    (node,) = (node for node in scene.graph.nodes() if node.op == "LayerNormalization")
    return node


def test_the_node_has_the_name_of_the_last_one_and_the_module_that_all_are_of():
    scene = Scene(graph(f"{CORE} {END}"), ARRAYS)
    modules = {"Sqrt": "encoder.norm.inner", "ReduceMean": "encoder.norm", "Mul": "encoder.norm", "Add": "encoder.norm"}
    for node in scene.graph.nodes():
        node.metadata = {
            f"{PREFIX}module": modules.get(node.op, ""),
            f"{PREFIX}source": f"net.py:{node.outputs[0].name} forward",
        }
    (last,) = (node.name for node in scene.graph.nodes() if node.outputs[0].name == "y")
    scene.run(JoinLayerNorm(), AnnotatePrecision())
    node = about(scene)
    assert (node.name, node.outputs[0].name) == (last, "y")
    assert node.metadata == {
        f"{PREFIX}module": "encoder.norm",
        f"{PREFIX}source": "net.py:y forward",
        f"{PREFIX}precision": "fp32",
        f"{PREFIX}origin": "weights",
        f"{PREFIX}reason": "weight 'scale' is fp32, 'bias' is fp32",
    }


def test_a_module_that_its_parts_do_not_agree_on_is_none():
    scene = Scene(graph(f"{CORE} {END}"), ARRAYS)
    for node in scene.graph.nodes():
        node.metadata = {f"{PREFIX}module": "one" if node.op == "Sqrt" else "other"}
    scene.run(JoinLayerNorm())
    assert about(scene).metadata == {}


RULES = {
    "for one of the parts": ([{"op": "Sqrt"}], False),
    "for the last part": ([{"op": "Add"}], False),
    "for all parts, of which none is for the whole": ([{"op": "re:[A-KM-Z].*"}], False),
    "for the whole": ([{"op": "LayerNormalization"}], True),
    "for the whole, by the name that the last part has as well": ([{"name": "Add_y"}], True),
    "for what the last part makes": ([{"tensor": "y"}], True),
    "for all": ([{"name": "*"}], True),
    "for a part, and a later one for all": ([{"op": "Sqrt"}, {"name": "*", "precision": "fp16"}], True),
    "for all, and a later one for a part": ([{"name": "*"}, {"op": "Sqrt", "precision": "fp16"}], False),
    "for another": ([{"op": "Gemm"}], True),
}


@pytest.mark.parametrize(("rules", "is_joined"), RULES.values(), ids=RULES)
def test_rules(rules, is_joined):
    scene = Scene(graph(f"{CORE} {END}"), ARRAYS)
    changes = scene.run(JoinLayerNorm([Rule.of({"precision": "fp32", **rule}) for rule in rules]))
    assert bool(changes) == is_joined


@pytest.mark.parametrize("policy", [SOURCE, COMPILER])
def test_only_auto_joins(policy):
    assert pipeline.joins(policy) == []
    assert [type(step) for step in pipeline.joins(AUTO)] == [JoinLayerNorm, AnnotatePrecision]


# --- over many norms


@st.composite
def norms(draw):
    """`(text, arrays, rank, count of dimensions, scale, bias)` of a norm."""
    dims = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    count = draw(st.integers(1, len(dims)))
    axes = [axis - draw(st.sampled_from((0, len(dims)))) for axis in range(len(dims) - count, len(dims))]
    random = np.random.default_rng(draw(st.integers(0, 99)))
    arrays = {
        "eps": np.array(draw(st.sampled_from((1e-5, 1e-6, 0.1))), np.float32),
        "axes": np.array(draw(st.permutations(axes))),
    }

    def row():
        inner = [draw(st.sampled_from((size, 1))) for size in dims[-count:]]
        ones = [1] * draw(st.integers(0, len(dims) - count))
        return random.normal(size=[*ones, *inner] if ones else inner[draw(st.integers(0, count)) :]).astype(np.float32)

    nodes = [
        "m = ReduceMean(x, axes)",
        "d = Sub(x, m)",
        "s = Mul(d, d)",
        "v = ReduceMean(s, axes)",
        "a = Add(v, eps)",
        "r = Sqrt(a)",
    ]
    nodes += draw(st.sampled_from((["n = Div(d, r)"], ["i = Reciprocal(r)", "n = Mul(d, i)"])))
    result, parameters = "n", []
    for op, name in (("Mul", "scale"), ("Add", "bias")):
        if draw(st.booleans()):
            arrays[name] = row()
            nodes.append(f"{name}_of = {op}({', '.join(draw(st.permutations([result, name])))})")
            result = f"{name}_of"
            parameters.append(name)
    shape = ",".join(map(str, dims))
    text = graph("  ".join([*nodes, f"y = Identity({result})"]), f"float[{shape}] x", f"float[{shape}] y")
    return text, arrays, count, parameters


@settings(derandomize=True, database=None, deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(norms())
def test_whatever_the_rank_the_axes_and_the_parameters_the_numbers_stay(case):
    text, arrays, count, parameters = case
    event(f"{count} dimensions, {' and '.join(parameters) or 'no parameters'}")
    scene = Scene(text, arrays)
    assert len(scene.run(JoinLayerNorm())) == 1
    node = about(scene)
    assert [n.op for n in scene.graph.nodes()] == ["LayerNormalization", "Identity"]
    assert node.attrs["axis"] == -count and len(node.inputs) == 2 + ("bias" in parameters)
    assert_same_numbers(scene.source, scene.proto(), relative=2e-4)
    assert scene.run(JoinLayerNorm()) == []


# --- from end to end


class Spelled(nn.Module):
    """A norm of single operators, between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.scale, self.bias = nn.Parameter(torch.rand(16)), nn.Parameter(torch.rand(16))

    def forward(self, x):
        x = self.first(x)
        d = x - x.mean(-1, keepdim=True)
        return self.second(d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5) * self.scale + self.bias)


class Alone(nn.Module):
    """A norm of single operators."""

    def forward(self, x):
        d = x - x.mean(-1, keepdim=True)
        return d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5)


X = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))


def run(precisions=("fp32", "fp16"), **asked):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        return convert(Spelled().eval(), [X], set(precisions), **asked)


def ops(conversion):
    return [node.op for node in conversion.plan.nodes]


def test_auto_builds_it_as_one():
    conversion = run(policy="auto", backend="rtx", keep_stages=True)
    (norm,) = (node for node in conversion.report.nodes if node.plan.op == "LayerNormalization")
    assert "Sqrt" not in ops(conversion)
    assert (norm.plan.precision, norm.plan.kept_by, norm.plan.origin) == ("fp32", "OperatorRisk", "kept")
    assert norm.verdict in ("honoured", "fused")
    assert conversion.report.comparison.ok
    assert [row[1] for row in conversion.report.changes if row[0] == "JoinLayerNorm"] == [norm.plan.name]
    assert "JoinLayerNorm" in {stage["name"] for stage in conversion.report.stages}


def test_source_leaves_it_as_it_is():
    conversion = run(("fp32",), policy="source", backend="none")
    assert "LayerNormalization" not in ops(conversion) and "Sqrt" in ops(conversion)
    assert "JoinLayerNorm" not in {row[0] for row in conversion.report.changes}


@pytest.mark.parametrize("asked", [{"max_error": 1e-2}, {"strict": True}, {"fidelity": "pytorch"}], ids=str)
def test_whatever_else_is_asked_of_auto(asked):
    conversion = run(backend="none", **asked)
    assert "LayerNormalization" in ops(conversion) and conversion.report.comparison.ok


def test_a_rule_by_the_name_that_the_plan_tells_is_one_for_the_whole():
    (name,) = (node.name for node in run(backend="none").plan.nodes if node.op == "LayerNormalization")
    conversion = run(backend="none", rules=[{"name": name, "precision": "fp16"}])
    assert {node.precision for node in conversion.plan.nodes if node.op == "LayerNormalization"} == {"fp16"}
    assert conversion.report.comparison.ok


def test_what_is_planned_without_building_is_the_same_graph():
    wanted = frozenset({Precision.FP32, Precision.FP16})
    found = preview(Spelled().eval(), [X], Asked(wanted, rules=(Rule(Precision.FP32, op="LayerNorm*"),)), Options())
    norms = [node.name for node in found.nodes if node.op == "LayerNormalization"]
    assert [match.nodes for match in found.rules] == [tuple(norms)] and len(norms) == 1


def test_what_debug_says_to_keep_in_fp32_can_be_kept_there():
    """It tries each operator by itself, as narrowing all of them does, and so names a part; a rule by that keeps the parts apart."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 16), Alone(), nn.Linear(16, 16)).eval(), Input(X.shape)
    large = [[X.numpy() * 1000]]
    told = debug(model, [x], calibration=large)
    assert (told.verdict, told.culprit.op, told.mended) == ("precision", "Mul", True)
    asked = {"policy": "auto", "calibration": large, "backend": "none"}
    assert "LayerNormalization" in ops(convert(model, [x], {"fp32", "fp16"}, **asked))
    conversion = convert(model, [x], {"fp32", "fp16"}, rules=told.rules, **asked)
    assert {"Sqrt", "Mul"} <= set(ops(conversion)) and conversion.report.comparison.ok
