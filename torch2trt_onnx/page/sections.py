"""What the page shows as plain tables, from the report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch2trt_onnx.page import words
from torch2trt_onnx.proof import WORDS
from torch2trt_onnx.report import Report, network_label

NAME = re.compile(r"'[^']*'")
"""A name inside an action, which keeps it from being counted with its like; `changes.js` groups in the same way."""


@dataclass(frozen=True)
class Matrix:
    """How many nodes were planned in each precision, and what the engine proves of them.

    Args:
        columns: the verdicts.
        rows: planned precision -> how many nodes have each verdict, in the order of the columns.
    """

    columns: list[str]
    rows: dict[str, list[int]]


@dataclass
class Pass:
    """What one pass changed: action -> how often."""

    name: str
    total: int = 0
    actions: Counter[str] = field(default_factory=Counter)


def matrix(report: Report) -> Matrix:
    """Planned against proven."""
    found = Counter((node.plan.runs_in, node.verdict) for node in report.nodes if node.verdict)
    precisions = dict.fromkeys(node.plan.runs_in for node in report.nodes if node.verdict)
    return Matrix(list(WORDS), {word: [found[word, verdict] for verdict in WORDS] for word in sorted(precisions)})


def passes(report: Report) -> list[Pass]:
    """What each pass changed, in the order that they ran."""
    found: dict[str, Pass] = {}
    for name, _, action, _ in report.changes:
        one = found.setdefault(name, Pass(name))
        one.total += 1
        one.actions[NAME.sub("…", action)] += 1
    return list(found.values())


def bindings(report: Report) -> Iterator[dict[str, Any]]:
    """Inputs and outputs: their types and shapes, and how they lie in memory."""
    for binding in report.bindings:
        ranges = [" to ".join(dict.fromkeys(map(words.shape, profile))) for profile in binding.profiles]
        yield {
            "name": binding.name,
            "mode": binding.mode.lower(),
            "type": network_label(binding.dtype),
            "shape": words.shape(binding.dims),
            "layout": binding.layout.lower(),
            "profiles": ranges,
            "is_shape": binding.is_shape,
        }


def asked(report: Report) -> Iterator[tuple[str, str]]:
    """How the conversion was asked for, and what made it."""
    plan = report.plan.asked
    yield "precisions", plan.words + (", exactly" if plan.strict else "")
    yield "policy", plan.policy or "by the model"
    yield "nodes without weights", plan.weightless
    yield "fidelity", plan.fidelity
    for rule in plan.rules:
        yield "rule", str(rule)
    if report.data:
        yield "measured on", report.data
    if report.backend:
        yield "back end", report.backend
    if report.targets:
        yield "compute capabilities", ", ".join(report.targets)
    for name, count in report.sizes.items():
        yield f"size of the {name}", words.size(count)
    if report.seconds:
        steps = [f"{step} {seconds:.1f} s" for step, seconds in report.seconds.items() if seconds >= 0.05]
        yield "time", f"{sum(report.seconds.values()):.1f} s" + (f": {', '.join(steps)}" if steps else "")
