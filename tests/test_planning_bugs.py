"""Bugs of planning that hand-written graphs found, one test each."""

import warnings

import numpy as np
import pytest
from graphs import Scene, outputs, parse

from torch2trt_onnx import ConversionWarning, convert


def run(text, precisions, arrays=None, **asked):
    """A conversion without an engine, and its warnings in one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        conversion = convert(parse(text, arrays), None, precisions, backend="none", **asked)
    return conversion, "\n".join(str(w.message) for w in caught)


def runs(conversion, op):
    return [node.precision for node in conversion.plan.nodes if node.op == op]


CONSTANT_BRANCHES = """g (bool c, float[2] x) => (float[2] y) {
    m = If (c) <
        then_branch = t () => (float[2] a) { a = Constant <value = float[2] {1.0, 2.0}> () },
        else_branch = e () => (float[2] b) { b = Constant <value = float[2] {3.0, 4.0}> () }
    >
    y = Mul(x, m)
}"""


@pytest.mark.parametrize("strict", [False, True])
def test_constants_of_branches_compute_nothing_and_are_in_nobody_s_way(strict):
    conversion, told = run(CONSTANT_BRANCHES, {"fp16"}, strict=strict)
    assert runs(conversion, "Mul") == ["fp16"]
    assert told == ""


@pytest.mark.parametrize("strict", [False, True])
def test_where_fp32_is_not_asked_for_no_node_that_fp16_can_serve_is_left_in_it_to_save_casts_at_the_bindings(strict):
    conversion, told = run(
        "g (float[4] x) => (float[4] y) { a = Reshape(x, s) y = Relu(a) }", {"fp16"}, SHAPE, strict=strict
    )
    assert runs(conversion, "Relu") == runs(conversion, "Reshape") == ["fp16"]
    assert told == ""


SHAPE = {"s": np.array([4])}


def test_between_two_nodes_that_must_be_fp32_values_are_not_moved_in_fp16_which_may_lack_the_range():
    text = "g (float[4] x) => (float[4] y) { a = Mul(x, big) b = Reshape(a, s) c = Div(b, big) y = Sigmoid(c) }"
    conversion, _ = run(text, {"fp16"}, {**SHAPE, "big": np.array([1e6], np.float32)})
    assert runs(conversion, "Reshape") == ["fp32"]
    assert runs(conversion, "Sigmoid") == ["fp16"]


@pytest.mark.parametrize("strict", [False, True])
def test_a_cast_from_bf16_that_may_not_lead_to_fp32_does_not_lead_to_fp16_which_lacks_the_range(strict):
    text = "g (bfloat16[4] x) => (float[4] y) { a = Mul(x, x) y = Cast <to = 1> (a) }"
    conversion, _ = run(text, {"fp16", "bf16"}, strict=strict)
    assert runs(conversion, "Mul") == ["bf16"]
    assert all(node.precision in ("bf16", "fp32") for node in conversion.plan.nodes)


def test_what_is_narrowed_and_then_computed_in_fp32_as_pytorch_does_is_compared_with_the_tolerance_of_its_roundings():
    text = "g (float[2, 4] x) => (float[2, 4] y) { y = LayerNormalization <axis = -1> (x, s) }"
    conversion, told = run(text, {"fp16"}, {"s": np.ones(4, np.float32)}, fidelity="pytorch")
    assert conversion.report.comparison.tolerance == pytest.approx(0.006)
    assert told == ""


def test_a_tensor_from_outside_that_a_body_puts_out_is_made_before_a_nested_body_reads_it():
    model = parse("""g (bool c, float[2] x) => (float[2] y, float[n, 2] s) {
        o = Mul(x, x)
        k = Constant <value = int64 {2}> ()
        y, s = Loop (k, , x) <body = b (int64 i, bool d, float[2] a) => (bool e, float[2] f, float[2] o) {
            e = Identity(d)
            f = If (c) <
                then_branch = t () => (float[2] p) { p = Mul(a, o) },
                else_branch = u () => (float[2] q) { q = Identity(a) }
            >
        }>
    }""")
    feeds = {"c": np.array(True), "x": np.array([2, 3], np.float32)}
    y, s = outputs(Scene(model).proto(), feeds)
    assert y.tolist() == [32, 243] and s.tolist() == [[4, 9], [4, 9]]
