"""What a person sees of a batch while it runs: a live display on a terminal, lines elsewhere, or JSON for a program.

Each of them is called with every event, from any thread, and is a context that lasts as long as the run.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from torch2trt_onnx.batch.events import FINISHED, RETRIED, Event
from torch2trt_onnx.batch.progress import Progress
from torch2trt_onnx.batch.sentences import lasting, lines, state, tone
from torch2trt_onnx.views.columns import printable

QUIET_SECONDS = 60.0
"""After which a plain display says that it is alive."""
MOST_SHOWN = 20
"""Running jobs; a cluster may have hundreds."""
BESIDE = 46
"""Columns that stand beside a name."""


class Watch(Protocol):
    """Whoever watches a run."""

    def __enter__(self) -> Watch: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def __call__(self, event: Event) -> None:
        """Tell one event."""


def watch(*, as_json: bool = False) -> Watch:
    """What fits where we are: JSON lines on standard output where that is asked; else on standard error, live or in lines."""
    if as_json:
        return JsonLines(sys.stdout)
    console = Console(stderr=True)
    return LiveDisplay(console) if console.is_terminal else PlainLines(sys.stderr)


class JsonLines:
    """Each event as a line of JSON.

    Args:
        out: where to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out, self._lock = out, threading.Lock()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        """Print it."""
        with self._lock:
            _write(self._out, json.dumps(event.to_json()))


class PlainLines:
    """A line for each job that is finished or tried again, and now and then one that says what runs.

    Args:
        out: where to.
        every: seconds of silence after which it says what runs.
    """

    def __init__(self, out: TextIO, every: float = QUIET_SECONDS) -> None:
        self.progress = Progress()
        self._out, self._every = out, every
        self._lock, self._ended, self._spoken = threading.Lock(), threading.Event(), threading.Event()
        self._beat = threading.Thread(target=self._say_alive, daemon=True)

    def __enter__(self) -> PlainLines:
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._spoken.set()
        self._beat.join()

    def __call__(self, event: Event) -> None:
        """Count it, and tell it where it is news."""
        with self._lock:
            self.progress.take(event)
            for line in lines(event, self.progress):
                self._print(line)

    def _print(self, line: str) -> None:
        _write(self._out, line)
        self._spoken.set()

    def _say_alive(self) -> None:
        while not self._ended.is_set():
            if self._spoken.wait(self._every):
                self._spoken.clear()
                self._ended.wait(0.05)  # a burst of lines is one sign of life
                continue
            with self._lock:
                if self.progress.running:
                    _write(self._out, f"{state(self.progress)}; running: {_running(self.progress)}")


class LiveDisplay:
    """The running jobs with their phases, drawn again and again; those that are finished go by above it.

    Args:
        console: of the terminal.
    """

    def __init__(self, console: Console) -> None:
        self.progress = Progress()
        self._console, self._lock = console, threading.RLock()
        self._live = Live(console=console, get_renderable=self._drawn, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.__exit__(kind, error, at)

    def __call__(self, event: Event) -> None:
        """Count it; what is finished is printed."""
        with self._lock:
            self.progress.take(event)
            told = [*lines(event, self.progress)] if event.kind in (FINISHED, RETRIED) else []
        style = tone(event.result.status) if event.result is not None else "yellow"
        for line in told:  # without our lock: the thread that draws holds that of rich, and waits for ours
            self._console.print(Text(line, style), soft_wrap=True)

    def _drawn(self) -> RenderableType:
        with self._lock:
            known = self.progress
            jobs = Table.grid(padding=(0, 2))
            jobs.add_column(no_wrap=True, overflow="ellipsis", max_width=max(self._console.width - BESIDE, 8))
            for _ in range(3):
                jobs.add_column(no_wrap=True)
            for name, one in list(known.running.items())[:MOST_SHOWN]:
                part = ProgressBar(1.0, one.fraction, width=16) if one.fraction is not None else ""
                time = Text(lasting(known.lasts(name)), "dim")
                jobs.add_row(Text(printable(name)), Text(printable(one.phase), "cyan"), part, time)
            more = len(known.running) - MOST_SHOWN
            rest = [Text(f"and {more} more", "dim")] if more > 0 else []
            bar = Table.grid(padding=(0, 2))
            bar.add_row(ProgressBar(max(known.total, 1), known.finished, width=16), Text(state(known)))
            return Group(jobs, *rest, bar)


def _write(out: TextIO, line: str) -> None:
    """Write a line at once: who reads a pipe waits for it. Whether anyone does is no matter of the jobs."""
    with contextlib.suppress(OSError):
        out.write(line + "\n")
        out.flush()


def _running(progress: Progress) -> str:
    """The running jobs in a sentence."""
    told = []
    for name, one in list(progress.running.items())[:MOST_SHOWN]:
        part = f" {one.fraction:.0%}" if one.fraction is not None else ""
        told.append(f"{name} ({one.phase or 'starting'}{part}, {lasting(progress.lasts(name))})")
    more = len(progress.running) - MOST_SHOWN
    return printable(", ".join(told) + (f", and {more} more" if more > 0 else ""))
