"""The pass FoldConstants: graphs before and after it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from graphs import Scene, assert_same_numbers, check, outputs, parse, rewrites

from torch2trt_onnx import pipeline
from torch2trt_onnx.passes import FoldConstants

HALVES = np.array([1.5, -2.5], np.float16)
BRAINS = np.array([1.5, -2.5], ml_dtypes.bfloat16)


FOLD = {
    "int64 -> float -> x 0.5 -> int64 keeps both Casts": (
        "g (int64[4] x) => (int64[4] y) <float h = {0.5}> { f = Cast<to=1>(x)  m = Mul(f, h)  y = Cast<to=7>(m) }",
        "g (int64[4] x) => (int64[4] y) <float h = {0.5}> { f = Cast<to=1>(x)  m = Mul(f, h)  y = Cast<to=7>(m) }",
    ),
    "arithmetic of a static shape becomes its value": (
        """g (float[1,3,8,8] x) => (float[1,3,128] y) <int64 i = {2}, int64 two = {2}, int64[1] z = {0}, int64[2] a = {1, 3}> {
            s = Shape(x)  h = Gather(s, i)  d = Mul(h, two)  e = Mul(d, h)
            u = Unsqueeze(e, z)  c = Concat<axis=0>(a, u)  y = Reshape(x, c) }""",
        "g (float[1,3,8,8] x) => (float[1,3,128] y) <int64[3] c2 = {1, 3, 128}> { y = Reshape(x, c2) }",
        {"numbers": False},
    ),
    "a static dimension of a partly dynamic shape is known": (
        """g (float[N,3] x) => (int64[1] p, int64[1] q) <int64[1] i = {1}, int64[1] j = {0}, int64[1] one = {1}> {
            s = Shape(x)  a = Gather(s, i)  b = Gather(s, j)  p = Add(a, one)  q = Add(b, one) }""",
        """g (float[N,3] x) => (int64[1] p, int64[1] q) <int64[1] j = {0}, int64[1] one = {1}, int64[1] three = {3}> {
            s = Shape(x)  b = Gather(s, j)  p = Add(three, one)  q = Add(b, one) }""",
    ),
    "a negative index counts from the end, and start and end of Shape cut": (
        """g (float[N,3,4] x) => (int64[2] y) <int64 i = {-1}, int64[1] z = {0}, int64[1] w = {0}> {
            s = Shape<start=1>(x)  t = Shape<start=-2, end=2>(x)  a = Gather(s, i)
            u = Unsqueeze(a, z)  c = Concat<axis=0>(u, t)  y = Add(c, w) }""",
        "g (float[N,3,4] x) => (int64[2] y) <int64[1] w = {0}, int64[2] c2 = {4, 3}> { y = Add(c2, w) }",
    ),
    "a Gather of many dimensions, whose index lies in the store, does not fail": (
        "g (float[N,3] x) => (int64[300] y) { s = Shape(x)  a = Gather(s, many)  y = Add(a, a) }",
        "g (float[N,3] x) => (int64[300] y) { y = Add(threes, threes) }",
        {"arrays": {"many": np.ones(300, np.int64), "threes": np.full(300, 3, np.int64)}, "numbers": False},
    ),
    "a constant that is a graph output keeps its node, and its readers their names": (
        """g (float[2] x) => (float[2] v, float[2] y)
            <float[2] a = {1, 2}, float[2] b = {3, 4}> { v = Add(a, b)  y = Mul(x, v) }""",
        """g (float[2] x) => (float[2] v, float[2] y)
            <float[2] a = {1, 2}, float[2] b = {3, 4}> { v = Add(a, b)  y = Mul(x, v) }""",
    ),
    "what is behind a constant that is a graph output is folded": (
        """g (float[2] x) => (float[2] v, float[2] y)
            <float[2] a = {1, 2}, float[2] b = {3, 4}> { v = Add(a, b)  w = Neg(v)  y = Mul(x, w) }""",
        """g (float[2] x) => (float[2] v, float[2] y)
            <float[2] a = {1, 2}, float[2] b = {3, 4}, float[2] w2 = {-4, -6}> { v = Add(a, b)  y = Mul(x, w2) }""",
    ),
    "Q/DQ say a precision and stay": (
        """g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float s = {0.1}, int8 z = {0}> {
            q = QuantizeLinear(w, s, z)  d = DequantizeLinear(q, s, z)  y = Mul(x, d) }""",
        """g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float s = {0.1}, int8 z = {0}> {
            q = QuantizeLinear(w, s, z)  d = DequantizeLinear(q, s, z)  y = Mul(x, d) }""",
    ),
    "random numbers stay": (
        """g (float[2] x) => (float[2] y)  <float[2] w = {1, 2}> { r = RandomNormalLike(w)  b = Bernoulli(w)
            n = RandomUniform<shape=[2]>()  u = Add(r, b)  v = Add(u, n)  y = Mul(x, v) }""",
        """g (float[2] x) => (float[2] y)  <float[2] w = {1, 2}> { r = RandomNormalLike(w)  b = Bernoulli(w)
            n = RandomUniform<shape=[2]>()  u = Add(r, b)  v = Add(u, n)  y = Mul(x, v) }""",
        {"numbers": False},
    ),
    "arithmetic of fp16 is TensorRT's": (
        "g (float16[2] x) => (float16[2] y) { s = Add(h, h)  y = Mul(x, s) }",
        "g (float16[2] x) => (float16[2] y) { s = Add(h, h)  y = Mul(x, s) }",
        {"arrays": {"h": HALVES}},
    ),
    "fp16 that is only moved is folded": (
        """g (float16[2] x) => (float16[4,2] y)  <int64[2] d = {2, 1}, int64[2] e = {2, 1}> { t = Reshape(h, d)
            u = Tile(t, e)  y = Mul(x, u) }""",
        "g (float16[2] x) => (float16[4,2] y) { y = Mul(x, tiled) }",
        {"arrays": {"h": HALVES, "tiled": np.tile(HALVES.reshape(2, 1), (2, 1))}, "numbers": False},
    ),
    "bf16 stays": (
        "g (bfloat16[1,2] x) => (bfloat16[1,2] y) <int64[1] z = {0}> { u = Unsqueeze(b, z)  y = Add(x, u) }",
        "g (bfloat16[1,2] x) => (bfloat16[1,2] y) <int64[1] z = {0}> { u = Unsqueeze(b, z)  y = Add(x, u) }",
        {"arrays": {"b": BRAINS}, "numbers": False},
    ),
    "results above 1 MiB stay, and those of just 1 MiB do not": (
        """g (float[262144] x, float[262145] z) => (float[262144] y, float[262145] q)
            <float[1] f = {2}, int64[1] m = {262144}, int64[1] n = {262145}> { a = Expand(f, m)
            b = Expand(f, n)  y = Mul(x, a)  q = Mul(z, b) }""",
        """g (float[262144] x, float[262145] z) => (float[262144] y, float[262145] q)
            <float[1] f = {2}, int64[1] n = {262145}> { b = Expand(f, n)  y = Mul(x, twos)  q = Mul(z, b) }""",
        {"arrays": {"twos": np.full(262144, 2, np.float32)}},
    ),
    "an operator of another domain does not stop the others": (
        """g (float[2] x) => (float[2] y)  <float[2] a = {1, 2}> { p = com.example.Twice(a)  q = Neg(a)
            u = Add(x, q)  y = Add(u, p) }""",
        """g (float[2] x) => (float[2] y)
            <float[2] a = {1, 2}, float[2] q2 = {-1, -2}> { p = com.example.Twice(a)  u = Add(x, q2)
            y = Add(u, p) }""",
        {"numbers": False},
    ),
    "an operator that ONNX Runtime lacks for a type does not stop the others": (
        """g (float[2] x) => (float[2] y)  <int16[2] a = {1, 2}, float[2] f = {1, 2}> { n = Neg(f)
            c = ArgMax(a)  i = Cast<to=1>(c)  u = Add(x, i)  y = Add(u, n) }""",
        """g (float[2] x) => (float[2] y)  <int16[2] a = {1, 2}, float[2] n2 = {-1, -2}> { c = ArgMax(a)
            i = Cast<to=1>(c)  u = Add(x, i)  y = Add(u, n2) }""",
        {"numbers": False},
    ),
    "an integer divided by zero stays, and takes nothing with it": (
        """g (int64[1] x) => (int64[1] y, int64[1] q)
            <int64[1] a = {5}, int64[1] b = {0}, int64[1] c = {2}> { d = Div(a, b)  m = Mod(a, b)  e = Div(a, c)
            s = Add(d, m)  y = Add(x, s)  q = Add(x, e) }""",
        """g (int64[1] x) => (int64[1] y, int64[1] q)
            <int64[1] a = {5}, int64[1] b = {0}, int64[1] two = {2}> { d = Div(a, b)  m = Mod(a, b)
            s = Add(d, m)  y = Add(x, s)  q = Add(x, two) }""",
        {"numbers": False},
    ),
    "the smallest integer divided by -1, which ends ONNX Runtime's process, stays": (
        """g (int64[1] x) => (int64[1] y)
            <int64[1] a = {-9223372036854775808}, int64[1] b = {-2}, int64[1] c = {1}> { m = Add(b, c)
            d = Div(a, m)  y = Add(x, d) }""",
        """g (int64[1] x) => (int64[1] y)
            <int64[1] a = {-9223372036854775808}, int64[1] m2 = {-1}> { d = Div(a, m2)  y = Add(x, d) }""",
        {"numbers": False},
    ),
    "a divisor that is computed is looked at": (
        """g (int64[1] x) => (int64[1] y)
            <int64[1] a = {9}, int64[1] b = {2}, int64[1] c = {1}> { m = Add(b, c)  d = Div(a, m)
            y = Add(x, d) }""",
        "g (int64[1] x) => (int64[1] y) <int64[1] d2 = {3}> { y = Add(x, d2) }",
    ),
    "a Gather out of range stays": (
        """g (float[1] x) => (float[1] y)
            <float[2] a = {1, 2}, int64[1] i = {7}, float[1] b = {3}> { p = Gather(a, i)  n = Neg(b)
            u = Add(x, n)  y = Add(u, p) }""",
        """g (float[1] x) => (float[1] y)
            <float[2] a = {1, 2}, int64[1] i = {7}, float[1] n2 = {-3}> { p = Gather(a, i)  u = Add(x, n2)
            y = Add(u, p) }""",
        {"numbers": False},
    ),
    "sequences stay": (
        """g (float[2] x) => (float[2] y)  <float[2] a = {1, 2}, int64 i = {0}> { s = SequenceConstruct(a, a)
            e = SequenceAt(s, i)  y = Add(x, e) }""",
        """g (float[2] x) => (float[2] y)  <float[2] a = {1, 2}, int64 i = {0}> { s = SequenceConstruct(a, a)
            e = SequenceAt(s, i)  y = Add(x, e) }""",
    ),
    "bodies are folded, and constants that bodies capture": (
        """g (bool c, float[2] x) => (float[2] y) <float[2] a = {1, 2}> { n = Neg(a)
            y = If(c) <then_branch = t() => (float[2] p) { m = Add(n, a)  p = Add(x, m) },
                       else_branch = e() => (float[2] q) { q = Mul(x, n) }>
        }""",
        """g (bool c, float[2] x) => (float[2] y) <float[2] n2 = {-1, -2}, float[2] m2 = {0, 0}> {
            y = If(c) <then_branch = t() => (float[2] p) { p = Add(x, m2) }, else_branch = e() => (float[2] q) { q = Mul(x, n2) }>
        }""",
    ),
}  # fmt: skip


@rewrites(FOLD)
def test_fold_constants(case):
    check(case, FoldConstants())


def test_fold_constants_leaves_operators_with_attributes_that_graphsurgeon_loses():
    """An empty list may mean something else than none, and what is computed here would lack it."""
    model = parse(
        "g (float[1,2] x) => (float[1,2] y) <float[1,2] w = {1, 2}> { v = Squeeze(w)  y = Add(x, v) }", opset=11
    )
    model.graph.node[0].attribute.add(name="axes", type=onnx.AttributeProto.INTS)
    scene = Scene(model)
    assert scene.run(FoldConstants()) == []
    assert_same_numbers(model, scene.proto())


def test_the_result_of_the_regression():
    scene = Scene(FOLD["int64 -> float -> x 0.5 -> int64 keeps both Casts"][0])
    scene.run(*pipeline.passes({}))
    assert outputs(scene.proto(), {"x": np.array([2, 3, 10, 101])})[0].tolist() == [1, 1, 5, 50]
