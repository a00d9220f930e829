"""The precision of each node, from its weights' types or its tensors'."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import PREFIX, Graph, producer
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import FLOATS, QUANTIZED, label
from torch2trt_onnx.typecheck import compute_type, onnx_type

TRANSPARENT = frozenset(
    {
        "Cast", "Transpose", "Identity", "QuantizeLinear", "DequantizeLinear", "Clip", "Reshape", "Squeeze", "Unsqueeze",
        "Slice", "Concat", "Flatten", "Expand",
    }
)  # fmt: skip
"""Operators that a weight passes through on its way to the node that uses it (measured on 164 exported nodes)."""

QUANTIZABLE = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
"""Operators that TensorRT runs in int8, fp8 or int4 where both operands are dequantized."""

WEIGHTS = FLOATS | frozenset(QUANTIZED)

MOVES = frozenset({"Transpose", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})


class AnnotatePrecision(Pass):
    """Write into each float node's metadata its precision, where that comes from, and why.

    The compute type of a node is the ONNX type of its data input. Its weights are the initializers that are found backwards
    from its inputs, through Casts and operators that move data; this runs before Casts are folded into weights, which loses
    the type that the author gave them. A node without weights has the precision of the tensors that reach it.

    A matrix product or convolution of two dequantized operands is quantized, and its metadata says as what; its precision then is
    the type that it has around the Q/DQ.

    Given:  w: float16; v = Transpose(w); y = MatMul(x: float16, v)
    Result: the same, and MatMul's metadata says precision fp16, origin weights, reason "weight 'w' is fp16"
    """

    keeps_types: ClassVar[bool] = True

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        found: dict[int, tuple[gs.Constant, ...]] = {}
        for node in graph.nodes():
            if node.op in TRANSPARENT:
                # In topological order, so what its inputs are made of is known.
                parts = [_weights(t, found) for t in (node.inputs if node.op == "Concat" else node.inputs[:1])]
                found[id(node.outputs[0])] = tuple(w for part in parts for w in part) if all(parts) else ()
            precision, origin, reason = _judge(node, found)
            words = (("precision", precision), ("origin", origin), ("reason", reason), ("quantized", _quantized(node)))
            new = {f"{PREFIX}{key}": value for key, value in words if value or key != "quantized"}
            if precision and any(node.metadata.get(key) != value for key, value in new.items()):
                node.metadata.update(new)
                yield Change(node.name, f"annotated {precision}", reason)


def _judge(node: gs.Node, found: dict[int, tuple[gs.Constant, ...]]) -> tuple[str, str, str]:
    """`(precision, origin, reason)` of a node; empty words where it computes with no float."""
    kind = compute_type(node)
    if not kind:
        return "", "", ""
    precision = label(kind)
    if node.op == "Cast":
        return precision, "cast", f"Cast from {label(onnx_type(node.inputs[0]))} to {label(onnx_type(node.outputs[0]))}"
    weights = [w for t in node.inputs for w in _weights(t, found)]
    if weights:
        kinds_of = {w.name: label(onnx_type(w)) for w in weights}
        words = ", ".join(f"{name!r} is {kind}" for name, kind in kinds_of.items())
        cast = any(onnx_type(w) != kind and onnx_type(w) not in QUANTIZED for w in weights)
        return precision, "weights", f"weight {words}" + (f", and the author casts to {precision}" if cast else "")
    data = next((t for t in node.inputs if onnx_type(t) == kind), None)
    if data is not None:
        return precision, "tensors", f"input {data.name!r} is {precision}"
    made = next(t for t in node.outputs if onnx_type(t) == kind)
    return precision, "tensors", f"output {made.name!r} is {precision}"


def _quantized(node: gs.Node) -> str:
    """The precision of the integers that a node multiplies, or ''."""
    if node.op not in QUANTIZABLE:
        return ""
    kinds = [_dequantized(t) for t in node.inputs[:2]]
    return QUANTIZED[kinds[0]].value if all(k in QUANTIZED for k in kinds) else ""


def _dequantized(tensor: gs.Tensor) -> int:
    """The type of what a tensor is dequantized from, moved about or not; 0 where it is not."""
    maker = producer(tensor)
    while maker is not None and maker.op in MOVES:
        maker = producer(maker.inputs[0])
    return onnx_type(maker.inputs[0]) if maker is not None and maker.op == "DequantizeLinear" else 0


def _weights(tensor: gs.Tensor, found: dict[int, tuple[gs.Constant, ...]]) -> tuple[gs.Constant, ...]:
    """The float or quantized initializers of more than one value that a tensor is made of, and of nothing else but constants."""
    if isinstance(tensor, gs.Constant):
        return (tensor,) if math.prod(tensor.shape) > 1 and onnx_type(tensor) in WEIGHTS else ()
    return found.get(id(tensor), ())
