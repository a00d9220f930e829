"""The tables of tools/bench/peers.py, for a person at a terminal and as tools/bench/README.md."""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from claims import RIVALS, allowed, claims
from outcomes import OURS, OURS_RANDOM, PARTS, RIGHT, SOURCE, TITLES, Outcome, Results, about
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from running import BENCH

README = Path(__file__).with_name("README.md")
PROSE = Path(__file__).with_name("method.md")


@dataclass
class Table:
    """A table, for either form.

    Args:
        title: above it.
        head: the names of its columns.
        rows: texts.
    """

    title: str
    head: list[str]
    rows: list[list[str]]

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(*map(escape, self.head), title=self.title)
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """For a file."""
        rows = [self.head, ["---"] * len(self.head), *self.rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([f"### {self.title}", "", *lines, ""])


def line(model: str, tool: str, outcome: Outcome) -> str:
    """An outcome in one line, as it is measured."""
    if outcome.failure:
        return f"{model}, {TITLES[tool]}: no model: {outcome.failure}"
    made = "" if tool == SOURCE else f"{outcome.cpu:.2f} CPU s, {outcome.peak / 1e6:.0f} MB, "
    error = f"error {outcome.error:.2g}" if outcome.errors else "does not run"
    troubles = "".join(f"; {what}: {said}" for what, said in outcome.troubles.items())
    return f"{model}, {TITLES[tool]}: {made}{error}{troubles}"


def tables(results: Results) -> list[Table]:
    """All of them."""
    return [
        _summary(results),
        _engines(results),
        _claims(results),
        _each(results, "CPU seconds of the conversion (MB of peak memory)", _spent),
        _each(
            results,
            "Largest relative error of the held-out inputs, each node rounded (standard deviation over the inputs)",
            _apart,
        ),
        _each(results, "Root mean square error over that of the output, likewise", _squared),
        _each(results, "Share of the matrix work in fp16; Casts between floats in the ONNX file", _lowered),
        _each(results, "Kernels of the engine (of which only cast); MB that they write", _built),
        _each(results, "Largest relative error in ONNX Runtime / in ONNX's own evaluator", _otherwise),
        _failures(results),
        _zoo(results),
    ]


def _summary(results: Results) -> Table:
    """One row a tool."""
    ours = results.of(OURS)
    head = [
        "tool",
        "models",
        "failed",
        "checker",
        "ORT runs",
        "RTX builds",
        "all three",
        f"largest error < {RIGHT:.0%}",
        f"RMS error < {RIGHT:.0%}",
    ]
    head += ["median CPU s", "median s", "import s", "times ours", "largest peak MB", "over the limit"]
    rows = []
    for tool in results.tools:
        found = results.of(tool)
        made = {m: o for m, o in found.items() if not o.failure}
        passed = [sum(o.passes(what) for o in made.values()) for what in PARTS]
        row = [TITLES[tool], str(len(found)), str(len(found) - len(made)), *map(str, passed)]
        row += [str(sum(all(map(o.passes, PARTS)) for o in made.values()))]
        row += [
            str(sum(o.passes("ORT") and o.error < RIGHT for o in made.values())),
            str(sum(o.is_right for o in made.values())),
        ]
        if tool == SOURCE or not made:
            rows.append([*row, *[""] * 6])
            continue
        both = [m for m in made if m in ours and not ours[m].failure]
        ratio = _median(made[m].cpu for m in both) / _median(ours[m].cpu for m in both) if both else None
        row += [f"{_median(getattr(o, what) for o in made.values()):.2f}" for what in ("cpu", "seconds", "imports")]
        over = [
            m for m, o in made.items() if (source := results.get(SOURCE, m)) is not None and o.peak > allowed(source)
        ]
        row += [
            "" if ratio is None else f"{ratio:.1f}",
            f"{max(o.peak for o in made.values()) / 1e6:.0f}",
            str(len(over)),
        ]
        rows.append(row)
    return Table("Each tool", head, rows)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _engines(results: Results) -> Table:
    """Sums over the models that the source and all those who are compared convert and build."""
    compared = [tool for tool in (SOURCE, OURS, *RIVALS) if results.of(tool)]
    rows: list[list[str]] = []
    built = [m for m in results.models if all(_is_built(results.get(tool, m)) for tool in compared)]
    for tool in compared:
        row = [TITLES[tool]]
        for part, name, scale in (
            ("engine", "kernels", 1),
            ("engine", "casts", 1),
            ("engine", "bytes", 1e6),
            ("graph", "casts", 1),
            ("graph", "fp32", 1),
        ):
            row.append(f"{sum(results.of(tool)[m].fact(part, name) or 0 for m in built) / scale:.0f}")
        rows.append(row)
    head = ["tool", "engine kernels", "that only cast", "activation MB", "float Casts in ONNX", "fp32 nodes in ONNX"]
    return Table(f"Sums over the {len(built)} models that all of these build", head, rows)


def _is_built(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.fact("engine", "bytes") is not None


def _claims(results: Results) -> Table:
    rows = []
    for claim in claims(results):
        rows.append([claim.text, claim.verdict, str(claim.compared), "; ".join(claim.broken)])
    return Table("Claims (ours, theirs)", ["claim", "verdict", "compared", "broken by"], rows)


def _each(results: Results, title: str, cell: Callable[[Outcome], str]) -> Table:
    """One row a model, one column a tool."""
    rows = []
    for model in results.models:
        found = [results.get(tool, model) for tool in results.tools]
        cells = ["" if o is None else "failed" if o.failure else cell(o) for o in found]
        rows.append([model, *cells])
    return Table(title, ["model", *(TITLES[tool] for tool in results.tools)], rows)


def _spent(outcome: Outcome) -> str:
    return f"{outcome.cpu:.2f} ({outcome.peak / 1e6:.0f})" if "cpu" in outcome.found["convert"] else ""


def _apart(outcome: Outcome) -> str:
    return f"{outcome.error:.2g} ({outcome.noise:.1g})" if outcome.errors else "does not run"


def _squared(outcome: Outcome) -> str:
    return f"{outcome.rms:.2g}" if outcome.errors else "does not run"


def _lowered(outcome: Outcome) -> str:
    share = outcome.fact("graph", "share")
    return "unknown" if share is None else f"{share:.1%}; {outcome.fact('graph', 'casts'):.0f}"


def _built(outcome: Outcome) -> str:
    engine = outcome.part("engine")
    return (
        "not built"
        if "bytes" not in engine
        else f"{engine['kernels']} ({engine['casts']}); {engine['bytes'] / 1e6:.2f}"
    )


def _otherwise(outcome: Outcome) -> str:
    cells = []
    for part in ("ort", "reference"):
        told = outcome.part(part)
        cells.append(f"{max(told['relative']):.2g}" if told.get("relative") else "-")
    return " / ".join(cells)


def _failures(results: Results) -> Table:
    rows = []
    for tool in results.tools:
        for model, outcome in results.of(tool).items():
            said = {"no model": outcome.failure} if outcome.failure else dict(outcome.troubles)
            if not outcome.failure and outcome.errors and not outcome.rms < RIGHT:
                said["RMS error"] = f"{outcome.rms:.2g}"
            if said:
                rows.append([TITLES[tool], model, "; ".join(f"{what}: {_cut(text)}" for what, text in said.items())])
    return Table("Failures, and their causes", ["tool", "model", "causes"], rows)


def _cut(text: str) -> str:
    """A cause without paths of this machine, and no longer than a line."""
    words = [word for word in text.replace("[ONNXRuntimeError] : ", "").split() if not word.startswith("/")]
    return " ".join(words)[:160]


def _zoo(results: Results) -> Table:
    rows = []
    for model in results.models:
        source = results.get(SOURCE, model)
        if source is not None:
            macs = source.fact("graph", "macs") or 0
            row = [model, about(BENCH / "zoo" / model), f"{source.found['bytes'] / 1e6:.1f}", f"{macs / 1e6:.0f}"]
            rows.append([*row, f"{source.fact('graph', 'nodes') or 0:.0f}"])
    return Table("The models", ["model", "what it is", "file, MB", "million multiplications", "nodes"], rows)


def versions(results: Results) -> str:
    """Of this project (a commit, and a hash of what differs from it), and of all packages that a tool ran with."""
    states = sorted({str(o.found.get("state")) for tool in (OURS, OURS_RANDOM) for o in results.of(tool).values()})
    lines = [f"- the state of this project: {', '.join(states) or 'not measured'}"]
    for tool in results.tools:
        told = next((o.found["convert"].get("versions") for o in results.of(tool).values() if not o.failure), None)
        if told:
            lines.append(f"- {TITLES[tool]}: " + ", ".join(f"{name} {version}" for name, version in told.items()))
    return "\n".join(lines)


def machine() -> str:
    """The machine in a line."""
    names = [text.split(":")[1].strip() for text in _cpu_facts() if text.startswith("model name")]
    memory = psutil.virtual_memory().total / 2**30
    kind = names[0] if names else platform.machine()
    return f"{len(names)} cores of {kind}, {memory:.0f} GiB, Python {platform.python_version()}, no GPU"


def _cpu_facts() -> Sequence[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def show(results: Results, *, write: bool) -> None:
    """Print the tables, and write the README where that is asked for."""
    made = tables(results)
    console = Console() if sys.stdout.isatty() else Console(width=220)
    for table in made:
        console.print(table.rich())
    if write:
        facts = f"Machine: {machine()}. One thread (`OMP_NUM_THREADS=1`).\n\n{versions(results)}\n"
        README.write_text("\n".join([PROSE.read_text(), facts, *(table.markdown() for table in made)]))
