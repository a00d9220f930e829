"""The summary of a batch on a terminal or in a file: what was made, what went wrong and why, and how many of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from torch2trt_onnx.batch import sentences
from torch2trt_onnx.batch.job import file_name
from torch2trt_onnx.batch.result import Result, Summary
from torch2trt_onnx.batch.store import NAMES
from torch2trt_onnx.page import words
from torch2trt_onnx.views.columns import Listing, Row, Styled, printable
from torch2trt_onnx.views.screen import Screen

MOST = 100
"""Jobs of a kind that are told: nobody reads two thousand."""
HEADS = ("job", "status", "time", "memory", "engine", "computes in", "largest error", "proof")


def lines(found: Summary, screen: Screen) -> Iterator[str]:
    """The summary as lines."""
    good = [result for result in found.results if result.ok]
    bad = [result for result in found.results if not result.ok]
    if good:
        yield from _listing(good[:MOST]).lines(screen.width, colour=screen.colour)
        yield from _rest(good)
        yield ""
    for result in bad[:MOST]:
        yield from _shown(result, screen)
        yield ""
    yield from _rest(bad)
    yield sums(found)


def sums(found: Summary) -> str:
    """How many there are of each status, and the time."""
    counts = ", ".join(f"{count:,} {status}" for status, count in found.counts.items())
    return (
        f"{words.counted(len(found.results), 'job')}: {counts or 'nothing to do'}; {sentences.lasting(found.seconds)}"
    )


def _listing(results: Sequence[Result]) -> Listing:
    numbers = frozenset({"time", "memory", "engine"})
    spare = ("memory", "engine", "time", "proof")
    return Listing("Converted", HEADS, [_row(one) for one in results], numbers, spare)


def _row(one: Result) -> Row:
    return (
        one.job,
        Styled(one.status, sentences.tone(one.status)),
        sentences.lasting(one.seconds) if one.attempts else "",
        words.size(one.peak) if one.attempts and one.peak else "",
        words.size(one.numbers["engine"]) if "engine" in one.numbers else "",
        sentences.mix(one),
        sentences.error(one).removeprefix("error "),
        sentences.proof(one) or ("proven" if "verdicts" in one.numbers else ""),
    )


def _shown(result: Result, screen: Screen) -> list[str]:
    return screen.drawn(lambda console: console.print(_told(result), highlight=False, soft_wrap=True))


def _told(result: Result) -> Text:
    """A job that went wrong: how, what it had taken, the whole message, and where to read on."""
    text = Text.assemble((result.status, sentences.tone(result.status)), " ", (printable(result.job), "bold"))
    known = [
        *sentences.costs(result),
        *(["found by an earlier run"] if not result.attempts and result.key else []),
        *([f"while at {result.stage}"] if result.stage else []),
    ]
    if known:
        text.append(f" ({', '.join(known)})", "dim")
    for line in (result.detail or result.reason).splitlines():
        text.append(f"\n  {printable(line)}")
    if result.folder:
        text.append(f"\n  log: {NAMES}/{file_name(result.job)}/log.txt", "dim")
    return text


def _rest(results: Sequence[Result]) -> Iterator[str]:
    if len(results) > MOST:
        yield f"and {len(results) - MOST:,} more"
