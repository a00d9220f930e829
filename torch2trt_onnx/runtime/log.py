"""What TensorRT says in this process. Each library has one logger, which lives as long as the process: TensorRT keeps a pointer to the
first that it is given, and crashes where that has gone."""

from __future__ import annotations

import collections
import functools
import logging
from typing import Any

from torch2trt_onnx.backends.library import derived

LOGGER = logging.getLogger("torch2trt_onnx.tensorrt")
"""Gets all that TensorRT says: its errors as ERROR, its VERBOSE as DEBUG."""

LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
}
KEPT = 20
"""How many errors are kept until somebody asks for them."""


class Log:
    """The logger, without its base, which only the library has. Errors stand in the exception that follows, so that they are kept here."""

    def __init__(self) -> None:
        self._errors: collections.deque[str] = collections.deque(maxlen=KEPT)

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT, from any thread."""
        level = LEVELS.get(severity.name, logging.DEBUG)
        LOGGER.log(level, "%s", message)
        if level >= logging.ERROR:
            self._errors.append(message.strip())

    def take(self) -> str:
        """The errors since the last time, one a line."""
        found = list(dict.fromkeys(self._errors))
        self._errors.clear()
        return "\n       ".join(found)


@functools.cache
def log_of(trt: Any) -> Any:
    """The one logger of a library: a `Log`, and an `ILogger`."""
    return derived(trt.ILogger, Log)
