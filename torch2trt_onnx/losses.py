"""What initializers lose in a narrower type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import Graph, producer
from torch2trt_onnx.passes.annotate_precision import TRANSPARENT
from torch2trt_onnx.placement import cast
from torch2trt_onnx.precision import FLOATS, ElementType
from torch2trt_onnx.typecheck import onnx_type


def limits_of(to: int) -> Any:
    """What `numpy.finfo` says of an ONNX type."""
    return ml_dtypes.finfo(ElementType.of(to).numpy)  # type: ignore[no-untyped-call]


def constants_of(node: gs.Node) -> Iterator[gs.Constant]:
    """The float initializers that a node's inputs are made of, and of nothing else but constants; no bounds of a Clip.

    A bound that becomes infinite is none, which it was before.
    """
    for tensor in node.inputs:
        yield from read_by(node, tensor)


def read_by(node: gs.Node, tensor: gs.Tensor) -> Iterator[gs.Constant]:
    """Those of one of its inputs."""
    return _constants(tensor) if node.op != "Clip" or tensor is node.inputs[0] else iter(())


def _constants(tensor: gs.Tensor) -> Iterator[gs.Constant]:
    waiting, found = [tensor], []
    while waiting:
        tensor = waiting.pop()
        if isinstance(tensor, gs.Constant):
            if onnx_type(tensor) in FLOATS:
                found.append(tensor)
            continue
        maker = producer(tensor)
        if maker is None or maker.op not in TRANSPARENT or maker.op == "DequantizeLinear":
            return
        waiting += maker.inputs if maker.op == "Concat" else maker.inputs[:1]
    yield from found


PART = 1 << 20
"""How many values are looked at at once."""


@dataclass(frozen=True)
class Loss:
    """What values lose in a narrower type.

    Args:
        size: how many there are.
        infinite: how many become infinite.
        zero: whether all that are not zero become it.
        largest: of the finite ones, by magnitude.
        share: the norm of what is lost over the norm of the values, those that become infinite left out; 0 where it is rounding.
    """

    size: int
    infinite: int
    zero: bool
    largest: float
    share: float

    @classmethod
    def of(cls, values: np.ndarray, to: int) -> Loss:
        """Of some values; read in parts, so that large weights are never copied whole.

        Where all are in range, and their root mean square is a normal number, the least of which is 16 times the largest rounding error
        of those below it, rounding changes the norm by less than `InitializerRange` asks; then the values need not be rounded.
        """
        flat, limits = values.reshape(-1), limits_of(to)
        parts = [flat[start : start + PART] for start in range(0, flat.size, PART)]
        if values.dtype == np.float32:
            largest = max((max(float(part.max()), -float(part.min())) for part in parts), default=0.0)
            with np.errstate(over="ignore"):  # then it is infinite, and so large values there are
                mean = sum(float(np.dot(part, part)) for part in parts) / max(flat.size, 1)
            if largest <= float(limits.max) and mean > float(limits.smallest_normal) ** 2:  # NaN is neither
                return cls(flat.size, 0, False, largest, 0.0)
        return cls._rounded(parts, flat.size, to)

    @classmethod
    def _rounded(cls, parts: Sequence[np.ndarray], size: int, to: int) -> Loss:
        infinite, largest, kept, lost, whole = 0, 0.0, 0, 0.0, 0.0
        for part in parts:
            finite = part[np.isfinite(part)].astype(np.float32)
            narrow = cast(finite, to).astype(np.float32)
            fits = np.isfinite(narrow)
            infinite += finite.size - int(np.count_nonzero(fits))
            kept += int(np.count_nonzero(narrow))
            largest = max(largest, float(np.abs(finite).max(initial=0.0)))
            finite, narrow = finite[fits], narrow[fits]
            lost += float(np.square(finite - narrow, dtype=np.float64).sum())
            whole += float(np.square(finite, dtype=np.float64).sum())
        return cls(size, infinite, largest > 0 and not kept, largest, math.sqrt(lost / whole) if whole else 0.0)

    def words(self, name: str) -> str:
        """In words."""
        if self.infinite:
            return f"{self.infinite} of {self.size} values become infinite (the largest is {self.largest:g})"
        if self.zero:
            return f"all its values become zero (the largest is {self.largest:g})"
        return f"{name} changes it by {self.share:.1%} (the largest value is {self.largest:g})"


class Losses:
    """What the initializers of a graph lose; each is read once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._found: dict[tuple[int, int], Loss] = {}

    def of(self, constant: gs.Constant, to: int) -> Loss:
        """What one loses in a type."""
        key = id(constant), to
        if key not in self._found:
            self._found[key] = Loss.of(self._graph.array(constant), to)
        return self._found[key]
