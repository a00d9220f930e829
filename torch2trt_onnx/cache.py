"""Conversions that were made before, each in a folder named after everything that its result depends on (`identity.key`).

An entry is written to a folder beside the others and renamed into place, so it is there whole or not at all, whenever a process dies and
however many write the same one. It is believed only once its manifest and the hashes of its files have held. What does not hold is removed
and made again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from torch2trt_onnx.errors import ConversionWarning, InputError, ManifestError, OutputError
from torch2trt_onnx.manifest import Manifest

STAMP = "used"
"""A file in each entry: what it holds is the key, and when it was last changed is when the entry was last used."""

UNFINISHED = ".unfinished-"
DAY = 86400.0


class Cache:
    """A folder of conversions, each as `Conversion.save` writes it. Processes may share it.

    Args:
        folder: made where it is missing.
        limit_bytes: above which `put` removes what was not used for longest; the newest entry stays. None: no limit.

    Raises:
        InputError: a limit below 1.
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, limit_bytes: int | None = None) -> None:
        if limit_bytes is not None and limit_bytes < 1:
            raise InputError(f"the limit of the cache is {limit_bytes} bytes", fix="use at least 1, or None")
        self.folder, self.limit_bytes = Path(folder), limit_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _output_error("the folder of the cache cannot be made", self.folder, error) from error
        self._sweep()

    def get(self, key: str) -> Path | None:
        """The folder of an entry, or None. Its files have been hashed, and are what they were.

        A damaged entry is removed, with a warning. Another process may remove any entry later, to keep to its limit: who wants to use it
        for longer takes the files (`take`).
        """
        entry = self._entry(key)
        try:
            identity = entry.stat().st_ino
        except OSError:
            return None
        if not os.access(entry, os.R_OK | os.X_OK):
            return None  # another user's, who keeps it to himself
        problem = _problem(entry, key)
        if problem:
            with contextlib.suppress(OSError):
                if entry.stat().st_ino == identity:  # else another has put a new one there in the meantime
                    self._remove(entry)
                    warnings.warn(f"the cache had a damaged entry, which was removed: {problem}", ConversionWarning, 2)
            return None
        with contextlib.suppress(OSError):  # a cache that may only be read has no order of use
            os.utime(entry / STAMP)
        return entry

    def put(self, key: str, fill: Callable[[Path], object]) -> Path:
        """Make an entry, unless another process is first.

        Args:
            key: see `identity.key`.
            fill: writes the files and their manifest to the folder that it is given. What it raises is raised, and nothing is left.

        Returns:
            The folder of the entry: this one, or that of the process that was first.

        Raises:
            OutputError: a file could not be written, or the disk is full; nothing is left.
            ManifestError: `fill` wrote no manifest.
        """
        entry, fresh = self._entry(key), None
        try:
            fresh = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{_owner()}-{os.getpid()}-", dir=self.folder))
            fill(fresh)
            Manifest.read(fresh)
            (fresh / STAMP).write_text(key)
            fresh.chmod(self.folder.stat().st_mode & 0o777)  # `mkdtemp` makes folders for one user alone
            with contextlib.suppress(FileExistsError):
                _rename(fresh, entry)
        except OSError as error:
            raise _output_error("the cache could not be written", self.folder, error) from error
        finally:
            if fresh is not None:
                shutil.rmtree(fresh, ignore_errors=True)
        self._sweep()
        self._evict(entry)
        return entry

    def _entry(self, key: str) -> Path:
        if not re.fullmatch("[0-9a-f]{64}", key):
            raise ValueError(f"{key!r} is no key of a cache")
        return self.folder / key

    def _entries(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return [path for path in self.folder.iterdir() if re.fullmatch("[0-9a-f]{64}", path.name)]
        return []

    def _remove(self, path: Path) -> None:
        """First out of the way in one step, so that nobody finds half an entry."""
        with contextlib.suppress(OSError):
            doomed = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{_owner()}-{os.getpid()}-", dir=self.folder))
            with contextlib.suppress(OSError):
                path.rename(doomed / path.name)
            shutil.rmtree(doomed, ignore_errors=True)

    def _evict(self, newest: Path) -> None:
        if self.limit_bytes is None:
            return
        found = sorted((_used(entry), _size(entry), entry) for entry in self._entries() if entry != newest)
        total = sum(size for _, size, _ in found) + _size(newest)
        for _, size, entry in found:
            if total <= self.limit_bytes:
                return
            self._remove(entry)
            total -= size

    def _sweep(self) -> None:
        """Remove what processes that have died left unfinished, and what is older than a day, whoever's it is."""
        with contextlib.suppress(OSError):
            for path in self.folder.glob(f"{UNFINISHED}*"):
                with contextlib.suppress(OSError):
                    if _is_orphan(path.name) or time.time() - path.stat().st_mtime > DAY:
                        shutil.rmtree(path, ignore_errors=True)


def take(folder: Path, into: Path, *, may_link: bool = False) -> Manifest:
    """Bring the files of a saved folder to another, so that they stay when the first one goes.

    Args:
        folder: that has a manifest.
        into: another one.
        may_link: by links, where the file system has them: only of files that nobody writes to in place. External weights are copied all
            the same, because onnx refuses to read them from a file with two names.

    Returns:
        The manifest, which stays behind.

    Raises:
        ManifestError: there is no manifest, or another one in the end than in the beginning.
        OSError: a file is gone, or cannot be written.
    """
    manifest = Manifest.read(folder)
    for name in manifest.files:
        if not may_link or name.endswith(".data") or not _link(folder / name, into / name):
            shutil.copyfile(folder / name, into / name)
    manifest.check_still(folder)
    return manifest


def _link(path: Path, to: Path) -> bool:
    """Give a file a second name; whether the file system can."""
    try:
        os.link(path.resolve(), to)  # `link` itself would give a symbolic link a second name
    except OSError:  # another file system, or one without links; or the file is gone, which a copy will say
        return False
    return True


def _problem(entry: Path, key: str) -> str:
    """Why an entry cannot be used; "" where it can."""
    try:
        if (entry / STAMP).read_text() != key:
            return f"{entry.name} is another entry, renamed"
        damage = Manifest.read(entry).damage(entry)
    except (OSError, ValueError) as error:
        return f"{entry.name}: {error}"
    except ManifestError as error:
        return str(error)
    return f"{entry.name}: {damage[0]}" if damage else ""


def _rename(fresh: Path, entry: Path) -> None:
    """Rename a folder to a name that nobody has.

    Raises:
        FileExistsError: somebody has it.
    """
    try:
        fresh.rename(entry)
    except OSError:  # ENOTEMPTY or EEXIST by the file system, and EACCES on Windows
        if entry.is_dir():
            raise FileExistsError(entry) from None
        raise


@functools.cache
def _owner() -> str:
    """Where process numbers mean the same: this machine, and on Linux this container."""
    with contextlib.suppress(OSError):
        space = Path("/proc/self/ns/pid").stat().st_ino
        return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:12]
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]


def _is_orphan(name: str) -> bool:
    """Whether a folder is of a process that is known to have died."""
    import psutil

    owner, _, rest = name.removeprefix(UNFINISHED).partition("-")
    pid = rest.partition("-")[0]
    return owner == _owner() and pid.isdecimal() and not psutil.pid_exists(int(pid))


def _used(entry: Path) -> float:
    try:
        return (entry / STAMP).stat().st_mtime
    except OSError:
        return 0.0


def _size(entry: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for path in entry.iterdir():
            total += path.stat().st_size
    return total


def _output_error(what: str, where: Path, error: OSError) -> OutputError:
    why = error.strerror or str(error)
    fix = "free space, choose another folder, or convert without a cache"
    return OutputError(what, where=str(error.filename or where), why=why, fix=fix)
