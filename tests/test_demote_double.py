"""The pass DemoteDouble: graphs before and after it."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Scene, check, rewrites

from torch2trt_onnx.errors import GraphError
from torch2trt_onnx.passes import (
    DemoteDouble,
    FoldWeightCasts,
)

CHANGED = {"same_bindings": False, "relative": 1e-6, "numbers": False}
DEMOTE = {
    "inputs, outputs, initializers, Casts and Constants become fp32": (
        """g (double[2] x) => (double[2] y) <double[2] w = {1, 2}> {
            k = Constant<value = double[2] {0.5, 3}>()  f = Cast<to=1>(x)  d = Cast<to=11>(f)  a = Mul(d, w)  y = Add(a, k)
        }""",
        """g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            k = Constant<value = float[2] {0.5, 3}>()  f = Cast<to=1>(x)  d = Cast<to=1>(f)  a = Mul(d, w)  y = Add(a, k)
        }""",
        CHANGED,
    ),
    "so does the value of ConstantOfShape": (
        "g (int64[1] s) => (double[N] y) { y = ConstantOfShape<value = double[1] {0.25}>(s) }",
        "g (int64[1] s) => (float[N] y) { y = ConstantOfShape<value = float[1] {0.25}>(s) }",
        CHANGED,
    ),
    "so does the dtype of EyeLike": (
        "g (float[2,2] x) => (float[2,2] y) { e = EyeLike<dtype=11>(x)  f = Cast<to=1>(e)  y = Mul(x, f) }",
        "g (float[2,2] x) => (float[2,2] y) { e = EyeLike<dtype=1>(x)  f = Cast<to=1>(e)  y = Mul(x, f) }",
    ),
    "a double that only feeds Casts is not touched: it is rounded once, by FoldWeightCasts": (
        "g (float[2] x) => (float[2] y) <double s = {0.1}> { v = Cast<to=1>(s)  y = Mul(x, v) }",
        "g (float[2] x) => (float[2] y) <double s = {0.1}> { v = Cast<to=1>(s)  y = Mul(x, v) }",
    ),
    "bodies are reached, their initializers and outputs too": (
        """g (bool c, double[2] x) => (double[2] y) {
            y = If(c) <then_branch = t() => (double[2] a) <double[2] w = {1, 2}> { a = Mul(x, w) },
                       else_branch = e() => (double[2] b) <double[2] b = {3, 4}> { }>
        }""",
        """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t() => (float[2] a) <float[2] w = {1, 2}> { a = Mul(x, w) },
                       else_branch = e() => (float[2] b) <float[2] b = {3, 4}> { }>
        }""",
        CHANGED,
    ),
    "a loop carries fp32": (
        """g (int64 n, double[2] x) => (double[2] y) {
            y = Loop(n, , x) <body = b(int64 i, bool c, double[2] s) => (bool d, double[2] t) { d = Identity(c)  t = Add(s, s) }>
        }""",
        """g (int64 n, float[2] x) => (float[2] y) {
            y = Loop(n, , x) <body = b(int64 i, bool c, float[2] s) => (bool d, float[2] t) { d = Identity(c)  t = Add(s, s) }>
        }""",
        CHANGED,
    ),
    "what an operator of another domain makes is fp32 as well": (
        "g (double[2] x) => (double[2] y) <double[2] w = {1, 2}, double[2] v> { v = com.example.Wide(x)  y = Mul(v, w) }",
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v> { v = com.example.Wide(x)  y = Mul(v, w) }",
        CHANGED,
    ),
    "a graph without doubles stays as it is": (
        "g (float[2] x) => (float[2] y) { y = Relu(x) }",
        "g (float[2] x) => (float[2] y) { y = Relu(x) }",
    ),
}  # fmt: skip


@rewrites(DEMOTE)
def test_demote_double(case):
    assert all(change.warn for change in check(case, DemoteDouble()))


@pytest.mark.parametrize("text", [
    "g (double[2] x) => (int64[2] y) { y = BitCast<to=7>(x) }",
    "g (int64[2] x) => (double[2] y) { y = BitCast<to=11>(x) }",
])  # fmt: skip
def test_the_bits_of_a_double_cannot_be_had_from_fp32(text):
    with pytest.raises(GraphError, match=r"bits of an fp64 number[\s\S]*BitCast_y"):
        Scene(text, opset=26).run(DemoteDouble())


def test_demote_double_counts_the_values_beyond_fp32():
    scene = Scene("g (double[4] x) => (double[4] y) <double[4] w = {1, 1e300, -1e39, 3e38}> { y = Mul(x, w) }")
    change = next(c for c in scene.run(DemoteDouble()) if c.node == "w")
    assert "2 of 4 values are beyond its range and become infinite" in change.why
    assert scene.constant("w").tolist() == [1.0, np.inf, -np.inf, np.float32(3e38)]


def test_a_double_scalar_is_rounded_once():
    scene = Scene(
        "g (float16[2] x) => (float16[2] y) <double s = {1.00048828126}> { v = Cast<to=10>(s)  y = Mul(x, v) }"
    )
    scene.run(DemoteDouble(), FoldWeightCasts())
    # By way of fp32 it would be a tie, and go down to 1.
    assert scene.constant("s_fp16").item() == 1 + 2**-10
