"""The pass GuardRecurrentCasts: graphs before and after it."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Scene, assert_rewrites, build, parse

from torch2trt_onnx import convert
from torch2trt_onnx.errors import BuildError
from torch2trt_onnx.passes import GuardRecurrentCasts


def recurrent(operator, gates, data):
    """A recurrent layer that reads `v`, and its weights."""
    random = np.random.default_rng(0)
    arrays = {"w": random.normal(size=(1, gates * 3, 4)), "r": random.normal(size=(1, gates * 3, 3)), "zero": 0.0}
    text = f"g (float16[5,2,4] h) => (float[5,1,2,3] y) {{ {data}  y = {operator}<hidden_size = 3>(v, w, r) }}"
    return text, {name: np.asarray(values, np.float32) for name, values in arrays.items()}


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("moves", ["u = Cast<to=1>(h)", "c = Cast<to=1>(h)  u = Identity(c)"])
def test_guard_recurrent_casts_subtracts_zero_behind_a_widening_cast_moved_or_not(operator, gates, moves):
    before, arrays = recurrent(operator, gates, moves)
    after, _ = recurrent(operator, gates, f"{moves}  v = Sub(u, zero)")
    assert_rewrites(before.replace("(v, w, r)", "(u, w, r)"), after, [GuardRecurrentCasts()], arrays=arrays)


@pytest.mark.parametrize("data", ["c = Cast<to=1>(h)  v = Relu(c)", "c = Relu(h)  d = Cast<to=1>(c)  v = Exp(d)"])
def test_guard_recurrent_casts_leaves_other_inputs_alone(data):
    text, arrays = recurrent("LSTM", 4, data)
    assert_rewrites(text, text, [GuardRecurrentCasts()], arrays=arrays)


def test_recurrent_layers_behind_a_widening_cast_build_with_the_guard_and_do_not_without_it():
    """Where the second half fails, TensorRT-RTX has mended its bug, and the pass can go."""
    text, arrays = recurrent("LSTM", 4, "v = Cast<to=1>(h)")
    model = parse(text, {name: values for name, values in arrays.items() if name != "zero"})
    assert convert(model, None, backend="rtx").report.comparison.ok
    with pytest.raises(BuildError, match="Mismatched number of elements"):
        build(Scene(model))
