"""The pass MergeCasts: graphs before and after it."""

from __future__ import annotations

from graphs import check, rewrites

from torch2trt_onnx.passes import MergeCasts


def chain(source, *to, output="y"):
    """`output` is `x` of the type `source`, cast to each of some types."""
    named = {1: "float", 3: "int8", 2: "uint8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 16: "bfloat16"}
    steps = [*(f"v{i}" for i in range(len(to) - 1)), output]
    casts = "  ".join(f"{y} = Cast<to={t}>({x})" for x, y, t in zip(["x", *steps[:-1]], steps, to, strict=True))
    return f"g ({named[source]}[4] x) => ({named[to[-1]]}[4] {output}) {{ {casts} }}"


STAY, BF16_OUT = object(), {"numbers": False}
MERGE = {
    "fp16 -> fp32 -> fp16 is exact": (chain(10, 1, 10), chain(10, 10)),
    "fp16 -> fp32 -> bf16 is one rounding": (chain(10, 1, 16), chain(10, 16), BF16_OUT),
    "fp16 -> fp32 -> fp32 -> fp16 goes in one run": (chain(10, 1, 1, 10), chain(10, 10)),
    "fp32 -> fp16 -> fp32 rounds": (chain(1, 10, 1), STAY),
    "fp32 -> fp16 -> bf16 rounds twice": (chain(1, 10, 16), STAY, BF16_OUT),
    "fp16 -> bf16 -> fp32 rounds": (chain(10, 16, 1), STAY),
    "bool -> int8 -> int32 is exact": (chain(9, 3, 6), chain(9, 6)),
    "bool -> int64 -> bool is exact": (chain(9, 7, 9), chain(9, 9)),
    "int8 -> int32 -> fp32 is exact": (chain(3, 6, 1), chain(3, 1)),
    "int8 -> int32 -> uint8 wraps around as int8 -> uint8 does": (chain(3, 6, 2), chain(3, 2)),
    "int8 -> fp32 -> uint8 is undefined for negative numbers, and int8 -> uint8 is not": (chain(3, 1, 2), STAY),
    "int8 -> fp32 -> int64 is exact": (chain(3, 1, 7), chain(3, 7)),
    "int32 -> int64 -> int32 is exact": (chain(6, 7, 6), chain(6, 6)),
    "int32 -> fp32 -> int32 rounds": (chain(6, 1, 6), STAY),
    "int64 -> int32 -> int64 cuts off": (chain(7, 6, 7), STAY),
    "fp32 -> bool -> fp32 makes ones": (chain(1, 9, 1), STAY),
    "fp32 -> int32 -> fp32 truncates": (chain(1, 6, 1), STAY),
    "the middle tensor stays where it is an output as well": (
        "g (float16[4] x) => (float[4] v, float16[4] y) { v = Cast<to=1>(x)  y = Cast<to=10>(v) }",
        "g (float16[4] x) => (float[4] v, float16[4] y) { v = Cast<to=1>(x)  y = Cast<to=10>(x) }",
    ),
    "the middle tensor stays where something else reads it": (
        "g (float16[4] x) => (float16[4] y, float[4] z) { v = Cast<to=1>(x)  y = Cast<to=10>(v)  z = Relu(v) }",
        "g (float16[4] x) => (float16[4] y, float[4] z) { v = Cast<to=1>(x)  y = Cast<to=10>(x)  z = Relu(v) }",
    ),
    "a Cast in a body reads through one outside": (
        """g (bool c, float16[2] x) => (float16[2] y) { v = Cast<to=1>(x)
            y = If(c) <then_branch = t() => (float16[2] a) { a = Cast<to=10>(v) },
                       else_branch = e() => (float16[2] b) { w = Neg(v)  b = Cast<to=10>(w) }>
        }""",
        """g (bool c, float16[2] x) => (float16[2] y) { v = Cast<to=1>(x)
            y = If(c) <then_branch = t() => (float16[2] a) { a = Cast<to=10>(x) },
                       else_branch = e() => (float16[2] b) { w = Neg(v)  b = Cast<to=10>(w) }>
        }""",
    ),
}  # fmt: skip


@rewrites(MERGE)
def test_merge_casts(case):
    before, after, *options = case
    check((before, before if after is STAY else after, *options), MergeCasts())
