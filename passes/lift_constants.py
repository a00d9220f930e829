"""Constant nodes as initializers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.graph import Graph, replace_uses
from torch2trt_onnx.passes.base import Change, Pass


class LiftConstants(Pass):
    """Make an initializer of each Constant node, and let the readers of an Identity of one read it itself.

    Weights are traced back to initializers afterwards; frozen and scripted modules hold theirs in Constant nodes, and the
    exporter joins equal weights with Identity nodes. A Constant that is a graph output stays: outputs need a producer.

    Given:  w = Constant<value = ...>(); v = Identity(w); y = Mul(x, v)
    Result: y = Mul(x, w), with the initializer w
    """

    leaves_well_typed: ClassVar[bool] = False
    keeps_types: ClassVar[bool] = True

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for inner in graph.graphs():
            outputs = {id(t) for t in inner.outputs}
            for node in inner.nodes:
                if node.op == "Constant":
                    constant = _constant(graph, node)
                elif node.op == "Identity" and isinstance(node.inputs[0], gs.Constant):
                    constant = node.inputs[0]
                else:
                    continue
                result = node.outputs[0]
                if constant is None or id(result) in outputs or not result.outputs:
                    continue
                replace_uses(result, constant)
                yield Change(node.name, "made an initializer", "weights are traced back to initializers")


def _constant(graph: Graph, node: gs.Node) -> gs.Constant | None:
    """The value of a Constant node under the name of its output; None for strings."""
    name = node.outputs[0].name
    for key, value in node.attrs.items():
        if key == "value":
            return gs.Constant(name, value._values)
        if key in ("value_float", "value_floats"):
            return _small(graph, name, np.asarray(value, np.float32), TensorProto.FLOAT)
        if key in ("value_int", "value_ints"):
            return _small(graph, name, np.asarray(value, np.int64), TensorProto.INT64)
    return None


def _small(graph: Graph, name: str, values: np.ndarray, onnx_type: int) -> gs.Constant:
    return gs.Constant(name, gs.ir.tensor.LazyValues(graph.weights.put_array(name, values, onnx_type)))
