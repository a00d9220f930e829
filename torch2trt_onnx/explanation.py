"""The whole story of a node, as a report tells it: from the line of the author's to the kernel of the engine."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch2trt_onnx.backends.layers import EngineLayer
from torch2trt_onnx.errors import SourceError
from torch2trt_onnx.passes.base import mentioned
from torch2trt_onnx.plan import NodePlan
from torch2trt_onnx.report import NodeReport, Report, Weight, network_label
from torch2trt_onnx.rules import pattern

NEAR = 5
"""How many names are suggested where one is not found."""


@dataclass(frozen=True)
class CastBeside:
    """A Cast between a node and its neighbours, other Casts left out.

    Args:
        side: "before" or "after" the node.
        tensor: of the node, that it makes or reads.
        name: of the Cast.
        reason: in words, with the types.
        other: the nodes on the other side of it; of inputs and outputs of the graph the tensor.
    """

    side: str
    tensor: str
    name: str
    reason: str
    other: tuple[str, ...]


@dataclass(frozen=True)
class Matched:
    """A rule that matches a node.

    Args:
        number: among the rules, from 1.
        rule: in words.
        wins: whether no later one matches.
    """

    number: int
    rule: str
    wins: bool


@dataclass(frozen=True)
class Story:
    """What there is to tell of a node.

    Args:
        node: what was planned, and came of it.
        weights: those that it reads.
        rules: those of the user that match it.
        casts: around it.
        changes: (pass, action, why) of what the passes did to it and its weights.
        layers: of the engine, that compute it.
        told: what a weakly typed network was told of it, or why nothing; "" where that is not known.
    """

    node: NodeReport
    weights: list[Weight]
    rules: list[Matched]
    casts: list[CastBeside]
    changes: list[tuple[str, str, str]]
    layers: list[EngineLayer]
    told: str

    def to_json(self) -> dict[str, Any]:
        """The story as plain data."""
        lists = {key: [asdict(item) for item in getattr(self, key)] for key in ("weights", "rules", "casts")}
        rows = [dict(zip(("pass", "action", "why"), change, strict=True)) for change in self.changes]
        layers = [asdict(layer) for layer in self.layers]
        return {**self.node.to_json(), **lists, "changes": rows, "engine_layers": layers, "told": self.told}


@dataclass(frozen=True)
class Found:
    """The nodes that a word means.

    Args:
        word: what was asked for.
        kind: what it is: "node", "output" (of a node), "weight" (of nodes), "module" or "pattern".
        nodes: at least one.
    """

    word: str
    kind: str
    nodes: list[NodeReport]


class Stories:
    """The stories of a report."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def find(self, word: str) -> Found:
        """The nodes that a word means: a node, else a tensor, else a module, else a pattern as rules have it.

        Raises:
            SourceError: there is none; it names those that are near.
        """
        nodes = self.report.nodes
        for kind, found in (
            ("node", [n for n in nodes if n.plan.name == word]),
            ("output", [n for n in nodes if word in n.plan.tensors]),
            ("weight", [n for n in nodes if word and word in n.plan.inputs and word in self._weights]),
            ("module", [n for n in nodes if word and f"{n.plan.module}.".startswith(f"{word}.")]),
            ("pattern", [n for n in nodes if pattern(word, is_path=False).fullmatch(n.plan.name)]),
            ("pattern", [n for n in nodes if n.plan.module and pattern(word, is_path=True).fullmatch(n.plan.module)]),
        ):
            if found:
                return Found(word, kind, found)
        near = ", ".join(map(repr, self._near(word)))
        raise SourceError(
            f"there is no node, tensor or module {word!r}",
            where=self.report.source,
            fix=f"did you mean {near}?" if near else "torch2trt-onnx inspect lists the nodes",
        )

    def tell(self, node: NodeReport) -> Story:
        """The story of one of the report's nodes."""
        plan = node.plan
        read = [self._weights[name] for name in dict.fromkeys(plan.inputs) if name in self._weights]
        names = {plan.name, *plan.tensors, *(weight.name for weight in read)} - {""}
        places = sorted({place for name in names for place in self._concerning.get(name, ())})
        changes = [(step, action, why) for step, _, action, why in map(self.report.changes.__getitem__, places)]
        layers = [self._layers[name] for name in node.layers if name in self._layers]
        casts = [*self._before(plan), *self._after(plan)]
        told = "; ".join(self._constraints.get(plan.name, ()))
        return Story(node, read, self._rules(plan), casts, changes, layers, told)

    @cached_property
    def _weights(self) -> dict[str, Weight]:
        return {weight.name: weight for weight in self.report.weights}

    @cached_property
    def _layers(self) -> dict[str, EngineLayer]:
        return {layer.name: layer for layer in self.report.layers}

    @cached_property
    def _concerning(self) -> dict[str, list[int]]:
        """Node or tensor -> the places of the changes that name it."""
        found: dict[str, list[int]] = {}
        for place, (_, node, action, _) in enumerate(self.report.changes):
            for name in mentioned(node, action):
                found.setdefault(name, []).append(place)
        return found

    @cached_property
    def _constraints(self) -> dict[str, list[str]]:
        """Node -> what TensorRT's weakly typed network was told of its layers, each once."""
        found: dict[str, list[str]] = {}
        for row in self.report.constraints:
            words = f"nothing: {row['reason']}" if row["reason"] else network_label(row["precision"])
            if words not in found.setdefault(row["node"], []):
                found[row["node"]].append(words)
        return found

    @cached_property
    def _makers(self) -> dict[str, NodePlan]:
        return {name: node.plan for node in self.report.nodes for name in node.plan.tensors if name}

    @cached_property
    def _readers(self) -> dict[str, list[NodePlan]]:
        found: dict[str, list[NodePlan]] = {}
        for node in self.report.nodes:
            for name in dict.fromkeys(node.plan.inputs):
                found.setdefault(name, []).append(node.plan)
        return found

    def _rules(self, plan: NodePlan) -> list[Matched]:
        rules = enumerate(self.report.plan.asked.rules, 1)
        found = [(at, rule) for at, rule in rules if rule.matches(plan.name, plan.module, plan.op, plan.tensors)]
        return [Matched(at, str(rule), at == found[-1][0]) for at, rule in found]

    def _before(self, plan: NodePlan) -> Iterator[CastBeside]:
        for tensor in dict.fromkeys(plan.inputs):
            maker, seen = self._makers.get(tensor), set[str]()
            while maker is not None and maker.op == "Cast" and maker.name not in seen:
                seen.add(maker.name)
                source = next(iter(maker.inputs), "")
                beyond = self._makers.get(source)
                yield CastBeside("before", tensor, maker.name, maker.reason, (beyond.name if beyond else source,))
                maker = beyond

    def _after(self, plan: NodePlan) -> Iterator[CastBeside]:
        for tensor in plan.tensors:
            waiting, seen = list(self._readers.get(tensor, ())), set[str]()
            for cast in waiting:
                if cast.op != "Cast" or cast.name in seen:
                    continue
                seen.add(cast.name)
                readers = [reader for made in cast.tensors for reader in self._readers.get(made, ())]
                names = tuple(reader.name for reader in readers) or cast.tensors
                yield CastBeside("after", tensor, cast.name, cast.reason, names)
                waiting.extend(readers)

    def _near(self, word: str) -> list[str]:
        known = dict.fromkeys(
            word
            for node in self.report.nodes
            for word in (node.plan.name, *node.plan.tensors, node.plan.module)
            if word
        )
        inside = [name for name in known if word.lower() in name.lower()]
        return inside[:NEAR] or difflib.get_close_matches(word, known, NEAR)
