"""The pass InlineIfs: graphs before and after it."""

from __future__ import annotations

import onnx
from graphs import Scene, assert_rewrites, assert_same_numbers, check, rewrites

from torch2trt_onnx import pipeline
from torch2trt_onnx.passes import (
    AnnotatePrecision,
    InlineIfs,
)

THEN_ELSE = """<then_branch = t() => (float[2] a) { v = Neg(x)  a = Relu(v) }, else_branch = e() => (float[2] b) { b = Abs(x) }>"""
INLINE = {
    "a true condition takes the then branch, and the output keeps its name": (
        f"g (float[2] x) => (float[2] y) <bool c = {{1}}> {{ y = If(c) {THEN_ELSE} }}",
        "g (float[2] x) => (float[2] y) { v = Neg(x)  y = Relu(v) }",
    ),
    "a false condition takes the else branch, for each of the readers": (
        f"""g (float[2] x) => (float[2] y, float[2] z)  <bool c = {{0}}> {{ r = If(c) {THEN_ELSE}  y = Neg(r)
            z = Add(r, r) }}""",
        "g (float[2] x) => (float[2] y, float[2] z) { b = Abs(x)  y = Neg(b)  z = Add(b, b) }",
    ),
    "nested Ifs go in one run": (
        f"""g (float[2] x) => (float[2] y) <bool c = {{1}}, bool d = {{0}}> {{
            y = If(c) <then_branch = o() => (float[2] p) {{ q = Exp(x)  u = If(d) {THEN_ELSE}  p = Add(q, u) }},
                       else_branch = f() => (float[2] r) {{ r = Sin(x) }}>
        }}""",
        "g (float[2] x) => (float[2] y) { q = Exp(x)  b = Abs(x)  y = Add(q, b) }",
    ),
    "an unknown condition stays, and what is inside it is inlined": (
        f"""g (bool c, float[2] x) => (float[2] y) <bool d = {{0}}> {{
            y = If(c) <then_branch = o() => (float[2] p) {{ u = If(d) {THEN_ELSE}  p = Neg(u) }},
                       else_branch = f() => (float[2] r) {{ r = Sin(x) }}>
        }}""",
        """g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = o() => (float[2] p) { b = Abs(x)  p = Neg(b) }, else_branch = f() => (float[2] r) { r = Sin(x) }>
        }""",
    ),
    "a branch that hands out a tensor from outside through an Identity": (
        """g (float[2] x) => (float[2] y)  <bool c = {1}> { r = Relu(x)
            y = If(c) <then_branch = t() => (float[2] a) { a = Identity(r) }, else_branch = e() => (float[2] b) { b = Abs(x) }> }""",
        "g (float[2] x) => (float[2] y) { r = Relu(x)  y = Identity(r) }",
    ),
    "an initializer of the branch comes along": (
        """g (float[2] x) => (float[2] y)  <bool c = {1}> { y = If(c) <then_branch = t() => (float[2] a)
            <float[2] w = {1, 2}> { a = Add(x, w) }, else_branch = e() => (float[2] b) { b = Abs(x) }> }""",
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }",
    ),
    "an initializer that is the branch's output is read itself, or identified with the graph's output": (
        """g (float[2] x) => (float[2] y, float[2] z)
            <bool c = {1}> { z = If(c) <then_branch = t() => (float[2] w)
            <float[2] w = {1, 2}> { }, else_branch = e() => (float[2] b) { b = Abs(x) }>  y = Add(x, z) }""",
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}> { y = Add(x, w)  z = Identity(w) }",
    ),
    "two outputs that are one tensor in the branch": (
        """g (float[2] x) => (float[2] y, float[2] z)
            <bool c = {1}> { y, z = If(c) <then_branch = t() => (float[2] a, float[2] a) { a = Neg(x) },
                       else_branch = e() => (float[2] b, float[2] d) { b = Abs(x)
            d = Exp(x) }> }""",
        "g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x)  z = Identity(y) }",
        {"numbers": False},  # ONNX Runtime 1.32 gives such a z random numbers
    ),
    "one of two outputs is a graph output, and the other is read": (
        """g (float[2] x) => (float[2] y, float[2] q)
            <bool c = {1}> { y, z = If(c) <then_branch = t() => (float[2] a, float[2] k) { a = Neg(x)
            k = Exp(a) }, else_branch = e() => (float[2] b, float[2] d) { b = Abs(x)  d = Exp(x) }>
            q = Sin(z) }""",
        "g (float[2] x) => (float[2] y, float[2] q) { y = Neg(x)  k = Exp(y)  q = Sin(k) }",
    ),
}  # fmt: skip


@rewrites(INLINE)
def test_inline_ifs(case):
    check(case, InlineIfs())


def test_inline_ifs_keeps_two_branches_with_the_same_names_apart():
    scene = Scene(
        f"""g (bool k, float[2] x) => (float[2] y, float[2] z, float[2] q) <bool c = {{1}}> {{
            y = If(c) {THEN_ELSE}  z = If(c) {THEN_ELSE}  q = If(k) {THEN_ELSE}
        }}"""
    )
    scene.run(InlineIfs())
    assert [node.op for node in scene.graph.ir.nodes].count("If") == 1
    onnx.checker.check_model(scene.proto(), full_check=True)


def test_inline_ifs_keeps_initializers_with_the_same_name_apart():
    branch = "then_branch = t() => (float[2] a) <float[2] w = {%d, 2}> { a = Add(x, w) }, else_branch = e() => (float[2] b) { b = Abs(x) }"
    scene = Scene(
        f"""g (float[2] x) => (float[2] y, float[2] z) <bool c = {{1}}> {{
            y = If(c) <{branch % 1}>  z = If(c) <{branch % 5}> }}"""
    )
    scene.run(InlineIfs())
    assert [node.op for node in scene.graph.nodes()] == ["Add", "Add"]
    assert_same_numbers(scene.source, scene.proto())


def test_the_branch_of_one_if_decides_the_next():
    assert_rewrites(
        f"""g (float[2] x) => (float[2] y) <bool c = {{1}}, int64 one = {{1}}, int64 two = {{2}}> {{
            k = If(c) <then_branch = o() => (int64 p) {{ p = Identity(one) }}, else_branch = f() => (int64 r) {{ r = Identity(two) }}>
            d = Equal(k, two)
            y = If(d) {THEN_ELSE}
        }}""",
        "g (float[2] x) => (float[2] y) { y = Abs(x) }",
        [p for p in pipeline.passes({}) if not isinstance(p, AnnotatePrecision)],
    )
