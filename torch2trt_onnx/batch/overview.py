"""All jobs of a batch as one HTML page that needs no network, which leads to the page of each report and to the logs.

Like the page of a report: it can be read without scripts, and takes its colours from the same style.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from torch2trt_onnx import page
from torch2trt_onnx.batch import sentences
from torch2trt_onnx.batch.result import CANCELLED, OK, Result, Summary
from torch2trt_onnx.page.summary import BAD, GOOD, UNKNOWN

NAME, REPORT, LOG = "overview.html", "report.html", "log.txt"
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """A job as the page shows it.

    Args:
        at: its place in the manifest.
        result: of it.
        report, log: their addresses; "" where there is none.
        tone: of its status.
        shares: precision -> its part of the work, the greatest first.
        message: why it is not well, beyond its first line.
    """

    at: int
    result: Result
    report: str
    log: str
    tone: str
    shares: list[tuple[str, float]]
    message: str

    @property
    def reason(self) -> str:
        """Why it is not well, in a line."""
        return "" if self.result.ok else self.result.reason

    @property
    def reduced(self) -> float:
        """The part of the work that is not in fp32, to sort by."""
        return sum(part for name, part in self.shares if name != "fp32")


def render(found: Summary, title: str, out: Path) -> str:
    """The page: one file, which asks for no other.

    Args:
        found: what became of the jobs.
        title: of the page.
        out: the folder that it will lie in, to link what is there.
    """
    early, script = page.text("js/theme.js"), (FOLDER / "overview.js").read_text(encoding="utf-8")
    return page.template(FOLDER / "overview.html.j2").render(
        title=title,
        summary=found,
        rows=list(_rows(found, out)),
        tones={status: _tone(status) for status in found.counts},
        proof=sentences.proof,
        lasting=sentences.lasting,
        version=importlib.metadata.version("torch2trt_onnx"),
        style=page.text("page.css") + (FOLDER / "overview.css").read_text(encoding="utf-8"),
        early=early,
        script=script,
        hashes=[page.digest(early), page.digest(script)],
    )


def _rows(found: Summary, out: Path) -> Iterator[Row]:
    for at, result in enumerate(found.results):
        shares: dict[str, float] = result.numbers.get("shares", {})
        _, _, message = result.detail.partition("\n")
        yield Row(
            at,
            result,
            _address(out, result, REPORT),
            _address(out, result, LOG),
            _tone(result.status),
            sorted(((name, part) for name, part in shares.items() if part), key=lambda pair: -pair[1]),
            "" if result.ok else message,
        )


def _address(out: Path, result: Result, name: str) -> str:
    """Where a file of a job lies, from the page; "" where it does not."""
    if not result.folder or not (out / result.folder / name).is_file():
        return ""
    return quote(f"{result.folder}/{name}")


def _tone(status: str) -> str:
    return GOOD if status in OK else UNKNOWN if status == CANCELLED else BAD
