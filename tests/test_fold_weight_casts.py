"""The pass FoldWeightCasts: graphs before and after it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from graphs import Scene, check, rewrites

from torch2trt_onnx.passes import FoldWeightCasts

HALVES = np.array([1.5, -2.5], np.float16)
BRAINS = np.array([1.5, -2.5], ml_dtypes.bfloat16)


FOLD_WEIGHTS = {
    "a Cast of a weight goes into the weight": (
        "g (float16[2] x) => (float16[2] y) <float[2] w = {1.5, -2.5}> { v = Cast<to=10>(w)  y = Add(x, v) }",
        "g (float16[2] x) => (float16[2] y) { y = Add(x, h) }",
        {"arrays": {"h": HALVES}, "relative": 1e-6},
    ),
    "to bf16 as well": (
        "g (bfloat16[2] x) => (bfloat16[2] y) <float[2] w = {1.5, -2.5}> { v = Cast<to=16>(w)  y = Add(x, v) }",
        "g (bfloat16[2] x) => (bfloat16[2] y) { y = Add(x, b) }",
        {"arrays": {"b": BRAINS}, "numbers": False},
    ),
    "from bf16 as well": (
        "g (float[2] x) => (float[2] y) { v = Cast<to=1>(b)  y = Add(x, v) }",
        "g (float[2] x) => (float[2] y) <float[2] w = {1.5, -2.5}> { y = Add(x, w) }",
        {"arrays": {"b": BRAINS}},
    ),
    "a chain of Casts goes in one run": (
        """g (float[2] x) => (float[2] y)  <float[2] w = {0.1, -2.5}> { v = Cast<to=10>(w)  u = Cast<to=1>(v)
            y = Add(x, u) }""",
        "g (float[2] x) => (float[2] y) <float[2] u2 = {0.0999755859375, -2.5}> { y = Add(x, u2) }",
    ),
    "a weight that is used uncast as well keeps its values": (
        """g (float[2] x, float16[2] z) => (float[2] y, float16[2] q)
            <float[2] w = {1.5, -2.5}> { v = Cast<to=10>(w)  y = Add(x, w)  q = Mul(z, v) }""",
        """g (float[2] x, float16[2] z) => (float[2] y, float16[2] q)
            <float[2] w = {1.5, -2.5}> { y = Add(x, w)  q = Mul(z, h) }""",
        {"arrays": {"h": HALVES}},
    ),
    "in bodies as well": (
        """g (bool c, float16[2] x) => (float16[2] y) <float[2] w = {1.5, -2.5}> {
            y = If(c) <then_branch = t() => (float16[2] a) { v = Cast<to=10>(w)  a = Add(x, v) },
                       else_branch = e() => (float16[2] b) { u = Cast<to=10>(w)  b = Mul(x, u) }>
        }""",
        """g (bool c, float16[2] x) => (float16[2] y) {
            y = If(c) <then_branch = t() => (float16[2] a) { a = Add(x, h) }, else_branch = e() => (float16[2] b) { b = Mul(x, h) }>
        }""",
        {"arrays": {"h": HALVES}, "relative": 1e-6},
    ),
    "an output keeps its Cast": (
        "g () => (float16[2] y) <float[2] w = {1, 2}> { y = Cast<to=10>(w) }",
        "g () => (float16[2] y) <float[2] w = {1, 2}> { y = Cast<to=10>(w) }",
    ),
    "a Cast to fp8 stays: it saturates": (
        """g (float[2] x) => (float[2] y)  <float[2] w = {1, 1000}> { v = Cast<to=17>(w)  u = Cast<to=1>(v)
            y = Add(x, u) }""",
        """g (float[2] x) => (float[2] y)  <float[2] w = {1, 1000}> { v = Cast<to=17>(w)  u = Cast<to=1>(v)
            y = Add(x, u) }""",
    ),
}  # fmt: skip


@rewrites(FOLD_WEIGHTS)
def test_fold_weight_casts(case):
    check(case, FoldWeightCasts())


def test_fold_weight_casts_stores_a_shared_weight_once():
    scene = Scene(
        """g (float16[2] x) => (float16[2] y) <float[2] w = {1, 2}> {
            a = Cast<to=10>(w)  b = Cast<to=10>(w)  p = Add(x, a)  y = Mul(p, b) }"""
    )
    assert len(scene.run(FoldWeightCasts())) == 2
    assert [t.name for t in scene.proto().graph.initializer] == ["w_fp16"]


def test_fold_weight_casts_counts_and_warns_of_what_overflows_only():
    scene = Scene(
        """g (float16[4] x) => (float16[4] y) <float[4] w = {1e5, -7e4, 1e-10, 1}, float[4] e = {1e-12, 0, 1, 2}> {
            v = Cast<to=10>(w)  u = Cast<to=10>(e)  p = Add(x, v)  y = Add(p, u) }"""
    )
    big, small = scene.run(FoldWeightCasts())
    assert (big.why, big.warn) == ("of 4 values 2 become infinite and 1 become zero", True)
    assert (small.why, small.warn) == ("of 4 values 1 become zero", False)
    assert scene.constant("w_fp16").tolist() == [np.inf, -np.inf, 0, 1]


def test_infinities_of_a_mask_are_no_overflow():
    scene = Scene(
        "g (float16[2] x) => (float16[2] y) { v = Cast<to=10>(m)  y = Add(x, v) }",
        {"m": np.array([-np.inf, 0], np.float32)},
    )
    assert not any(change.warn for change in scene.run(FoldWeightCasts()))
