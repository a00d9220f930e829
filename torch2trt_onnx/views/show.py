"""A report on the terminal: its summary, and the parts that were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch2trt_onnx import trade_table
from torch2trt_onnx.report import Report
from torch2trt_onnx.selection import Selection, select
from torch2trt_onnx.tables import summary
from torch2trt_onnx.views import parts, sums
from torch2trt_onnx.views.parts import Part
from torch2trt_onnx.views.screen import Screen

PARTS: dict[str, Part] = {
    "layers": parts.layers,
    "casts": parts.casts,
    "precision": sums.modules,
    "weights": parts.weights,
    "bindings": parts.bindings,
    "plan": parts.plan,
    "engine": parts.engine,
    "stats": sums.stats,
}


def show(report: Report, what: Sequence[str]) -> None:
    """Print the summary of a report, and parts of it."""
    screen = Screen.here()
    screen.put(lines(select(report), what, screen), pager=False)


def lines(chosen: Selection, what: Sequence[str], screen: Screen) -> Iterator[str]:
    """The summary of a report, and parts of it."""
    yield from screen.drawn(lambda console: console.print(summary(chosen.report)))
    trade = chosen.report.trade
    if trade is not None:
        yield from screen.drawn(lambda console: trade_table.show(trade, console))
    for name in what:
        for listing in PARTS[name](chosen):
            yield ""
            yield from listing.lines(screen.width, colour=screen.colour)
