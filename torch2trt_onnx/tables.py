"""Reports as tables for a terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from torch2trt_onnx import trade_table
from torch2trt_onnx.culprits import Suspect
from torch2trt_onnx.diagnosis import NOTHING, Diagnosis
from torch2trt_onnx.preview import Preview
from torch2trt_onnx.proof import FOLDED, FUSED, HONOURED, OVERRIDDEN, UNVERIFIABLE, WORDS
from torch2trt_onnx.report import Report

NAMED = 5  # nodes of a kind, in a summary
WIDTH = 150  # columns, where there is no terminal to ask
STYLES = {"fp32": "cyan", "fp16": "green", "bf16": "magenta", **dict.fromkeys(("fp8", "int8", "int4"), "yellow")}
VERDICT_STYLES = {HONOURED: "green", FUSED: "green", FOLDED: "dim", OVERRIDDEN: "bold red", UNVERIFIABLE: "yellow"}


def summary(report: Report) -> RenderableType:
    """What came of a conversion, in a few lines."""
    rows = Table.grid(padding=(0, 2))
    for name, text in _facts(report):
        rows.add_row(Text(name, style="bold"), text)
    notes = [Text(f"warning: {note}", style="yellow") for note in report.warnings]
    return Group(rows, *notes)


def console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for a file."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=WIDTH)


def previewed(found: Preview, *, nodes: bool) -> None:
    """Print whom each rule matches, and with `nodes` what each node would run in."""
    output = console()
    for number, matched in enumerate(found.rules, 1):
        dead = "" if matched.nodes else ": matches no node"
        output.print(Text(f"rule {number} ({matched.rule}){dead}", style="bold" if matched.nodes else "yellow"))
        for name in matched.nodes:
            output.print(Text(f"  {name}" + ("" if name in matched.winning else "  (a later rule wins)")))
    if nodes:
        table = _table(f"{len(found.nodes)} nodes", "node", "operator", "source", "planned", "origin", "why")
        for node in found.nodes:
            precisions = _precision(node.authored), _precision(node.precision)
            table.add_row(node.name, node.op, *precisions, node.origin, node.reason)
        output.print(table)
    if found.data:
        output.print(Text(f"measured on {found.data}"))
    if found.trade is not None:
        trade_table.show(found.trade, output)
    for note in found.notes:
        output.print(Text(f"warning: {note}", style="yellow"))


def diagnosed(found: Diagnosis) -> None:
    """Print what is wrong, where, and how to mend it."""
    output = console()
    style = "green" if found.verdict == NOTHING else "bold red"
    output.print(Text(f"{found.verdict}: {found.words}", style=style))
    output.print(Text(f"tried: {found.precision}, on {found.data}, tolerance {found.tolerance:g}"))
    if found.outputs:
        table = _table("Outputs", "name", "relative error")
        for name, error in found.outputs.items():
            table.add_row(name, Text(f"{error:.3g}", style="red" if error > found.tolerance else ""))
        output.print(table)
    for title, suspect in (("first infinite or NaN", found.broken), ("first out of tolerance", found.drifting)):
        if suspect is not None:
            output.print(Text(f"{title}: {suspect}", style="bold"))
            output.print(_operands(suspect))
    if found.chain:
        table = _table("The way there", "node", "operator", "module", "values in fp32", "error", "why")
        for step in found.chain:
            table.add_row(
                step.name, step.op, step.module, f"{step.low:g}..{step.high:g}", f"{step.error:.2g}", step.reason
            )
        output.print(table)
    if found.rules:
        cure = "all outputs are within the tolerance then" if found.mended else "that alone does not mend it"
        output.print(Text(f"to keep these nodes in fp32 ({cure}):", style="bold"))
        for rule in found.rules:
            output.print(Text("[[rule]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in rule.to_json().items())))
        output.print(Text("or let the nodes be chosen: policy='auto', with calibration data", style="bold"))


def _operands(suspect: Suspect) -> Table:
    table = _table("", "reads", "", "values in fp32", "error")
    for read in suspect.inputs:
        kind = "initializer" if read.is_initializer else ""
        table.add_row(read.name, kind, f"{read.low:g}..{read.high:g}", f"{read.error:.2g}")
    table.add_row("(makes)", "", f"{suspect.low:g}..{suspect.high:g}", f"{suspect.error:.2g}")
    return table


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    yield "model", report.source
    engine = (
        [f"{report.backend}, {len(report.layers)} layers, {report.sizes['engine'] / 1e6:.1f} MB"]
        if report.backend
        else []
    )
    if engine and not report.nodes:  # it is alone, and nobody knows what was planned
        yield "engine", engine[0]
        return
    counts = report.plan.counts()
    yield "precisions", ", ".join(f"{count} nodes in {name}" for name, count in counts.items()) or "no float nodes"
    yield from _kept(report)
    yield from _inside(report)
    if engine:
        differ = sum(node.differs for node in report.nodes)
        agreed = sum(bool(any(node.network) and node.plan.precision) for node in report.nodes)
        verdict = f"{differ} differ from the plan" if differ else "each as planned"
        yield "engine", engine[0]
        yield "network", f"{agreed} float nodes found in it, {verdict}"
        counts = Counter(node.verdict for node in report.nodes)
        yield "proof", ", ".join(f"{counts[word]} {word}" for word in WORDS)
    yield from _numbers(report)
    if report.seconds:
        yield (
            "time",
            ", ".join(f"{step} {seconds:.1f} s" for step, seconds in report.seconds.items() if seconds >= 0.05),
        )


def _kept(report: Report) -> Iterator[tuple[str, str]]:
    """What `policy="auto"` measured, and left in fp32: by rule, and by name what the operator alone does not explain."""
    if report.data:
        yield "measured on", report.data
    for rule, found in report.kept().items():
        named = ", ".join(f"{node.op} {node.name!r}" for node in found[:NAMED])
        more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
        yield "kept in fp32", f"{len(found)} by {rule}: {named}{more}"


def _inside(report: Report) -> Iterator[tuple[str, str]]:
    found = [node.plan.precision for node in report.nodes if node.inside]
    if found:
        kinds = " and ".join(dict.fromkeys(found))
        cause = "rules keep them" if report.plan.asked.fidelity == "pytorch" else "fidelity='pytorch' changes that"
        count = f"{len(found)} node{'s' * (len(found) > 1)}"
        yield "inside", f"{count} in {kinds} compute in steps that PyTorch computes in fp32 ({cause})"


def _numbers(report: Report) -> Iterator[tuple[str, str]]:
    compared = report.comparison
    if compared is None:
        return
    if not compared.made:
        yield "numbers", compared.reference
        return
    for output in compared.outputs:
        verdict = "ok" if output.ok else "DIFFERS"
        yield (
            "numbers",
            f"{output.name}: absolute {output.absolute:.2g}, relative {output.relative:.2g} "
            f"(tolerance {compared.tolerance:g}) {verdict}, against {compared.reference}",
        )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _precision(word: str) -> Text:
    return Text(word or "-", style=STYLES.get(word, ""))
