"""Many models for many targets, unattended: each job in a process of its own, each result kept for the next run.

The way of a job: `request` reads it from a manifest; `pool` or `cluster` runs it, by `attempt`: `keys` says what its result is called,
`store` whether it is there, and `running` starts `worker`, which converts.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch2trt_onnx.batch.events import FINISHED, QUEUED, Event
from torch2trt_onnx.batch.result import CANCELLED, Result, Summary

if TYPE_CHECKING:
    from torch2trt_onnx.batch.request import Batch

__all__ = ["Event", "Result", "Summary", "batch"]


def batch(
    manifest: str | Path | Batch,
    out: str | Path,
    *,
    jobs: int | None = None,
    cluster: str | None = None,
    exchange: str | None = None,
    retry_failed: bool = False,
    only: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Summary:
    """Do all jobs of a manifest that are not done already.

    A bad model, a crash, a hang or a lack of memory is the result of its job, and nothing more. Where this is interrupted, by Ctrl-C or
    SIGTERM, what runs is ended, and the summary says so; the same call goes on with what is left. So it does after `kill -9`.

    Args:
        manifest: its path, or what `request.read` gives.
        out: the folder of the results; see `store`. Several runs may share it.
        jobs: how many at a time on this machine; None: by cores and free memory.
        cluster: the address of a Dask scheduler, whose workers do the jobs instead.
        exchange: the URL of a place that this machine and those workers reach through fsspec; None: they see the same files.
        retry_failed: also do those that failed, and would so again.
        only: a glob of names of jobs.
        on_event: told of all that happens to the jobs, by one thread at a time.

    Returns:
        The results in the order of the manifest; `Summary.code` is an exit code.

    Raises:
        ConversionError: the manifest is wrong, or the folder cannot be written. Never because of one job.
    """
    from torch2trt_onnx.batch import overview
    from torch2trt_onnx.batch.pool import Pool
    from torch2trt_onnx.batch.request import Batch, read
    from torch2trt_onnx.batch.store import Store

    start = time.monotonic()
    given = manifest if isinstance(manifest, Batch) else read(manifest)
    wanted = given.called(only)
    tell = _serial(on_event)
    found: dict[str, Result] = {}
    interrupted, notes = False, dict[str, None]()
    with Store(out) as store:
        for job in wanted:
            tell(Event(job.name, QUEUED))

        def run() -> Generator[Result]:
            if cluster is None:
                return Pool(store, tell, slots=jobs, retry_failed=retry_failed).run(wanted)
            from torch2trt_onnx.batch import cluster as dask

            return dask.run(store, wanted, tell, address=cluster, exchange=exchange, retry_failed=retry_failed)

        try:
            with _terminable(), closing(run()) as results:
                for result in results:
                    found[result.job] = result
                    with _noted("results.jsonl", notes):
                        store.record(result)
                    tell(Event(result.job, FINISHED, result=result))
        except KeyboardInterrupt:
            interrupted = True
            for job in wanted:
                if job.name not in found:
                    found[job.name] = result = Result(job.name, "", CANCELLED, "the run was stopped", is_final=False)
                    tell(Event(job.name, FINISHED, result=result))
        ordered = [found[job.name] for job in wanted]
        with _noted("results.jsonl", notes):
            store.finish([result for result in ordered if result.status != CANCELLED])
        summary = Summary(ordered, time.monotonic() - start, interrupted)
        with _noted(overview.NAME, notes):
            store.publish(overview.NAME, overview.render(summary, given.path.name, store.folder))
    return replace(summary, notes=tuple(notes))


@contextmanager
def _noted(what: str, notes: dict[str, None]) -> Iterator[None]:
    """Where a file of all results cannot be written, because the disk is full, note it and go on: the objects tell the same."""
    try:
        yield
    except OSError as error:
        notes[f"{what} could not be written: {error.strerror or error}"] = None


def _serial(on_event: Callable[[Event], None] | None) -> Callable[[Event], None]:
    """Tells events one at a time, whichever thread they come from."""
    lock = threading.Lock()

    def tell(event: Event) -> None:
        if on_event is not None:
            with lock:
                on_event(event)

    return tell


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
