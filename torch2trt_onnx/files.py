"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replace_atomically(directory: Path) -> Iterator[Path]:
    """A folder to write files in, in folders too; when the block ends well, each is on disk in full and takes its place in `directory`.

    Where the block or a write fails, nothing in `directory` has changed. Data files come before the files that refer to them, so
    that a reader never sees an ONNX file whose weights are missing.

    Raises:
        OSError: of the file system.
    """
    fresh = Path(tempfile.mkdtemp(prefix=".torch2trt_onnx-", dir=directory))
    try:
        yield fresh
        files = sorted((path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()), key=_turn)
        for name in files:
            with (fresh / name).open("rb") as file:
                os.fsync(file.fileno())
        for name in files:
            if (directory / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(directory / name))
            (directory / name).parent.mkdir(exist_ok=True)
        for name in files:
            (fresh / name).replace(directory / name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def dumped(data: Mapping[str, Any]) -> str:
    """JSON with a line for each value, and for each element of a list of objects: Python indents ten times as slowly as it writes lines."""
    lines = []
    for key, value in data.items():
        is_table = isinstance(value, list) and value and not isinstance(value[0], str)
        text = "[\n" + ",\n".join(map(json.dumps, value)) + "\n]" if is_table else json.dumps(value)
        lines.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _turn(name: Path) -> tuple[bool, bool, str]:
    """What puts files in the order in which they take their places."""
    return name.suffix not in (".data", ".weights"), name.name == "manifest.json", str(name)
