"""The largest set of nodes in reduced precision with which errors stay within limits, by a bounded number of trials.

Errors are not monotone in the nodes, so what is found is a set that was tried and holds; that no larger one does is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MOST_UNITS = 64  # nodes, or groups of neighbours where there are more, that are tried on their own in one round
MOST_RETURNS = 16  # kept ones that are tried in reduced precision once more
SPACED = 4  # points of the curve between all and none, before the bisection adds its own

Nodes = frozenset[int]
Unit = tuple[int, ...]
"""Nodes that are kept, or not, together."""


@dataclass(frozen=True)
class Trial:
    """A plan that was run.

    Args:
        kept: how many nodes are in fp32 for the budget's sake.
        share: of the work that is done in a reduced precision.
        errors: of the limited outputs, each the largest of all samples.
        ok: whether all of them are within their limits.
    """

    kept: int
    share: float
    errors: dict[str, float]
    ok: bool

    @classmethod
    def of(cls, kept: int, share: float, errors: dict[str, float], limits: Mapping[str, float]) -> Trial:
        """A plan, judged by what each output may have."""
        return cls(kept, share, errors, all(error <= limits[name] for name, error in errors.items()))


@dataclass(frozen=True)
class Problem:
    """What is searched for.

    Args:
        measure: from the nodes in reduced precision to the error of each limited output.
        estimate: the same, faster, on less data: for the effect of nodes on their own, by which they are put in order.
        limits: output -> the largest error that it may have.
        free: the nodes that may be kept in fp32, in topological order.
        fixed: those that are reduced in each plan.
        share: from the nodes in reduced precision to their share of the work.
        count: from the nodes in reduced precision to how many others are in fp32 for it.
        size: the work of a node.
    """

    measure: Callable[[Nodes], dict[str, float]]
    estimate: Callable[[Nodes], dict[str, float]]
    limits: Mapping[str, float]
    free: Sequence[int]
    fixed: Nodes
    share: Callable[[Nodes], float]
    count: Callable[[Nodes], int]
    size: Callable[[int], int]


class Search:
    """Looks for the nodes to keep."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._tried: dict[Nodes, Trial] = {}
        self._attempts: set[Nodes] = set()
        self._measured: dict[Nodes, dict[str, float]] = {}
        self._estimated: dict[Nodes, dict[str, float]] = {}
        self._units: list[Unit] = []

    def find(self) -> Nodes | None:
        """The nodes to keep; None where the limits are passed even if all are."""
        if self._holds(frozenset()):
            return frozenset()
        if not self._holds(frozenset(self._problem.free)):
            return None
        units = self._narrowed(_grouped(self._problem.free), SPACED)
        if any(len(unit) > 1 for unit in units):
            units = self._narrowed(_grouped(sorted(_union(units))), 0)
        return self._returned(units)

    def trial(self, kept: Nodes) -> Trial:
        """A plan with some nodes in fp32; run once."""
        if kept not in self._tried:
            problem = self._problem
            reduced = problem.fixed | (frozenset(problem.free) - kept)
            errors = self._errors(reduced)
            self._tried[kept] = Trial.of(problem.count(reduced), problem.share(reduced), errors, problem.limits)
        return self._tried[kept]

    def alone(self, node: int) -> tuple[Unit, str, float]:
        """The nodes that a kept one was last tried with where all others were in fp32, the output that suffers most, and its error."""
        unit = next(unit for unit in reversed(self._units) if node in unit)
        errors = self._estimate(unit)
        output = max(errors, key=lambda name: errors[name] / self._problem.limits[name])
        return unit, output, errors[output]

    def curve(self, kept: Nodes) -> list[Trial]:
        """The plans that were tried, without the attempts to give nodes back; behind them the one that keeps these nodes."""
        return [trial for nodes, trial in self._tried.items() if nodes not in (kept, *self._attempts)] + [
            self.trial(kept)
        ]

    def _holds(self, kept: Nodes) -> bool:
        return self.trial(kept).ok

    def _effect(self, unit: Unit) -> float:
        """The largest error with nothing but these nodes reduced, in limits."""
        errors = self._estimate(unit)
        return max(error / self._problem.limits[name] for name, error in errors.items())

    def _estimate(self, unit: Unit) -> dict[str, float]:
        nodes = frozenset(unit)
        if nodes in self._measured:
            return self._measured[nodes]
        if nodes not in self._estimated:
            self._estimated[nodes] = self._problem.estimate(nodes)
        return self._estimated[nodes]

    def _errors(self, reduced: Nodes) -> dict[str, float]:
        if reduced not in self._measured:
            self._measured[reduced] = self._problem.measure(reduced)
        return self._measured[reduced]

    def _amount(self, unit: Unit) -> int:
        return sum(map(self._problem.size, unit))

    def _narrowed(self, units: Sequence[Unit], spaced: int) -> Sequence[Unit]:
        """The most harmful of some units, as few as hold; all of them do, and none does not.

        Args:
            units: all that are kept so far.
            spaced: how many plans to try at equal distances first.
        """
        self._units += units
        order = sorted(units, key=lambda unit: (-self._effect(unit), self._amount(unit)))

        def holds(count: int) -> bool:
            return self._holds(_union(order[:count]))

        counts = {round(x) for x in np.linspace(0, len(order), spaced + 2)} - {0, len(order)}
        high = min([count for count in sorted(counts) if holds(count)], default=len(order))
        low = max((count for count in counts if count < high), default=0)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        return order[:high]

    def _returned(self, units: Sequence[Unit]) -> Nodes:
        """What is still kept once those that turn out not to be needed are given back, those with the most work first."""
        kept = _union(units)
        harmless = [unit for unit in units if self._effect(unit) <= 1]
        for unit in sorted(harmless, key=self._amount, reverse=True)[:MOST_RETURNS]:
            fewer = kept - set(unit)
            if fewer not in self._tried:
                self._attempts.add(fewer)
            if self._holds(fewer):
                kept = fewer
        return kept


def _grouped(nodes: Sequence[int]) -> list[Unit]:
    """Nodes one by one; where there are too many, neighbours together."""
    parts = np.array_split(np.array(nodes), min(len(nodes), MOST_UNITS))
    return [tuple(part.tolist()) for part in parts]


def _union(units: Sequence[Unit]) -> Nodes:
    return frozenset(node for unit in units for node in unit)
