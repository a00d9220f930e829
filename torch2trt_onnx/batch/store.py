"""The folder of a batch's results, which runs share, and which holds no half of anything whenever they die.

    objects/KEY/     a conversion as `Conversion.save` writes it, with job.json, result.json, log.txt; of a failure those alone
    by-name/JOB      a link to the object
    results.jsonl    a line for each result, as it comes; in the end one for each job
    .state/          lock: of results.jsonl, and of who comes and goes
                     locks/KEY: held while the object is made
                     runs/NAME/: what a run has not finished, with a lock that the run holds

Objects are made in the folder of the run and renamed into place. Locks are `flock`s, which end with the process that holds them; so what a
dead run has left is known, and the next one sweeps it away.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from torch2trt_onnx.batch.job import Job, file_name
from torch2trt_onnx.batch.result import Result
from torch2trt_onnx.batch.running import SCRATCH
from torch2trt_onnx.errors import ManifestError, OutputError
from torch2trt_onnx.fitness import sizes
from torch2trt_onnx.manifest import FILES, Manifest

OBJECTS, NAMES, LINES, STATE = "objects", "by-name", "results.jsonl", ".state"
JOB, RESULT = "job.json", "result.json"


class Store:
    """The results of one run in a folder that it may share with others. It is a context: in the end its own folder goes.

    Args:
        folder: made where it is missing.

    Raises:
        OutputError: it cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self._state = self.folder / STATE
        self._numbers = itertools.count()
        self._own = self._state / "runs" / uuid.uuid4().hex
        try:
            for path in (self.folder / OBJECTS, self.folder / NAMES, self._state / "locks", self._state / "runs"):
                path.mkdir(parents=True, exist_ok=True)
            with self._exclusive():
                self._own.mkdir()
                self._held = _try(self._own / "lock")
                self._sweep()
        except OSError as error:
            raise _output_error("the folder of the results cannot be written", self.folder, error) from error

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError), self._exclusive():
            shutil.rmtree(self._own, ignore_errors=True)
        if self._held is not None:
            self._held.close()

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Hold the lock of an object, or learn that somebody else does."""
        path = self._state / "locks" / key
        held = _try(path)
        try:
            yield held is not None
        finally:
            if held is not None:
                path.unlink(missing_ok=True)
                held.close()

    def place(self) -> Path:
        """A new empty folder for what is not finished."""
        path = self._own / str(next(self._numbers))
        path.mkdir()
        return path

    def discard(self, place: Path) -> None:
        """Remove a place, with all that is in it."""
        shutil.rmtree(place, ignore_errors=True)

    def find(self, key: str) -> tuple[Job, Result] | None:
        """The object of a key, with the job that made it; None where there is none, or files are gone or cut."""
        entry = self.folder / OBJECTS / key
        try:
            result = Result.from_json(json.loads((entry / RESULT).read_bytes()))
            job = Job.from_json(json.loads((entry / JOB).read_bytes()))
            if result.ok and sizes(Manifest.read(entry).files, FILES, entry):
                return None
        except (OSError, ValueError, TypeError, ManifestError):
            return None
        return job, result

    def commit(self, place: Path, result: Result) -> Result:
        """Make an object of what lies in a place; an older one of its key makes way. The lock of the key must be held.

        Returns:
            The result, with the folder that it now has.
        """
        result = replace(result, folder=f"{OBJECTS}/{result.key}")
        shutil.rmtree(place / SCRATCH, ignore_errors=True)
        with (place / RESULT).open("w") as file:
            file.write(json.dumps(result.to_json(), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        entry = self.folder / result.folder
        if entry.exists():
            entry.rename(self._own / str(next(self._numbers)))
        place.rename(entry)
        _sync(entry.parent)
        return result

    def name(self, job: str, key: str) -> None:
        """Let a job's name lead to an object."""
        link = self._own / str(next(self._numbers))
        link.symlink_to(Path("..") / OBJECTS / key)
        link.replace(self.folder / NAMES / file_name(job))

    def record(self, result: Result) -> None:
        """Append a result to `results.jsonl`: a whole line, on disk."""
        with self._exclusive(), (self.folder / LINES).open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"  # somebody's disk was full
            file.write(b"\n" * torn + json.dumps(result.to_json()).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, results: Sequence[Result]) -> None:
        """Write `results.jsonl` anew: a line for each job, those of a run in its order, after them what other runs have written."""
        with self._exclusive():
            own = {result.job: result for result in results}
            others = {result.job: result for result in self.results() if result.job not in own}
            every = (*own.values(), *others.values())
            self.publish(LINES, "".join(json.dumps(result.to_json()) + "\n" for result in every))

    def publish(self, name: str, text: str) -> None:
        """Write a file beside the objects, whole or not at all."""
        fresh = self._own / name
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.folder / name)

    def results(self) -> list[Result]:
        """What `results.jsonl` says now, torn lines left out; the last line of a job counts."""
        found: dict[str, Result] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / LINES).read_bytes().splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    result = Result.from_json(json.loads(line))
                    found[result.job] = result
        return list(found.values())

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the one lock of the folder. For moments only."""
        with (self._state / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _sweep(self) -> None:
        """Remove what dead runs have left: folders and locks that nobody holds."""
        for run in (self._state / "runs").iterdir():
            if run != self._own and (held := _try(run / "lock")) is not None:
                shutil.rmtree(run, ignore_errors=True)
                held.close()
        for path in (self._state / "locks").iterdir():
            if (held := _try(path)) is not None:
                path.unlink(missing_ok=True)
                held.close()


def _try(path: Path) -> IO[bytes] | None:
    """Take the lock of a file, which is made; None where somebody has it. Closing the file gives it back."""
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()  # whoever had it has removed the file just now: lock the next one


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _output_error(what: str, where: Path, error: OSError) -> OutputError:
    why = error.strerror or str(error)
    return OutputError(what, where=str(error.filename or where), why=why, fix="free space, or choose another folder")
