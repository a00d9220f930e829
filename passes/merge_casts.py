"""Chains of Casts whose first step loses nothing."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import TensorProto

from torch2trt_onnx.graph import Graph, producer, set_input
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import FLOATS, is_lossless, label
from torch2trt_onnx.typecheck import onnx_type


class MergeCasts(Pass):
    """Let a Cast of a Cast read the first one's input, where that first Cast loses nothing.

    fp16 -> fp32 -> fp16 is exact and becomes a no-op; fp32 -> fp16 -> fp32 rounds and stays.

    Given:  y = Cast<to=FLOAT>(x: float16); z = Cast<to=BFLOAT16>(y)
    Result: z = Cast<to=BFLOAT16>(x)
    """

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for node in graph.nodes():
            if node.op != "Cast":
                continue
            inner = producer(node.inputs[0])
            if inner is None or inner.op != "Cast":
                continue
            source, middle, to = onnx_type(inner.inputs[0]), inner.attrs["to"], node.attrs["to"]
            # Integers that do not fit wrap around, and floats that do not fit become anything.
            fits = (
                is_lossless(source, to) or source in FLOATS or middle not in FLOATS or to in (*FLOATS, TensorProto.BOOL)
            )
            if source and is_lossless(source, middle) and fits:
                set_input(node, 0, inner.inputs[0])
                yield Change(
                    node.name, f"reads what {inner.name!r} reads", f"{label(source)} to {label(middle)} is exact"
                )
