"""Files between machines that share no file system: by content, at a URL that both reach through fsspec.

    URL/files/SHA256      what jobs read: models, weights, rules, calibration data, the code of functions
    URL/results/NAME/     what a worker made, until the coordinator has fetched it

A file is sent once, whatever it is called and however many jobs read it.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch2trt_onnx.batch import sources
from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.errors import BackendMissingError, OutputError
from torch2trt_onnx.exporters import source
from torch2trt_onnx.hashing import hash_file

FILES, RESULTS = "files", "results"
Parcel = dict[str, str]
"""Where files of a job lie in its folder on the worker -> their hashes."""


class Exchange:
    """A place that the coordinator and the workers reach.

    Args:
        url: as fsspec takes it: "s3://bucket/batch", "sftp://host/path", "file:///shared".

    Raises:
        BackendMissingError: fsspec, or what it needs for such a URL, is not installed.
        OutputError: the URL makes no sense.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import fsspec

            self._fs, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            fix = "pip install 'torch2trt_onnx[batch]', and what the error names, on all machines"
            raise BackendMissingError(
                "the place of exchange cannot be reached", where=url, why=str(error), fix=fix
            ) from None
        except ValueError as error:
            raise OutputError("the place of exchange cannot be reached", where=url, why=str(error)) from None

    def send(self, job: Job) -> tuple[Job, Parcel]:
        """Put what a job reads there; the job with paths relative to a folder that `fetch` makes, and what has to lie in it.

        Raises:
            SourceError: a file is missing, or is no model.
            OSError: a file cannot be read or written.
        """
        moved, files = _packed(job)
        parcel = {}
        for name, path in files.items():
            parcel[name] = hash_file(path)
            target = f"{self._root}/{FILES}/{parcel[name]}"
            with self._reached():
                if not self._fs.exists(target):
                    self._put(path, target)
        return moved, parcel

    def fetch(self, job: Job, parcel: Parcel, folder: Path) -> Job:
        """Bring what a job reads into a folder; the job with its paths there.

        Raises:
            OSError: a file is not there, or cannot be written.
        """
        for name, sha256 in parcel.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._reached():
                self._fs.get_file(f"{self._root}/{FILES}/{sha256}", str(path))
            if hash_file(path) != sha256:
                raise OSError(f"{self.url}/{FILES}/{sha256} is damaged")
        return _placed(job, folder)

    def put_result(self, folder: Path) -> str:
        """Put a folder there, and give its name."""
        name = uuid.uuid4().hex
        with self._reached():
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    self._put(path, f"{self._root}/{RESULTS}/{name}/{path.relative_to(folder).as_posix()}")
        return name

    def take_result(self, name: str, folder: Path) -> None:
        """Bring such a folder here, and remove it there."""
        root = f"{self._root}/{RESULTS}/{name}"
        with self._reached():
            for found in self._fs.find(root):
                path = folder / found.removeprefix(root).lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(found, str(path))
        with contextlib.suppress(OSError), self._reached():
            self._fs.rm(root, recursive=True)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """What goes wrong on the way as an OSError: each of fsspec's file systems has errors of its own."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self.url}: {type(error).__name__}: {error}") from error

    def _put(self, path: Path, target: str) -> None:
        """Send a file, which has its name only when it is whole."""
        fresh = f"{target}.{uuid.uuid4().hex}"
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(path), fresh)
        self._fs.mv(fresh, target)


def _packed(job: Job) -> tuple[Job, dict[str, Path]]:
    """A job with paths relative to its folder, and name in that folder -> file here."""
    files: dict[str, Path] = {}
    changed: dict[str, Any] = {"home": "home", "shown": job.shown or job.model}
    home = Path(job.home).absolute()
    if job.is_function:
        for path in sources.code(job):
            with contextlib.suppress(ValueError):  # what is installed is so on the workers as well
                files[f"home/{path.absolute().relative_to(home).as_posix()}"] = path
    elif "://" not in job.model:  # else the worker fetches it
        model = Path(job.model)
        found = source.fingerprint(job.model)
        assert found is not None  # a path
        for stamp in found.stamps:
            name = Path(stamp[0]).resolve().relative_to(model.parent.resolve()).as_posix()
            files[f"model/{name}"] = Path(stamp[0])
        changed["model"] = f"model/{model.name}"
        files[f"model/{model.name}"] = model
    if isinstance(job.rules, str):
        files["rules.toml"], changed["rules"] = Path(job.rules), "rules.toml"
    if isinstance(job.calibration, str):
        given = Path(job.calibration)
        changed["calibration"] = "calibration" if given.is_dir() else f"calibration/{given.name}"
        files |= {f"calibration/{path.name}": path for path in (given.glob("*.npz") if given.is_dir() else [given])}
    changed["files"] = tuple(f"files/{at}/{Path(name).name}" for at, name in enumerate(job.files))
    files |= {name: Path(path) for name, path in zip(changed["files"], job.files, strict=True)}
    return replace(job, **changed), files


def _placed(job: Job, folder: Path) -> Job:
    """A job whose paths are relative, with its paths in a folder."""

    def there(path: str) -> str:
        return str(folder / path)

    return replace(
        job,
        home=there(job.home),
        model=job.model if job.is_function or "://" in job.model else there(job.model),
        rules=there(job.rules) if isinstance(job.rules, str) else job.rules,
        calibration=there(job.calibration) if isinstance(job.calibration, str) else job.calibration,
        files=tuple(map(there, job.files)),
    )
