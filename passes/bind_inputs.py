"""Bindings in the types that the user asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch2trt_onnx.graph import Graph
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import label
from torch2trt_onnx.typecheck import onnx_type


@dataclass
class BindInputs(Pass):
    """Give an input the type that was asked for, and lead to the type that the graph computes in with a Cast.

    A graph edit, because `ITensor.dtype` is read-only in TensorRT 11 and TensorRT-RTX.

    Given:  input x: float16; y = Relu(x), and float32 asked for x
    Result: input x: float; v = Cast<to=FLOAT16>(x); y = Relu(v)

    Args:
        types: input name -> ONNX element type.
    """

    types: Mapping[str, int]
    leaves_well_typed: ClassVar[bool] = False

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for tensor in graph.ir.inputs:
            to, given = self.types.get(tensor.name), onnx_type(tensor)
            if to is None or to == given:
                continue
            graph.rebind_input(tensor, to)
            yield Change(tensor.name, f"made a {label(to)} binding", f"asked for; the graph computes in {label(given)}")
