"""The passes together: what is checked around each of them, and what errors say."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Scene, parse
from onnx import TensorProto, helper

from torch2trt_onnx import pipeline
from torch2trt_onnx.errors import GraphError
from torch2trt_onnx.passes import (
    DemoteDouble,
    DropNoopCasts,
    MergeCasts,
    RepairBFloat16,
)

FLOAT, FLOAT16, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
HALVES = np.array([1.5, -2.5], np.float16)


def test_the_pipeline_names_every_ill_typed_node():
    scene = Scene(
        "g (float[2] x) => (float[2] y, float[2] z) { y = Add(x, h)  z = Mul(h, x) }", {"h": HALVES}
    )  # fmt: skip
    with pytest.raises(GraphError, match="ill-typed at 2 nodes") as caught:
        scene.run(*pipeline.passes({}))
    assert "'x' is fp32 and 'h' is fp16" in str(caught.value)
    assert "Mul" in str(caught.value)


def test_a_pass_that_fails_is_named_with_those_before_it():
    class Broken(DropNoopCasts):
        def apply(self, graph):
            yield from super().apply(graph)
            raise ValueError("no such luck")

    scene = Scene("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    with pytest.raises(GraphError, match="the pass Broken failed") as caught:
        scene.run(MergeCasts(), Broken())
    assert "after the passes MergeCasts" in str(caught.value)
    assert "ValueError: no such luck" in str(caught.value)


def test_a_pass_that_breaks_the_types_is_named():
    class Breaks(DropNoopCasts):
        def apply(self, graph):
            yield from RepairBFloat16().apply(graph)
            for node in graph.ir.nodes:
                if node.op == "Cast":
                    node.attrs["to"] = FLOAT16
                    yield from DemoteDouble().apply(graph)
            node = graph.ir.nodes[0]
            from torch2trt_onnx.passes import Change

            yield Change(node.name, "broke it", "for the test")

    scene = Scene("g (int64[2] i, float[2] x) => (float[2] y) { v = Cast<to=1>(i)  y = Add(x, v) }")
    with pytest.raises(GraphError, match="the pass Breaks left an invalid graph"):
        scene.run(DropNoopCasts(), Breaks())


def test_metadata_of_the_author_survives_every_pass():
    model = parse("g (float[2] x) => (float[2] y) { v = Relu(x)  y = Neg(v) }")
    model.graph.node[1].metadata_props.add(key="pkg.torch.onnx.fx_node", value="neg")
    model.graph.node[1].doc_string = "model.py:7"
    helper.set_model_props(model, {"author": "me"})
    scene = Scene(model)
    scene.run(*pipeline.passes({}))
    after = scene.proto()
    assert [(p.key, p.value) for p in after.metadata_props] == [("author", "me")]
    assert after.graph.node[1].doc_string == "model.py:7"
    assert ("pkg.torch.onnx.fx_node", "neg") in [(p.key, p.value) for p in after.graph.node[1].metadata_props]
