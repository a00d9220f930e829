"""Reduced-precision arithmetic said with fp32 operators, for a runtime that lacks the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.graph import Graph, replace_uses, subgraphs
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.typecheck import onnx_type

FP16, BF16, FP32 = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT

MOVES = frozenset(
    {
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Identity",
        "Slice",
        "Gather",
        "Concat",
        "Split",
        "Shape",
    }
)
"""Operators that ONNX Runtime's CPU provider runs on fp16 as it is."""


class EmulateReduced(Pass):
    """Compute each fp16 and bf16 node in fp32 and round its results, which is what PyTorch's CPU kernels do.

    Not part of a conversion: it makes a copy of the final graph for ONNX Runtime's CPU provider, which has no bf16 kernels, runs
    neighbouring fp16 nodes in fp32 without the rounding between them, and takes a time quadratic in the fp16 nodes to find
    them out. bf16 bindings become fp32 ones, so that NumPy can feed them.

    Given:  y: float16 = MatMul(x: float16, w: float16)
    Result: y = Cast<to=FLOAT16>(MatMul(Cast<to=FLOAT>(x), Cast<to=FLOAT>(w)))
    """

    leaves_well_typed: ClassVar[bool] = False

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for inner in graph.graphs():
            nodes = [node for node in inner.nodes if computes_reduced(node)]
            readers = {id(node) for node in nodes}
            for tensor in {id(t): t for node in nodes for t in node.inputs if _is_reduced(t)}.values():
                replace_uses(tensor, graph.insert_cast(inner, tensor, FP32, tensor.name), readers)
            for node in nodes:
                for index, result in enumerate(list(node.outputs)):
                    if _is_reduced(result):
                        made = gs.Variable(graph.fresh_name(f"{result.name}_fp32"), FP32, result.shape)
                        node.outputs[index] = made
                        graph.cast_into(inner, made, result, onnx_type(result), node.name)
                yield Change(
                    node.name, "computes in fp32, rounded", "ONNX Runtime has no kernel that rounds as PyTorch does"
                )
        yield from self._widen_bindings(graph)

    @staticmethod
    def _widen_bindings(graph: Graph) -> Iterator[Change]:
        for tensor in graph.ir.inputs:
            if onnx_type(tensor) == BF16:
                graph.rebind_input(tensor, FP32)
                yield Change(tensor.name, "made an fp32 binding", "NumPy has no bf16")
        for index, tensor in enumerate(graph.ir.outputs):
            if onnx_type(tensor) == BF16:
                graph.ir.outputs[index] = graph.insert_cast(graph.ir, tensor, FP32, tensor.name)
                yield Change(tensor.name, "made an fp32 binding", "NumPy has no bf16")


def computes_reduced(node: gs.Node) -> bool:
    """Whether a node reads fp16 or bf16, and ONNX Runtime's CPU provider does not compute that as PyTorch does."""
    if node.op == "Cast" or subgraphs(node) or any(_is_sequence(t) for t in (*node.inputs, *node.outputs)):
        return False
    kinds = {onnx_type(t) for t in node.inputs}
    return BF16 in kinds or (FP16 in kinds and node.op not in MOVES)


def needs_emulation(graph: Graph) -> bool:
    """Whether ONNX Runtime's CPU provider and NumPy cannot run a graph as PyTorch does."""
    bound = (*graph.ir.inputs, *graph.ir.outputs)
    return any(onnx_type(t) == BF16 for t in bound) or any(map(computes_reduced, graph.nodes()))


def _is_sequence(tensor: gs.Tensor) -> bool:
    return getattr(tensor, "type", "tensor_type") != "tensor_type"


def _is_reduced(tensor: gs.Tensor) -> bool:
    return onnx_type(tensor) in (FP16, BF16)
