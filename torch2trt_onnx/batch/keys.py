"""What a job's result is called: everything that it depends on, as one hash."""

from __future__ import annotations

from pathlib import Path

from torch2trt_onnx import identity
from torch2trt_onnx.backends import find_backend
from torch2trt_onnx.batch import settings, sources
from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.errors import ConversionError
from torch2trt_onnx.hashing import hash_file, hash_json

UNCOUNTED = ("name", "shown", "home", "timeout", "memory", "retries", "resources")
"""What of a job changes nothing in its result."""


def key(job: Job) -> str:
    """The name of what a job would make; see `identity.key`. Two jobs with one key make the same."""
    return named(job)[0]


def named(job: Job) -> tuple[str, str]:
    """What a job's result is called, and why the job cannot be done; "" where nothing is known against it.

    A job that cannot be done because a file is missing or wrong has a key too: of what it says, of that file, and of what is wrong. Once
    it is mended the key is another.
    """
    try:
        given = settings.arguments(job)
        found = identity.key(
            source_sha256=sources.sha256(job),
            inputs=given["inputs"],
            outputs=given["outputs"],
            asked=settings.asking(job),
            options=given["options"],
            engine=identity.engine_facts(find_backend(job.backend), given["options"]),
            calibration=given["calibration"],
            limits=given["max_error"],
        )
    except (ConversionError, OSError) as error:
        called = job.shown or job.model  # what was fetched has another path each time
        told = {**job.to_json(), "model": called}
        said = {name: value for name, value in told.items() if name not in UNCOUNTED}
        why = str(error).replace(job.model, called)
        return hash_json([type(error).__name__, why, said, _bytes(job)]), why
    return found, ""


def _bytes(job: Job) -> str:
    try:
        return hash_file(Path(job.model)) if not job.is_function else ""
    except OSError:
        return ""
