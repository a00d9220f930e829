"""The pass BindInputs: graphs before and after it."""

from __future__ import annotations

from graphs import assert_rewrites, rewrites
from onnx import TensorProto

from torch2trt_onnx.passes import BindInputs

FLOAT, FLOAT16, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


BIND = {
    "an input of another type than asked for leads to its type with a Cast": (
        "g (float16[2] x, float16[2] z) => (float16[2] y) { v = Relu(x)  w = Add(v, x)  y = Add(w, z) }",
        """g (float[2] x, float16[2] z) => (float16[2] y) { h = Cast<to=10>(x)  v = Relu(h)  w = Add(v, h)
            y = Add(w, z) }""",
    ),
    "a body that reads it reads the Cast": (
        """g (bool c, float16[2] x) => (float16[2] y) {
            y = If(c) <then_branch = t() => (float16[2] a) { a = Relu(x) }, else_branch = e() => (float16[2] b) { b = Neg(x) }>
        }""",
        """g (bool c, float[2] x) => (float16[2] y) { h = Cast<to=10>(x)
            y = If(c) <then_branch = t() => (float16[2] a) { a = Relu(h) }, else_branch = e() => (float16[2] b) { b = Neg(h) }>
        }""",
    ),
}  # fmt: skip


@rewrites(BIND)
def test_bind_inputs(case):
    before, after = case
    assert_rewrites(before, after, [BindInputs({"x": FLOAT, "absent": FLOAT})], numbers=False, same_bindings=False)


def test_bind_inputs_leaves_an_input_that_has_its_type():
    text = "g (float[2] x) => (float[2] y) { y = Relu(x) }"
    assert_rewrites(text, text, [BindInputs({"x": FLOAT})])


def test_bind_inputs_takes_integers():
    assert_rewrites(
        "g (int64[2] x) => (int64[2] y) { y = Add(x, x) }",
        "g (int32[2] x) => (int64[2] y) { v = Cast<to=7>(x)  y = Add(v, v) }",
        [BindInputs({"x": TensorProto.INT32})],
        numbers=False,
        same_bindings=False,
    )
