"""Jobs on this machine: as many at a time as cores and memory allow, each in a process of its own.

The coordinator has a thread for each job that runs, which watches its process and little else; so what it holds does not grow with the
number of jobs.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from torch2trt_onnx.batch.attempt import attempt
from torch2trt_onnx.batch.events import RETRIED, Event
from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.batch.result import CRASHED, MEMORY, Result
from torch2trt_onnx.batch.store import Store

TYPICAL = 3 << 29
"""Bytes that a job of unknown size is thought to need, where nobody says how many run at a time."""

SPARE = 0.9
"""Of the memory that is free, what jobs may hold together."""

AGAIN = 0.5
"""Seconds until a job is looked at again that another run is at."""


@dataclass
class Task:
    """A job that waits or runs.

    Args:
        job: what to do.
        attempts: that were made.
        alone: whether it needs all the memory.
        not_before: when it may be looked at again.
        thread: that watches it.
    """

    job: Job
    attempts: int = 0
    alone: bool = False
    not_before: float = 0.0
    thread: threading.Thread | None = None


class Pool:
    """Runs jobs on this machine.

    Args:
        store: of the results.
        tell: told of all that happens but the beginning and the end; from several threads.
        slots: how many at a time; None: by cores and free memory.
        retry_failed: see `attempt`.
    """

    def __init__(
        self, store: Store, tell: Callable[[Event], None], *, slots: int | None = None, retry_failed: bool = False
    ) -> None:
        self._store, self._tell, self._retry_failed = store, tell, retry_failed
        self._memory = int(free_memory() * SPARE)
        self.slots = slots or max(1, min(cores(), self._memory // TYPICAL))
        self._stopped = threading.Event()
        self._done: queue.SimpleQueue[tuple[Task, Result | None]] = queue.SimpleQueue()
        self._running: list[Task] = []

    def run(self, jobs: Iterable[Job]) -> Generator[Result]:
        """The result of each job, as it comes. Where this is left early, what runs is ended first."""
        waiting = deque(Task(job) for job in jobs)
        self.slots = max(1, min(self.slots, len(waiting)))  # what few jobs leave free is theirs
        try:
            while waiting or self._running:
                self._start(waiting)
                try:
                    task, result = self._done.get(timeout=AGAIN / 5)
                except queue.Empty:
                    continue
                self._running.remove(task)
                if result is None:
                    task.not_before = time.monotonic() + AGAIN
                    waiting.append(task)
                elif self._may_retry(task, result):
                    self._tell(Event(task.job.name, RETRIED, result.reason))
                    waiting.append(replace(task, alone=task.alone or result.status == MEMORY))
                else:
                    yield result
        finally:
            self._stopped.set()
            for task in self._running:
                if task.thread is not None and task.thread.ident is not None:  # Ctrl-C may have come before it began
                    task.thread.join()

    def _start(self, waiting: deque[Task]) -> None:
        """Start what there is room for, the first ones first."""
        now = time.monotonic()
        for task in list(waiting) if len(self._running) < self.slots else ():
            if len(self._running) == self.slots:
                return
            if task.not_before <= now and self._fits(task):
                waiting.remove(task)
                self._running.append(task)
                task.thread = threading.Thread(target=self._do, args=(task,), name=task.job.name, daemon=True)
                task.thread.start()

    def _fits(self, task: Task) -> bool:
        if not self._running:
            return True
        if task.alone or any(one.alone for one in self._running):
            return False
        return sum(map(self._share, self._running)) + self._share(task) <= self._memory

    def _share(self, task: Task) -> int:
        """The memory that a job may hold."""
        return task.job.memory or self._memory // (1 if task.alone else self.slots)

    def _do(self, task: Task) -> None:
        try:
            result = attempt(
                self._store,
                task.job,
                self._tell,
                retry_failed=self._retry_failed or task.attempts > 0,
                limit=self._share(task),
                threads=max(1, cores() // self.slots),
                cancelled=self._stopped.is_set,
            )
        except Exception as error:  # of ours; the other jobs go on
            reason = f"a bug of ours: {type(error).__name__}: {error}"
            result = Result(task.job.name, "", CRASHED, reason, traceback.format_exc())
        if result is not None and result.attempts:
            task.attempts += 1
            result = replace(result, attempts=task.attempts)
        self._done.put((task, result))

    def _may_retry(self, task: Task, result: Result) -> bool:
        """Whether a failure can pass, and another attempt is left; one alone, with all the memory, is the last for want of it."""
        if not result.can_pass or self._stopped.is_set() or (result.status == MEMORY and task.alone):
            return False
        return task.attempts <= task.job.retries


def cores() -> int:
    """How many cores this process may use: a container may have less than the machine."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = _told("cpu.max").split()
    if len(words) == 2 and words[0].isdecimal():
        found = min(found, max(1, int(words[0]) // int(words[1])))
    return found


def free_memory() -> int:
    """How many bytes this process and its children may still take: likewise."""
    found = int(psutil.virtual_memory().available)
    limit, used = _told("memory.max"), _told("memory.current")
    if limit.isdecimal() and used.isdecimal():
        found = min(found, max(0, int(limit) - int(used)))
    return found


def _told(name: str) -> str:
    """What Linux says of the container that this process is in; "" where there is none."""
    try:
        return (Path("/sys/fs/cgroup") / name).read_text().strip()
    except OSError:
        return ""
