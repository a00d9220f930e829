"""Graphs in the precisions that a plan asks for, before and after, as ONNX text."""

import difflib

import numpy as np
import onnx
import pytest
from graphs import Scene, assert_same_numbers, bindings, names

from torch2trt_onnx import pipeline, planning
from torch2trt_onnx.plan import Asked, PrecisionPlan
from torch2trt_onnx.precision import parse_precisions
from torch2trt_onnx.rules import parse_rules

WEIGHTS = {
    "w": np.array([[0.5, -2], [1, 4]], np.float32),
    "h": np.array([[0.5, -2], [1, 4]], np.float16),
}
EXP = [{"op": "Exp", "precision": "fp16"}]
PRODUCT = [{"op": "MatMul", "precision": "fp16"}]


def retyped(text, precisions=None, rules=None, **asked):
    """The scene of a graph once it runs in the precisions asked for."""
    scene = Scene(text, WEIGHTS)
    scene.run(*pipeline.repairs({}))
    given = bindings(scene.graph)
    request = Asked(parse_precisions(precisions), rules=parse_rules(rules), **asked)
    planning.decide(scene.graph, request, {}, ["8.9"])
    scene.run(*pipeline.lowering())
    assert bindings(scene.graph) == given
    assert PrecisionPlan.read(scene.graph).departures(scene.graph) == []
    onnx.checker.check_model(scene.proto(), full_check=True)
    assert scene.run(*pipeline.lowering()) == []
    return scene


CASES = {
    "what is narrowed gets Casts at its borders and its weights stored anew": (
        "g (float[2,2] x) => (float[2,2] y) { a = MatMul(x, w)  y = Exp(a) }",
        "g (float[2,2] x) => (float[2,2] y) { c = Cast<to=10>(x)  a = MatMul(c, h)  d = Exp(a)  y = Cast<to=1>(d) }",
        {"precisions": "fp16"},
    ),
    "what is widened gets its weights stored anew, and Casts at the bindings": (
        "g (float16[2,2] x) => (float16[2,2] y) { a = MatMul(x, h)  y = Exp(a) }",
        "g (float16[2,2] x) => (float16[2,2] y) { c = Cast<to=1>(x)  a = MatMul(c, w)  d = Exp(a)  y = Cast<to=10>(d) }",
        {"precisions": "fp32"},
    ),
    "a rule takes its node and no neighbour": (
        "g (float[2,2] x) => (float[2,2] y) { a = Sin(x)  b = Exp(a)  y = Cos(b) }",
        "g (float[2,2] x) => (float[2,2] y) { a = Sin(x)  c = Cast<to=10>(a)  b = Exp(c)  d = Cast<to=1>(b)  y = Cos(d) }",
        {"rules": EXP},
    ),
    "two readers share one Cast": (
        "g (float[2,2] x) => (float[2,2] y) { a = Sin(x)  b = Exp(a)  c = Exp(a)  d = Add(b, c)  y = Add(d, a) }",
        """g (float[2,2] x) => (float[2,2] y) {
            a = Sin(x)  s = Cast<to=10>(a)  b = Exp(s)  c = Exp(s)  t = Cast<to=1>(b)  u = Cast<to=1>(c)
            d = Add(t, u)  y = Add(d, a)
        }""",
        {"rules": EXP},
    ),
    "a Cast of the author's to a precision that is not asked for goes, and that to fp32 becomes nothing": (
        "g (float[2,2] x) => (float[2,2] y) { a = Sin(x)  b = Cast<to=10>(a)  c = Exp(b)  d = Cast<to=1>(c)  y = Cos(d) }",
        "g (float[2,2] x) => (float[2,2] y) { a = Sin(x)  c = Exp(a)  y = Cos(c) }",
        {"precisions": "fp32"},
    ),
    "a weight of two nodes in two precisions is there in both": (
        "g (float[2,2] x) => (float[2,2] y) { a = MatMul(x, w)  b = Mul(x, w)  y = Add(a, b) }",
        "g (float[2,2] x) => (float[2,2] y) { c = Cast<to=10>(x)  a = MatMul(c, h)  b = Mul(x, w)  d = Cast<to=1>(a)  y = Add(d, b) }",
        {"rules": PRODUCT},
    ),
    "what is moved and clamped before a narrowed node is narrowed first, where that is cheaper": (
        "g (float[2,2] x) => (float[2,2] y) { a = Sin(x)  b = Relu(a)  c = Transpose<perm=[1,0]>(b)  d = MatMul(c, w)  y = Cos(d) }",
        """g (float[2,2] x) => (float[2,2] y) {
            a = Sin(x)  s = Cast<to=10>(a)  b = Relu(s)  c = Transpose<perm=[1,0]>(b)  d = MatMul(c, h)  t = Cast<to=1>(d)  y = Cos(t)
        }""",
        {"rules": PRODUCT},
    ),
    "but not where another reader would see the rounding": (
        "g (float[2,2] x) => (float[2,2] y) { a = Sin(x)  b = Relu(a)  d = MatMul(b, w)  y = Add(d, b) }",
        """g (float[2,2] x) => (float[2,2] y) {
            a = Sin(x)  b = Relu(a)  s = Cast<to=10>(b)  d = MatMul(s, h)  t = Cast<to=1>(d)  y = Add(t, b)
        }""",
        {"rules": PRODUCT},
    ),
    "an addition is never moved over, for it sees the rounding": (
        "g (float[2,2] x) => (float[2,2] y) { a = Sin(x)  b = Add(a, a)  d = MatMul(b, w)  y = Cos(d) }",
        """g (float[2,2] x) => (float[2,2] y) {
            a = Sin(x)  b = Add(a, a)  s = Cast<to=10>(b)  d = MatMul(s, h)  t = Cast<to=1>(d)  y = Cos(t)
        }""",
        {"rules": PRODUCT},
    ),
    "a graph output that is read inside keeps its type, and its readers read what they need": (
        "g (float[2,2] x) => (float[2,2] y, float[2,2] z) { y = Exp(x)  z = Exp(y) }",
        """g (float[2,2] x) => (float[2,2] y, float[2,2] z) {
            c = Cast<to=10>(x)  a = Exp(c)  b = Exp(a)  y = Cast<to=1>(a)  z = Cast<to=1>(b)
        }""",
        {"rules": EXP},
    ),
    "the scales of Resize stay fp32": (
        "g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1,1,2,2}> { a = Exp(x)  y = Resize(a, , s) }",
        """g (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1,1,2,2}> {
            c = Cast<to=10>(x)  a = Exp(c)  b = Resize(a, , s)  y = Cast<to=1>(b)
        }""",
        {"precisions": "fp16"},
    ),
    "both branches of an If hand over one type": (
        """g (bool c, float[2,2] x) => (float[2,2] y) {
            a = Sin(x)
            b = If(c) <then_branch = t() => (float[2,2] p) { p = Exp(a) }, else_branch = e() => (float[2,2] q) { q = Cos(a) }>
            y = Sin(b)
        }""",
        """g (bool c, float[2,2] x) => (float[2,2] y) {
            u = Cast<to=10>(x)  a = Sin(u)
            b = If(c) <then_branch = t() => (float16[2,2] p) { p = Exp(a) }, else_branch = e() => (float16[2,2] q) { q = Cos(a) }>
            v = Sin(b)  y = Cast<to=1>(v)
        }""",
        {"precisions": "fp16"},
    ),
    "a node in the body of a Loop runs as its rule says, and what the Loop carries keeps its type": (
        """g (int64 n, float[2,2] x) => (float[2,2] y) {
            y = Loop(n, , x) <body = l(int64 i, bool k, float[2,2] s) => (bool d, float[2,2] u) { d = Identity(k)  t = Exp(s)  u = Sin(t) }>
        }""",
        """g (int64 n, float[2,2] x) => (float[2,2] y) {
            y = Loop(n, , x) <body = l(int64 i, bool k, float[2,2] s) => (bool d, float[2,2] u) {
                d = Identity(k)  v = Cast<to=10>(s)  t = Exp(v)  w = Cast<to=1>(t)  u = Sin(w) }>
        }""",
        {"rules": EXP},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "asked"), CASES.values(), ids=CASES)
def test_retyping(before, after, asked):
    expected = Scene(after, WEIGHTS)
    pipeline.run(expected.graph, [])
    scene = retyped(before, **asked)
    kept = names(scene.source.graph) & names(expected.source.graph) - set(WEIGHTS)
    found, wanted = scene.lines(kept), expected.lines(kept)
    assert found == wanted, "\n".join(difflib.unified_diff(wanted, found, "expected", "found", lineterm="", n=99))
    assert_same_numbers(scene.source, scene.proto(), relative=2e-2)


def test_set_free_what_has_no_weights_takes_what_moves_the_fewest_bytes():
    text = (
        "g (float[2,2] x) => (float[2,2] y) { a = MatMul(x, w)  b = Sin(a)  c = Cos(b)  d = MatMul(c, w)  y = Exp(d) }"
    )
    rules = [*PRODUCT, {"op": "Exp", "precision": "fp32"}]
    plan = PrecisionPlan.read(retyped(text, "fp32,fp16", rules, weightless="free").graph)
    assert {n.op: n.precision for n in plan.nodes if n.op != "Cast"} == {
        "MatMul": "fp16", "Sin": "fp16", "Cos": "fp16", "Exp": "fp32",
    }  # fmt: skip
