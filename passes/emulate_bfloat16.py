"""bf16 arithmetic said with fp32 operators, for a runtime that has no bf16 kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.graph import Graph, set_input, subgraphs
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.typecheck import onnx_type

BF16, FP32 = TensorProto.BFLOAT16, TensorProto.FLOAT


class EmulateBFloat16(Pass):
    """Compute each bf16 node in fp32 and round its results to bf16, which is what PyTorch's CPU kernels do.

    Not part of a conversion: it makes a copy of the final graph that ONNX Runtime's CPU provider can run, with fp32
    bindings in the place of bf16 ones, so that NumPy can feed it.

    Given:  y: bfloat16 = MatMul(x: bfloat16, w: bfloat16)
    Result: y = Cast<to=BFLOAT16>(MatMul(Cast<to=FLOAT>(x), Cast<to=FLOAT>(w)))
    """

    leaves_well_typed: ClassVar[bool] = False

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for inner in graph.graphs():
            wide: dict[int, gs.Tensor] = {}
            for node in list(inner.nodes):
                if node.op == "Cast" or subgraphs(node):
                    continue
                touched = False
                for index, tensor in enumerate(node.inputs):
                    if onnx_type(tensor) == BF16:
                        if id(tensor) not in wide:
                            wide[id(tensor)] = graph.insert_cast(inner, tensor, FP32, node.name)
                        set_input(node, index, wide[id(tensor)])
                        touched = True
                for index, result in enumerate(list(node.outputs)):
                    if touched and onnx_type(result) == BF16:
                        made = gs.Variable(graph.fresh_name(f"{result.name}_fp32"), FP32, result.shape)
                        node.outputs[index] = made
                        graph.cast_into(inner, made, result, BF16, node.name)
                if touched:
                    yield Change(node.name, "computes in fp32, rounded to bf16", "ONNX Runtime has no bf16 kernel")
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
