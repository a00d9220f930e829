"""The pass DropNoopCasts: graphs before and after it."""

from __future__ import annotations

from graphs import check, rewrites

from torch2trt_onnx.passes import DropNoopCasts

DROP = {
    "a Cast to the same type goes, for each of its readers": (
        "g (float[2] x) => (float[2] y, float[2] z) { v = Cast<to=1>(x)  y = Relu(v)  z = Add(v, v) }",
        "g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x)  z = Add(x, x) }",
    ),
    "a chain of them goes in one run": (
        "g (float[2] x) => (float[2] y) { v = Cast<to=1>(x)  w = Cast<to=1>(v)  y = Relu(w) }",
        "g (float[2] x) => (float[2] y) { y = Relu(x) }",
    ),
    "a graph output keeps its name: what was cast makes it, for its other readers too": (
        "g (float[2] x) => (float[2] y, float[2] z) { v = Relu(x)  y = Cast<to=1>(v)  z = Neg(v) }",
        "g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x)  z = Neg(y) }",
    ),
    "two outputs of one tensor stay two": (
        "g (float[2] x) => (float[2] v, float[2] y) { v = Relu(x)  y = Cast<to=1>(v) }",
        "g (float[2] x) => (float[2] v, float[2] y) { v = Relu(x)  y = Cast<to=1>(v) }",
    ),
    "a Cast from an input to an output stays": (
        "g (float[2] x) => (float[2] y) { y = Cast<to=1>(x) }",
        "g (float[2] x) => (float[2] y) { y = Cast<to=1>(x) }",
    ),
    "a Cast from an initializer to an output stays": (
        "g () => (float[2] y) <float[2] w = {1, 2}> { y = Cast<to=1>(w) }",
        "g () => (float[2] y) <float[2] w = {1, 2}> { y = Cast<to=1>(w) }",
    ),
    "a Cast that a body captures goes, and so does one inside; a body's output keeps what makes it": (
        """g (bool c, float[2] x) => (float[2] y) { r = Relu(x)  v = Cast<to=1>(r)
            y = If(c) <then_branch = t() => (float[2] a) { w = Neg(v)  a = Cast<to=1>(w) },
                       else_branch = e() => (float[2] b) { u = Cast<to=1>(v)  b = Abs(u) }>
        }""",
        """g (bool c, float[2] x) => (float[2] y) { r = Relu(x)
            y = If(c) <then_branch = t() => (float[2] a) { a = Neg(r) }, else_branch = e() => (float[2] b) { b = Abs(r) }>
        }""",
    ),
    "a Cast in a body from outside to the body's output stays": (
        """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t() => (float[2] a) { a = Cast<to=1>(x) }, else_branch = e() => (float[2] b) { b = Abs(x) }>
        }""",
        """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t() => (float[2] a) { a = Cast<to=1>(x) }, else_branch = e() => (float[2] b) { b = Abs(x) }>
        }""",
    ),
    "when an output takes over a tensor, bodies that capture it read the output": (
        """g (bool c, float[2] x) => (float[2] o, float[2] y) { r = Relu(x)  o = Cast<to=1>(r)
            y = If(c) <then_branch = t() => (float[2] a) { a = Neg(r) }, else_branch = e() => (float[2] b) { b = Abs(r) }>
        }""",
        """g (bool c, float[2] x) => (float[2] o, float[2] y) { o = Relu(x)
            y = If(c) <then_branch = t() => (float[2] a) { a = Neg(o) }, else_branch = e() => (float[2] b) { b = Abs(o) }>
        }""",
    ),
    "Casts to other types stay": (
        "g (float[2] x) => (int32[2] y) { y = Cast<to=6>(x) }",
        "g (float[2] x) => (int32[2] y) { y = Cast<to=6>(x) }",
    ),
}  # fmt: skip


@rewrites(DROP)
def test_drop_noop_casts(case):
    check(case, DropNoopCasts())
