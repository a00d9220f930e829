"""The model of a job: where it is, what it is made from, and how a function makes it."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path

from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.errors import SourceError
from torch2trt_onnx.exporters import source
from torch2trt_onnx.hashing import hash_file, hash_json


def sha256(job: Job) -> str:
    """The hash of all that the model is made from. Nothing is imported or run for it.

    Of a file as `source.fingerprint` has it, with external weights. Of a function, its module with the package or the folder that it lies
    in, and the version of what was installed. Files that the job names count as well.

    Raises:
        SourceError: a file is missing, or is no model.
        OSError: a file cannot be read.
    """
    if not job.is_function:
        found = source.fingerprint(job.model)
        assert found is not None  # a path
        parts = [found.sha256]
    else:
        module = job.model.partition(":")[0]
        parts = [job.model, _version(module), *(hash_file(path) for path in code(job))]
    return (
        hash_json([*parts, *(hash_file(Path(file)) for file in job.files)]) if len(parts) > 1 or job.files else parts[0]
    )


def code(job: Job) -> list[Path]:
    """The files that a function's module may be made of: all Python of its package, or beside it; of what was installed its file alone.

    Raises:
        SourceError: there is no such module.
    """
    module = job.model.partition(":")[0]
    top = module.partition(".")[0]
    spec = PathFinder.find_spec(top, [job.home, *sys.path])
    if spec is None:
        raise SourceError(f"there is no module {top!r}", where=job.model, fix=f"put it in {job.home}, or install it")
    if spec.submodule_search_locations:
        folders = [Path(place) for place in spec.submodule_search_locations]
        inner = module.partition(".")[2].replace(".", "/")
        if _version(module):
            names = [f"{inner}.py", f"{inner}/__init__.py"] if inner else ["__init__.py"]
            return [path for folder in folders for name in names if (path := folder / name).is_file()]
        return sorted(path for folder in folders for path in folder.rglob("*.py"))
    if spec.origin is None or not Path(spec.origin).is_file() or _version(module):
        return []
    return sorted(Path(spec.origin).parent.glob("*.py"))


def make(job: Job) -> object:
    """The model, as `convert` takes it. A module comes as it is used, and not as it is trained.

    Raises:
        SourceError: the function is not there, or fails.
    """
    if not job.is_function:
        return job.model
    module, _, name = job.model.partition(":")
    sys.path.insert(0, job.home)
    try:
        model = getattr(importlib.import_module(module), name)()
    except Exception as error:
        why = f"{type(error).__name__}: {next(_lines(error), '')}"
        raise SourceError("the function that makes the model failed", where=job.model, why=why) from error
    return model.eval() if hasattr(model, "eval") else model


@contextmanager
def fetched(job: Job, folder: Callable[[], Path]) -> Iterator[Job]:
    """A job whose model is a file here: one at a URL is brought with its external weights, and goes when the block ends.

    Args:
        job: the job.
        folder: makes an empty folder for it.

    Raises:
        SourceError: it cannot be brought.
    """
    if "://" not in job.model:
        yield job
        return
    place = folder()
    try:
        path = place / job.model.rpartition("/")[2]
        _bring(job.model, path)
        if path.suffix == ".onnx":
            for name in _external(path):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                _bring(f"{job.model.rpartition('/')[0]}/{name}", place / name)
        yield replace(job, model=str(path), shown=job.shown or job.model)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _bring(url: str, path: Path) -> None:
    """Copy a file from a URL.

    Raises:
        SourceError: it is not there, or what reads such URLs is not installed.
    """
    try:
        import fsspec

        with fsspec.open(url, "rb") as given, path.open("wb") as file:
            shutil.copyfileobj(given, file, 1 << 20)
    except ImportError as error:
        fix = "pip install 'torch2trt_onnx[batch]', and what the error names"
        raise SourceError("the model cannot be fetched", where=url, why=str(error), fix=fix) from None
    except Exception as error:  # each of fsspec's file systems has its own
        why = f"{type(error).__name__}: {next(_lines(error), '')}"
        raise SourceError("the model cannot be fetched", where=url, why=why) from error


def _external(path: Path) -> list[str]:
    """The files of weights that an ONNX file names, below its own folder; none where it is no ONNX file, as its conversion will say."""
    try:
        model = source.load_onnx(path)
    except SourceError:
        return []
    tensors = (t for t in model.graph.initializer if t.data_location == t.EXTERNAL)
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return sorted(name for name in names - {path.name} if not Path(name).is_absolute() and ".." not in Path(name).parts)


def _version(module: str) -> str:
    """The version of what a module was installed with; "" where that is not known, as of a file beside the manifest."""
    try:
        return importlib.metadata.version(module.partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return ""


def _lines(error: Exception) -> Iterator[str]:
    return (line.strip() for line in str(error).splitlines() if line.strip())
