"""Normalisation with parameters of another type than its input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.graph import Graph, set_input
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import FLOATS, label
from torch2trt_onnx.typecheck import onnx_type

OPERATORS = frozenset(
    {"LayerNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"}
)


class RepairNormalization(Pass):
    """Compute a normalisation with fp32 parameters on a reduced input in fp32, as PyTorch does, and cast its result back.

    `torch.autocast` leaves LayerNormalization with an fp16 input and an fp32 scale, which is ill-typed and which TensorRT
    refuses; fp32 BatchNormalization on an fp16 input is valid ONNX, and TensorRT silently computes it in fp16.

    Given:  y: float16 = LayerNormalization(x: float16, scale: float, bias: float)
    Result: y = Cast<to=FLOAT16>(LayerNormalization(Cast<to=FLOAT>(x), scale, bias))
    """

    leaves_well_typed: ClassVar[bool] = False

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for inner in graph.graphs():
            for node in list(inner.nodes):
                if node.op not in OPERATORS:
                    continue
                given = onnx_type(node.inputs[0])
                kinds = {onnx_type(t) for t in node.inputs if t.name} & FLOATS
                if len(kinds) < 2 or given not in FLOATS:
                    continue
                for index, tensor in enumerate(node.inputs):
                    if tensor.name and onnx_type(tensor) in FLOATS - {TensorProto.FLOAT}:
                        set_input(node, index, graph.insert_cast(inner, tensor, TensorProto.FLOAT, node.name))
                for index, result in enumerate(list(node.outputs)):
                    if onnx_type(result) in FLOATS - {TensorProto.FLOAT}:
                        self._cast_back(graph, inner, node, index)
                yield Change(
                    node.name,
                    "computes in fp32, with Casts around it",
                    f"its input is {label(given)} and its parameters are not; PyTorch computes that in fp32",
                )

    @staticmethod
    def _cast_back(graph: Graph, inner: gs.Graph, node: gs.Node, index: int) -> None:
        """Let the node make an fp32 tensor, and a Cast make what it made before, under the same name."""
        result = node.outputs[index]
        wide = gs.Variable(graph.fresh_name(f"{result.name}_fp32"), TensorProto.FLOAT, result.shape)
        node.outputs[index] = wide
        graph.cast_into(inner, wide, result, onnx_type(result), node.name)
