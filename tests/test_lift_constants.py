"""The pass LiftConstants: graphs before and after it."""

from __future__ import annotations

from graphs import check, rewrites

from torch2trt_onnx.passes import LiftConstants

LIFT = {
    "a Constant becomes an initializer of the same name": (
        "g (float[2] x) => (float[2] y) { w = Constant<value = float[2] {1, 2}>()  y = Mul(x, w) }",
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }",
    ),
    "value_float is an fp32 scalar, not a double": (
        "g (float[2] x) => (float[2] y) { w = Constant<value_float = 0.1>()  y = Mul(x, w) }",
        "g (float[2] x) => (float[2] y) <float w = {0.1}> { y = Mul(x, w) }",
    ),
    "value_floats is an fp32 vector": (
        "g (float[2] x) => (float[2] y) { w = Constant<value_floats = [0.1, 3.0]>()  y = Mul(x, w) }",
        "g (float[2] x) => (float[2] y) <float[2] w = {0.1, 3}> { y = Mul(x, w) }",
    ),
    "value_int is an int64 scalar": (
        "g (int64[2] x) => (int64[2] y) { w = Constant<value_int = 7>()  y = Mul(x, w) }",
        "g (int64[2] x) => (int64[2] y) <int64 w = {7}> { y = Mul(x, w) }",
    ),
    "value_ints is an int64 vector": (
        "g (float[2] x) => (float[1,2] y) { s = Constant<value_ints = [1, 2]>()  y = Reshape(x, s) }",
        "g (float[2] x) => (float[1,2] y) <int64[2] s = {1, 2}> { y = Reshape(x, s) }",
    ),
    "an Identity of an initializer goes, and of that Identity too": (
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { v = Identity(w)  u = Identity(v)  y = Mul(x, u) }",
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }",
    ),
    "an Identity of a Constant goes in one run": (
        """g (float[2] x) => (float[2] y) { w = Constant<value_floats = [1.0, 2.0]>()  v = Identity(w)
            y = Mul(x, v) }""",
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }",
    ),
    "an Identity of an activation stays": (
        "g (float[2] x) => (float[2] y) { v = Identity(x)  y = Relu(v) }",
        "g (float[2] x) => (float[2] y) { v = Identity(x)  y = Relu(v) }",
    ),
    "a Constant that is a graph output stays": (
        "g (float[2] x) => (float[2] y, float[2] w) { w = Constant<value_floats = [1.0, 2.0]>()  y = Mul(x, w) }",
        "g (float[2] x) => (float[2] y, float[2] w) { w = Constant<value_floats = [1.0, 2.0]>()  y = Mul(x, w) }",
    ),
    "an Identity of an initializer that is a graph output stays": (
        "g (float[2] x) => (float[2] y, float[2] v) <float[2] w = {1, 2}> { v = Identity(w)  y = Mul(x, w) }",
        "g (float[2] x) => (float[2] y, float[2] v) <float[2] w = {1, 2}> { v = Identity(w)  y = Mul(x, w) }",
    ),
    "a Constant of strings stays": (
        'g () => (bool[1] y) { a = Constant<value_strings = ["a"]>()  y = Equal(a, a) }',
        'g () => (bool[1] y) { a = Constant<value_strings = ["a"]>()  y = Equal(a, a) }',
    ),
    "Constants inside the bodies of an If are lifted into them, a body's own output stays, and a captured one is shared": (
        """g (bool c, float[2] x) => (float[2] y) {
            k = Constant<value_floats = [1.0, 2.0]>()
            y = If(c) <then_branch = t() => (float[2] a) { w = Constant<value_floats = [3.0, 4.0]>()  v = Add(x, w)  a = Mul(v, k) },
                       else_branch = e() => (float[2] b) { b = Constant<value_floats = [5.0, 6.0]>() }>
        }""",
        """g (bool c, float[2] x) => (float[2] y) <float[2] k = {1, 2}> {
            y = If(c) <then_branch = t() => (float[2] a) <float[2] w = {3, 4}> { v = Add(x, w)  a = Mul(v, k) },
                       else_branch = e() => (float[2] b) { b = Constant<value_floats = [5.0, 6.0]>() }>
        }""",
    ),
}  # fmt: skip


@rewrites(LIFT)
def test_lift_constants(case):
    check(case, LiftConstants())
