"""What a worker of a cluster does: it says what a job's result is called, and does the job in a process of its own, as a pool does.

These functions run in the threads of a Dask worker, which has this package as the coordinator has it.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch2trt_onnx.batch import keys, pool, running, sources
from torch2trt_onnx.batch.events import STARTED, Event
from torch2trt_onnx.batch.exchange import Exchange, Parcel
from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.batch.result import CANCELLED, FAILED, Result

Parcelled = tuple[Mapping[str, Any], Parcel | None, str | None]
"""A job as plain data, what it reads, and the URL where that lies; None and None where files are reached by their paths."""


def key(parcelled: Parcelled) -> str:
    """See `keys.key`: with the versions, and the TensorRT, of this machine."""
    with _job(parcelled) as job:
        return keys.key(job)


def convert(parcelled: Parcelled, shared: str, topic: str) -> tuple[dict[str, Any], str]:
    """One attempt at a job.

    Args:
        parcelled: the job.
        shared: a folder for what it makes; "": that goes to the place of exchange.
        topic: under which the scheduler tells the coordinator of events.

    Returns:
        The result as plain data, and the name of what was made, in the folder or at the place of exchange; "" where there is nothing.
    """
    import distributed

    worker = distributed.get_worker()
    task = worker.get_current_task()

    def tell(event: Event) -> None:
        worker.log_event(topic, {**event.to_json(), "worker": worker.address})

    def cancelled() -> bool:
        known = worker.state.tasks.get(task)  # the coordinator has let go of it, or has died
        return known is None or known.state in ("cancelled", "resumed") or worker.status.name.startswith("clos")

    nthreads = worker.state.nthreads
    total = worker.memory_manager.memory_limit
    how: dict[str, Any] = {"threads": max(1, pool.cores() // nthreads), "cancelled": cancelled}
    with _job(parcelled) as job:
        tell(Event(job.name, STARTED))
        limit = job.memory or (total // nthreads if total else None)
        if shared:
            if not Path(shared).is_dir():
                reason = f"the worker {worker.address} does not see {shared}: put the results on a shared file system, or give --exchange"
                return Result(job.name, "", FAILED, reason, reason, is_final=False).to_json(), ""
            place = Path(shared) / uuid.uuid4().hex  # of this attempt alone: a worker that is thought dead may write on
            place.mkdir()
            result = running.run(job, place, tell, limit=limit, **how)
            return replace(result, key=keys.key(job)).to_json(), place.name
        with tempfile.TemporaryDirectory(dir=worker.local_directory) as folder:
            result = running.run(job, Path(folder), tell, limit=limit, **how)
            made = ""
            if result.status != CANCELLED:
                shutil.rmtree(Path(folder) / running.SCRATCH, ignore_errors=True)
                made = Exchange(parcelled[2] or "").put_result(Path(folder))
            return replace(result, key=keys.key(job)).to_json(), made


@contextmanager
def _job(parcelled: Parcelled) -> Iterator[Job]:
    """A job whose files are here, as long as the block lasts."""
    import distributed

    data, parcel, url = parcelled
    job = Job.from_json(data)
    if parcel is None and "://" not in job.model:
        yield job
        return
    with tempfile.TemporaryDirectory(dir=distributed.get_worker().local_directory) as folder:
        if parcel is not None and url is not None:
            job = Exchange(url).fetch(job, parcel, Path(folder))
        with sources.fetched(job, lambda: Path(tempfile.mkdtemp(dir=folder))) as here:
            yield here
