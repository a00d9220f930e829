"""Which values each tensor has on some data: measured in ONNX Runtime on the CPU, one sample at a time."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from torch2trt_onnx.errors import CalibrationError
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.passes import MeasureRanges
from torch2trt_onnx.placement import LARGEST_READ, inner_first
from torch2trt_onnx.precision import FLOATS, ElementType
from torch2trt_onnx.safety import BOUNDED
from torch2trt_onnx.sessions import Piece, Sample, pieces, run
from torch2trt_onnx.typecheck import onnx_type

COMBINE = {"Min": np.minimum, "Max": np.maximum, "Add": np.add}
EXACT_OPSET = 9
"""The first opset whose operators can tell finite elements from others."""


@dataclass(frozen=True)
class Range:
    """What the elements of a tensor are, in all samples together.

    Args:
        low, high: the lowest and the highest finite value; 0 where nothing is finite.
        nonfinite: how many elements are infinite or NaN; from 2^24 in one run on rounded to fp32.
        elements: how many there are.
    """

    low: float
    high: float
    nonfinite: int
    elements: int

    @property
    def largest(self) -> float:
        """The largest finite absolute value."""
        return max(abs(self.low), abs(self.high))


def measure(graph: Graph, samples: Iterable[Sample], tensors: Container[str] | None = None) -> dict[str, Range]:
    """The range of each float tensor that has elements: inputs, what nodes make, and in bodies what these take and make.

    fp16 and bf16 nodes compute in fp32, and round. What a tensor is made of is let go as the run goes on.

    Args:
        graph: its types known. It stays as it is.
        samples: iterated over once more where something turns out not to be finite; see `calibration.Samples`.
        tensors: the names of those to measure; None: all.

    Raises:
        CalibrationError: ONNX Runtime cannot load the graph, or run it on a sample.
    """
    floats = (t.name for inner in graph.graphs() for t in _floats(inner))
    wanted = {name for name in floats if tensors is None or name in tensors}
    exact = _infinite(graph) & wanted if graph.opset >= EXACT_OPSET else set()
    while True:
        found, same, doubtful = _measured(graph, samples, wanted, exact)
        if not doubtful:
            break
        if graph.opset < EXACT_OPSET:
            raise CalibrationError(
                f"what is finite in {len(doubtful)} tensors cannot be told from what is not",
                where=", ".join(sorted(doubtful)),
                why=f"the model is of opset {graph.opset}, which has no operator for that",
                fix=f"export it with opset {EXACT_OPSET} or later",
            )
        exact |= doubtful
    ranges = {}
    for name, (low, high, odd, size) in found.items():
        elements, nonfinite = int(size), int(odd) if name in exact else 0
        if elements:  # what is in a branch that never ran has none
            is_known = nonfinite < elements
            ranges[name] = Range(low if is_known else 0.0, high if is_known else 0.0, nonfinite, elements)
    return ranges | {name: ranges[of] for name, of in same.items() if of in ranges}


def _infinite(graph: Graph) -> set[str]:
    """The tensors that an infinite initializer may reach, such as the mask of an attention: they are measured exactly from the start."""
    found: set[str] = set()
    for node in inner_first(graph.ir):
        if node.op not in BOUNDED and any(t.name in found or _is_infinite(graph, t) for t in node.inputs):
            found.update(t.name for t in node.outputs)
    return found


def _is_infinite(graph: Graph, tensor: gs.Tensor) -> bool:
    is_small = (
        isinstance(tensor, gs.Constant) and onnx_type(tensor) in FLOATS and math.prod(tensor.shape) <= LARGEST_READ
    )
    return is_small and bool(np.isinf(graph.array(tensor).astype(np.float32)).any())


def _floats(inner: gs.Graph) -> Iterator[gs.Tensor]:
    """The float tensors that a graph or body takes, and that its nodes make."""
    for tensor in (*inner.inputs, *(t for node in inner.nodes for t in node.outputs)):
        if tensor.name and onnx_type(tensor) in FLOATS and getattr(tensor, "type", "tensor_type") == "tensor_type":
            yield tensor


def _measured(
    graph: Graph, samples: Iterable[Sample], wanted: Container[str], exact: Container[str]
) -> tuple[dict[str, tuple[float, ...]], dict[str, str], set[str]]:
    """For each tensor its numbers over all samples, as `MeasureRanges` says; what has the elements of another one; and the tensors that are
    to be measured exactly, because a sample has made them infinite or NaN: then the rest of the samples is left.
    """
    todo = pieces(graph)
    measuring = [_measure_in(piece, wanted, exact) for piece in todo]
    total = [
        [np.full(len(m.measured), s.neutral, ElementType.of(s.kind).numpy) for s in m.statistics] for m in measuring
    ]
    doubtful: set[str] = set()
    for found in run(todo, graph, samples):
        for each, numbers in zip(measuring, found, strict=True):
            doubtful |= {each.measured[place] for place in np.flatnonzero(~np.isfinite(numbers[2]))}
        if doubtful:
            break
        for each, before, now in zip(measuring, total, found, strict=True):
            for statistic, old, new in zip(each.statistics, before, now, strict=True):
                COMBINE[statistic.combine](old, new, out=old)
    rows: dict[str, tuple[float, ...]] = {}
    for each, numbers in zip(measuring, total, strict=True):
        rows |= zip(each.measured, zip(*(vector.tolist() for vector in numbers), strict=True), strict=True)
    return rows, {name: of for each in measuring for name, of in each.same.items()}, doubtful


def _measure_in(piece: Piece, wanted: Container[str], exact: Container[str]) -> MeasureRanges:
    """Let a piece put out the numbers of what is made in it, and of the inputs of the model."""
    graph, hands = piece.graph, set(piece.hands)
    handed = [t for t in graph.ir.outputs if t.name in hands]
    measuring = MeasureRanges(wanted, exact)
    for _ in measuring.apply(graph):
        pass
    graph.ir.outputs += handed
    return measuring
