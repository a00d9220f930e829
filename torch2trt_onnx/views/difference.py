"""A difference on the terminal: in sums, and then a line for each thing that differs."""

from __future__ import annotations

from collections.abc import Iterator

from torch2trt_onnx.difference import KINDS, Difference
from torch2trt_onnx.views.columns import Listing, Row
from torch2trt_onnx.views.parts import NONE, number, precision
from torch2trt_onnx.views.screen import Screen

HEADS = ("name", "operator", "before", "after", "pass", "why")
TYPED = (2, 3)  # of these, what may be the name of a precision


def lines(found: Difference, screen: Screen) -> Iterator[str]:
    """What differs; one line where nothing does."""
    if not found.lines:
        yield f"no difference between {found.before} and {found.after}"
        return
    for listing in (_sums(found), _moves(found), *_details(found)):
        if listing.rows:
            yield from listing.lines(screen.width, colour=screen.colour)
            yield ""


def _sums(found: Difference) -> Listing:
    rows = [
        (path, number(nodes), number(casts))
        for path, (nodes, casts) in zip((found.before, found.after), found.counts, strict=True)
    ]
    heads = ("file", "nodes", "Casts")
    return Listing("Before and after", heads, rows, frozenset(heads[1:]))


def _moves(found: Difference) -> Listing:
    rows: list[Row] = [
        (
            precision(move.before),
            precision(move.after),
            number(move.nodes),
            *(f"{number(before)} -> {number(after)}" for before, after in (move.activations, move.weights)),
        )
        for move in found.moves
    ]
    heads = ("from", "to", "nodes", "activation bytes", "weight bytes")
    return Listing("Moved between types", heads, rows, frozenset(heads[2:]))


def _details(found: Difference) -> Iterator[Listing]:
    """A listing a kind, without the columns that have nothing in them."""
    for kind in KINDS:
        rows = [(line.name, line.op, line.before, line.after, line.step, line.why) for line in found.of(kind)]
        shown = [at for at in range(len(HEADS)) if any(row[at] for row in rows)]
        cells = [[precision(row[at]) if at in TYPED else row[at] or NONE for at in shown] for row in rows]
        yield Listing(f"{kind.capitalize()}: {len(rows)}", tuple(HEADS[at] for at in shown), cells)
