"""What differs between two graphs: nodes, Casts, types, plans, weights, and what moved from one precision to another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

from onnx import TensorProto

from torch2trt_onnx import weight_difference
from torch2trt_onnx.precision import label
from torch2trt_onnx.states import NodeState, State
from torch2trt_onnx.weights import nbytes_of

Pair = tuple[NodeState, NodeState]
"""A node as the one graph has it, and as the other does."""

KINDS = (
    "bindings changed",
    "casts added",
    "casts removed",
    "nodes added",
    "nodes removed",
    "nodes renamed",
    "types changed",
    "plans changed",
    "nodes edited",
    "weights retyped",
    "weights changed",
    "weights added",
    "weights removed",
)
"""What a line can tell of, in the order in which they are told."""


@dataclass(frozen=True)
class Line:
    """One thing that differs.

    Args:
        kind: one of `KINDS`.
        name: of the node, the weight or the binding; where it has two, that of the later graph.
        op: the operator of a node; "" of what is none.
        before, after: what it was and is, in words; "" where there is nothing to say.
        step: the pass that did it, between two stages of one conversion.
        why: what that says of it.
    """

    kind: str
    name: str
    op: str = ""
    before: str = ""
    after: str = ""
    step: str = ""
    why: str = ""


@dataclass
class Move:
    """What went from one type to another.

    Args:
        before, after: the types, as labels.
        nodes: how many compute in the one and then in the other.
        activations, weights: bytes before and after; of what nodes make at the shapes that the files declare, with 1 for dimensions that
            are dynamic.
    """

    before: str
    after: str
    nodes: int = 0
    activations: list[int] = field(default_factory=lambda: [0, 0])
    weights: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(frozen=True)
class Difference:
    """All that differs.

    Args:
        before, after: the files.
        lines: in the order of `KINDS`, and in each as in the graph.
        moves: from type to type, the most nodes first.
        counts: (nodes, Casts) of either file.
    """

    before: str
    after: str
    lines: tuple[Line, ...]
    moves: tuple[Move, ...]
    counts: tuple[tuple[int, int], tuple[int, int]]

    def of(self, kind: str) -> list[Line]:
        """The lines of a kind."""
        return [line for line in self.lines if line.kind == kind]

    def to_json(self) -> dict[str, Any]:
        """The difference as plain data; every kind is there, and is empty where nothing differs."""
        rows: dict[str, list[dict[str, str]]] = {kind: [] for kind in KINDS}
        for line in self.lines:
            rows[line.kind].append({key: value for key, value in vars(line).items() if key != "kind"})
        return {
            "before": self.before,
            "after": self.after,
            "same": not self.lines,
            "nodes": [count for count, _ in self.counts],
            "casts": [count for _, count in self.counts],
            "moves": [asdict(move) for move in self.moves],
            **rows,
        }


def compare(before: State, after: State) -> Difference:
    """What differs between two graphs. Nodes are the same where their names are, or their operators and what they make.

    Raises:
        SourceError: the numbers of a weight cannot be read.
    """
    pairs = _pairs(before, after)
    retyped = weight_difference.retyped(before, after, pairs)
    lines = [*_bindings(before, after), *_presence(before, after, pairs)]
    for old, new in pairs:
        lines += _node_lines(old, new)
    lines += (Line(kind, *words) for kind, *words in weight_difference.lines(before, after, retyped))
    lines.sort(key=lambda line: KINDS.index(line.kind))
    counts = _counts(before), _counts(after)
    return Difference(str(before.path), str(after.path), tuple(lines), tuple(_moves(pairs, retyped)), counts)


def _moves(pairs: Sequence[Pair], retyped: Iterable[tuple[TensorProto, TensorProto]]) -> list[Move]:
    """What went from type to type, the most nodes first."""
    moves: dict[tuple[str, str], Move] = {}

    def move(old: str, new: str) -> Move:
        return moves.setdefault((old, new), Move(old, new))

    for old, new in pairs:
        if old.precision and new.precision and old.precision != new.precision:
            move(old.precision, new.precision).nodes += 1
        for a, b, *sizes in zip(old.types, new.types, old.nbytes, new.nbytes, strict=False):
            if a != b and "?" not in (a, b):
                _add(move(a, b).activations, sizes)
    for weight, other in retyped:
        sizes = [nbytes_of(t.data_type, t.dims) for t in (weight, other)]
        _add(move(label(weight.data_type), label(other.data_type)).weights, sizes)
    return sorted(moves.values(), key=lambda m: (-m.nodes, -sum(m.activations), -sum(m.weights)))


def _pairs(before: State, after: State) -> list[Pair]:
    """The nodes that are in both, in the order of the later graph."""
    made = {(n.op, n.outputs): n for n in before.nodes.values() if n.name not in after.nodes}
    found = []
    for name, new in after.nodes.items():
        old = before.nodes.get(name) or made.get((new.op, new.outputs))
        if old is not None and old.op == new.op:
            found.append((old, new))
    return found


def _presence(before: State, after: State, pairs: Sequence[Pair]) -> Iterator[Line]:
    """Nodes and Casts that are in one graph only, or under another name."""
    kept, known = ({pair[side].name for pair in pairs} for side in (0, 1))
    for state, names, verb in ((after, known, "added"), (before, kept, "removed")):
        for node in state.nodes.values():
            if node.name not in names:
                sides = ("", _types(node)) if verb == "added" else (_types(node), "")
                yield Line(f"{'casts' if node.op == 'Cast' else 'nodes'} {verb}", node.name, node.op, *sides)
    for old, new in pairs:
        if old.name != new.name:
            yield Line("nodes renamed", new.name, new.op, old.name, new.name)


def _node_lines(old: NodeState, new: NodeState) -> Iterator[Line]:
    """What a node makes in another type, is planned in another precision, or reads, makes or does otherwise."""
    if old.types != new.types:
        yield Line("types changed", new.name, new.op, _types(old), _types(new))
    plans = [node.planned or node.precision for node in (old, new)]  # without a plan, a node keeps its type
    is_told = old.types != new.types and plans == [old.precision, new.precision]  # the types followed the plan
    if plans[0] != plans[1] and not is_told:
        yield Line("plans changed", new.name, new.op, *(plan or "none" for plan in plans))
    edits = [
        (f"{verb} {a or 'nothing'}", f"{verb} {b or 'nothing'}")
        for verb, sides in (("reads", (old.inputs, new.inputs)), ("makes", (old.outputs, new.outputs)))
        for a, b in zip_longest(*sides, fillvalue="")
        if a != b
    ]
    for key in sorted({*old.attributes, *new.attributes}):
        if old.attributes.get(key) != new.attributes.get(key):
            edits.append((f"{key} {old.attributes.get(key, 'not set')}", f"{key} {new.attributes.get(key, 'not set')}"))
    if edits:
        yield Line("nodes edited", new.name, new.op, *("; ".join(side) for side in zip(*edits, strict=True)))


def _bindings(before: State, after: State) -> Iterator[Line]:
    for name in {**before.bindings, **after.bindings}:
        old, new = before.bindings.get(name, "none"), after.bindings.get(name, "none")
        if old != new:
            yield Line("bindings changed", name, "", old, new)


def _types(node: NodeState) -> str:
    return "/".join(node.types) or "nothing"


def _counts(state: State) -> tuple[int, int]:
    return len(state.nodes), sum(node.op == "Cast" for node in state.nodes.values())


def _add(totals: list[int], sizes: Iterable[int]) -> None:
    for at, size in enumerate(sizes):
        totals[at] += size
