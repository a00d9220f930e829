"""The pass EmulateReduced: graphs before and after it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from graphs import Scene, assert_rewrites, outputs

from torch2trt_onnx.passes import EmulateReduced

BRAINS = np.array([1.5, -2.5], ml_dtypes.bfloat16)


def emulated(before, after, **options):
    return assert_rewrites(before, after, [EmulateReduced()], numbers=False, same_bindings=False, **options)


def test_emulate_reduced_rounds_each_result():
    emulated(
        "g (float[2] x) => (float[2] y) { h = Cast<to=16>(x)  s = Add(h, b)  p = Mul(s, h)  y = Cast<to=1>(p) }",
        """g (float[2] x) => (float[2] y) { h = Cast<to=16>(x)  h32 = Cast<to=1>(h)  b32 = Cast<to=1>(b)
            s32 = Add(h32, b32)  s = Cast<to=16>(s32)  t32 = Cast<to=1>(s)  p32 = Mul(t32, h32)
            p = Cast<to=16>(p32)  y = Cast<to=1>(p) }""",
        arrays={"b": BRAINS},
    )  # fmt: skip


def test_emulate_reduced_makes_fp32_bindings():
    emulated(
        "g (bfloat16[2] x) => (bfloat16[2] y) { y = Relu(x) }",
        """g (float[2] x) => (float[2] y2) { h = Cast<to=16>(x)  h32 = Cast<to=1>(h)  r = Relu(h32)
            y = Cast<to=16>(r)  y2 = Cast<to=1>(y) }""",
    )


def test_emulate_reduced_runs_bodies():
    scene = Scene(
        """g (bool c, bfloat16[2] x) => (bfloat16[2] y) {
            y = If(c) <then_branch = t() => (bfloat16[2] a) { a = MatMul(x, m) }, else_branch = e() => (bfloat16[2] p) { p = Neg(x) }>
        }""",
        {"m": np.array([[1, 2], [3, 4]], ml_dtypes.bfloat16)},
    )
    scene.run(EmulateReduced())
    given = np.array([1.0, 0.5], np.float32)
    assert outputs(scene.proto(), {"c": np.array(True), "x": given})[0].tolist() == [2.5, 4.0]
    assert outputs(scene.proto(), {"c": np.array(False), "x": given})[0].tolist() == [-1.0, -0.5]


def test_emulate_reduced_rounds_fp16_between_neighbours_and_leaves_what_moves_data():
    emulated(
        "g (float16[2] x) => (float16[2] z) { u = Squeeze(x)  y = Exp(u)  z = Sqrt(y) }",
        """g (float16[2] x) => (float16[2] z) {
            u = Squeeze(x)
            a = Cast<to = 1>(u)  b = Exp(a)  y = Cast<to = 10>(b)
            c = Cast<to = 1>(y)  d = Sqrt(c)  z = Cast<to = 10>(d)
        }""",
    )


def test_emulate_reduced_leaves_other_graphs_alone():
    text = "g (float[2] x) => (float[2] y) { y = Relu(x) }"
    assert_rewrites(text, text, [EmulateReduced()])
