"""Child processes with a limit of time and of memory, and results on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / ".bench"
MEMORY = 16 * 2**30
"""Bytes of resident memory at which a child is stopped: this is a machine for several people."""


def told(words: Sequence[str | Path], seconds: float) -> dict[str, Any]:
    """The JSON object that a command prints. One with `error` where it prints none, crashes, or takes too long or too much.

    Args:
        words: the command.
        seconds: its limit.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryDirectory() as folder,  # some peers leave files where they run
    ):
        child = subprocess.Popen(
            [str(w) for w in words], stdout=out, stderr=said, cwd=folder, env=environment, start_new_session=True
        )
        stopped = _watch(child, seconds)
        out.seek(0)
        said.seek(0)
        if stopped:
            return {"error": stopped}
        try:
            found: dict[str, Any] = json.loads(out.read())
        except ValueError:
            lines = said.read().decode(errors="replace").strip().splitlines()
            return {"error": f"exit code {child.returncode}: {lines[-1][:200] if lines else 'no word'}"}
    return found


def _watch(child: subprocess.Popen[bytes], seconds: float) -> str:
    """Wait for a child; why it was stopped, or ""."""
    start = time.monotonic()
    while child.poll() is None:
        time.sleep(0.05)
        why = ""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
            if sum(p.memory_info().rss for p in family) > MEMORY:
                why = f"stopped at {MEMORY / 2**30:.0f} GiB of memory"
        if time.monotonic() - start > seconds:
            why = f"stopped after {seconds:.0f} s"
        if why:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, 9)
            child.wait()
            return why
    return ""


def load(path: Path) -> dict[str, Any]:
    """A result that was saved, or an empty one."""
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return {}


def save(path: Path, result: dict[str, Any]) -> None:
    """Save a result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(json.dumps(result, indent=1))
    fresh.replace(path)


def sha256(*parts: bytes) -> str:
    """Of several parts, short."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:16]


def own_state() -> str:
    """What our own results hang on: the commit, and where torch2trt_onnx and passes differ from it a hash of how."""

    def git(*words: str) -> bytes:
        return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout

    places = ("torch2trt_onnx", "passes")
    commit = git("rev-parse", "--short=10", "HEAD").decode().strip()
    changed = git("diff", "HEAD", "--", *places)
    fresh = git("ls-files", "--others", "--exclude-standard", "--", *places).decode().splitlines()
    if not changed and not fresh:
        return commit
    return f"{commit}+{sha256(changed, *((ROOT / name).read_bytes() for name in fresh))}"
