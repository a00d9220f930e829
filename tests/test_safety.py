"""Each rule of `safety` alone: which nodes it keeps in fp32, what it says, and what it leaves alone."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from graphs import Scene

from torch2trt_onnx import pipeline, safety
from torch2trt_onnx.losses import Loss, Losses
from torch2trt_onnx.placement import FP32
from torch2trt_onnx.precision import ElementType
from torch2trt_onnx.ranges import Range
from torch2trt_onnx.safety import (
    RULES,
    AuthorsChoice,
    CalibratedRange,
    Evidence,
    InitializerRange,
    OperatorRisk,
    OverBudget,
    Positions,
    ReductionDepth,
    Safety,
    UnmeasuredRange,
)
from torch2trt_onnx.typecheck import compute_type

FP16, BF16 = (ElementType.of(name).onnx for name in ("fp16", "bf16"))
KINDS = pytest.mark.parametrize("kind", [FP16, BF16], ids=["fp16", "bf16"])
LOWEST = float(np.finfo(np.float32).min)

ARRAYS = {
    "w": np.eye(4, dtype=np.float32),
    "one": np.ones((), np.float32),
    "two": np.full((), 2, np.float32),
    "eight": np.full((), 8, np.float32),
    "lowest": np.full((), LOWEST, np.float32),
    "infinite": np.full(1, -np.inf, np.float32),
    "large": np.array([1, 1e6, 2, 3], np.float32),
    "edge": np.array([65519, 1], np.float32),
    "beyond": np.array([65520, 1], np.float32),
    "nothing": np.full((), 1e-12, np.float32),
    "epsilon": np.full((), 1e-5, np.float32),
    "tiny": np.full(4, 1e-6, np.float32),
    "outlier": np.array([1, 1, 1, 1e-9], np.float32),
    "frequencies": np.geomspace(1, 1e-4, 4, dtype=np.float32),
    "many": np.ones(4097, np.float32),
    "half": np.full(4, 0.5, np.float16),
}


def prepared(text, arrays=None, opset=23):
    scene = Scene(text, ARRAYS | (arrays or {}), opset)
    scene.run(*pipeline.repairs({}))
    return scene


def kept(rule, text, kind=FP16, arrays=None, **evidence):
    """What a rule says of each fp32 node that it keeps, by the node's first output."""
    graph = prepared(text, arrays).graph
    hazard = rule(graph, kind, Evidence(**evidence), Losses(graph))
    floats = [node for node in graph.nodes() if compute_type(node) == FP32]
    return {node.outputs[0].name: why for node in floats if (why := hazard.why(node))}


def cases(given):
    return pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in given.items()])


def test_each_rule_is_asked_and_the_first_that_speaks_is_named():
    assert set(RULES) == {
        value for value in vars(safety).values() if isinstance(value, type) and safety.Hazard in value.__bases__
    }
    graph = prepared("g (float[4] x) => (float[4] y) { a = Mul(x, large)  b = Exp(a)  c = Exp(b)  y = Relu(c) }").graph
    ranges = {"c": Range(0, 1e9, 0, 4)}
    safe = Safety(graph, FP16, Evidence(ranges, "2 given samples", True, {"Exp_b": "too much"}), Losses(graph))
    assert {node.outputs[0].name: safe.why(node)[0] for node in graph.nodes()} == {
        "a": "InitializerRange",  # and UnmeasuredRange
        "b": "OverBudget",  # and UnmeasuredRange, and OperatorRisk
        "c": "CalibratedRange",  # and UnmeasuredRange, and OperatorRisk
        "y": "CalibratedRange",
    }
    assert {node.outputs[0].name: safe.why(node)[1] for node in graph.nodes()}["b"] == "too much"
    harmless = prepared("g (float[4] x) => (float[4] y) { y = Sigmoid(x) }").graph
    assert Safety(harmless, FP16, Evidence(), Losses(harmless)).why(next(harmless.nodes())) == ("", "")


def test_over_budget_keeps_what_the_budget_kept_and_says_what_that_said():
    text = "g (float[4] x) => (float[4] y) { a = Sigmoid(x)  y = Tanh(a) }"
    assert kept(OverBudget, text, kept={"Tanh_y": "too much"}) == {"y": "too much"}
    assert kept(OverBudget, text) == {}


TYPED = {
    "what reads a tensor that was cast to fp32, and what follows without weights": (
        "float16[4,4] x",
        "f = Cast<to=1>(x)  a = Sigmoid(f)  b = Transpose<perm=[1,0]>(a)  y = Tanh(b)",
        {"a", "b", "y"},
    ),
    "not a product with fp32 weights of its own, and nothing behind it": (
        "float16[4,4] x",
        "f = Cast<to=1>(x)  a = Sigmoid(f)  b = MatMul(a, w)  y = Tanh(b)",
        {"a"},
    ),
    "nor a Gemm or a convolution": (
        "float16[4,4] x",
        "f = Cast<to=1>(x)  a = Gemm(f, w)  b = Reshape(a, image)  c = Conv(b, kernel)  y = Reshape(c, rows)",
        set(),
    ),
    "whichever of two inputs it is": (
        "float[4,4] x, float16[4,4] z",
        "f = Cast<to=1>(z)  a = Sigmoid(x)  y = Add(a, f)",
        {"y"},
    ),
    "what makes a rounded tensor that was only handed on, and what else it was chosen from": (
        "float[4,4] x",
        "a = MatMul(x, w)  b = Sigmoid(a)  c = Tanh(a)  d = Transpose(b)  h = Max(d, c)  "
        "r = Cast<to=10>(h)  f = Cast<to=1>(r)  y = Sub(h, f)",
        {"b", "c", "d", "h", "y"},
    ),
    "not by Casts that change nothing": (
        "float[4,4] x",
        "f = Cast<to=1>(x)  a = Sigmoid(f)  g = Cast<to=1>(a)  y = Add(a, g)",
        set(),
    ),
    "not by Casts of integers": ("int32[4,4] x", "f = Cast<to=1>(x)  y = Sigmoid(f)", set()),
    "nor by Casts to integers": (
        "float[4,4] x",
        "a = Sigmoid(x)  i = Cast<to=6>(a)  f = Cast<to=1>(i)  y = Add(a, f)",
        set(),
    ),
    "not what is rounded for all that read it": (
        "float[4,4] x",
        "a = Sigmoid(x)  r = Cast<to=10>(a)  q = Cast<to=10>(a)  s = Add(r, q)  y = Cast<to=1>(s)",
        set(),
    ),
    "by a Cast to bf16 as by one to fp16": (
        "float[4,4] x",
        "a = Sigmoid(x)  r = Cast<to=16>(a)  f = Cast<to=1>(r)  b = MatMul(f, w)  c = MatMul(a, w)  y = Add(b, c)",
        {"a"},
    ),
    "in a branch too, by a Cast outside": (
        "bool c, float16[4,4] x",
        """f = Cast<to=1>(x)  y = If(c) <then_branch = t() => (float[4,4] p) { p = Sigmoid(f) },
            else_branch = e() => (float[4,4] q) { q = MatMul(f, w) }>""",
        {"p"},
    ),
    "and what a branch reads in fp32 is read": (
        "bool c, float[4,4] x",
        """h = Sigmoid(x)  r = Cast<to=10>(h)  z = If(c) <then_branch = t() => (float[4,4] p) { p = MatMul(h, w) },
            else_branch = e() => (float[4,4] q) { q = MatMul(w, w) }>
            f = Cast<to=1>(r)  g = MatMul(f, w)  y = Add(z, g)""",
        {"h"},
    ),
    "what an If hands over, of one branch or the other": (
        "bool c, float16[4,4] x",
        """b = If(c) <then_branch = t() => (float[4,4] p) { p = MatMul(w, w) },
            else_branch = e() => (float[4,4] q) { q = Cast<to=1>(x) }>  y = Sigmoid(b)""",
        {"y"},
    ),
    "not where neither branch has the author's word": (
        "bool c, float16[4,4] x",
        """f = Cast<to=1>(x)  b = If(c) <then_branch = t() => (float[4,4] p) { p = MatMul(f, w) },
            else_branch = e() => (float[4,4] q) { q = MatMul(w, w) }>  y = Sigmoid(b)""",
        set(),
    ),
    "a product of his own with weights of fp16 in the source, cast to fp32": (
        "float16[4,4] x",
        "f = Cast<to=1>(x)  v = Cast<to=1>(narrow)  a = Div(f, f)  b = Sigmoid(a)  y = MatMul(b, w)",
        {"a", "b"},
    ),
    "through a loop that carries it": (
        "float16[4,4] x",
        """f = Cast<to=1>(x)  a = Loop(n, "", f) <body = l(int64 i, bool k, float[4,4] s) => (bool o, float[4,4] m) {
            o = Identity(k)  m = MatMul(s, w) }>  y = Sigmoid(a)""",
        {"y"},
    ),
}

TYPED_ARRAYS = {
    "image": np.array([1, 4, 2, 2]),
    "rows": np.array([4, 4]),
    "kernel": np.ones((4, 4, 1, 1), np.float32),
    "n": np.array(3),
    "narrow": np.eye(4, dtype=np.float16),
}


class TestAuthorsChoice:
    def test_the_residual_of_a_rounding_keeps_both_of_its_sides(self):
        text = "g (float[4] x) => (float[4] y) { h = Sigmoid(x)  r = Cast<to=10>(h)  f = Cast<to=1>(r)  y = Sub(h, f) }"
        assert kept(AuthorsChoice, text) == {
            "h": "the author rounds its output in 'Cast_r', and reads it in fp32 too",
            "y": "the author casts its input to fp32, in 'Cast_f'",
        }

    @cases(TYPED)
    def test_it_keeps(self, case):
        inputs, nodes, expected = case
        text = f"g ({inputs}) => (float[4,4] y) {{ {nodes} }}"
        assert set(kept(AuthorsChoice, text, arrays=TYPED_ARRAYS)) == expected

    def test_it_keeps_a_product_of_two_tensors_that_were_cast_to_fp32(self):
        text = """g (float16[4,4] q, float16[4,4] k) => (float[4,4] y) {
            f = Cast<to=1>(q)  g = Cast<to=1>(k)  s = MatMul(f, g)  y = Sigmoid(s) }"""
        assert set(kept(AuthorsChoice, text)) == {"s", "y"}

    def test_it_keeps_what_follows_a_branch_that_casts_to_fp32(self):
        text = """g (bool c, float16[4,4] x) => (float[4,4] y) {
            b = If(c) <then_branch = t() => (float[4,4] p) { p = Cast<to=1>(x) },
                       else_branch = e() => (float[4,4] q) { q = Cast<to=1>(x) }>
            y = Sigmoid(b) }"""
        assert set(kept(AuthorsChoice, text)) == {"y"}

    def test_it_keeps_what_a_loop_reads_of_what_it_carries(self):
        text = """g (float16[4,4] x) => (float[4,4] y) {
            f = Cast<to=1>(x)  y = Loop(n, "", f) <body = l(int64 i, bool k, float[4,4] s) => (bool o, float[4,4] m) {
                o = Identity(k)  a = Tanh(s)  m = Sigmoid(a) }> }"""
        assert set(kept(AuthorsChoice, text, arrays=TYPED_ARRAYS)) == {"a", "m"}

    def test_the_cast_behind_a_binding_is_no_word_of_his(self):
        text = "g (float[4,4] x) => (float[4,4] y) { a = Sigmoid(x)  y = Tanh(a) }"
        scene = Scene(text)
        scene.run(*pipeline.repairs({"x": FP16}))
        graph = scene.graph
        hazard = AuthorsChoice(graph, FP16, Evidence(), Losses(graph))
        assert [(node.op, hazard.why(node)) for node in graph.nodes()] == [("Cast", ""), ("Sigmoid", ""), ("Tanh", "")]

    def test_it_keeps_what_is_an_output_in_fp32_and_rounded_for_another(self):
        text = "g (float[4] x) => (float[4] h, float16[4] r) { h = Sigmoid(x)  r = Cast<to=10>(h) }"
        assert set(kept(AuthorsChoice, text)) == {"h"}


ROOM = {
    "1 of 65504 is little": (1, True, ""),
    "a quarter of the range is left": (65504 / 4, True, ""),
    "a bit more is too near its end": (
        16400,
        True,
        "it makes 'a', which reaches 16400, within a factor of 4 of the end of fp16 on 2 given samples",
    ),
    "its end too": (65504, True, "it makes 'a', which reaches 65504, within a factor of 4 of the end of fp16 on 2 given samples"),
    "more is beyond it": (65505, True, "it makes 'a', which reaches 65505 (fp16 ends at 65504) on 2 given samples"),
    "random numbers say less": (65504 / 16, False, ""),
    "so that 16 times is left to them": (
        4095,
        False,
        "it makes 'a', which reaches 4095, within a factor of 16 of the end of fp16 on 2 given samples",
    ),
    "what all becomes zero": (5e-8, True, "it makes 'a', which ends at 5e-08, which fp16 takes for zero on 2 given samples"),
    "what does not": (6e-8, True, ""),
    "what is zero": (0, True, ""),
}  # fmt: skip


class TestCalibratedRange:
    TEXT = "g (float[4] x) => (float[4] y) { a = Sigmoid(x)  b = Tanh(a)  y = Neg(b) }"

    def of(self, low, high, *, nonfinite=0, is_real=True, kind=FP16):
        ranges = {"a": Range(low, high, nonfinite, 4), "b": Range(-1, 1, 0, 4), "y": Range(-1, 1, 0, 4)}
        return kept(CalibratedRange, self.TEXT, kind, ranges=ranges, source="2 given samples", is_real=is_real)

    @cases(ROOM)
    @pytest.mark.parametrize("sign", [1, -1])
    def test_what_it_says(self, case, sign):
        largest, is_real, words = case
        low, high = sorted((0.0, sign * largest))
        found = self.of(low, high, is_real=is_real)
        assert found == ({"a": words, "b": words.replace("makes", "reads")} if words else {})

    @pytest.mark.parametrize("is_real", [True, False])
    def test_infinite_masks_are_no_hazard(self, is_real):
        assert self.of(-9, 9, nonfinite=2, is_real=is_real) == {}
        assert self.of(0, 0, nonfinite=4, is_real=is_real) == {}

    def test_bf16_has_the_range_of_fp32_but_for_its_very_end(self):
        assert self.of(-1e30, 5e-30, kind=BF16) == {}
        assert self.of(0, 1e-41, kind=BF16)["a"].startswith(
            "it makes 'a', which ends at 1e-41, which bf16 takes for zero"
        )
        assert "reaches 3.40282e+38 (bf16 ends at 3.38953e+38)" in self.of(LOWEST, 0, kind=BF16)["a"]

    def test_what_was_not_measured_and_what_is_no_fp32_is_passed_over(self):
        assert kept(CalibratedRange, self.TEXT) == {}
        text = "g (float16[4] x) => (float[4] y) { a = Sigmoid(x)  b = Cast<to=1>(a)  y = Tanh(b) }"
        assert kept(CalibratedRange, text, ranges={"x": Range(-6e4, 6e4, 0, 4), "a": Range(-6e4, 6e4, 0, 4)}) == {}

    def test_the_input_of_the_model_counts(self):
        words = "it reads 'x', which reaches 100000 (fp16 ends at 65504) on 1 sample"
        found = kept(CalibratedRange, self.TEXT, ranges={"x": Range(0, 1e5, 0, 4)}, source="1 sample", is_real=True)
        assert found == {"a": words}


MASK = """g (float[4,4] q, float[4,4] k, float[1,4] m, bool[4,4] c) => (float[4,4] y) {{
    {mask}  p = Softmax(s)  o = MatMul(p, k)  y = Sigmoid(o) }}"""
ADDED = MASK.format(mask="i = Sub(one, m)  b = Mul(i, lowest)  d = MatMul(q, k)  s = Add(d, b)")


SPREADS = {
    "through an Add and a Mul": (ADDED, {"b", "s", "p"}),
    "through a Where": (MASK.format(mask="d = MatMul(q, k)  s = Where(c, d, lowest)"), {"s", "p"}),
    "through what moves it": (
        MASK.format(mask="b = Mul(m, lowest)  t = Transpose<perm=[1,0]>(b)  e = Expand(t, rows)  d = MatMul(q, k)  s = Sub(d, e)"),
        {"b", "t", "e", "s", "p"},
    ),
    "up to a product, which it is read by": (
        "g (float[4,4] x) => (float[4,4] y) { a = Mul(x, large)  b = MatMul(a, w)  y = Tanh(b) }",
        {"a", "b"},
    ),
    "into a branch": (
        """g (float[4] x, bool c) => (float[4] y) { a = Mul(x, large)
            y = If(c) <then_branch = t() => (float[4] p) { p = Neg(a) }, else_branch = e() => (float[4] q) { q = Neg(x) }> }""",
        {"a", "p"},
    ),
    "not from a product's own weights, which are another rule's": (
        "g (float[1,4] x) => (float[1,4] y) { a = MatMul(x, big)  y = Sigmoid(a) }",
        set(),
    ),
    "not from a bound of a Clip": (
        "g (float[4] x) => (float[4] y) { a = Clip(x, lowest)  y = Sigmoid(a) }",
        set(),
    ),
    "not from -inf, which fp16 has": (
        "g (float[4] x) => (float[4] y) { a = Add(x, infinite)  y = Sigmoid(a) }",
        set(),
    ),
    "not through a comparison": (
        "g (float[4] x) => (float[4] y) { a = Greater(x, large)  y = Where(a, x, one) }",
        {"a"},
    ),
    "not from what fits": ("g (float[4] x) => (float[4] y) { a = Mul(x, eight)  y = Sigmoid(a) }", set()),
}  # fmt: skip

SPREADS_ARRAYS = {"rows": np.array([4, 4]), "big": np.diag(np.full(4, 1e6, np.float32))}


class TestUnmeasuredRange:
    def test_a_mask_goes_on_up_to_the_softmax_and_not_beyond(self):
        words = "'lowest' reaches 3.40282e+38, and fp16 ends at 65504"
        assert kept(UnmeasuredRange, ADDED) == {"b": words, "s": words, "p": words}

    @cases(SPREADS)
    def test_it_keeps(self, case):
        text, expected = case
        assert set(kept(UnmeasuredRange, text, arrays=SPREADS_ARRAYS)) == expected

    @pytest.mark.parametrize(
        ("measured", "expected"),
        {"b": {"b"}, "s": {"b", "s"}, "d": {"b", "s", "p"}}.items(),
    )
    def test_it_ends_where_a_range_was_measured(self, measured, expected):
        assert set(kept(UnmeasuredRange, ADDED, ranges={measured: Range(-9, 9, 0, 4)})) == expected

    def test_bf16_has_all_but_the_lowest_fp32_number(self):
        words = "'lowest' reaches 3.40282e+38, and bf16 ends at 3.38953e+38"
        assert kept(UnmeasuredRange, ADDED, BF16) == {"b": words, "s": words, "p": words}
        text = ADDED.replace("lowest", "large")
        assert set(kept(UnmeasuredRange, text)) == {"b", "s", "p"}
        assert kept(UnmeasuredRange, text, BF16) == {}


LOSES = {
    "a weight of 1e6": (
        "y = Mul(x, large)",
        "'large': 1 of 4 values become infinite (the largest is 1e+06)",
    ),
    "65520, which rounds to infinity": ("y = Mul(x, beyond)", "'beyond': 1 of 2 values become infinite (the largest is 65520)"),
    "but not 65519, which rounds to the largest number": ("y = Mul(x, edge)", ""),
    "an epsilon of 1e-12": ("y = Add(x, nothing)", "'nothing': all its values become zero (the largest is 1e-12)"),
    "but not one of 1e-5, which keeps 8 bits": ("y = Add(x, epsilon)", ""),
    "weights of 1e-6, which keep 4 bits": ("y = Mul(x, tiny)", "'tiny': fp16 changes it by 1.3% (the largest value is 1e-06)"),
    "but not one small number among others": ("y = Mul(x, outlier)", ""),
    "no infinity of the source's own": ("y = Add(x, infinite)", ""),
    "no bound of a Clip": ("y = Clip(x, lowest)", ""),
    "but what it clips": ("y = Clip(large, lowest)", "'large': 1 of 4 values become infinite (the largest is 1e+06)"),
    "a weight on its way through what moves it": (
        "a = Reshape(large, rows)  b = Transpose<perm=[1,0]>(a)  y = MatMul(x, b)",
        "'large': 1 of 4 values become infinite (the largest is 1e+06)",
    ),
    "and through a Concat": (
        "a = Concat<axis=0>(edge, beyond)  y = Mul(x, a)",
        "'beyond': 1 of 2 values become infinite (the largest is 65520)",
    ),
    "but nothing that was computed": ("a = Sigmoid(large)  y = Mul(x, a)", ""),
    "but not as what is added, which another has the digits of": ("y = Add(x, tiny)", ""),
    "nor subtracted": ("y = Sub(x, tiny)", ""),
    "nor as what a product adds": ("a = Reshape(x, rows)  y = Gemm(a, line, tiny)", ""),
    "but as what it multiplies by": (
        "a = Reshape(x, rows)  b = Reshape(tiny, rows)  y = Gemm(a, b, line)",
        "'tiny': fp16 changes it by 1.3% (the largest value is 1e-06)",
    ),
    "and as what is divided": ("y = Div(tiny, x)", "'tiny': fp16 changes it by 1.3% (the largest value is 1e-06)"),
    "a large number that is added": ("y = Sub(x, large)", "'large': 1 of 4 values become infinite (the largest is 1e+06)"),
    "no sizes": ("y = Expand(x, many)", ""),
    "no weight that was quantized, which its scale bounds": (
        "q = QuantizeLinear(large, one)  d = DequantizeLinear(q, one)  y = Mul(x, d)",
        "",
    ),
    "none that is fp16 in the source": ("h = Cast<to=1>(half)  y = Mul(x, h)", ""),
}  # fmt: skip

LOSES_ARRAYS = {"rows": np.array([1, 4]), "many": np.array([100000])}


class TestInitializerRange:
    @cases(LOSES)
    def test_what_it_says(self, case):
        nodes, words = case
        inputs = "float[1,1] x" if "MatMul" in nodes else "float[1] x"
        found = kept(InitializerRange, f"g ({inputs}) => (float y) {{ {nodes} }}", arrays=LOSES_ARRAYS)
        assert found.get("y", "") == words

    def test_bf16_keeps_what_fp16_does_not(self):
        for name in ("large", "beyond", "nothing", "tiny"):
            text = f"g (float[4] x) => (float[4] y) {{ y = Mul(x, {name}) }}"
            arrays = {"beyond": np.array([65520, 1, 1, 1], np.float32)}
            assert (set(kept(InitializerRange, text, arrays=arrays)), kept(InitializerRange, text, BF16, arrays)) == (
                {"y"},
                {},
            )

    def test_and_not_the_lowest_fp32_number(self):
        text = "g (float[4] x) => (float[4] y) { y = Mul(x, lowest) }"
        words = "'lowest': 1 of 1 values become infinite (the largest is 3.40282e+38)"
        assert kept(InitializerRange, text, BF16) == {"y": words}

    @pytest.mark.filterwarnings("error")
    def test_a_large_weight_is_judged_without_a_word_of_numpy(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert Loss.of(np.full(4, LOWEST, np.float32), FP16).infinite == 4


DEEP = {
    "a product": ("float[1,65505] x", "y = MatMul(x, deep)", 65505),
    "not one of as many as fp16 can count": ("float[1,65504] x", "y = MatMul(x, even)", 0),
    "a product of two tensors": ("float[2,1,65505] x, float[2,65505,3] z", "y = MatMul(x, z)", 65505),
    "a Gemm": ("float[1,65505] x", "y = Gemm(x, deep)", 65505),
    "one that transposes": ("float[65505,1] x", "y = Gemm<transA=1>(x, deep)", 65505),
    "by its weight, where the other side is dynamic": ("float[M,N] x", "y = Gemm(x, deep)", 65505),
    "and where that is turned": ("float[M,N] x", "y = Gemm<transB=1>(x, long)", 65505),
    "not by its width": ("float[M,N] x", "y = Gemm(x, long)", 0),
    "nor by that of one that is turned": ("float[M,N] x", "y = Gemm<transB=1>(x, deep)", 0),
    "a product with a vector": ("float[M,N] x", "y = MatMul(x, vector)", 65505),
    "not the other side of that": ("float[1,65505] x", "y = Gemm<transA=1>(x, flat)", 0),
    "a convolution, by its channels and its kernel": ("float[1,8192,3,3] x", "y = Conv(x, kernel)", 8192 * 9),
    "of a group alone": ("float[1,8192,3,3] x", "y = Conv<group=2>(x, grouped)", 0),
    "a transposed one, by its channels": ("float[1,65505,1,1] x", "y = ConvTranspose(x, spread)", 65505),
    "not what is not known": ("float[1,N] x, float[N,4] z", "y = MatMul(x, z)", 0),
    "not a mean": ("float[1,65505] x", "y = ReduceMean(x)", 0),
}

DEEP_ARRAYS = {
    "deep": np.ones((65505, 1), np.float32),
    "even": np.ones((65504, 1), np.float32),
    "flat": np.ones((1, 2), np.float32),
    "long": np.ones((1, 65505), np.float32),
    "vector": np.ones(65505, np.float32),
    "kernel": np.broadcast_to(np.float32(1), (1, 8192, 3, 3)),
    "grouped": np.broadcast_to(np.float32(1), (2, 4096, 3, 3)),
    "spread": np.ones((65505, 1, 1, 1), np.float32),
}


class TestReductionDepth:
    WORDS = "it adds up {} products, and fp16 ends at 65504"

    @cases(DEEP)
    def test_what_it_says(self, case):
        inputs, nodes, depth = case
        text = f"g ({inputs}) => (float[A,B] y) {{ {nodes} }}"
        arrays = {name: array for name, array in DEEP_ARRAYS.items() if name in nodes}
        assert kept(ReductionDepth, text, arrays=arrays) == ({"y": self.WORDS.format(depth)} if depth else {})
        assert kept(ReductionDepth, text, BF16, arrays) == {}

    def test_a_weight_tells_the_depth_where_the_other_side_is_dynamic(self):
        text = "g (float[M,N] x) => (float[M,1] y) { y = MatMul(x, deep) }"
        assert set(kept(ReductionDepth, text, arrays={"deep": DEEP_ARRAYS["deep"]})) == {"y"}


ROTARY = """g (int64 n, float[L,4] z) => (float[L,4] y) <int64 none = {0}, int64 step = {1}, int64[1] axis = {1}> {
    i = Range(none, n, step)  c = Cast<to=1>(i)  u = Unsqueeze(c, axis)  a = Mul(u, frequencies)
    p = Cos(a)  s = Sin(a)  b = Mul(z, p)  d = Mul(z, s)  y = Add(b, d) }"""


ANGLES = {
    "from positions that are given": ("int64[4,1] i", "c = Cast<to=1>(i)  a = Mul(c, frequencies)  y = Sin(a)", {"c", "a"}),
    "by a product of matrices": (
        "int64[4,1] i",
        "c = Cast<to=1>(i)  a = MatMul(c, row)  b = Concat<axis=1>(a, a)  y = Cos(b)",
        {"c", "a", "b"},
    ),
    "counted in floats": ("float[4] z", "a = Range(zero, eight, two)  b = Mul(a, frequencies)  c = Tan(b)  y = Mul(c, z)", {"a", "b"}),
    "inside a branch": (
        "int64[4] i, bool c",
        """d = Cast<to=1>(i)  y = If(c) <then_branch = t() => (float[4] p) { a = Mul(d, frequencies)  p = Sin(a) },
            else_branch = e() => (float[4] q) { q = Mul(d, two) }>""",
        {"d", "a"},
    ),
    "not from a float input": ("float[4,1] i", "a = Mul(i, frequencies)  y = Sin(a)", set()),
    "nor what such a one goes into": (
        "int64[4] i, float[4] z",
        "c = Cast<to=1>(i)  a = Mul(c, frequencies)  b = Add(a, z)  y = Sin(b)",
        set(),
    ),
    "not from an embedding": ("int64[4] i", "e = Gather(w, i)  a = Mul(e, frequencies)  y = Sin(a)", set()),
    "not from weights of more values than frequencies are": ("int64[1] i", "c = Cast<to=1>(i)  a = Mul(c, many)  y = Sin(a)", set()),
    "but from as many": ("int64[1] i", "c = Cast<to=1>(i)  a = Mul(c, most)  y = Sin(a)", {"c", "a"}),
    "up to a size, which is a whole number again": (
        "int64[4] i",
        "c = Cast<to=1>(i)  a = Mul(c, two)  b = Floor(a)  j = Cast<to=7>(b)  y = Cast<to=1>(j)",
        {"c", "a", "b"},
    ),
    "not up to one that a float input says": (
        "float[4] i",
        "a = Mul(i, two)  b = Floor(a)  j = Cast<to=7>(b)  y = Cast<to=1>(j)",
        set(),
    ),
    "not what is no angle": ("int64[4] i", "c = Cast<to=1>(i)  a = Mul(c, frequencies)  y = Sigmoid(a)", set()),
    "not beyond the angle": ("int64[4] i", "c = Cast<to=1>(i)  a = Sin(c)  b = Mul(a, two)  y = Exp(b)", {"c"}),
}  # fmt: skip

ANGLES_ARRAYS = {
    "row": ARRAYS["frequencies"].reshape(1, 4),
    "zero": np.zeros((), np.float32),
    "most": np.ones(4096, np.float32),
}


class TestPositions:
    def test_a_rotary_embedding_keeps_its_positions_up_to_the_angles(self):
        words = "it computes positions from whole numbers, which are to be angles, or whole numbers again"
        assert kept(Positions, ROTARY) == {"c": words, "u": words, "a": words}

    @cases(ANGLES)
    def test_it_keeps(self, case):
        inputs, nodes, expected = case
        assert set(kept(Positions, f"g ({inputs}) => (float[A,B] y) {{ {nodes} }}", arrays=ANGLES_ARRAYS)) == expected

    def test_not_what_branches_make_of_a_float_input(self):
        text = """g (bool c, float[4] t) => (float[4] y) {
            b = If(c) <then_branch = a() => (float[4] p) { p = Sigmoid(t) }, else_branch = e() => (float[4] q) { q = Neg(t) }>
            m = Mul(b, frequencies)  y = Sin(m) }"""
        assert kept(Positions, text) == {}


NORM = "it is part of a norm, which sums squares, and TensorRT fuses it in fp32 at no cost"
SCORES = "it masks the scores of an attention, or follows, and TensorRT fuses it in fp32 at no cost"


NORMS = {
    "an RMS norm, up to the square and down to the reciprocal": (
        "a = Pow(x, two)  b = ReduceMean(a)  c = Add(b, epsilon)  d = Sqrt(c)  e = Reciprocal(d)  f = Mul(x, e)  y = Mul(f, w)",
        {"a", "b", "c", "d", "e"},
    ),
    "one that multiplies by itself, and divides": (
        "a = Mul(x, x)  b = ReduceSum(a)  c = Add(epsilon, b)  d = Sqrt(c)  e = Div(x, d)  y = Mul(e, w)",
        {"a", "b", "c", "d"},
    ),
    "a LayerNorm of single nodes": (
        "m = ReduceMean(x)  s = Sub(x, m)  a = Pow(s, two)  b = ReduceMean(a)  c = Add(b, epsilon)  d = Sqrt(c)  y = Div(s, d)",
        {"a", "b", "c", "d"},
    ),
    "one without an epsilon": ("a = Pow(x, two)  b = ReduceSum(a)  d = Sqrt(b)  y = Div(x, d)", {"a", "b", "d"}),
    "one that is bounded instead": (
        "a = Pow(x, two)  b = ReduceSum(a)  c = Clip(b, epsilon)  d = Sqrt(c)  y = Div(x, d)",
        {"a", "b", "c", "d"},
    ),
    "or by a maximum": ("a = Pow(x, two)  b = ReduceSum(a)  c = Max(b, epsilon)  d = Sqrt(c)  y = Div(x, d)", {"a", "b", "c", "d"}),
    "but not the product of two tensors before the sum": (
        "a = Mul(x, w)  b = ReduceMean(a)  c = Add(b, epsilon)  d = Sqrt(c)  y = Div(x, d)",
        {"b", "c", "d"},
    ),
    "no root of a sum that is none over an axis": ("a = Pow(x, two)  c = Add(a, epsilon)  d = Sqrt(c)  y = Div(x, d)", set()),
    "no mean of squares without a root": ("a = Pow(x, two)  b = ReduceMean(a)  c = Add(b, epsilon)  y = Div(x, c)", set()),
    "no reciprocal of anything else": ("a = Sqrt(x)  b = Reciprocal(a)  c = Reciprocal(x)  y = Add(b, c)", set()),
}  # fmt: skip

SCALED = "d = MatMul(q, k)  e = Div(d, two)"

ATTENTION = {
    "scaled behind the product, and masked": (f"{SCALED}  s = Add(e, m)", {"e", "s", "p"}, {"e", "s", "p"}),
    "masked, and not scaled": ("d = MatMul(q, k)  s = Add(d, m)", {"s", "p"}, {"s", "p"}),
    "scaled by a product of numbers": (
        "d = MatMul(q, k)  e = Mul(d, two)  s = Add(e, m)",
        {"e", "s", "p"},
        {"e", "s", "p"},
    ),
    "a chosen mask upon an added one": (
        f"{SCALED}  f = Add(e, m)  s = Where(c, f, m)",
        {"e", "f", "s", "p"},
        {"e", "f", "s", "p"},
    ),
    "queries scaled before, for one shape alone": (
        "e = Mul(q, two)  d = MatMul(e, k)  s = Add(d, m)",
        {"s", "p"},
        set(),
    ),
    "keys scaled before, likewise": ("e = Mul(k, two)  d = MatMul(q, e)  s = Add(d, m)", {"s", "p"}, set()),
    "a mask that comes first, and is computed": (
        f"{SCALED}  b = Mul(m, two)  s = Add(b, e)",
        {"e", "s", "p"},
        {"e", "s", "p"},
    ),
    "not behind a long way of other sums": (
        "d = MatMul(q, k)  s1 = Add(d, m)  "
        + "  ".join(f"s{n + 1} = Add(s{n}, m)" for n in range(1, 8))
        + "  s = Add(s8, m)",
        set(),
        set(),
    ),
    "not without a mask": (f"{SCALED}  s = Mul(e, two)", set(), set()),
    "not where the mask only chooses": (f"{SCALED}  s = Where(c, e, m)", set(), set()),
    "not the scores of a classifier, which are of weights": ("d = MatMul(q, w)  s = Add(d, m)", set(), set()),
    "not where something else is on the way": ("d = MatMul(q, k)  e = Tanh(d)  s = Add(e, m)", set(), set()),
}


class TestOperatorRisk:
    @pytest.mark.parametrize(
        ("op", "words"),
        {
            "Exp(x)": "an exponential outgrows the range",
            "Log(x)": "a logarithm of small numbers loses their digits",
            "CumSum(x, axis)": "a running sum keeps its errors",
            "Sin(x)": "the digits of its argument are those of an angle",
            "Cos(x)": "the digits of its argument are those of an angle",
            "Tan(x)": "the digits of its argument are those of an angle",
            "ReduceL2(x)": "its sum outgrows the range",
            "ReduceSumSquare(x)": "its sum outgrows the range",
            "ReduceProd(x)": "its sum outgrows the range",
            "ReduceLogSum(x)": "its sum outgrows the range",
            "ReduceLogSumExp(x)": "its sum outgrows the range",
            "LpNormalization(x)": "its sum outgrows the range",
            "Range(one, eight, two)": "its numbers are positions",
            "Sigmoid(x)": "",
            "Softmax(x)": "",
            "Sqrt(x)": "",
            "Pow(x, two)": "",
            "ReduceMean(x)": "",
            "ReduceSum(x)": "",
            "Reciprocal(x)": "",
            "Erf(x)": "",
            "Gelu(x)": "",
            "MatMul(x, w)": "",
            "Add(x, x)": "",
            "Mul(x, x)": "",
            "Div(x, eight)": "",
        }.items(),
    )
    def test_what_it_says_of_an_operator(self, op, words):
        text = f"g (float[4,4] x) => (float[A,B] y) {{ y = {op} }}"
        assert kept(OperatorRisk, text, arrays={"axis": np.array(1)}) == ({"y": words} if words else {})

    @pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
    def test_a_norm_is_kept_but_not_one_that_feeds_another(self, op):
        text = f"g (float[4,4] x) => (float[4,4] y) {{ a = {op}(x, scale)  b = {op}(a, scale)  y = Relu(b) }}"
        words = f"{op} sums many values, and TensorRT fuses it in fp32 at no cost"
        assert kept(OperatorRisk, text, arrays={"scale": np.ones(4, np.float32)}) == {"b": words}

    @cases(NORMS)
    def test_of_a_norm_that_is_spelled_out_it_keeps(self, case):
        nodes, expected = case
        found = kept(OperatorRisk, f"g (float[4,4] x) => (float[4,4] y) {{ {nodes} }}")
        assert found == dict.fromkeys(expected, NORM)

    def test_of_an_rms_norm_it_keeps_a_reciprocal_that_divides_one(self):
        nodes = "a = Pow(x, two)  b = ReduceMean(a)  c = Add(b, epsilon)  d = Sqrt(c)  e = Div(one, d)  y = Mul(x, e)"
        found = kept(OperatorRisk, f"g (float[4,4] x) => (float[4,4] y) {{ {nodes} }}")
        assert set(found) == {"a", "b", "c", "d", "e"}

    @cases(ATTENTION)
    def test_of_an_attention_it_keeps(self, case):
        nodes, static, dynamic = case
        bindings = "float[4,4] q, float[4,4] k, float[4,4] m, bool[4,4] c"
        text = f"g ({bindings}) => (float[4,4] y) {{ {nodes}  p = Softmax(s)  y = MatMul(p, k) }}"
        assert kept(OperatorRisk, text) == dict.fromkeys(static, SCORES)
        assert kept(OperatorRisk, text, is_static=False) == dict.fromkeys(dynamic, SCORES)

    def test_queries_that_are_scaled_before_are_lowered_to_bf16_for_one_shape_too(self):
        text = """g (float[4,4] q, float[4,4] k, float[4,4] m) => (float[4,4] y) {
            e = Mul(q, two)  d = MatMul(e, k)  s = Add(d, m)  p = Softmax(s)  y = MatMul(p, k) }"""
        assert kept(OperatorRisk, text, BF16) == {}

    def test_the_softmax_of_a_classifier_is_left_alone(self):
        text = "g (float[4,4] x) => (float[4,4] y) { d = Gemm(x, w, half)  s = Add(d, w)  y = Softmax(s) }"
        assert kept(OperatorRisk, text, arrays={"half": np.full(4, 0.5, np.float32)}) == {}

    def test_it_keeps_scores_that_are_added_to_a_mask(self):
        text = """g (float[4,4] q, float[4,4] k, float[4,4] m) => (float[4,4] y) {
            b = Mul(m, eight)  d = MatMul(q, k)  e = Div(d, two)  s = Add(b, e)  p = Softmax(s)  y = MatMul(p, k) }"""
        assert set(kept(OperatorRisk, text)) >= {"s", "p"}
