"""The summary of a report: what a reader without time must know. The page and the Markdown table are made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch2trt_onnx.page import words
from torch2trt_onnx.proof import OVERRIDDEN
from torch2trt_onnx.report import Report

GOOD, BAD, UNKNOWN, PLAIN = "good", "bad", "unknown", "plain"
"""What a statement says of the conversion."""


@dataclass(frozen=True)
class Statement:
    """A sentence, and whether it is good news."""

    text: str
    tone: str


@dataclass(frozen=True)
class Figure:
    """A large number.

    Args:
        label: what it is.
        value: in a few letters.
        detail: what puts it into proportion.
        tone: of a `Statement`.
    """

    label: str
    value: str
    detail: str
    tone: str = PLAIN


@dataclass(frozen=True)
class Share:
    """What runs in one precision.

    Args:
        precision: in a word.
        nodes: how many, Casts left out.
        work: their part of the multiplications; of the nodes, where nothing multiplies.
    """

    precision: str
    nodes: int
    work: float


def shares(report: Report) -> list[Share]:
    """What runs in each precision; the most of the work first."""
    work: Counter[str] = Counter()
    for node in report.nodes:
        work[node.plan.runs_in] += node.work
    nodes = report.plan.counts()
    measure = work if work.total() else Counter(nodes)
    whole = sum(measure[word] for word in nodes) or 1
    return sorted((Share(word, count, measure[word] / whole) for word, count in nodes.items()), key=lambda s: -s.work)


def multiplies(report: Report) -> bool:
    """Whether the work of the nodes is known and not nothing."""
    return any(node.work for node in report.nodes)


def statements(report: Report) -> Iterator[Statement]:
    """What was made, whether it is proven, and whether the numbers are right: a sentence each."""
    yield Statement(f"{report.source} {_mix(report)}.", PLAIN)
    yield _proof(report)
    yield _numbers(report)
    if (trade := report.trade) is not None and trade.trials:
        kept = f"{len(trade.kept):,} of {words.counted(trade.movable, 'node')}" if trade.kept else "no node"
        holds = "holds" if trade.trials[-1].ok else "does not hold"
        yield Statement(f"The limit of error {holds} with {kept} kept in fp32 for it.", _tone(trade.trials[-1].ok))


def figures(report: Report) -> Iterator[Figure]:
    """The few numbers that one looks for first."""
    found = shares(report)
    if found:
        most = found[0]
        detail = "of the multiplications" if multiplies(report) else "of the float nodes"
        yield Figure(f"in {most.precision}", words.share(most.work), detail)
    if report.backend:
        judged = [node for node in report.nodes if node.verdict]
        part = f"{len(judged) - len(report.unproven()):,}"
        yield Figure("nodes proven", part, f"of {len(judged):,} with floats", _proof(report).tone)
    if (compared := report.comparison) is not None and compared.made and compared.outputs:
        worst = max(output.relative for output in compared.outputs)
        detail = f"tolerance {compared.tolerance:g}"
        yield Figure("largest error", words.error(worst), detail, _tone(compared.ok))
    casts = sum(node.op == "Cast" and bool(node.precision) for node in report.plan.nodes)
    yield Figure("Casts" if casts != 1 else "Cast", f"{casts:,}", f"among {words.counted(len(report.nodes), 'node')}")
    if "engine" in report.sizes:
        layers = words.counted(len(report.layers), "layer")
        yield Figure("engine", words.size(report.sizes["engine"]), layers)
    elif "weights" in report.sizes:
        yield Figure("weights", words.size(report.sizes["weights"]), "in the ONNX file")


def _mix(report: Report) -> str:
    """In what it computes, as the end of a sentence."""
    found = [share for share in shares(report) if share.work]
    if not found:
        return "has no node that computes with floats"
    what = "multiplications" if multiplies(report) else "float nodes"
    parts = [f"{words.share(share.work)} in {share.precision}" for share in found]
    return f"runs {words.listed(parts).replace(' in ', f' of its {what} in ', 1)}"


def _proof(report: Report) -> Statement:
    if not report.backend:
        return Statement("No engine was built, so that nothing of this is proven.", UNKNOWN)
    if not report.nodes:
        return Statement(
            "The engine stands alone: what was planned for it is not known, and so nothing is proven.", UNKNOWN
        )
    unproven = report.unproven()
    if not unproven:
        judged = sum(bool(node.verdict) for node in report.nodes)
        return Statement(f"The engine proves the precision of all {words.counted(judged, 'node')}.", GOOD)
    wrong = sum(node.differs or node.verdict == OVERRIDDEN for node in unproven)
    untold = len(unproven) - wrong
    parts = [f"runs {words.counted(wrong, 'node')} otherwise than planned"] if wrong else []
    parts += [f"does not tell the precision of {words.counted(untold, 'node')}"] if untold else []
    return Statement(f"The engine {' and '.join(parts)}.", BAD if wrong else UNKNOWN)


def _numbers(report: Report) -> Statement:
    compared = report.comparison
    if compared is None:
        return Statement("The numbers were not compared with the model's.", UNKNOWN)
    if not compared.made:
        return Statement(f"The numbers were not compared: {compared.reference.removeprefix('not made: ')}.", UNKNOWN)
    wrong = [repr(output.name) for output in compared.outputs if not output.ok]
    if not compared.ok:
        named = f"outputs {words.listed(wrong)} differ" if len(wrong) > 1 else f"output {''.join(wrong)} differs"
        what = named if wrong else "the numbers at the smallest or largest shape differ"
        return Statement(f"Against {compared.reference}: {what}, beyond the tolerance.", BAD)
    return Statement(f"The outputs agree with {compared.reference}, within the tolerance.", GOOD)


def _tone(good: bool) -> str:
    return GOOD if good else BAD
