"""One job in one process, with a limit of time and of memory, so that whatever it does is its result and nobody else's.

The process leads a group of its own. All that belongs to it ends with it: when it is done, when it is over a limit, and when whoever
watches dies. For that it has a guard, a fork of it that does nothing but wait for the end of a pipe and then kills the group; no endless
loop in a library can hold that up.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from torch2trt_onnx.batch.events import PHASE, Event
from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.batch.result import CANCELLED, CRASHED, MEMORY, TIMEOUT, Result

WORKER, LOG, SCRATCH = "torch2trt_onnx.batch.worker", "log.txt", "tmp"
POLL = 0.1
START = """
import os, sys
guard = os.fork()
if guard == 0:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.read(0, 1)
    os.killpg(0, 9)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.path[:] = [path for path in sys.path if path]
sys.argv.append(str(guard))
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
"""Forks the guard, and then runs a module as `python -m` does, but for the current folder, from which nothing is to be imported."""

OUTSIDE = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")
"""Signals that a process does not get from its own doing."""


def run(
    job: Job,
    place: Path,
    tell: Callable[[Event], None],
    *,
    limit: int | None = None,
    threads: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Result:
    """What becomes of a job: one attempt. The key of the result is left out.

    Args:
        job: what to do.
        place: an empty folder, for the conversion, the log and everything temporary.
        tell: told of each phase.
        limit: bytes of memory; None: `Job.memory`, or none.
        threads: that libraries may start for arithmetic, where the environment does not say it; None: as many as they like.
        cancelled: asked all the time whether to stop.

    Raises:
        OSError: the folder cannot be written, or no process be started.
    """
    (place / "job.json").write_text(json.dumps(job.to_json(), indent=1) + "\n")
    (place / SCRATCH).mkdir()
    start = time.monotonic()
    limit = limit or job.memory
    with (place / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", START, WORKER, str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(place / SCRATCH, threads),
            start_new_session=True,
        )
    watch = _Watch(process, job, tell)
    try:
        ended = watch.follow(start + job.timeout, limit, cancelled)
    finally:
        watch.close()
    told: dict[str, Any] = {"stage": watch.phase, "seconds": time.monotonic() - start, "peak": watch.peak}
    if ended:
        reason = {
            TIMEOUT: f"it ran longer than {job.timeout:g} s",
            MEMORY: f"it held more than {(limit or 0) / 2**30:.2f} GiB",
            CANCELLED: "it was stopped",
        }[ended]
        # Over the share that it happened to be given, and not over what the user allows it, it may do better alone.
        is_final = ended == TIMEOUT or (ended == MEMORY and job.memory is not None and limit == job.memory)
        fix = {TIMEOUT: "raise timeout", MEMORY: "raise memory, or run fewer jobs at a time"}.get(ended, "")
        detail = f"{reason}, in the phase {watch.phase or 'start'}" + (f"; {fix}" if fix else "")
        return Result(job.name, "", ended, reason, detail, is_final=is_final, **told)
    if process.returncode == 0 and watch.result is not None:
        return replace(watch.result, **told)
    return _crash(job, process.returncode, place / LOG, told)


class _Watch:
    """A process that is watched.

    Args:
        process: that was just started.
        job: that it does.
        tell: told of each phase.
    """

    def __init__(self, process: subprocess.Popen[bytes], job: Job, tell: Callable[[Event], None]) -> None:
        self.phase, self.peak = "", 0
        self.result: Result | None = None
        self._process, self._job, self._tell = process, job, tell
        self._rest = b""
        self._selector = selectors.DefaultSelector()
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ)

    def follow(self, deadline: float, limit: int | None, cancelled: Callable[[], bool]) -> str:
        """Wait for the end: the status where it is we who end it, else ""."""
        look_at = 0.0
        while not self._has_ended():
            now = time.monotonic()
            if now > deadline:
                return TIMEOUT
            if cancelled():
                return CANCELLED
            if now >= look_at:
                used = sum(_memory(one) for one in self._tree())
                self.peak = max(self.peak, used)
                if limit is not None and used > limit:
                    return MEMORY
                look_at = time.monotonic() + max(POLL, 20 * (time.monotonic() - now))  # looking must not cost much
            self._listen(POLL)
        while self._selector.get_map() and self._listen(0):  # what it said last
            pass
        return ""

    def close(self) -> None:
        """End the process with all that it has started, and see that nothing of it is left."""
        tree = self._tree()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(
                self._process.pid, signal.SIGKILL
            )  # before it is waited for: until then its number is nobody else's
        self._process.wait()
        deadline = time.monotonic() + 5
        while any(map(_lives, tree[1:])) and time.monotonic() < deadline:
            time.sleep(POLL / 10)
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _has_ended(self) -> bool:
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, how) is not None

    def _listen(self, seconds: float) -> bool:
        """Hear what it says in some time; whether it said something."""
        if not self._selector.get_map():
            time.sleep(seconds / 10)
            return False
        found = self._selector.select(seconds)
        for key, _ in found:
            data = os.read(key.fd, 1 << 16)
            if not data:
                self._selector.unregister(key.fileobj)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._hear(line)
        return bool(found)

    def _hear(self, line: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(line)
            if "result" in said:
                self.result = Result.from_json(said["result"])
                return
            step, steps = said["step"], said["steps"]
            self.phase = str(said["phase"])
            self._tell(Event(self._job.name, PHASE, self.phase, min(step / steps, 1.0) if steps else None))

    def _tree(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        return []


def _lives(process: psutil.Process) -> bool:
    """Whether a process still runs. One that is dead may be listed for a second more, until init asks how it ended."""
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _memory(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _environment(scratch: Path, threads: int | None) -> dict[str, str]:
    """That of the worker: it finds the modules that we find, and leaves temporary files where they go with the job."""
    found = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path),
        "TMPDIR": str(scratch),
    }
    if threads is not None:
        found.setdefault("OMP_NUM_THREADS", str(threads))
    return found


def _end(log: Path) -> str:
    """The last lines of a log, which may be of any size."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
        return file.read().decode(errors="replace")


def _crash(job: Job, code: int, log: Path, told: dict[str, Any]) -> Result:
    word = signal.Signals(-code).name if code < 0 else ""
    how = f"it was ended by {word}" if word else f"it ended with exit code {code} and without a result"
    if word == "SIGKILL":
        how += " (by somebody, or by the system for want of memory)"
    tail = [line for line in _end(log).splitlines() if line.strip()][-20:]
    reason = f"{how}; it last printed: {tail[-1].strip()[:300]}" if tail else f"{how}, and printed nothing"
    return replace(
        Result(job.name, "", CRASHED, reason, "\n".join([how, *tail]), is_final=word not in OUTSIDE),
        **told,
    )
