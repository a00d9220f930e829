"""Widening Casts in front of recurrent layers, which TensorRT-RTX cannot build."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import PREFIX, Graph, new_node, producer, set_input
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import ElementType, is_lossless, label
from torch2trt_onnx.typecheck import onnx_type

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
WHY = "TensorRT-RTX cannot build a recurrent layer behind a widening Cast"


class GuardRecurrentCasts(Pass):
    """Subtract zero, which is exact for every number, between a widening Cast and a recurrent layer that reads it.

    TensorRT-RTX 1.7.1 moves the Cast into the loop over the time steps, and then fails with "Mismatched number of elements in
    reshape op". It takes x * 1 and Reshape out again, so they are no guard; x - 0 it keeps.

    Given:  v = Cast<to=FLOAT>(x: float16); y = LSTM(v, w, r)
    Result: v = Cast<to=FLOAT>(x: float16); u = Sub(v, 0); y = LSTM(u, w, r)
    """

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for inner in graph.graphs():
            for node in list(inner.nodes):
                if node.op in RECURRENT and _is_widened(node.inputs[0]):
                    self._guard(graph, inner, node)
                    yield Change(node.name, "reads its input minus 0", WHY)

    @staticmethod
    def _guard(graph: Graph, inner: gs.Graph, node: gs.Node) -> None:
        data = node.inputs[0]
        kind = ElementType.of(onnx_type(data))
        name = graph.fresh_name(f"{node.name}/Sub")
        zero = graph.constant(f"{name}_zero", np.zeros((), kind.numpy), kind.onnx)
        guarded = gs.Variable(graph.fresh_name(f"{name}_output"), kind.onnx, data.shape)
        guard = new_node("Sub", name, {}, [data, zero], [guarded])
        said = {"precision": label(kind.onnx), "origin": "tensors", "reason": WHY}
        guard.metadata = {**node.metadata, **{f"{PREFIX}{key}": value for key, value in said.items()}}
        inner.nodes.append(guard)
        set_input(node, 0, guarded)


def _is_widened(tensor: gs.Tensor) -> bool:
    """Whether a tensor is the result of a widening Cast, moved about or not."""
    maker = producer(tensor)
    while maker is not None and maker.op in MOVES:
        maker = producer(maker.inputs[0])
    if maker is None or maker.op != "Cast":
        return False
    return is_lossless(onnx_type(maker.inputs[0]), maker.attrs["to"])
