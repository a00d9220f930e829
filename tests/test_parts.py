"""A graph in parts gives what the whole gives."""

from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import Scene, parse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import models, random_feeds

from torch2trt_onnx import parts, pipeline
from torch2trt_onnx.ranges import measure

CHAIN = "g (float[2,3] x) => (float[2,3] y, float[2,3] b) { a = Neg(x)  b = Exp(a)  c = Add(a, b)  d = Relu(c)  y = Mul(d, x) }"


def run(models, feeds):
    """The outputs of models that run one after another, each on what is there by then."""
    known = dict(feeds)
    for model in models:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        known |= zip(names, session.run(names, {i.name: known[i.name] for i in session.get_inputs()}), strict=True)
    return known


def test_each_part_takes_what_earlier_ones_hand_over():
    model = onnx.shape_inference.infer_shapes(parse(CHAIN))
    found = parts.split(model, 2)
    assert [[n.op_type for n in part.model.graph.node] for part in found] == [["Neg", "Exp"], ["Add", "Relu"], ["Mul"]]
    assert [part.hands for part in found] == [("a", "b"), ("d",), ()]
    assert [[i.name for i in part.model.graph.input] for part in found] == [["x"], ["a", "b"], ["d", "x"]]
    for part in found:
        onnx.checker.check_model(part.model, full_check=True)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    whole, split = run([model], {"x": x}), run([part.model for part in found], {"x": x})
    np.testing.assert_array_equal(split["y"], whole["y"])
    np.testing.assert_array_equal(split["b"], whole["b"])


def test_a_small_model_is_the_one_part():
    model = parse(CHAIN)
    assert [part.model for part in parts.split(model, 5)] == [model]


def test_what_has_no_type_is_not_handed_over():
    """ONNX Runtime takes no input without one; shapes were not inferred here."""
    assert len(parts.split(parse(CHAIN), 2)) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=models(), size=st.integers(1, 4))
def test_ranges_are_the_same_in_parts(model, size):
    """Ifs, Loops and fp16 nodes included."""
    scene = Scene(model)
    pipeline.run(scene.graph, [])
    samples = [random_feeds(model, seed) for seed in range(2)]
    whole = measure(scene.graph, samples)
    with patch.object(parts, "LARGEST", size):
        found = measure(scene.graph, samples)
    assert found == whole


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_is_not_finite_is_found_in_the_part_where_it_appears(size):
    scene = Scene(
        "g (float[2,3] x) => (float[2,3] y) { a = Mul(x, x)  b = Exp(a)  c = Relu(b)  d = Neg(c)  y = Identity(d) }"
    )
    scene.graph.infer_types(strict=False)
    x = np.array([[1, 2, 3], [4, 5, 100]], np.float32)
    with patch.object(parts, "LARGEST", size):
        found = measure(scene.graph, [{"x": x}, {"x": x / 2}])
    assert (found["a"].nonfinite, found["b"].nonfinite, found["y"].nonfinite) == (0, 2, 2)
    assert found["a"].high == 1e4
