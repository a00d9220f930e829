"""Jobs on their way through a cluster: which are asked for, which run, and what came of each.

A job goes to the cluster twice: a worker says what its result is called, because versions and TensorRT count that are there; and where the
store has no such result, one makes it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch2trt_onnx.batch import keys, remote, resources
from torch2trt_onnx.batch.attempt import earlier
from torch2trt_onnx.batch.events import RETRIED, STARTED, Event
from torch2trt_onnx.batch.exchange import Exchange
from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.batch.result import CANCELLED, CRASHED, FAILED, Result
from torch2trt_onnx.batch.store import JOB, Store
from torch2trt_onnx.errors import BackendError, ConversionError, SourceError

if TYPE_CHECKING:
    from distributed import Client, Future

AGAIN = 1.0
"""Seconds until a job is looked at again that another run is at."""
AHEAD = 3
"""Jobs that are under way for each thread of the cluster: so no thread waits, and few locks are held."""


@dataclass(eq=False)
class Task:
    """A job on its way.

    Args:
        job: what to do.
        parcelled: likewise, as a worker is given it.
        key: of its result.
        attempts: that were made.
        starts: of the attempt; a second one is that of another worker.
        not_before: when it may be looked at again.
        folder: for what workers make of it.
        future: of what a worker does for it now.
        held: the lock of its key.
    """

    job: Job
    parcelled: remote.Parcelled | None = None
    key: str = ""
    attempts: int = 0
    starts: int = 0
    not_before: float = 0.0
    folder: Path | None = None
    future: Future[Any] | None = None
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class Dispatch:
    """A run on a cluster.

    Args:
        client: of the scheduler.
        store, tell, exchange, retry_failed: as `cluster.run` has them.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        tell: Callable[[Event], None],
        exchange: Exchange | None,
        *,
        retry_failed: bool,
    ) -> None:
        self._client, self._store, self._tell, self._exchange = client, store, tell, exchange
        self._retry_failed = retry_failed
        self._done: queue.SimpleQueue[tuple[Task, Future[Any]]] = queue.SimpleQueue()
        self._waiting: deque[Task] = deque()
        self._running: dict[str, Task] = {}
        self._topic = f"torch2trt_onnx-{uuid.uuid4().hex}"

    def results(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """The result of each job, as it comes. Where this is left early, what runs is let go of, and its workers end it."""
        self._waiting.extend(Task(job) for job in jobs)
        self._client.subscribe_topic(self._topic, self._hear)
        try:
            while self._waiting or self._running:
                yield from self._start()
                with contextlib.suppress(queue.Empty):
                    task, future = self._done.get(timeout=AGAIN / 5)
                    if (result := self._guarded(task, self._step, task, future)) is not None:
                        yield self._ended(task, result)
        finally:
            self._client.unsubscribe_topic(self._topic)
            self._client.cancel([task.future for task in self._running.values() if task.future is not None], force=True)
            for task in [*self._running.values()]:
                self._leave(task)

    def _start(self) -> Iterator[Result]:
        """Send jobs, as many as keep all workers busy; the results of those that cannot be sent."""
        room = AHEAD * max(1, sum(self._client.nthreads().values())) - len(self._running)
        now = time.monotonic()
        for task in list(self._waiting) if room > 0 else ():
            if room > 0 and task.not_before <= now:
                room -= 1
                self._waiting.remove(task)
                self._running[task.job.name] = task
                if (result := self._guarded(task, self._ask, task)) is not None:
                    yield self._ended(task, result)

    def _ask(self, task: Task) -> Result | None:
        """Ask a worker what the result is called."""
        if lacking := resources.lacking(task.job, resources.offered(self._client)):
            return _failed(task, f"no worker of the cluster has {lacking}")
        if task.parcelled is None:
            job, parcel = self._exchange.send(task.job) if self._exchange is not None else (task.job, None)
            task.parcelled = job.to_json(), parcel, self._exchange.url if self._exchange is not None else None
        self._submit(task, remote.key, task.parcelled)
        return None

    def _step(self, task: Task, future: Future[Any]) -> Result | None:
        """What a finished future says of a job; None where it goes on."""
        from distributed import KilledWorker

        try:
            found = future.result()
        except KilledWorker:
            task.attempts += max(1, task.starts)
            return self._tried(task, _failed(task, "each worker that was given it died", CRASHED))
        except concurrent.futures.CancelledError as error:
            raise _gone(str(error)) from None
        except ConversionError as error:
            return replace(
                _failed(task, " | ".join(line.strip() for line in str(error).splitlines())), detail=str(error)
            )
        except Exception as error:
            task.attempts += 1
            said = next(iter(str(error).splitlines()), "")
            return self._tried(
                task, _failed(task, f"the worker could not do it: {type(error).__name__}: {said}", CRASHED)
            )
        return self._keyed(task, found) if isinstance(found, str) else self._made(task, *found)

    def _keyed(self, task: Task, key: str) -> Result | None:
        """Take what there is of this name, or have it made."""
        task.key = key
        if not task.held.enter_context(self._store.lock(key)):
            self._again(task, AGAIN)
            return None
        if (known := earlier(self._store, task.job, key, retry_failed=self._retry_failed)) is not None:
            return known
        task.folder = self._store.place()
        shared = str(task.folder) if self._exchange is None else ""
        self._submit(task, remote.convert, task.parcelled, shared, self._topic)
        return None

    def _made(self, task: Task, data: Mapping[str, Any], made: str) -> Result | None:
        """Put into the store what a worker has made, or have it done again."""
        task.attempts += max(1, task.starts)
        result = replace(Result.from_json(data), attempts=task.attempts)
        if result.status == CANCELLED:  # not by us, who would not wait for it
            return self._tried(task, _failed(task, "its worker was stopped", CRASHED))
        if made and result.key != task.key:
            return self._tried(
                task, _failed(task, "its files changed meanwhile, or the workers of the cluster are not alike")
            )
        if made:
            assert task.folder is not None
            folder = task.folder / made
            if self._exchange is not None:
                self._exchange.take_result(made, folder)
                job = json.dumps(task.job.to_json(), indent=1)  # with the paths that it has here
                (folder / JOB).write_text(f"{job}\n")
            result = self._store.commit(folder, result)
            self._store.name(task.job.name, result.key)
        return self._tried(task, result)

    def _tried(self, task: Task, result: Result) -> Result | None:
        """The result of an attempt, unless it may be better another time."""
        if not result.can_pass or task.attempts > task.job.retries:
            return result
        self._tell(Event(task.job.name, RETRIED, result.reason))
        self._again(task, 0.0)
        return None

    def _submit(self, task: Task, function: Callable[..., Any], *arguments: Any) -> None:
        task.starts = 0
        name = f"torch2trt_onnx-{function.__name__}-{uuid.uuid4().hex}"
        needs = resources.needs(task.job, resources.offered(self._client))
        task.future = self._client.submit(function, *arguments, key=name, pure=False, resources=needs)
        task.future.add_done_callback(lambda future: self._done.put((task, future)))

    def _hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """What a worker tells of a job. A second start is that of another worker: Dask does again what a lost one was at."""
        said = event[1]
        task = self._running.get(said["job"])
        if task is None:
            return
        if said["event"] == STARTED:
            task.starts += 1
            if task.starts > 1:
                self._tell(Event(task.job.name, RETRIED, "its worker was lost"))
        self._tell(Event(task.job.name, said["event"], said.get("phase", ""), said.get("fraction")))

    def _guarded(self, task: Task, step: Callable[..., Result | None], *arguments: Any) -> Result | None:
        """A step, in which what goes wrong is the job's result."""
        try:
            return step(*arguments)
        except OSError as error:
            said = (str(error.filename or ""), error.strerror or str(error))
            return _failed(task, " | ".join(filter(None, ("its files cannot be read or written", *said))))
        except SourceError as error:  # a file to send is missing, or is none
            return replace(_failed(task, error.line), key=keys.key(task.job), detail=str(error))

    def _again(self, task: Task, seconds: float) -> None:
        self._leave(task)
        task.not_before = time.monotonic() + seconds
        self._waiting.append(task)

    def _ended(self, task: Task, result: Result) -> Result:
        self._leave(task)
        return result

    def _leave(self, task: Task) -> None:
        """Give back all that a job holds."""
        self._running.pop(task.job.name, None)
        task.held.close()
        if task.folder is not None:
            self._store.discard(task.folder)
        task.folder = task.future = None


def _gone(why: str) -> BackendError:
    fix = "run the same command again, once it is there"
    return BackendError("the scheduler of the cluster is gone, or has let go of the jobs", why=why, fix=fix)


def _failed(task: Task, reason: str, status: str = FAILED) -> Result:
    return Result(task.job.name, task.key, status, reason, reason, attempts=task.attempts, is_final=False)
