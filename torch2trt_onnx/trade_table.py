"""The accuracy budget for a terminal: a table of the plans that were tried, and a curve of error against reduced work."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from torch2trt_onnx.budget import Trade
from torch2trt_onnx.search import Trial

MOST_OUTPUTS = 3  # with a column of their own
WIDTH = 51  # of the curve: a column for two percent
HEIGHT = 12  # lines of it at most
STEPS = tuple(2.0**power for power in range(-2, 8))  # decades from line to line

TAKEN, WITHIN, BEYOND = "*", "o", "x"


def show(trade: Trade, console: Console) -> None:
    """Print a trade; readable at 80 columns, and without colours."""
    found = f"{len(trade.kept)} of {trade.movable} nodes kept in fp32 for max_error, found in {trade.runs} runs"
    console.print(Text(found, style="bold"))
    console.print(_table(trade))
    for line in _curve(trade):
        console.print(Text(line))


def _table(trade: Trade) -> Table:
    """A row a plan, in the order of their work."""
    first, taken = trade.trials[0], trade.trials[-1]
    outputs = sorted(trade.limits, key=lambda name: -_used(trade, first, name))  # those with most of their limits used
    shown, others = outputs[:MOST_OUTPUTS], outputs[MOST_OUTPUTS:]
    more = f"and {len(others)} more outputs" if others else None
    table = Table(caption=more, caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kept", justify="right")
    table.add_column(f"{trade.reduced} work", justify="right")
    for name in shown:
        limit = trade.limits[name]
        table.add_column(Text(f"{name}\n({limit.measure}, {limit.limit:g})"), justify="right", overflow="fold")
    table.add_column("")
    for trial in sorted(trade.trials, key=lambda trial: trial.share):
        word = "taken" if trial is taken else "ok" if trial.ok else "beyond"
        style = "bold green" if trial is taken else "" if trial.ok else "red"
        errors = (f"{trial.errors[name]:.2g}" for name in shown)
        table.add_row(str(trial.kept), f"{trial.share:.1%}", *errors, Text(word, style=style))
    return table


def _curve(trade: Trade) -> Iterator[str]:
    """Lines of text: a mark a plan, its share of reduced work to the right and the worst of its errors, in limits, upwards."""
    points = [(round(t.share * (WIDTH - 1)), max(_used(trade, t, name) for name in t.errors), t) for t in trade.trials]
    heights = [math.log10(error) for _, error, _ in points if 0 < error < math.inf] + [0.0]
    step, low, high = next(
        (step, low, high)
        for step in STEPS
        if (high := math.ceil(max(heights) / step)) - (low := math.floor(min(heights) / step)) < HEIGHT
    )
    rows = {float(level): [" "] * WIDTH for level in range(high, low - 1, -1)}
    rows[0.0] = ["-"] * WIDTH  # the limit
    edges = {math.inf: "inf", -math.inf: "0"}
    for at, error, trial in points:
        level = math.copysign(math.inf, error - 1)
        if 0 < error < math.inf:
            nearest = round(math.log10(error) / step)
            level = float(max(nearest, 1) if error > 1 else min(nearest, 0))  # not across the limit
        rows.setdefault(level, [" "] * WIDTH)[at] = (
            TAKEN if trial is trade.trials[-1] else WITHIN if trial.ok else BEYOND
        )
    yield f"largest error by its limit, against the share of the work in {trade.reduced}"
    for level in sorted(rows, reverse=True):
        yield f"{edges.get(level) or format(10 ** (level * step), '.2g'):>8} |{''.join(rows[level])}".rstrip()
    yield " " * 9 + "+" + "-" * WIDTH
    yield " " * 10 + f"{'0%':<{WIDTH // 2}}50%{'100%':>{WIDTH // 2 - 2}}"
    yield " " * 10 + f"{BEYOND} beyond a limit   {WITHIN} within all   {TAKEN} taken"


def _used(trade: Trade, trial: Trial, name: str) -> float:
    """The error of an output, in limits."""
    return trial.errors[name] / trade.limits[name].limit
