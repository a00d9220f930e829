"""Casts to the type that the tensor already has."""

from __future__ import annotations

from collections.abc import Iterator

from torch2trt_onnx.graph import Graph, bypass
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import label
from torch2trt_onnx.typecheck import onnx_type


class DropNoopCasts(Pass):
    """Drop Casts to the type that the tensor already has.

    Given:  y = Cast<to=FLOAT16>(x: float16); z = Relu(y)
    Result: z = Relu(x)
    """

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for inner in graph.graphs():
            for node in inner.nodes:
                if node.op == "Cast" and node.attrs["to"] == onnx_type(node.inputs[0]) and bypass(inner, node):
                    yield Change(node.name, "dropped", f"its input is {label(node.attrs['to'])} already")
