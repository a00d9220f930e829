"""The pass AnnotatePrecision: graphs before and after it."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Scene, assert_rewrites

from torch2trt_onnx.graph import PREFIX
from torch2trt_onnx.passes import AnnotatePrecision


def annotations(text, arrays=None, opset=20):
    """`node's first output: (precision, origin, reason)` of each annotated node."""
    scene = Scene(text, arrays, opset)
    scene.run(AnnotatePrecision())
    assert scene.run(AnnotatePrecision()) == []
    return {
        node.outputs[0].name: tuple(node.metadata[f"{PREFIX}{key}"] for key in ("precision", "origin", "reason"))
        for node in scene.graph.nodes()
        if node.metadata
    }


MATRIX = {"w": np.ones((2, 2), np.float16), "w32": np.ones((2, 2), np.float32), "w8": np.ones((2, 2), np.int8)}
H = "float16[2,2] x"
ANNOTATE = {
    "a weight says the precision": (
        f"g ({H}) => (float16[2,2] y) {{ y = MatMul(x, w) }}",
        {"y": ("fp16", "weights", "weight 'w' is fp16")},
    ),
    "through Transpose, Reshape and Concat": (
        f"""g ({H}) => (float16[2,4] y)  <int64[2] s = {{2, 2}}> {{ t = Transpose(w)  r = Reshape(t, s)
            c = Concat<axis=1>(r, w)  y = MatMul(x, c) }}""",
        {"y": ("fp16", "weights", "weight 'w' is fp16"), "c": ("fp16", "weights", "weight 'w' is fp16")},
    ),
    "through a Cast, whose source is what the author gave": (
        f"g ({H}) => (float16[2,2] y) {{ v = Cast<to=10>(w32)  y = MatMul(x, v) }}",
        {
            "y": ("fp16", "weights", "weight 'w32' is fp32, and the author casts to fp16"),
            "v": ("fp16", "cast", "Cast from fp32 to fp16"),
        },
    ),
    "through QuantizeLinear and DequantizeLinear": (
        """g (float[2,2] x) => (float[2,2] y) <float s = {0.1}, int8 z = {0}> {
            q = QuantizeLinear(w32, s, z)  d = DequantizeLinear(q, s, z)  y = MatMul(x, d) }""",
        {"y": ("fp32", "weights", "weight 'w32' is fp32")},
    ),
    "a Concat with an activation is no weight": (
        f"g ({H}) => (float16[2,2] y) {{ c = Concat<axis=0>(x, w)  y = MatMul(x, x) }}",
        {"y": ("fp16", "tensors", "input 'x' is fp16")},
    ),
    "a node without weights has the precision of its tensors": (
        f"g ({H}) => (float16[2,2] y) {{ y = Relu(x) }}",
        {"y": ("fp16", "tensors", "input 'x' is fp16")},
    ),
    "a scalar is no weight": (
        "g (float[2,2] x) => (float[2,2] y) <float s = {2}, float[1,1] t = {3}> { v = Mul(x, s)  y = Mul(v, t) }",
        {"v": ("fp32", "tensors", "input 'x' is fp32"), "y": ("fp32", "tensors", "input 'v' is fp32")},
    ),
    "a node that makes floats of integers has the precision of its output": (
        "g (int64[1] s) => (float[N] y) { y = ConstantOfShape<value = float[1] {0}>(s) }",
        {"y": ("fp32", "tensors", "output 'y' is fp32")},
    ),
    "Casts have the precision that they lead to, else the one that they come from; Casts of integers have none": (
        "g (float[2] x) => (int32[2] y) { h = Cast<to=10>(x)  i = Cast<to=7>(h)  y = Cast<to=6>(i) }",
        {"h": ("fp16", "cast", "Cast from fp32 to fp16"), "i": ("fp16", "cast", "Cast from fp16 to int64")},
    ),
    "Shape, Size and arithmetic of integers have none": (
        "g (float[N] x) => (int64[1] y) { s = Shape(x)  n = Size(x)  y = Add(s, n) }",
        {},
    ),
    "nodes in the bodies of If and Loop as well, and If and Loop themselves have none": (
        """g (bool c, int64 n, float16[2,2] x) => (float16[2,2] y, float16[2,2] z) {
            y = If(c) <then_branch = t() => (float16[2,2] a) { a = MatMul(x, w) },
                       else_branch = e() => (float16[2,2] b) { b = Neg(x) }>
            z = Loop(n, , x) <body = l(int64 i, bool k, float16[2,2] s) => (bool d, float16[2,2] u) { d = Identity(k)  u = MatMul(s, w) }>
        }""",
        {
            "y": None,
            "a": ("fp16", "weights", "weight 'w' is fp16"),
            "b": ("fp16", "tensors", "input 'x' is fp16"),
            "z": None,
            "u": ("fp16", "weights", "weight 'w' is fp16"),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ANNOTATE.values(), ids=ANNOTATE)
def test_annotate_precision(case):
    text, expected = case
    found = annotations(text, MATRIX)
    assert {name: found.get(name) for name in expected} == expected
    assert bool(found) == bool(expected)


def test_annotate_precision_changes_nothing_else():
    text = "g (float[2] x) => (float[2] y) { y = Relu(x) }"
    assert_rewrites(text, text, [AnnotatePrecision()])


def test_annotate_precision_walks_long_chains():
    casts = "  ".join(f"v{i + 1} = Cast<to=1>(v{i})" for i in range(3000))
    found = annotations(f"g (float[2,2] x) => (float[2,2] y) {{ v0 = Transpose(w32)  {casts}  y = MatMul(x, v3000) }}", MATRIX)  # fmt: skip
    assert found["y"] == ("fp32", "weights", "weight 'w32' is fp32")
