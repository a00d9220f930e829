"""The summary as Markdown, for a pull request: what the page says first, and what is not proven."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch2trt_onnx.page import summary, words
from torch2trt_onnx.report import Report

SIGNS = {summary.GOOD: "✅", summary.BAD: "❌", summary.UNKNOWN: "❔", summary.PLAIN: ""}
MOST = 20  # warnings, and nodes that are not proven


def summarize(report: Report) -> str:
    """The text, without a line end at its end."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield f"### Precision of {_text(report.source)}"
    yield ""
    for statement in summary.statements(report):
        yield f"{SIGNS[statement.tone]} {_text(statement.text)}  ".lstrip()
    yield ""
    yield "| | | |"
    yield "|---|---:|---|"
    for figure in summary.figures(report):
        yield f"| {figure.label} | **{figure.value}** | {figure.detail} |"
    for share in summary.shares(report)[1:]:
        yield f"| in {share.precision} | {words.share(share.work)} | {words.counted(share.nodes, 'node')} |"
    if report.comparison is not None and report.comparison.made:
        yield from _outputs(report)
    unproven = [f"{_code(node.plan.name)} ({node.verdict}): {_text(node.evidence)}" for node in report.unproven()]
    yield from _folded("not proven", unproven)
    yield from _folded("warnings", list(map(_text, report.warnings)))


def _outputs(report: Report) -> Iterator[str]:
    compared = report.comparison
    if compared is None or len(compared.outputs) < 2:
        return
    yield ""
    yield "| output | relative error | |"
    yield "|---|---:|---|"
    for output in compared.outputs:
        sign = SIGNS[summary.GOOD if output.ok else summary.BAD]
        yield f"| {_code(output.name)} | {words.error(output.relative)} | {sign} |"


def _folded(title: str, items: list[str]) -> Iterator[str]:
    if not items:
        return
    yield ""
    yield f"<details><summary>{len(items):,} {title}</summary>"
    yield ""
    yield from (f"- {item}" for item in items[:MOST])
    if len(items) > MOST:
        yield f"- and {len(items) - MOST:,} more"
    yield ""
    yield "</details>"


def _text(words: str) -> str:
    """Text of others, in which nothing is markup, and nobody is called."""
    return re.sub(r"([\\`*_{}\[\]<>#|~@])", r"\\\1", " ".join(words.split()))


def _code(name: str) -> str:
    """A name as code, in a table too."""
    fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    return f"{fence}{' '.join(name.split())}{fence}".replace("|", "\\|")
