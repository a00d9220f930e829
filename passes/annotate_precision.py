"""The precision of each node, from its weights' types or its tensors'."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import PREFIX, Graph
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import FLOATS, label
from torch2trt_onnx.typecheck import onnx_type

TRANSPARENT = frozenset(
    {
        "Cast", "Transpose", "Identity", "QuantizeLinear", "DequantizeLinear", "Clip", "Reshape", "Squeeze", "Unsqueeze",
        "Slice", "Concat", "Flatten", "Expand",
    }
)  # fmt: skip
"""Operators that a weight passes through on its way to the node that uses it (measured on 164 exported nodes)."""

SHAPE_ONLY = frozenset({"Shape", "Size"})


class AnnotatePrecision(Pass):
    """Write into each float node's metadata its precision, where that comes from, and why.

    The compute type of a node is the ONNX type of its data input. Its weights are the initializers that are found backwards
    from its inputs, through Casts and operators that move data; this runs before Casts are folded into weights, which loses
    the type that the author gave them. A node without weights has the precision of the tensors that reach it.

    Given:  w: float16; v = Transpose(w); y = MatMul(x: float16, v)
    Result: the same, and MatMul's metadata says precision fp16, origin weights, reason "weight 'w' is fp16"
    """

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        found: dict[int, tuple[gs.Constant, ...]] = {}
        for node in graph.nodes():
            if node.op in TRANSPARENT:
                # In topological order, so what its inputs are made of is known.
                parts = [_weights(t, found) for t in (node.inputs if node.op == "Concat" else node.inputs[:1])]
                found[id(node.outputs[0])] = tuple(w for part in parts for w in part) if all(parts) else ()
            precision, origin, reason = _judge(node, found)
            new = {
                f"{PREFIX}{key}": value
                for key, value in (("precision", precision), ("origin", origin), ("reason", reason))
            }
            if precision and any(node.metadata.get(key) != value for key, value in new.items()):
                node.metadata.update(new)
                yield Change(node.name, f"annotated {precision}", reason)


def _judge(node: gs.Node, found: dict[int, tuple[gs.Constant, ...]]) -> tuple[str, str, str]:
    """`(precision, origin, reason)` of a node; empty words where it computes with no float."""
    data = next((t for t in node.inputs if onnx_type(t) in FLOATS), None)
    if node.op == "Cast":
        kinds = [onnx_type(node.outputs[0]), onnx_type(node.inputs[0])]
        kind = next((k for k in kinds if k in FLOATS), 0)
        return (label(kind), "cast", f"Cast from {label(kinds[1])} to {label(kinds[0])}") if kind else ("", "", "")
    if node.op in SHAPE_ONLY:
        return "", "", ""
    if data is None:
        made = next((t for t in node.outputs if onnx_type(t) in FLOATS), None)
        if made is None:
            return "", "", ""
        return label(onnx_type(made)), "tensors", f"output {made.name!r} is {label(onnx_type(made))}"
    precision = label(onnx_type(data))
    weights = [w for t in node.inputs for w in _weights(t, found)]
    if not weights:
        return precision, "tensors", f"input {data.name!r} is {precision}"
    kinds_of = {w.name: label(onnx_type(w)) for w in weights}
    words = ", ".join(f"{name!r} is {kind}" for name, kind in kinds_of.items())
    cast = any(kind != precision for kind in kinds_of.values())
    return precision, "weights", f"weight {words}" + (f", and the author casts to {precision}" if cast else "")


def _weights(tensor: gs.Tensor, found: dict[int, tuple[gs.Constant, ...]]) -> tuple[gs.Constant, ...]:
    """The float initializers of more than one value that a tensor is made of, and of nothing else but constants."""
    if isinstance(tensor, gs.Constant):
        return (tensor,) if math.prod(tensor.shape) > 1 and onnx_type(tensor) in FLOATS else ()
    return found.get(id(tensor), ())
