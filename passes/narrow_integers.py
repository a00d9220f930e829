"""int64 bindings as int32, for a TensorRT that has no int64."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.errors import GraphError
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.passes.bind_outputs import rebind_output
from torch2trt_onnx.typecheck import onnx_type

LOW, HIGH = np.iinfo(np.int32).min, np.iinfo(np.int32).max
BOUNDS = frozenset({"Slice"})
"""Operators that take "to the end" as the largest int64: its int32 neighbour means the same."""


@dataclass
class NarrowIntegers(Pass):
    """Let int64 inputs and outputs be int32, and refuse what int32 cannot hold.

    TensorRT before 10 computes int64 in int32: its parser clamps the weights. So what the bindings say must be int32, and an
    initializer beyond its range would silently be another number.

    Given:  input i: int64; output y: int64; y = Add(i, i)
    Result: input i: int32; output y: int32; y = Cast<to=INT32>(Add(Cast<to=INT64>(i), Cast<to=INT64>(i)))

    Args:
        asked: the outputs whose type the user says: `BindOutputs` has them.
    """

    asked: Collection[str] = ()

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph.

        Raises:
            GraphError: initializers hold numbers beyond int32; it names them and who reads them.
        """
        beyond = list(_beyond(graph))
        if beyond:
            raise GraphError(
                "this TensorRT has no int64, and int32 cannot hold what the model has",
                why="\n       ".join(beyond),
                fix="use smaller numbers, floats, or TensorRT 10 and later",
            )
        why = "this TensorRT has no int64"
        for tensor in graph.ir.inputs:
            if onnx_type(tensor) == TensorProto.INT64:
                graph.rebind_input(tensor, TensorProto.INT32)
                yield Change(tensor.name, "made an int32 binding", why, warn=True)
        for tensor in graph.ir.outputs:
            if onnx_type(tensor) == TensorProto.INT64 and tensor.name not in self.asked:
                rebind_output(graph, tensor, TensorProto.INT32)
                yield Change(tensor.name, "made an int32 binding", why, warn=True)


def _beyond(graph: Graph) -> Iterator[str]:
    seen: set[int] = set()
    for node in graph.nodes():
        for tensor in node.inputs:
            if not isinstance(tensor, gs.Constant) or id(tensor) in seen or onnx_type(tensor) != TensorProto.INT64:
                continue
            if node.op in BOUNDS:
                continue
            seen.add(id(tensor))
            values = np.asarray(graph.array(tensor), np.int64)
            wrong = values[(values < LOW) | (values > HIGH)]
            if wrong.size:
                yield f"{tensor.name!r} has {wrong.size} such values (one is {wrong.flat[0]}), read by {node.op} {node.name!r}"
