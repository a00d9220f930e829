"""What became of a job, and of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

DONE, REUSED, FAILED, CRASHED, TIMEOUT, MEMORY, CANCELLED = STATUSES = (
    "done",
    "reused",
    "failed",
    "crashed",
    "timeout",
    "memory",
    "cancelled",
)
OK = (DONE, REUSED)

ALL, NONE, SOME = 0, 1, 5
"""Exit codes: how many jobs went well."""


@dataclass(frozen=True)
class Result:
    """What became of a job.

    Args:
        job: its name.
        key: of everything that the conversion depends on; "" where that could not be told, because a file is missing.
        status: "done"; "reused": an earlier run made it; "failed": a ConversionError, the model's or the user's fault; "crashed"; "timeout"
            and "memory": over a limit of the job; "cancelled": before it was done.
        reason: why it is not well, in one line.
        detail: the whole message.
        stage: the last phase that it told.
        seconds: of the attempt that counts.
        peak: the most memory that it held with its children, in bytes.
        attempts: of this run; 0 where an earlier run made it, or found that it fails.
        folder: of the conversion and of the log, relative to the folder of all results; "" where there is none.
        numbers: small facts of the report, for an overview.
        phases: seconds of each phase of the conversion.
        is_final: whether trying again would give the same.
    """

    job: str
    key: str
    status: str
    reason: str = ""
    detail: str = ""
    stage: str = ""
    seconds: float = 0.0
    peak: int = 0
    attempts: int = 1
    folder: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    is_final: bool = True

    @property
    def ok(self) -> bool:
        """Whether there is a conversion."""
        return self.status in OK

    @property
    def can_pass(self) -> bool:
        """Whether another attempt may go well at once: somebody ended the process, or it was short of memory because of others.

        A full disk, or a library that is not installed, may be mended by the next run, but not by trying again now.
        """
        return not self.is_final and self.status in (CRASHED, MEMORY)

    def to_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """The result from plain data; what a later version may have added is passed over."""
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data})


@dataclass(frozen=True)
class Summary:
    """What became of all jobs.

    Args:
        results: in the order of the manifest.
        seconds: that the run took.
        interrupted: whether it was stopped before its end; the same command goes on.
        notes: what went wrong beside the jobs.
    """

    results: Sequence[Result]
    seconds: float
    interrupted: bool = False
    notes: Sequence[str] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each status, in the order of `STATUSES`; those that there are none of are left out."""
        found = Counter(result.status for result in self.results)
        return {status: found[status] for status in STATUSES if found[status]}

    @property
    def code(self) -> int:
        """The exit code: `ALL`, `SOME` or `NONE` went well."""
        good = sum(result.ok for result in self.results)
        return ALL if good == len(self.results) else SOME if good else NONE
