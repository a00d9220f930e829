"""Run a worker program with a limit of time and of memory, so that its crash is an error and not the end of the caller."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from torch2trt_onnx.errors import WorkerError

POLL_SECONDS = 0.05
START = """
import sys
sys.path[:] = [path for path in sys.path if path]
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
"""Runs a module as `python -m` does, which would put the current folder before everything: a stray `queue.py` there must not be run."""


def run(
    module: str,
    job: dict[str, Any],
    folder: Path,
    *,
    model_name: str,
    timeout: float,
    memory_limit: int | None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """The result of a worker.

    Args:
        module: the program, as `python -m` takes it.
        job: what it is to do.
        folder: for the job, the result and what it prints.
        model_name: what errors call the model.
        timeout: in seconds.
        memory_limit: in bytes of resident memory; None: nine tenths of what is free now.
        on_progress: called with each line that the worker says.

    Raises:
        WorkerError: it crashed, or ran over a limit.
    """
    job_path = folder / "job.json"
    job_path.write_text(json.dumps(job))
    limit = memory_limit or int(psutil.virtual_memory().available * 0.9)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path)}
    errors = folder / "stderr.txt"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", START, module, str(job_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            text=True,
        )
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    try:
        _watch(process, lines, model_name, time.monotonic() + timeout, timeout, limit, on_progress)
    finally:
        process.kill()
        process.wait()
        reader.join()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
    result = folder / "result.json"
    if process.returncode != 0 or not result.is_file():
        raise WorkerError(
            f"TensorRT crashed on {model_name}",
            why=f"{_cause(process.returncode)}; it last printed: {_tail(errors)}",
            fix="the graph may be invalid in a way that TensorRT does not check: run onnx.checker on it, and inspect it",
        )
    read: dict[str, Any] = json.loads(result.read_text())
    return read


def _watch(
    process: subprocess.Popen[str],
    lines: queue.SimpleQueue[str],
    model_name: str,
    deadline: float,
    timeout: float,
    limit: int,
    on_progress: Callable[[dict[str, Any]], None] | None,
) -> None:
    handle = psutil.Process(process.pid)
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise WorkerError(
                f"TensorRT ran longer than {timeout:g} s on {model_name}",
                fix="raise Options.timeout, or simplify the graph",
            )
        with contextlib.suppress(psutil.Error):
            used = handle.memory_info().rss
            if used > limit:
                raise WorkerError(
                    f"TensorRT used more than {limit / 2**30:.1f} GiB on {model_name}",
                    fix="raise Options.memory_limit, or build on a machine with more memory (about 3 times the weights)",
                )
        with contextlib.suppress(queue.Empty):
            line = lines.get(timeout=POLL_SECONDS)
            if on_progress is not None:
                with contextlib.suppress(json.JSONDecodeError):
                    on_progress(json.loads(line))


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)


def _cause(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    return f"it was ended by {signal.Signals(-code).name}"


def _tail(path: Path) -> str:
    text = path.read_text(errors="replace").strip()
    return text.splitlines()[-1] if text else "nothing"
