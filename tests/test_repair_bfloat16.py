"""The pass RepairBFloat16: graphs before and after it."""

from __future__ import annotations

from graphs import assert_rewrites

from torch2trt_onnx.passes import RepairBFloat16


def test_repair_bfloat16_reads_complex128_as_bf16_also_in_bodies():
    # The numbers before cannot be had: no runtime has such a Cast.
    assert_rewrites(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t() => (float[2] a) { v = Cast<to=15>(x)  a = Cast<to=1>(v) },
                       else_branch = e() => (float[2] b) { w = Cast<to=16>(x)  b = Cast<to=1>(w) }>
        }""",
        """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t() => (float[2] a) { v = Cast<to=16>(x)  a = Cast<to=1>(v) },
                       else_branch = e() => (float[2] b) { w = Cast<to=16>(x)  b = Cast<to=1>(w) }>
        }""",
        [RepairBFloat16()],
        numbers=False,
    )
