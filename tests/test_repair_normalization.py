"""The pass RepairNormalization: graphs before and after it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from graphs import check, rewrites

from torch2trt_onnx.passes import RepairNormalization

HALVES = np.array([1.5, -2.5], np.float16)
BRAINS = np.array([1.5, -2.5], ml_dtypes.bfloat16)


BATCH_IN = "float16[2,2,3] x"
BATCH = "<float[2] s = {1, 2}, float[2] b = {0, 1}, float[2] m = {0, 0.5}, float[2] v = {1, 2}>"
REPAIR = {
    "LayerNormalization with fp32 parameters on an fp16 input computes in fp32": (
        """g (float16[2,2] x) => (float16[2,2] z)
            <float[2] s = {1, 2}, float[2] b = {0, 1}> { y = LayerNormalization(x, s, b)  z = Relu(y) }""",
        """g (float16[2,2] x) => (float16[2,2] z) <float[2] s = {1, 2}, float[2] b = {0, 1}> {
            v = Cast<to=1>(x)  w = LayerNormalization(v, s, b)  y = Cast<to=10>(w)  z = Relu(y) }""",
        {"numbers": False},
    ),
    "a node that makes a graph output keeps the name of the output": (
        f"g ({BATCH_IN}) => (float16[2,2,3] y) {BATCH} {{ y = BatchNormalization(x, s, b, m, v) }}",
        f"""g ({BATCH_IN}) => (float16[2,2,3] y) {BATCH} {{ h = Cast<to=1>(x)
            w = BatchNormalization(h, s, b, m, v)  y = Cast<to=10>(w) }}""",
        {"numbers": False},
    ),
    "fp16 parameters on an fp32 input are widened, and the result is fp32 as before": (
        "g (float[2,2,3] x) => (float[2,2,3] y) { y = InstanceNormalization(x, h, h) }",
        """g (float[2,2,3] x) => (float[2,2,3] y) { s = Cast<to=1>(h)  b = Cast<to=1>(h)
            y = InstanceNormalization(x, s, b) }""",
        {"numbers": False, "arrays": {"h": HALVES}},
    ),
    "GroupNormalization in fp16 with bf16 parameters computes in fp32": (
        "g (float16[2,2,3] x) => (float16[2,2,3] y) { y = GroupNormalization<num_groups=2>(x, h, h) }",
        """g (float16[2,2,3] x) => (float16[2,2,3] y) {
            v = Cast<to=1>(x)  s = Cast<to=1>(h)  b = Cast<to=1>(h)  w = GroupNormalization<num_groups=2>(v, s, b)  y = Cast<to=10>(w) }""",
        {"numbers": False, "arrays": {"h": BRAINS}, "opset": 21},
    ),
    "the other outputs of LayerNormalization are fp32 as they were": (
        """g (float16[2,2] x) => (float16[2,2] y, float[2,1] m, float[2,1] i) <float[2] s = {1, 2}> {
            y, m, i = LayerNormalization(x, s) }""",
        """g (float16[2,2] x) => (float16[2,2] y, float[2,1] m, float[2,1] i) <float[2] s = {1, 2}> {
            v = Cast<to=1>(x)  w, m, i = LayerNormalization(v, s)  y = Cast<to=10>(w) }""",
        {"numbers": False},
    ),
    "RMSNormalization too": (
        "g (float16[2,2] x) => (float16[2,2] y) <float[2] s = {1, 2}> { y = RMSNormalization(x, s) }",
        """g (float16[2,2] x) => (float16[2,2] y)  <float[2] s = {1, 2}> { v = Cast<to=1>(x)
            w = RMSNormalization(v, s)  y = Cast<to=10>(w) }""",
        {"numbers": False, "opset": 23},
    ),
    "the Casts stand inside the body where the node stands": (
        """g (bool c, float16[2,2] x) => (float16[2,2] y) <float[2] s = {1, 2}> {
            y = If(c) <then_branch = t() => (float16[2,2] a) { a = LayerNormalization(x, s) },
                       else_branch = e() => (float16[2,2] b) { b = Relu(x) }>
        }""",
        """g (bool c, float16[2,2] x) => (float16[2,2] y) <float[2] s = {1, 2}> {
            y = If(c) <then_branch = t() => (float16[2,2] a) { v = Cast<to=1>(x)  w = LayerNormalization(v, s)  a = Cast<to=10>(w) },
                       else_branch = e() => (float16[2,2] b) { b = Relu(x) }>
        }""",
        {"numbers": False},
    ),
    "a normalisation of one type stays": (
        "g (float[2,2] x) => (float[2,2] y) <float[2] s = {1, 2}> { y = LayerNormalization(x, s) }",
        "g (float[2,2] x) => (float[2,2] y) <float[2] s = {1, 2}> { y = LayerNormalization(x, s) }",
    ),
}  # fmt: skip


@rewrites(REPAIR)
def test_repair_normalization(case):
    check(case, RepairNormalization())
