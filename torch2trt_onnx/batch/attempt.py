"""One attempt at one job in a store: found there, or made and put there, by one process at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch2trt_onnx.batch import keys, running, sources
from torch2trt_onnx.batch.events import STARTED, Event
from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.batch.result import CANCELLED, FAILED, MEMORY, REUSED, TIMEOUT, Result
from torch2trt_onnx.batch.store import Store
from torch2trt_onnx.errors import SourceError

CHANGED = "its files, or what converts them, were changed while it was converted | run the same command again"


def attempt(
    store: Store,
    job: Job,
    tell: Callable[[Event], None],
    *,
    retry_failed: bool = False,
    limit: int | None = None,
    threads: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Result | None:
    """What becomes of a job; None where another process is at the same one now.

    A conversion that is there is not made again, nor is a failure that would come again, unless the job may now take longer or hold more.

    Args:
        store: of the results.
        job: what to do.
        tell: told of the start and of each phase.
        retry_failed: try failures again all the same.
        limit, threads, cancelled: see `running.run`.
    """
    try:
        with sources.fetched(job, store.place) as here:
            return _attempt(store, here, tell, retry_failed, limit=limit, threads=threads, cancelled=cancelled)
    except SourceError as error:
        return Result(job.name, "", FAILED, error.line, str(error), is_final=False)
    except OSError as error:
        why = error.strerror or str(error)
        reason = f"the results cannot be written | {error.filename or store.folder} | {why}"
        return Result(job.name, "", FAILED, reason, reason, is_final=False)


def _attempt(store: Store, job: Job, tell: Callable[[Event], None], retry_failed: bool, **how: Any) -> Result | None:
    key, trouble = keys.named(job)
    with store.lock(key) as is_ours:
        if not is_ours:
            return None
        if (found := earlier(store, job, key, retry_failed=retry_failed)) is not None:
            return found
        tell(Event(job.name, STARTED))
        place = store.place()
        try:
            result = replace(running.run(job, place, tell, **how), key=key)
            if result.status == CANCELLED:
                return result
            if keys.key(job) != key or (result.ok and trouble):
                # What came of the new files must not lie under the hash of the old ones, nor what was done under that of an error.
                return Result(job.name, "", FAILED, CHANGED, CHANGED, is_final=False)
            result = store.commit(place, result)
            store.name(job.name, key)
            return result
        finally:
            store.discard(place)


def earlier(store: Store, job: Job, key: str, *, retry_failed: bool = False) -> Result | None:
    """What an earlier run made of a job: a conversion, or a failure that would come again. None where there is neither."""
    found = store.find(key)
    if found is None or not _holds(job, *found, retry_failed):
        return None
    store.name(job.name, key)
    _, result = found
    return replace(result, job=job.name, attempts=0, status=REUSED if result.ok else result.status)


def _holds(job: Job, made: Job, result: Result, retry_failed: bool) -> bool:
    """Whether an earlier result is that of a job now."""
    if result.ok:
        return True
    if retry_failed or not result.is_final:
        return False
    if result.status == TIMEOUT:
        return job.timeout <= made.timeout
    if result.status == MEMORY:
        return job.memory is not None and made.memory is not None and job.memory <= made.memory
    return True
