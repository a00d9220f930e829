"""Trials of many plans in one session, against the graphs that these plans really give."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch
from graphs import Scene, feeds, parse
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from random_graphs import models, random_feeds

from torch2trt_onnx import pipeline, planning
from torch2trt_onnx.compare import OnnxRunner
from torch2trt_onnx.followers import Followers, follows
from torch2trt_onnx.graph import PREFIX
from torch2trt_onnx.limits import ErrorLimit
from torch2trt_onnx.passes import Retype, SwitchPrecision
from torch2trt_onnx.passes.switch_precision import departs
from torch2trt_onnx.placement import MONOTONE, MOVING
from torch2trt_onnx.plan import Asked
from torch2trt_onnx.precision import FLOATS
from torch2trt_onnx.rules import parse_rules
from torch2trt_onnx.trials import Trials
from torch2trt_onnx.typecheck import NO_PRECISION, Retyping, compute_type, onnx_type, retyping

FP32, FP16 = 1, 10


def planned(model, nodes, precision):
    """The scene of a model whose plan has some nodes in a reduced precision, and what only hands values on where it is cheapest."""
    scene = Scene(model)
    scene.run(*pipeline.repairs({}))
    rules = [{"name": f"re:{re.escape(name)}", "precision": precision} for name in nodes]
    planning.decide(scene.graph, Asked(rules=parse_rules(rules)), {}, ["8.9"])
    return scene


def computing(model):
    """The names of the fp32 nodes of a model that compute."""
    scene = Scene(model)
    scene.run(*pipeline.repairs({}))

    def computes(node):
        if node.op == "Cast":
            return onnx_type(node.inputs[0]) not in FLOATS
        looks_up = node.op == "Gather" and isinstance(node.inputs[0], gs.Constant)
        return node.op not in MOVING | MONOTONE | NO_PRECISION or looks_up

    return [node.name for node in scene.graph.nodes() if compute_type(node) == FP32 and computes(node)]


def tried(scene, names, reduced, sample):
    """What a trial computes with some of these nodes in their planned precision."""
    found = {}

    def keep(name):
        return ErrorLimit(1, lambda array, _: found.setdefault(name, array) is None)

    limits = {t.name: keep(t.name) for t in scene.graph.ir.outputs}
    with TemporaryDirectory() as folder:
        Trials(scene.graph, names, limits, [sample], Path(folder)).errors([names.index(name) for name in reduced])
    return list(found.values())


def lowered(scene, sample):
    """What the graph computes once it is as planned."""
    scene.run(*pipeline.lowering())
    path = scene.graph.write(scene.weights.directory / "lowered.onnx")
    tensors = {name: torch.from_numpy(array) for name, array in sample.items()}
    return [array for array, _ in OnnxRunner(path, scene.graph)(tensors)]


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


W = {
    "w": np.array([[0.51, -2.03], [1.07, 4.3]], np.float32),
    "v": np.linspace(-1.3, 1.7, 64, dtype=np.float32).reshape(1, 16, 4),
    "bias": np.linspace(-0.3, 0.7, 4, dtype=np.float32),
    "h": np.array([[0.51, -2.03], [1.07, 4.3]], np.float16),
    "table": np.linspace(-1.3, 1.7, 18, dtype=np.float32).reshape(9, 2),
}
GRAPHS = {
    "a product, and what only hands values on between": """g (float[2,2] x) => (float[2,2] y) {
        a = MatMul(x, w)  b = Relu(a)  c = Transpose<perm=[1,0]>(b)  d = Exp(c)  y = Sub(d, a) }""",
    "a weight of two nodes, and a tensor read twice by one": """g (float[2,2] x) => (float[2,2] y, float[2,2] z) {
        y = MatMul(x, w)  a = Mul(w, w)  z = MatMul(a, x) }""",
    "a result that is an output, and read besides": """g (float[2,2] x) => (float[2,2] y, float[2,2] z) {
        y = Exp(x)  z = Sin(y) }""",
    "weights that are looked up": """g (int64[3] i) => (float[3,2] y) { a = Gather(table, i)  y = MatMul(a, w) }""",
    "operands that an operator fixes in fp32": """g (float[1,1,2,2] x) => (float[1,1,4,4] y)
        <float[4] scales = {1, 1, 2, 2}> { a = Exp(x)  y = Resize<mode="linear">(a, "", scales) }""",
    "integers that become floats": """g (int32[2,2] x) => (float[2,2] y) <int32[1] many = {4099}, float[1] third = {0.3333}> {
        a = Mul(x, many)  b = Cast<to=1>(a)  y = Mul(b, third) }""",
    "a recurrent node, with outputs left out": """g (float[3,1,4] x) => (float[1,1,4] y) {
        s, a, t = LSTM<hidden_size=4>(x, v, r)  y = Exp(a) }""",
    "reduced types of the source's own beside": """g (float[2,2] x) => (float[2,2] y) {
        a = Exp(x)  b = Cast<to=10>(a)  c = MatMul(b, h)  d = Cast<to=1>(c)  y = Sub(d, a) }""",
    "branches, which read what is outside": """g (bool c, float[2,2] x) => (float[2,2] y) {
        a = Exp(x)
        b = If(c) <then_branch = t() => (float[2,2] s) { p = MatMul(a, w)  s = Sin(p) },
                   else_branch = e() => (float[2,2] q) { q = Mul(a, w) }>
        y = Cos(b) }""",
    "a loop, what it carries, and what it collects": """g (float[2,2] x) => (float[2,2] y, float[3,2,2] z) <int64 n = {3}> {
        a = Exp(x)
        y, z = Loop(n, "", a) <body = l(int64 i, bool k, float[2,2] s) => (bool g, float[2,2] p, float[2,2] q) {
            g = Identity(k)  m = MatMul(s, w)  p = Sin(m)  q = Mul(m, a) }> }""",
}
SWITCHED = """g (float[2] x, bool[1] switches) => (float[2] y) <int64 first = {0}> {
    on = Gather(switches, first)
    c = If(on) <then_branch = t() => (float[2] p) { n = Cast<to=10>(x)  p = Cast<to=1>(n) },
                else_branch = e() => (float[2] q) { q = Identity(x) }>
    d = Exp(c)
    a = If(on) <then_branch = u() => (float[2] r) { m = Cast<to=10>(d)  r = Cast<to=1>(m) },
                else_branch = f() => (float[2] s) { s = Identity(d) }>
    y = Relu(a) }"""
R = {"r": W["v"] / 2}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("text", [pytest.param(text, id=sentence) for sentence, text in GRAPHS.items()])
def test_each_trial_of_a_graph_computes_what_that_plan_does(text, precision):
    model = parse(text, W | R, 22)  # earlier ones have no bf16 Sin or LSTM
    names = computing(model)
    everything = planned(model, names, precision)
    sample = feeds(model, 1, 2)
    different = set()
    for on in itertools.product([False, True], repeat=len(names)):
        reduced = list(itertools.compress(names, on))
        found = tried(everything, names, reduced, sample)
        assert_equal(found, lowered(planned(model, reduced, precision), sample))
        different.add(b"".join(array.tobytes() for array in found))
    assert len(different) > len(names)  # the rounding of each shows


@settings(derandomize=True, database=None, deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(models(10), st.sampled_from(["fp16", "bf16"]), st.integers(0, 9999))
def test_a_trial_computes_what_the_graph_does_whose_plan_has_these_nodes_reduced(model, precision, seed):
    names = computing(model)
    some = [name for name, on in zip(names, np.random.default_rng(seed).random(len(names)) < 0.5, strict=True) if on]
    sample = random_feeds(model, 0)
    everything = planned(model, names, precision)
    switched = [n.name for n in everything.graph.nodes() if n.name in names and departs(n)]
    reduced = [name for name in some if name in switched]
    event(f"{min(len(reduced), 3)} of {min(len(switched), 6)} reduced")
    assert_equal(tried(everything, switched, reduced, sample), lowered(planned(model, some, precision), sample))


def test_a_node_rounds_what_it_reads_and_makes_where_its_switch_is_on_and_what_follows_stays_in_fp32():
    scene = annotated(parse("g (float[2] x) => (float[2] y) { a = Exp(x)  y = Relu(a) }"), lambda node: True)
    changes = scene.run(SwitchPrecision(["Exp_a"]))
    expected = Scene(SWITCHED)
    expected.run()  # for its types
    assert scene.lines({"x", "y"}) == expected.lines({"x", "y"})
    assert [change.node for change in changes] == ["Exp_a", "Exp_a", "Relu_y"]
    assert scene.run(SwitchPrecision(["Exp_a"]), Retype()) == []
    for tensor in {id(t): t for node in scene.graph.nodes() for t in node.inputs}.values():
        readers = [node.name for node in scene.graph.nodes() for t in node.inputs if t is tensor]
        assert sorted(node.name for node in tensor.outputs) == sorted(readers)


@settings(derandomize=True, database=None, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(models(10), st.integers(0, 9999))
def test_what_hands_values_on_changes_no_number_where_it_does_not_stand_between_fp32_nodes(model, seed):
    scene = annotated(model, lambda node: True)
    names = [node.name for node in scene.graph.nodes() if departs(node) and not follows(node)]
    reduced = {name for name, on in zip(names, np.random.default_rng(seed).random(len(names)) < 0.5, strict=True) if on}
    followers, between = Followers(scene.graph), Followers(scene.graph).between(reduced)
    event(f"{min(len(between), 3)} of {min(followers.count, 3)} between")
    wide = set(names) - reduced | set(between)
    sample = random_feeds(model, seed)
    expected = lowered(annotated(model, lambda node: node.name not in wide), sample)
    assert_equal(tried(scene, names, reduced, sample), expected)


def annotated(model, is_reduced):
    """The scene of a model in which some of all the nodes that can be fp16 are planned so, as `policy="auto"` may plan it."""
    scene = Scene(model)
    scene.run(*pipeline.repairs({}))
    for node in scene.graph.nodes():
        can = node.op == "Cast" or isinstance(retyping(node, FP16, scene.graph.opset), Retyping)
        if compute_type(node) == FP32 and can and is_reduced(node):
            node.metadata |= {f"{PREFIX}precision": "fp16", f"{PREFIX}origin": "auto"}
    return scene


BETWEEN = {
    "between two nodes in fp32 it would round": ("a = Sin(x)  b = Transpose(a)  y = Cos(b)", [], ["Transpose_b"]),
    "behind a node that rounds it does not": ("a = Sin(x)  b = Transpose(a)  y = Cos(b)", ["Sin_a"], []),
    "nor before one": ("a = Sin(x)  b = Transpose(a)  y = Cos(b)", ["Cos_y"], []),
    "before one that rounds and one that does not it would": (
        "a = Sin(x)  b = Transpose(a)  c = Cos(b)  d = Exp(b)  y = Add(c, d)",
        ["Cos_c", "Add_y"],
        ["Transpose_b"],
    ),
    "all of a chain would": ("a = Relu(x)  b = Neg(a)  y = Abs(b)", [], ["Relu_a", "Neg_b", "Abs_y"]),
    "it is the end of a chain that decides": ("a = Relu(x)  b = Neg(a)  y = Cos(b)", ["Cos_y"], []),
    "one of two that it chooses from is not rounded": (
        "a = Sin(x)  b = Exp(x)  c = Max(a, b)  y = Cos(c)",
        ["Sin_a"],
        ["Max_c"],
    ),
    "both are": ("a = Sin(x)  b = Exp(x)  c = Max(a, b)  y = Cos(c)", ["Sin_a", "Exp_b"], []),
    "its shape is not its values": ("a = Transpose(x)  s = Shape(a)  b = Cos(x)  y = Reshape(b, s)", ["Cos_b"], []),
    "a weight on its way": ("t = Transpose(w)  y = MatMul(x, t)", [], ["Transpose_t"]),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in BETWEEN.items()])
def test_what_hands_values_on_rounds(case):
    text, reduced, between = case
    scene = annotated(parse(f"g (float[2,2] x) => (float[2,2] y) {{ {text} }}", W), lambda node: True)
    assert Followers(scene.graph).between(set(reduced)) == between


def test_what_an_operator_takes_in_fp32_alone_is_read_as_it_is():
    text = """g (float[1,1,2,2] x, float[2] p, float[2] q) => (float[1,1,A,B] y) {
        a = Relu(x)  s = Concat<axis=0>(p, q)  y = Resize(a, "", s) }"""
    scene = annotated(parse(text), lambda node: True)
    assert Followers(scene.graph).between({"Resize_y"}) == ["Concat_s"]


def test_who_rounds_to_another_precision_sees_it():
    scene = annotated(
        parse("g (float[2,2] x) => (float[2,2] y) { a = Relu(x)  y = MatMul(a, w) }", W), lambda node: True
    )
    assert Followers(scene.graph).between({"MatMul_y"}) == []
    list(scene.graph.nodes())[1].metadata[f"{PREFIX}precision"] = "bf16"
    assert Followers(scene.graph).between({"MatMul_y"}) == ["Relu_a"]


FOLLOWS = {
    "numbers that are looked up": ("y = Gather(x, i)", 1),
    "weights that are looked up": ("y = Gather(table, i)", 0),
    "what puts numbers among others": ("y = ScatterElements(x, j, u)", 1),
    "what adds them": ('y = ScatterElements<reduction="add">(x, j, u)', 0),
    "a Cast of integers": ("y = Cast<to=1>(j)", 0),
    "a Cast of halves": ("y = Cast<to=1>(k)", 1),
    "what computes": ("y = Exp(x)", 0),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in FOLLOWS.items()])
def test_what_only_hands_values_on(case):
    text, count = case
    bindings = "float[2,2] x, int64[3] i, int64[2,2] j, float[2,2] u, float16[2,2] k"
    scene = annotated(parse(f"g ({bindings}) => (float[A,B] y) {{ {text} }}", W), lambda node: True)
    assert Followers(scene.graph).count == count


def test_what_a_rule_is_for_follows_nobody():
    scene = annotated(parse("g (float[2,2] x) => (float[2,2] y) { y = Relu(x) }"), lambda node: True)
    assert Followers(scene.graph).count == 1
    next(scene.graph.nodes()).metadata[f"{PREFIX}origin"] = "rule"
    assert Followers(scene.graph).count == 0
