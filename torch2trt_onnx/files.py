"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_atomically(directory: Path) -> Iterator[Path]:
    """A folder to write files in; when the block ends well, each is on disk in full and takes its place in `directory`.

    Where the block or a write fails, nothing in `directory` has changed. Data files come before the files that refer to them, so
    that a reader never sees an ONNX file whose weights are missing.

    Raises:
        OSError: of the file system.
    """
    fresh = Path(tempfile.mkdtemp(prefix=".torch2trt_onnx-", dir=directory))
    try:
        yield fresh
        files = sorted(
            fresh.iterdir(), key=lambda path: (path.suffix != ".data", path.name == "manifest.json", path.name)
        )
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        for path in files:
            if (directory / path.name).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(directory / path.name))
        for path in files:
            path.replace(directory / path.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
