"""Casts of weights, moved into the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import PREFIX, Graph, replace_uses
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import FLOATS, ElementType, label
from torch2trt_onnx.typecheck import onnx_type

TYPES = FLOATS | {ElementType.of(name).onnx for name in ("float64", "int64", "int32", "int16", "int8", "uint8", "bool")}
"""Types that NumPy casts between as ONNX does. fp8 is not among them: ONNX saturates where NumPy makes NaNs."""


class FoldWeightCasts(Pass):
    """Store a weight in the type that a Cast gives it, rounded as PyTorch rounds (to nearest, ties to even).

    Given:  w: float; v = Cast<to=FLOAT16>(w); y = MatMul(x, v)
    Result: y = MatMul(x, v), with the initializer v: float16
    """

    keeps_types: ClassVar[bool] = True

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        stored: dict[tuple[int, int], tuple[gs.Constant, str]] = {}  # (weight, type) -> the result, and what it lost
        for inner in graph.graphs():
            outputs = {id(t) for t in inner.outputs}
            for node in inner.nodes:
                if node.op != "Cast" or not isinstance(node.inputs[0], gs.Constant):
                    continue
                source, result = node.inputs[0], node.outputs[0]
                given, to = onnx_type(source), node.attrs["to"]
                # A Cast to the same type is for DropNoopCasts.
                if id(result) in outputs or not result.outputs or not {given, to} <= TYPES or given == to:
                    continue
                if (id(source), to) not in stored:
                    stored[id(source), to] = self._store(graph, source, given, to)
                constant, lost = stored[id(source), to]
                replace_uses(result, constant)
                # By a Cast of the author's what becomes zero does so in PyTorch as well; infinities end in NaNs.
                ours = node.metadata.get(f"{PREFIX}origin") == "border"
                warn = "infinite" in lost or (ours and "no other" in lost)
                yield Change(
                    node.name,
                    f"stored {source.name!r} as {label(to)} {constant.name!r}",
                    lost or "the Cast of a weight",
                    warn,
                )

    @staticmethod
    def _store(graph: Graph, source: gs.Constant, given: int, to: int) -> tuple[gs.Constant, str]:
        values = graph.array(source)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(onnx.helper.tensor_dtype_to_np_dtype(to))
        lost = range_loss(values, cast) if to in FLOATS and given in (*FLOATS, onnx.TensorProto.DOUBLE) else ""
        return graph.constant(f"{source.name}_{label(to)}", cast, to, of=source), lost


def range_loss(before: np.ndarray, after: np.ndarray) -> str:
    """How many values a narrower type turned into infinities or zeros, in words; '' where none.

    Args:
        before: the values, of any shape and float type.
        after: the same, in the narrower type.
    """
    magnitude, infinity = _magnitude(after)
    over = under = 0
    if magnitude.size and not magnitude.max() < infinity:  # where there are NaNs, their maximum may be one
        over = int(np.count_nonzero(np.isfinite(before[magnitude == infinity])))
    zeros = magnitude == 0
    if zeros.any():
        under = int(np.count_nonzero(before[zeros]))
    alone = ", and no other than zeros are left" if under and zeros.all() else ""
    words = [f"{over} become infinite"] * bool(over) + [f"{under} become zero{alone}"] * bool(under)
    return f"of {before.size} values {' and '.join(words)}" if words else ""


def _magnitude(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Absolute values, and what stands for infinity among them; NaN is above it, or compares with nothing.

    Of 16-bit floats their bits, which have the same order: NumPy takes ten times as long over the floats themselves.
    """
    if values.dtype.itemsize > 2:
        return np.abs(values), math.inf
    return values.view(np.uint16) & 0x7FFF, int(np.array(math.inf, values.dtype).view(np.uint16))
