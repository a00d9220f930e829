"""Where a reduced precision goes wrong, and why: what is to be read from how far two versions of a graph are from each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from torch2trt_onnx.distances import Distance
from torch2trt_onnx.graph import PREFIX, Graph, captured, producer, subgraphs
from torch2trt_onnx.losses import Losses, constants_of, limits_of
from torch2trt_onnx.passes.measure_ranges import SAME
from torch2trt_onnx.placement import inner_first
from torch2trt_onnx.precision import label

CHAIN = 6
"""How many nodes are told of, up to the one that goes wrong."""

CANCELS = 8
"""How much smaller a sum is than what it is of, where it is the difference of numbers that are nearly equal."""

ROUGH = 1e-2
"""A share of an initializer's norm that is more than rounding."""

DIVIDES = {
    "Div": "divides by it",
    "Reciprocal": "divides by it",
    "Log": "takes the logarithm of it",
    "Pow": "takes a power of it",
}
STEPS = frozenset({"Floor", "Ceil", "Round", "Sign", "Mod", "ArgMax", "ArgMin", "TopK", "Hardmax", "QuantizeLinear"})
PERIODIC = frozenset({"Sin", "Cos", "Tan"})


@dataclass(frozen=True)
class Operand:
    """What a node reads.

    Args:
        name: of the tensor.
        low, high: of its finite values, in fp32.
        error: the largest |a - b| in the reduced precision by its largest |b| in fp32; infinite where it is not finite there; of an
            initializer the norm of what it loses, by its own.
        is_initializer: whether it is one.
    """

    name: str
    low: float
    high: float
    error: float
    is_initializer: bool = False


@dataclass(frozen=True)
class Suspect:
    """A node, and what is known of it.

    Args:
        name, op, module, source: as in `plan.NodePlan`.
        reason: what happens there, in words.
        low, high: of what it makes, in fp32.
        error: of what it makes; see `Operand`.
        inputs: what it reads.
    """

    name: str
    op: str
    module: str
    source: str
    reason: str
    low: float
    high: float
    error: float
    inputs: tuple[Operand, ...] = ()

    def __str__(self) -> str:
        where = ", ".join(filter(None, (f"module {self.module}" if self.module else "", self.source)))
        return f"{self.op} {self.name!r}{f' ({where})' if where else ''}: {self.reason}"


class Culprits:
    """The nodes that outputs are wrong by: those from which wrong tensors lead to a wrong output.

    What is wrong and reaches no output harms nobody: the infinities of a mask, the mean of numbers around zero.

    Args:
        exact: the graph in fp32.
        found: tensor -> its distance from the other version.
        kinds: node -> the type that it computes in there, where it has one.
        to: the type of the others, such as an If.
        tolerance: of errors.
    """

    def __init__(
        self, exact: Graph, found: Mapping[str, Distance], kinds: Mapping[str, int], to: int, tolerance: float
    ) -> None:
        self.exact, self.found, self.tolerance = exact, found, tolerance
        self._kinds, self._to_kind = kinds, to
        self.losses = Losses(exact)
        self.outputs = {t.name: self.error(t.name) for t in exact.ir.outputs if t.name in found}
        self._path = self._to({name for name, error in self.outputs.items() if error > tolerance}, self._is_wrong)

    @property
    def holds(self) -> bool:
        """Whether all outputs are within the tolerance."""
        return all(error <= self.tolerance for error in self.outputs.values())

    def error(self, name: str) -> float:
        """Of a tensor; see `Operand`."""
        found = self.found.get(name)
        return 0.0 if found is None else math.inf if found.breaks else found.relative

    def broken(self) -> gs.Node | None:
        """The first node that makes something infinite or NaN that is finite in fp32; in a body where it is one of its nodes."""

        def breaks(name: str) -> bool:
            return name in self.found and self.found[name].breaks

        node = self._first(lambda name: name in self._path and breaks(name))
        bodies = subgraphs(node) if node is not None else []
        inside = (inner for body in bodies for inner in inner_first(body))
        return next((inner for inner in inside if any(breaks(t.name) for t in inner.outputs)), node)

    def drifting(self) -> gs.Node | None:
        """The first node that makes something finite that is out of tolerance."""
        return self._first(lambda name: name in self._path and not math.isinf(self.error(name)))

    def odd(self) -> str:
        """What an output holds in fp32 as well, and who makes it, in words; "" where all outputs are finite."""

        def is_odd(name: str) -> bool:
            return name in self.found and self.found[name].first.nonfinite > 0

        names = [t.name for t in self.exact.ir.outputs if is_odd(t.name)]
        path = self._to(set(names), is_odd)
        node = self._first(lambda name: name in path)
        text = f"output {next(iter(names), '')!r} holds infinities or NaN in fp32 as well, first made by "
        return f"{text}{node.op} {node.name!r}" if node is not None else ""

    def chain(self, node: gs.Node) -> list[gs.Node]:
        """The nodes that lead to one, from which it has most of its error, or else its largest values; itself last."""
        found = [node]
        while len(found) < CHAIN:
            read = [t for t in node.inputs if t.name in self.found and producer(t) is not None]
            if not read:
                break
            before = max(read, key=lambda t: (self.error(t.name), self.found[t.name].first.largest))
            node = producer(before)
            if node.op not in SAME:
                found.append(node)
        return found[::-1]

    def overflowing(self, node: gs.Node) -> Iterator[gs.Node]:
        """The nodes that make or read what is too large for the type that a node computes in."""
        largest = float(self._limits(node).max)
        for other in self.exact.nodes():
            tensors = (*other.inputs, *other.outputs)
            if self._kinds.get(other.name) and any(self._largest(t.name) > largest for t in tensors):
                yield other

    def suspect(self, node: gs.Node) -> Suspect:
        """What is known of a node."""
        errors = [self.error(t.name) for t in node.outputs]
        error = max(errors, default=0.0)
        made = [self.found[t.name].first for t in node.outputs if t.name in self.found]
        return Suspect(
            node.name,
            node.op,
            node.metadata.get(f"{PREFIX}module", ""),
            node.metadata.get(f"{PREFIX}source", ""),
            self._why_broken(node) if math.isinf(error) else self._why_drifting(node, error),
            min((r.low for r in made), default=0.0),
            max((r.high for r in made), default=0.0),
            error,
            tuple(self._operands(node)),
        )

    # --- the way to an output

    def _is_wrong(self, name: str) -> bool:
        return self.error(name) > self.tolerance

    def _to(self, names: set[str], holds: Callable[[str], bool]) -> set[str]:
        """The tensors for which something holds, and that lead through others of these to some."""
        path = set(names)
        for node in reversed(self.exact.ir.nodes):
            if any(t.name in path for t in node.outputs):
                path.update(t.name for t in (*node.inputs, *captured(node)) if holds(t.name))
        return path

    def _first(self, holds: Callable[[str], bool]) -> gs.Node | None:
        return next((node for node in self.exact.ir.nodes if any(holds(t.name) for t in node.outputs)), None)

    # --- why

    def _why_broken(self, node: gs.Node) -> str:
        largest, name = float(self._limits(node).max), label(self._kind(node))
        ends = f"{name} holds {largest:g} at most"
        made = max((self._largest(t.name) for t in node.outputs), default=0.0)
        if made > largest:
            return f"the largest value of its output is {made:g} in fp32, and {ends}"
        for tensor in node.inputs:
            if self._largest(tensor.name) > largest:
                return f"it reads {tensor.name!r}, whose largest value is {self._largest(tensor.name):g} in fp32, and {ends}"
        lost = self._lost(node)
        if lost:
            return lost
        for tensor in node.inputs:
            found = self.found.get(tensor.name)
            if found is not None and found.first.low > 0 and found.second.low == 0:
                what = DIVIDES.get(node.op, "reads it")
                return f"the smallest value of {tensor.name!r} is {found.first.low:g} in fp32, and 0 in {name}, and it {what}"
        return "it makes infinities or NaN of numbers that differ a little from those in fp32: of zeros, or of differences of infinities"

    def _why_drifting(self, node: gs.Node, error: float) -> str:
        name, read = label(self._kind(node)), [t for t in node.inputs if t.name in self.found]
        before = max((self.error(t.name) for t in read), default=0.0)
        text = f"its error grows from {before:.2g} at its inputs to {error:.2g}"
        if before >= error:
            return f"its error is {error:.2g}, after {before:.2g} at its inputs"
        lost = self._lost(node)
        if lost:
            return f"{text}: {lost}"
        largest = max((self._largest(t.name) for t in read), default=0.0)
        made = max((self._largest(t.name) for t in node.outputs), default=0.0)
        if node.op in ("Add", "Sub", "Sum") and largest > CANCELS * made:
            return f"{text}: numbers that are nearly equal, up to {largest:.3g}, cancel to {made:.3g}"
        if node.op in STEPS:
            return f"{text}: it takes a step where numbers are nearer to each other than they are rounded"
        limits = self._limits(node)
        if node.op in PERIODIC:
            return f"{text}: it reads angles up to {largest:.3g}, which {name} rounds by up to {largest * float(limits.eps) / 2:.2g}"
        if 0 < made < float(limits.smallest_normal):
            return f"{text}: its largest value is {made:.2g}, where {name} has few bits"
        return text

    def _lost(self, node: gs.Node) -> str:
        """What an initializer loses that is more than rounding, in words; '' where none does."""
        to = self._kind(node)
        for constant in constants_of(node):
            loss = self.losses.of(constant, to)
            if loss.infinite or loss.zero or loss.share > ROUGH:
                return f"its initializer {constant.name!r}: {loss.words(label(to))}"
        return ""

    def _operands(self, node: gs.Node) -> Iterator[Operand]:
        for name in dict.fromkeys(t.name for t in node.inputs if t.name in self.found):
            held = self.found[name].first
            yield Operand(name, held.low, held.high, self.error(name))
        for constant in constants_of(node):
            values = self.exact.array(constant)
            low, high = (float(f(values)) for f in (np.min, np.max)) if values.size else (0.0, 0.0)
            loss = self.losses.of(constant, self._kind(node))
            yield Operand(constant.name, low, high, math.inf if loss.infinite else loss.share, True)

    def _largest(self, name: str) -> float:
        return self.found[name].first.largest if name in self.found else 0.0

    def _kind(self, node: gs.Node) -> int:
        """The type that a node computes in."""
        return self._kinds.get(node.name) or self._to_kind

    def _limits(self, node: gs.Node) -> Any:
        return limits_of(self._kind(node))
