"""What initializers lose in a narrower type."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from test_safety import BF16, FP16, KINDS, LOWEST, prepared

from torch2trt_onnx import losses
from torch2trt_onnx.losses import Loss, Losses
from torch2trt_onnx.safety import (
    Evidence,
    Safety,
)


def rounded(values, kind):
    """The values in a narrower type, by arithmetic: the distance between neighbours is 2 to the exponent less the digits."""
    digits, least, largest = {
        FP16: (10, -14, 65504.0),
        BF16: (7, -126, float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)),
    }[kind]
    wide = np.asarray(values, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.maximum(np.frexp(wide)[1] - 1, least)
        step = np.ldexp(1.0, exponent - digits)
        narrow = np.round(wide / step) * step
        return np.where(np.abs(narrow) > largest, np.copysign(np.inf, wide), narrow)


def expected_loss(values, kind):
    finite = values[np.isfinite(values)].astype(np.float64)
    narrow = rounded(finite, kind)
    fits = np.isfinite(narrow)
    share = 0.0
    if whole := math.fsum(finite[fits] ** 2):
        share = math.sqrt(math.fsum((finite[fits] - narrow[fits]) ** 2) / whole)
    largest = float(np.abs(finite).max(initial=0))
    return Loss(values.size, int(np.sum(~fits)), largest > 0 and not np.any(narrow), largest, share)


def verdict(loss, kind):
    return loss.infinite, loss.zero, loss.share > 2 * float(losses.limits_of(kind).eps)


def assert_close(found, expected):
    assert (found.size, found.infinite, found.zero) == (expected.size, expected.infinite, expected.zero)
    assert found.largest == expected.largest
    assert found.share == pytest.approx(expected.share, rel=1e-6, abs=1e-12)


NUMBERS = st.one_of(
    st.floats(width=32),
    st.floats(-70000, 70000, width=32),
    st.floats(-(2.0**-12), 2.0**-12, width=32),
    st.sampled_from([0.0, -0.0, 65504, 65519.996, 65520, -65520, LOWEST, 3.3895314e38]),
    st.sampled_from([1e-12, 5.9604645e-8, 2.9802322e-8, 6.1035156e-5, 1e-40]),
)  # fmt: skip
ARRAYS_OF_NUMBERS = arrays_of.arrays(np.float32, st.integers(0, 20), elements=NUMBERS)
SETTINGS = settings(derandomize=True, database=None, deadline=None, max_examples=300)


class TestLoss:
    @KINDS
    @SETTINGS
    @given(ARRAYS_OF_NUMBERS)
    @example(np.array([np.nan, np.inf, 1e-9], np.float32))
    @example(np.array([6e4, 1e-9], np.float32))
    def test_what_is_lost_is_what_arithmetic_says(self, kind, values):
        parts = [values[:7], values[7:]]
        assert_close(Loss._rounded(parts, values.size, kind), expected_loss(values, kind))

    @KINDS
    @SETTINGS
    @given(ARRAYS_OF_NUMBERS, st.sampled_from([1, 2, 3, 1 << 20]))
    def test_a_look_at_the_moments_gives_the_verdict_that_rounding_gives(self, kind, values, part):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, "PART", part)
            found = Loss.of(values, kind)
        expected = expected_loss(values, kind)
        event("in one look" if found.share == 0 and expected.share > 0 else "rounded")
        assert verdict(found, kind) == verdict(expected, kind)
        assert (found.size, found.largest) == (expected.size, expected.largest)

    @KINDS
    @SETTINGS
    @given(st.integers(1, 9), st.integers(0, 9), st.floats(-3, 3), st.integers(0, 99))
    def test_so_it_does_at_the_smallest_normal_number(self, kind, large, small, power, seed):
        least = float(losses.limits_of(kind).smallest_normal)
        random = np.random.default_rng(seed)
        scale = np.concatenate([np.full(large, 2.0**power), np.full(small, 2.0**-9)])
        values = (random.normal(size=large + small) * least * scale).astype(np.float32)
        assert verdict(Loss.of(values, kind), kind) == verdict(expected_loss(values, kind), kind)

    def test_weights_of_an_usual_size_are_not_rounded(self, monkeypatch):
        monkeypatch.setattr(Loss, "_rounded", lambda *_: pytest.fail("they were"))
        values = np.random.default_rng(0).normal(scale=0.02, size=(64, 64)).astype(np.float32)
        assert Loss.of(values, FP16) == Loss(4096, 0, False, float(np.abs(values).max()), 0.0)

    @pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
    def test_weights_of_other_types_are_judged_by_their_values(self, kind):
        values = np.array([1e-7, 1, 30000], np.float32).astype(kind)
        assert_close(Loss.of(values, BF16), expected_loss(values.astype(np.float32), BF16))
        assert_close(Loss.of(values, FP16), expected_loss(values.astype(np.float32), FP16))

    def test_large_weights_are_read_in_parts(self, monkeypatch):
        sizes = []
        real = np.isfinite
        monkeypatch.setattr(losses, "PART", 10)
        monkeypatch.setattr(np, "isfinite", lambda a: sizes.append(np.size(a)) or real(a))
        values = np.full((5, 7), 1e-6, np.float32)
        values[4, 6] = 1e6
        assert Loss.of(values, FP16).infinite == 1
        assert max(sizes) == 10

    @pytest.mark.parametrize(
        ("values", "words"),
        {
            (1e6, -1e7, 1): "2 of 3 values become infinite (the largest is 1e+07)",
            (1e-9, 0, -2e-9): "all its values become zero (the largest is 2e-09)",
            (1e-6, 3e-6): "fp16 changes it by 0.8% (the largest value is 3e-06)",
        }.items(),
    )
    def test_in_words(self, values, words):
        assert Loss.of(np.array(values, np.float32), FP16).words("fp16") == words

    def test_each_initializer_is_read_once(self, monkeypatch):
        text = "g (float[4] x) => (float[4] y, float[4] z) { a = Mul(x, large)  y = Add(a, large)  z = Mul(x, tiny) }"
        graph = prepared(text).graph
        read = []
        real = type(graph).array
        monkeypatch.setattr(type(graph), "array", lambda self, tensor: read.append(tensor.name) or real(self, tensor))
        losses = Losses(graph)
        safe = Safety(graph, FP16, Evidence(), losses)
        assert all(safe.why(node)[0] for node in graph.nodes())
        assert sorted(read) == ["large", "tiny"]
        assert not any(Safety(graph, BF16, Evidence(), losses).why(node)[0] for node in graph.nodes())  # another type
