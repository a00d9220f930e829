"""Outputs in the types that the user asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import Graph, replace_uses
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import label
from torch2trt_onnx.typecheck import onnx_type


@dataclass
class BindOutputs(Pass):
    """Give an output the type that was asked for, with a Cast from the type that the graph computes it in.

    A graph edit, because TensorRT 11 and TensorRT-RTX infer the types of outputs, and pass over what the model declares.

    Given:  output y: float; y = Relu(x), and float16 asked for y
    Result: output y: float16; v = Relu(x); y = Cast<to=FLOAT16>(v)

    Args:
        types: output name -> ONNX element type.
    """

    types: Mapping[str, int]

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for tensor in graph.ir.outputs:
            to, given = self.types.get(tensor.name), onnx_type(tensor)
            if to is None or to == given:
                continue
            rebind_output(graph, tensor, to)
            yield Change(
                tensor.name, f"made a {label(to)} binding", f"asked for; the graph computes it in {label(given)}"
            )


def rebind_output(graph: Graph, tensor: gs.Variable, to: int) -> None:
    """Give a graph output that a node makes another type, behind a Cast; other readers keep what they read."""
    readers = {id(node) for node in tensor.outputs}
    inner = graph.split_output(tensor, onnx_type(tensor))
    replace_uses(tensor, inner, readers)
    graph.cast_into(graph.ir, inner, tensor, to, tensor.name)
