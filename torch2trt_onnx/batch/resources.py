"""What jobs need of a worker of a cluster, and what workers offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch2trt_onnx.batch.job import Job

if TYPE_CHECKING:
    from distributed import Client

MEMORY = "MEMORY"
"""The resource, in bytes, that a worker may offer; jobs that say what they need take it."""


def offered(client: Client) -> list[Mapping[str, float]]:
    """The resources of each worker."""
    return [worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]


def needs(job: Job, workers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The resources that a job takes; memory too, where workers say what they have of it."""
    found = dict(job.resources)
    if job.memory and any(MEMORY in one for one in workers):
        found.setdefault(MEMORY, job.memory)
    return found


def lacking(job: Job, workers: Sequence[Mapping[str, float]]) -> str:
    """What no worker has as much of as a job needs; "" where one has it all. A cluster without workers may still get some."""
    wanted = needs(job, workers)
    if not workers or any(all(one.get(name, 0) >= need for name, need in wanted.items()) for one in workers):
        return ""
    return ", ".join(f"{name}={need:g}" for name, need in wanted.items())
