"""The same jobs on a Dask cluster that is there already. Dask decides which worker does what, and does again what a lost worker was at.

The coordinator keeps the store, as on one machine: it alone locks, finds and commits. What workers read and make goes by the paths of a
shared file system, or through a place of exchange.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING

from torch2trt_onnx.batch.dispatch import Dispatch
from torch2trt_onnx.batch.events import Event
from torch2trt_onnx.batch.exchange import Exchange
from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.batch.result import Result
from torch2trt_onnx.batch.store import Store
from torch2trt_onnx.errors import BackendError, BackendMissingError

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 60.0
"""Seconds that a cluster has to show its first worker."""


def run(
    store: Store,
    jobs: Iterable[Job],
    tell: Callable[[Event], None],
    *,
    address: str,
    exchange: str | None = None,
    retry_failed: bool = False,
) -> Generator[Result, None, None]:
    """The result of each job, as it comes.

    Args:
        store: of the results; on a file system that the workers see as well, where there is no place of exchange.
        jobs: what to do.
        tell: told of all that happens but the beginning and the end; from several threads.
        address: of the scheduler.
        exchange: the URL of a place that all reach; see `Exchange`.
        retry_failed: see `attempt`.

    Raises:
        BackendError: the cluster cannot be reached, or has no worker.
    """
    place = Exchange(exchange) if exchange else None
    with _client(address) as client:
        yield from Dispatch(client, store, tell, place, retry_failed=retry_failed).results(jobs)


@contextlib.contextmanager
def _client(address: str) -> Iterator[Client]:
    """A client of a scheduler that has workers.

    Raises:
        BackendError: it cannot be reached, or has none.
    """
    try:
        from distributed import Client
    except ImportError:
        fix = "pip install 'torch2trt_onnx[batch]', here and on the workers"
        raise BackendMissingError("Dask is not installed", where=address, fix=fix) from None
    try:
        client = Client(address, set_as_default=False, name="torch2trt_onnx")
    except (OSError, ValueError) as error:
        fix = "give the address that the scheduler printed, such as tcp://host:8786"
        raise BackendError("the cluster cannot be reached", where=address, why=str(error), fix=fix) from None
    with _quiet("distributed"), client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            fix = f"start one: dask worker {address}"
            raise BackendError("the cluster has no worker", where=address, fix=fix) from None
        yield client


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a library's logger be still: it prints tracebacks of what we tell in a line."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
