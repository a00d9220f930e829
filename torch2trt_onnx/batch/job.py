"""One job of a batch: one model for one target, as plain data that another process or machine can be given."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

TIMEOUT = 3600.0
RETRIES = 2
LONGEST = 200
"""Bytes of the name of a file; file systems take 255."""


@dataclass(frozen=True)
class Job:
    """One model for one target.

    Args:
        name: of the job, which no other has: that of the model, and where it has several targets " @ " and that of the target.
        model: a path, a URL that fsspec reads, or `module:function`, which returns a module.
        home: the folder of the manifest, where a `module` is looked for first.
        files: that the model is made from, beside its own: what a function reads. They count where it is asked whether something changed.
        inputs: as the command line takes them: "image:1x3x8x8..2x3x32x32..8x3x64x64".
        precisions: that the engine may use; none: as the model is typed.
        policy: as `convert` takes it.
        rules: the path of a TOML file, or the rules themselves.
        calibration: a path; False: nothing is measured; None: random numbers.
        max_error: as the command line takes it: "1e-2", "logits:cosine:1e-3".
        outputs: likewise: "logits:float16".
        backend: as `convert` takes it.
        compute_capabilities: that TensorRT-RTX builds for; none: the default of `Options`.
        options: of `settings.OPTIONS` and `settings.ARGUMENTS`, those that are not as they are by default.
        timeout: of the whole job, in seconds.
        memory: the most that it may hold with its children, in bytes; None: its share of what is free.
        retries: after failures that can pass.
        resources: what it needs of a cluster's worker, such as {"GPU": 1}.
        shown: what its report calls the model; "": as it is named.
    """

    name: str
    model: str
    home: str = "."
    files: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    policy: str | None = None
    rules: str | tuple[Mapping[str, str], ...] | None = None
    calibration: str | bool | None = None
    max_error: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    backend: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = TIMEOUT
    memory: int | None = None
    retries: int = RETRIES
    resources: Mapping[str, float] = field(default_factory=dict)
    shown: str = ""

    @property
    def is_function(self) -> bool:
        """Whether the model is a function that makes it."""
        module, _, function = self.model.partition(":")
        return function.isidentifier() and all(part.isidentifier() for part in module.split("."))

    def to_json(self) -> dict[str, Any]:
        """The job as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """The job from plain data, where a tuple is a list."""
        known = {f.name for f in fields(cls)}
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known}
        return cls(**given)


def file_name(job: str) -> str:
    """A job's name as that of a file."""
    name = re.sub(r"[/\\\0]", "_", job).lstrip(".") or "_"
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name[: LONGEST // 4]}-{hashlib.sha256(job.encode()).hexdigest()[:16]}"
