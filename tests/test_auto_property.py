"""`policy="auto"` on random graphs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from graphs import Scene, outputs
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from random_graphs import SHAPE, models, random_feeds

from torch2trt_onnx import Input, deciding, pipeline
from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.graph import PREFIX, new_node, producer, set_input, subgraphs
from torch2trt_onnx.passes import EmulateReduced
from torch2trt_onnx.placement import FP16, FP32, MONOTONE, MOVING
from torch2trt_onnx.plan import Asked, PrecisionPlan
from torch2trt_onnx.precision import FLOATS, Precision
from torch2trt_onnx.safety import MATRIX
from torch2trt_onnx.typecheck import compute_type, onnx_type

SETTINGS = settings(
    derandomize=True, database=None, deadline=None, max_examples=100, suppress_health_check=list(HealthCheck)
)
REDUCED = st.sets(st.sampled_from([Precision.FP16, Precision.BF16]), min_size=1)


def decided(model, asked, sample):
    """The scene of a model that is lowered, and of each float node of the source `(node, what it was, what it is to be)`."""
    scene = Scene(model)
    scene.run(*pipeline.repairs({}))
    inputs = [Input(SHAPE, name=t.name, dtype=onnx_type(t)) for t in scene.graph.ir.inputs]
    with tempfile.TemporaryDirectory() as folder:
        request = deciding.Request(asked, inputs, ["8.9"], Path(folder), calibration=[sample])
        decision = deciding.decide(scene.graph, request)
    assert decision.policy == "auto"
    return scene


def told(node, key):
    return node.metadata.get(f"{PREFIX}{key}", "")


def emulated(scene, sample):
    """What a graph computes where each reduced node rounds."""
    copy = Scene(scene.proto())
    copy.graph.infer_types(strict=False)
    for _ in EmulateReduced().apply(copy.graph):
        pass
    copy.graph.tidy()
    return outputs(copy.proto(), sample)


def shaken(model, sample, size, seed):
    """What a model computes where each fp32 tensor is off by a random share, up to a size."""
    random = np.random.default_rng(seed)
    scene = Scene(model)
    scene.run(*pipeline.repairs({}))
    for inner in scene.graph.graphs():
        for node in list(inner.nodes):
            for index, result in enumerate(list(node.outputs)):
                if onnx_type(result) == FP32:
                    made = gs.Variable(scene.graph.fresh_name("made"), FP32, result.shape)
                    node.outputs[index] = made
                    factor = np.array(1 + size * random.uniform(-1, 1), np.float32)
                    share = scene.graph.constant(scene.graph.fresh_name("share"), factor, FP32)
                    inner.nodes.append(new_node("Mul", scene.graph.fresh_name("shake"), {}, [made, share], [result]))
    scene.graph.tidy()
    given = {
        name: array * np.float32(1 + size * random.uniform(-1, 1)) if array.dtype == np.float32 else array
        for name, array in sample.items()
    }
    return emulated(scene, given)


def typed(model, seed):
    """A model whose author rounds to fp16 what some of its nodes read in fp32."""
    random = np.random.default_rng(seed)
    scene = Scene(model)
    scene.run()
    for inner in scene.graph.graphs():
        for node in list(inner.nodes):
            for index, tensor in enumerate(list(node.inputs)):
                if onnx_type(tensor) == FP32 and not subgraphs(node) and random.random() < 0.3:
                    half = scene.graph.insert_cast(inner, tensor, FP16, "half")
                    set_input(node, index, scene.graph.insert_cast(inner, half, FP32, "float"))
    scene.graph.tidy()
    return scene.proto()


def is_rounding(node):
    """Whether a node is a Cast between two floats."""
    kinds = {onnx_type(t) for t in (*node.inputs, *node.outputs)}
    return node.op == "Cast" and len(kinds) == 2 and kinds <= FLOATS


@SETTINGS
@given(models(10), REDUCED, st.booleans(), st.sampled_from(["inherit", "free"]))
def test_any_graph_is_valid_and_as_planned(model, reduced, wide, weightless):
    precisions = frozenset(reduced | ({Precision.FP32} if wide else set()))
    try:
        scene = decided(model, Asked(precisions, policy="auto", weightless=weightless), random_feeds(model, 0))
    except PrecisionError as error:
        event(error.what)
        return
    event(f"{min(sum(told(n, 'origin') == 'auto' for n in scene.graph.nodes()), 4)} lowered")
    scene.run(*pipeline.lowering())
    assert PrecisionPlan.read(scene.graph).departures(scene.graph) == []
    onnx.checker.check_model(scene.proto(), full_check=True)


@SETTINGS
@given(models(10), st.integers(0, 999))
def test_what_the_author_of_any_graph_typed_is_as_he_did(model, seed):
    model = typed(model, seed)
    try:
        scene = decided(
            model, Asked(frozenset({Precision.FP32, Precision.FP16}), policy="auto"), random_feeds(model, 0)
        )
    except PrecisionError as error:
        event(error.what)
        return
    held = 0
    for node in scene.graph.nodes():
        was, is_ = told(node, "authored"), told(node, "precision")
        if was == "fp16" and node.op not in MOVING | MONOTONE:
            assert is_ == "fp16", node
        if was != "fp32" or node.op == "Cast":
            continue
        makers = [producer(t) for t in node.inputs if onnx_type(t) == FP32]
        reads = node.op not in MATRIX and any(m is not None and is_rounding(m) for m in makers)
        rounds = any(0 < sum(map(is_rounding, t.outputs)) < len(t.outputs) for t in node.outputs)
        if reads or rounds:
            held += 1
            assert is_ == "fp32", node
    event(f"{min(held, 4)} nodes that he typed")
    scene.run(*pipeline.lowering())
    assert PrecisionPlan.read(scene.graph).departures(scene.graph) == []


@settings(SETTINGS, max_examples=60)
@given(models(12), st.sampled_from(["fp16", "bf16"]))
def test_any_graph_computes_about_the_same(model, word):
    sample = random_feeds(model, 1)
    reference = Scene(model)
    reference.run(*pipeline.repairs({}))
    if any(compute_type(node) == FP16 for node in reference.graph.nodes()):
        word = "fp16"  # where bf16 is asked for, it would be widened
    expected = emulated(reference, sample)
    if not all(np.isfinite(array).all() for array in expected):
        event("not finite")
        return
    try:
        scene = decided(model, Asked(frozenset({Precision.FP32, Precision.of(word)}), policy="auto"), sample)
    except PrecisionError:
        event("nothing is lowered")
        return
    event(f"something is lowered to {word}")
    scene.run(*pipeline.lowering())
    size = 2.0**-10 if word == "fp16" else 2.0**-7
    moved = [shaken(model, sample, size, seed) for seed in range(4)]
    for index, (found, wanted) in enumerate(zip(emulated(scene, sample), expected, strict=True)):
        assert np.isfinite(found).all()
        spread = max(np.abs(other[index].astype(np.float64) - wanted).max() for other in moved)
        assert np.abs(found.astype(np.float64) - wanted).max() <= 8 * spread + 1e-6
