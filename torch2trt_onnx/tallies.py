"""What a report adds up to: by precision, operator and module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch2trt_onnx.precision import Precision
from torch2trt_onnx.report import NodeReport, Weight

LARGEST = 10
"""How many of the largest nodes are told."""


@dataclass
class Tally:
    """What some nodes add up to.

    Args:
        nodes: how many, Casts left out.
        casts: how many Casts.
        work: multiplications.
        bytes: that they make.
        precisions: how many nodes in each, Casts left out.
    """

    nodes: int = 0
    casts: int = 0
    work: int = 0
    bytes: int = 0
    precisions: dict[str, int] = field(default_factory=dict)

    def add(self, node: NodeReport) -> None:
        """Count a node."""
        is_cast = node.plan.op == "Cast"
        self.casts += is_cast
        self.nodes += not is_cast
        self.work += node.work
        self.bytes += node.bytes
        word = node.plan.runs_in
        if word and not is_cast:
            self.precisions[word] = self.precisions.get(word, 0) + 1


def by(key: Callable[[NodeReport], str], nodes: Iterable[NodeReport]) -> dict[str, Tally]:
    """What the nodes of each word add up to; the most nodes first."""
    found: dict[str, Tally] = {}
    for node in nodes:
        found.setdefault(key(node), Tally()).add(node)
    return dict(sorted(found.items(), key=lambda item: -item[1].nodes - item[1].casts))


def by_module(nodes: Iterable[NodeReport]) -> dict[str, Tally]:
    """What each module adds up to, with all that is inside it; "" is the whole model. A module comes before those inside it."""
    own: dict[str, list[NodeReport]] = {"": []}
    for node in nodes:
        path = node.plan.module
        own.setdefault(path, []).append(node)
        while path:
            path = path.rpartition(".")[0]
            own.setdefault(path, [])
    found = {path: Tally() for path in _tree_order(own)}
    for path, some in own.items():
        while True:
            for node in some:
                found[path].add(node)
            if not path:
                break
            path = path.rpartition(".")[0]
    return found


def _tree_order(paths: Iterable[str]) -> list[str]:
    """Each path behind the one that it is inside of; else as they come."""
    inside: dict[str, list[str]] = {}
    for path in paths:
        if path:
            inside.setdefault(path.rpartition(".")[0], []).append(path)
    found, stack = [], [""]
    while stack:
        found.append(stack.pop())
        stack += reversed(inside.get(found[-1], []))
    return found


def weights_by_type(weights: Iterable[Weight]) -> dict[str, tuple[int, int]]:
    """Type -> how many weights, and how many bytes."""
    found: dict[str, tuple[int, int]] = {}
    for weight in weights:
        count, size = found.get(weight.dtype, (0, 0))
        found[weight.dtype] = count + 1, size + weight.bytes
    return found


def precisions(nodes: Iterable[NodeReport]) -> list[str]:
    """Those that some nodes run in, in the order of their table."""
    used = {node.plan.runs_in for node in nodes}
    return [p.value for p in Precision if p.value in used]


def largest(nodes: Iterable[NodeReport]) -> list[NodeReport]:
    """The nodes that compute most, and then those that make most."""
    return sorted(nodes, key=lambda node: (-node.work, -node.bytes))[:LARGEST]


def stats(nodes: Sequence[NodeReport], weights: Sequence[Weight]) -> dict[str, Any]:
    """All of it as plain data."""
    return {
        "precisions": {word: asdict(t) for word, t in by(lambda node: node.plan.runs_in, nodes).items()},
        "operators": {word: asdict(t) for word, t in by(lambda node: node.plan.op, nodes).items()},
        "weights": {kind: {"weights": n, "bytes": size} for kind, (n, size) in weights_by_type(weights).items()},
        "largest": [{"name": n.plan.name, "work": n.work, "bytes": n.bytes} for n in largest(nodes)],
    }
