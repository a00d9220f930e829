"""Two versions of one graph in one ONNX Runtime session, and how far each tensor of the one is from the same tensor of the other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch2trt_onnx.graph import Graph
from torch2trt_onnx.passes import CompareTwin
from torch2trt_onnx.ranges import Range, measure
from torch2trt_onnx.sessions import Sample, emulated


@dataclass(frozen=True)
class Distance:
    """A tensor in both graphs, over all samples.

    Args:
        first, second: what it holds in each.
        error: the largest |a - b| of the elements that are finite in both; of integers and bools the share of those that differ; None in
            bodies, where it is not measured.
    """

    first: Range
    second: Range
    error: float | None

    @property
    def relative(self) -> float:
        """The error by the largest value in the first graph."""
        if not self.error:
            return 0.0
        return self.error / self.first.largest if self.first.largest else math.inf

    @property
    def breaks(self) -> bool:
        """Whether the second graph makes something infinite or NaN that is finite in the first one."""
        return self.second.nonfinite > self.first.nonfinite


def distances(first: Graph, second: Graph, samples: Iterable[Sample]) -> dict[str, Distance]:
    """How far the float tensors of two graphs are from each other; only a few numbers for each leave the session.

    Args:
        first: the reference; fp32 alone.
        second: the same nodes and tensors by name, some of them of another float type. Both stay as they are.
        samples: of the inputs, which both have.

    Returns:
        Tensor -> distance, of what has elements: inputs, what nodes make, and what bodies take and make.

    Raises:
        CalibrationError: ONNX Runtime cannot load both together, or run them on a sample.
    """
    both, comparing = emulated(first), CompareTwin(emulated(second))
    for _ in comparing.apply(both):
        pass
    inputs = {t.name: t.name for t in both.ir.inputs}
    pairs = {**inputs, **comparing.twins}
    ranges = measure(both, samples, {*pairs, *pairs.values(), *comparing.differences.values()})
    found = {}
    for name, twin in pairs.items():
        if name in ranges and twin in ranges:
            difference = ranges.get(comparing.differences.get(name, ""))
            error = 0.0 if name in inputs else None if difference is None else difference.largest
            found[name] = Distance(ranges[name], ranges[twin], error)
    for name in comparing.differences.keys() - pairs.keys():  # of integers
        share = ranges[comparing.differences[name]]
        whole = Range(0.0, 1.0, 0, share.elements)
        found[name] = Distance(whole, whole, share.largest)
    return found
