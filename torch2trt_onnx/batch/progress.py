"""How far a batch is: what its events add up to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from torch2trt_onnx.batch.events import FINISHED, PHASE, QUEUED, STARTED, Event


@dataclass
class Running:
    """A job that runs now.

    Args:
        since: when it began, by the clock of the progress.
        phase: what it is at.
        fraction: of the phase that is done, where that is known.
    """

    since: float
    phase: str = ""
    fraction: float | None = None


class Progress:
    """What events add up to. Keeps of a job that is finished its status only, so that thousands of them take no memory.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.finished = 0, 0
        self.statuses: Counter[str] = Counter()
        self.running: dict[str, Running] = {}
        self._clock = clock
        self._begun = clock()
        self._most = 1  # jobs at a time
        self._timed, self._seconds = 0, 0.0

    def take(self, event: Event) -> None:
        """Count one event. A retried job runs on, in its next attempt."""
        if event.kind == QUEUED:
            self.total += 1
        elif event.kind == STARTED:
            self.running[event.job] = Running(self._clock(), event.phase)
            self._most = max(self._most, len(self.running))
        elif event.kind == PHASE and (known := self.running.get(event.job)) is not None:
            known.phase, known.fraction = event.phase, event.fraction
        elif event.kind == FINISHED and event.result is not None:
            self.finished += 1
            self.statuses[event.result.status] += 1
            if (began := self.running.pop(event.job, None)) is not None:
                self._timed += 1
                self._seconds += self._clock() - began.since

    @property
    def bad(self) -> int:
        """How many jobs did not go well."""
        return self.finished - self.statuses["done"] - self.statuses["reused"]

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun

    def lasts(self, job: str) -> float:
        """Seconds that a running job takes already."""
        return self._clock() - self.running[job].since

    def left(self) -> float | None:
        """Seconds that the rest will take, if it is like what is finished; None where nothing is.

        What was finished without running, because an earlier run made it, says nothing of the rest.
        """
        if not self._timed:
            return None
        mean = self._seconds / self._timed
        spent = sum(min(self.lasts(job), mean) for job in self.running)
        return max(0.0, (self.total - self.finished) * mean - spent) / self._most
