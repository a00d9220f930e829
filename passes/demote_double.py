"""fp64 as fp32: TensorRT has no double."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.errors import GraphError
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.typecheck import is_standard, onnx_type

TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "softmax_precision", "stash_type"})
LARGEST = float(np.finfo(np.float32).max)


class DemoteDouble(Pass):
    """Let everything that is fp64 be fp32, and say so: TensorRT would do it silently.

    Given:  w: double; y = Cast(x, to=DOUBLE); z = Mul(y, w)
    Result: w: float;  y = Cast(x, to=FLOAT);  z = Mul(y, w)
    """

    leaves_well_typed: ClassVar[bool] = False

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph.

        Raises:
            GraphError: a BitCast takes an fp64 number apart, or puts one together.
        """
        for node in graph.nodes():
            if node.op == "BitCast" and TensorProto.DOUBLE in map(onnx_type, (*node.inputs, *node.outputs)):
                raise GraphError(
                    "the bits of an fp64 number are not those of an fp32 one", where=f"BitCast {node.name!r}"
                )
        constants: dict[int, gs.Constant] = {}
        for inner in graph.graphs():
            for tensor in (*inner.inputs, *inner.outputs):
                if onnx_type(tensor) != TensorProto.DOUBLE:
                    continue
                if isinstance(tensor, gs.Constant):
                    constants[id(tensor)] = tensor
                else:
                    tensor.dtype = TensorProto.FLOAT
                    if inner is graph.ir:
                        yield Change(tensor.name, "made an fp32 binding", "TensorRT has no fp64", warn=True)
            for node in inner.nodes:
                for key, value in node.attrs.items():
                    if key in TYPE_ATTRIBUTES and value == TensorProto.DOUBLE:
                        node.attrs[key] = TensorProto.FLOAT
                        yield Change(node.name, "computes in fp32", "TensorRT has no fp64", warn=True)
                    elif isinstance(value, gs.Constant) and onnx_type(value) == TensorProto.DOUBLE:
                        yield self._demote(graph, value, node.name)
                for tensor in [] if is_standard(node) else node.outputs:  # no inference will find its type
                    if onnx_type(tensor) == TensorProto.DOUBLE:
                        tensor.dtype = TensorProto.FLOAT
                        yield Change(node.name, "computes in fp32", "TensorRT has no fp64", warn=True)
                for tensor in node.inputs:
                    is_double = isinstance(tensor, gs.Constant) and onnx_type(tensor) == TensorProto.DOUBLE
                    # A Python number that a Cast brings to its type is rounded once, by FoldWeightCasts.
                    if is_double and any(reader.op != "Cast" for reader in tensor.outputs):
                        constants[id(tensor)] = tensor
        for constant in constants.values():
            yield self._demote(graph, constant, constant.name)

    @staticmethod
    def _demote(graph: Graph, constant: gs.Constant, where: str) -> Change:
        values = graph.array(constant)
        lost = int(np.count_nonzero(np.isfinite(values) & (np.abs(values) > LARGEST)))
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        graph.retype(constant, narrow, TensorProto.FLOAT)
        note = f"; {lost} of {values.size} values are beyond its range and become infinite" if lost else ""
        return Change(where, "made fp32", f"TensorRT has no fp64{note}", warn=True)
