"""Parts of a report that add up: by precision, operator and module."""

from __future__ import annotations

from collections.abc import Iterator

from torch2trt_onnx import tallies
from torch2trt_onnx.selection import Selection
from torch2trt_onnx.tables import STYLES
from torch2trt_onnx.tallies import Tally
from torch2trt_onnx.views.columns import Listing, Row, Styled
from torch2trt_onnx.views.parts import NONE, number, precision


def modules(chosen: Selection) -> Iterator[Listing]:
    """How many nodes of each module run in each precision; a module counts all that is inside it."""
    words = tallies.precisions(chosen.nodes)
    found = tallies.by_module(chosen.nodes)
    rows: list[Row] = [
        (
            path or "(the whole model)",
            number(tally.nodes),
            *(Styled(number(count) if (count := tally.precisions.get(w, 0)) else NONE, STYLES[w]) for w in words),
            number(tally.casts),
            number(tally.work),
        )
        for path, tally in found.items()
    ]
    heads = ("module", "nodes", *words, "Casts", "work")
    yield Listing(f"{len(rows) - 1} modules", heads, rows, frozenset(heads[1:]))


def stats(chosen: Selection) -> Iterator[Listing]:
    """Nodes, Casts, work and bytes by precision and operator; weights by type; and the largest nodes."""
    yield _sums("By precision", "precision", tallies.by(lambda node: node.plan.runs_in, chosen.nodes))
    yield _sums("By operator", "operator", tallies.by(lambda node: node.plan.op, chosen.nodes))
    read = tallies.weights_by_type(chosen.weights)
    kinds = [(precision(kind), number(count), number(size)) for kind, (count, size) in read.items()]
    yield Listing("Weights", ("type", "weights", "bytes"), kinds, frozenset({"weights", "bytes"}))
    rows: list[Row] = [
        (n.plan.name, n.plan.op, precision(n.plan.runs_in), number(n.work), number(n.bytes), n.plan.module or NONE)
        for n in tallies.largest(chosen.nodes)
    ]
    heads = ("node", "operator", "planned", "work", "bytes", "module")
    yield Listing("The largest nodes", heads, rows, frozenset({"work", "bytes"}), spare=("module",))


def _sums(title: str, head: str, found: dict[str, Tally]) -> Listing:
    whole = sum(tally.work for tally in found.values())
    rows: list[Row] = [
        (
            precision(word),
            number(tally.nodes),
            number(tally.casts),
            number(tally.work),
            f"{tally.work / whole:.1%}" if whole else NONE,
            number(tally.bytes),
        )
        for word, tally in found.items()
    ]
    heads = (head, "nodes", "Casts", "work", "of all", "bytes")
    return Listing(title, heads, rows, frozenset(heads[1:]))
