"""Random graphs through the whole pipeline: same numbers, same bindings, well-typed, valid, and nothing left to do."""

from __future__ import annotations

import numpy as np
import onnx
from graphs import Scene, bindings, outputs
from hypothesis import HealthCheck, given, settings
from random_graphs import models, random_feeds

from torch2trt_onnx import pipeline
from torch2trt_onnx.passes import AnnotatePrecision


@settings(derandomize=True, database=None, deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))
@given(models())
def test_the_pipeline_keeps_what_a_graph_computes(model):
    onnx.checker.check_model(model, full_check=True)
    scene = Scene(model)
    pipeline.run(scene.graph, [])
    before = bindings(scene.graph)
    scene.run(*pipeline.passes({}))
    after = scene.proto()
    for (name, kind, dims), (new_name, new_kind, new_dims) in zip(before, bindings(scene.graph), strict=True):
        assert (name, kind) == (new_name, new_kind)
        # Without the branch that is never taken, more may be known of a shape, and never less.
        assert all(
            new == old or not isinstance(old, int) for old, new in zip(dims or [], new_dims or [], strict=bool(dims))
        )
    assert scene.graph.type_problems() == []
    onnx.checker.check_model(after, full_check=True)
    for seed in range(2):
        feeds = random_feeds(model, seed)
        for a, b in zip(outputs(model, feeds), outputs(after, feeds), strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    # The reasons of AnnotatePrecision tell of Casts that the others have taken away since.
    assert scene.run(*(p for p in pipeline.passes({}) if not isinstance(p, AnnotatePrecision))) == []
