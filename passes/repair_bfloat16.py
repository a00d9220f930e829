"""Casts to COMPLEX128 where BFLOAT16 is meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from onnx import TensorProto

from torch2trt_onnx.graph import Graph
from torch2trt_onnx.passes.base import Change, Pass


class RepairBFloat16(Pass):
    """Let Casts to COMPLEX128 (15) be Casts to BFLOAT16 (16).

    PyTorch's TorchScript exporter writes 15 where bf16 promotion inserts a Cast (`bf16 + fp32 0-d tensor`). ONNX's Cast takes
    no complex type at all, so nothing else can be meant.

    Given:  y = Cast(x, to=15)
    Result: y = Cast(x, to=16)
    """

    leaves_well_typed: ClassVar[bool] = False

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for node in graph.nodes():
            if node.op == "Cast" and node.attrs.get("to") == TensorProto.COMPLEX128:
                node.attrs["to"] = TensorProto.BFLOAT16
                yield Change(node.name, "made a Cast to bf16", "the exporter wrote COMPLEX128 for BFLOAT16")
