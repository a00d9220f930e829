"""What happens to jobs while they run, as whoever watches is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch2trt_onnx.batch.result import Result

QUEUED, STARTED, PHASE, RETRIED, FINISHED = KINDS = ("queued", "started", "phase", "retried", "finished")


@dataclass(frozen=True)
class Event:
    """One thing that happened to one job. Each job is queued once and finished once; in between it is started once for each attempt.

    Args:
        job: its name.
        kind: one of `KINDS`.
        phase: what it is at: the steps of `conversion`, and before them "start". Of "retried" the reason, in one line.
        fraction: of the phase that is done, where that is known.
        result: of a job that is finished.
    """

    job: str
    kind: str
    phase: str = ""
    fraction: float | None = None
    result: Result | None = None

    def to_json(self) -> dict[str, Any]:
        """The event as plain data, without what it does not say."""
        told: dict[str, Any] = {"job": self.job, "event": self.kind}
        if self.phase:
            told["phase"] = self.phase
        if self.fraction is not None:
            told["fraction"] = round(self.fraction, 3)
        if self.result is not None:
            told["result"] = self.result.to_json()
        return told
