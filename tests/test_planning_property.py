"""Random graphs in random precisions: valid, well-typed, as planned, the same bindings, and nothing left to do."""

from __future__ import annotations

import numpy as np
import onnx
from graphs import Scene, bindings, outputs
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from random_graphs import models, random_feeds

from torch2trt_onnx import pipeline, planning
from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.passes import AnnotatePrecision, EmulateReduced
from torch2trt_onnx.plan import Asked, PrecisionPlan
from torch2trt_onnx.precision import Precision
from torch2trt_onnx.rules import Rule

SETTINGS = settings(
    derandomize=True, database=None, deadline=None, max_examples=100, suppress_health_check=list(HealthCheck)
)
FLOATS = [Precision.FP32, Precision.FP16, Precision.BF16]
OPERATORS = ["Add", "Mul", "MatMul", "Relu", "Concat", "Cast", "*"]


def rules(precisions, operators=OPERATORS, least=0):
    one = st.builds(Rule, st.sampled_from(precisions), op=st.sampled_from(operators))
    return st.lists(one, min_size=least, max_size=2).map(tuple)


def run(model, asked, *, place=True):
    """The scene of a model after the whole pipeline."""
    scene = Scene(model)
    scene.run(*pipeline.repairs({}))
    planner = planning.decide if place else _decide_without_placing
    planner(scene.graph, asked, {}, ["8.9"])
    scene.run(*pipeline.lowering())
    return scene


def _decide_without_placing(graph, asked, shapes, targets):
    planner = planning._Planner(graph, asked)
    planner.choose()
    planner.write()


def rounded(scene, feeds):
    """The outputs where every reduced node rounds; ONNX Runtime may skip it."""
    copy = Scene(scene.proto())
    copy.graph.infer_types(strict=False)
    for _ in EmulateReduced().apply(copy.graph):
        pass
    copy.graph.tidy()
    return outputs(copy.proto(), feeds)


@SETTINGS
@given(
    models(10),
    st.sets(st.sampled_from(FLOATS), min_size=1).map(frozenset) | st.none(),
    rules(FLOATS),
    st.booleans(),
    st.sampled_from(["inherit", "fp32", "free"]),
)
def test_any_precisions_give_a_valid_graph_as_planned_or_a_reason(model, precisions, told, strict, weightless):
    scene = Scene(model)
    pipeline.run(scene.graph, [])
    before = [(name, kind) for name, kind, _ in bindings(scene.graph)]
    try:
        scene = run(model, Asked(precisions, strict, rules=told, weightless=weightless))
    except PrecisionError as error:
        event(error.what.split(";")[0])
        return
    assert [(name, kind) for name, kind, _ in bindings(scene.graph)] == before
    plan = PrecisionPlan.read(scene.graph)
    assert plan.departures(scene.graph) == []
    onnx.checker.check_model(scene.proto(), full_check=True)
    assert scene.run(*(p for p in pipeline.lowering() if not isinstance(p, AnnotatePrecision))) == []
    if strict and precisions:
        at_borders = {node.precision for node in plan.floats() if node.origin == "border" and node.op == "Cast"}
        rest = {node.precision for node in plan.floats() if node.op != "Cast"}
        assert rest <= {p.value for p in precisions}, at_borders


@SETTINGS
@given(models(16), rules([Precision.FP16], ["Add", "Mul", "Sub", "MatMul"], 2))
def test_placing_the_borders_of_a_narrowing_changes_no_number(model, told):
    asked = Asked(rules=told)
    placed = run(model, asked)
    plain = run(model, asked, place=False)
    for seed in range(2):
        feeds = random_feeds(model, seed)
        for a, b in zip(rounded(placed, feeds), rounded(plain, feeds), strict=True):
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


@SETTINGS
@given(models(10))
def test_without_a_request_the_plan_is_the_source(model):
    scene = run(model, Asked())
    assert all(
        node.authored in ("", node.precision) or node.op == "Cast" for node in PrecisionPlan.read(scene.graph).floats()
    )
