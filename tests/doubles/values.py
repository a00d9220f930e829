"""Models of the small classes: shapes, weights, host memory, loggers."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from .binding import Model, Module

NUMPY = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT8": np.dtype(np.int8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
    "INT4": np.dtype(ml_dtypes.int4),
}
"""Members of DataType -> how their elements lie in memory. (INT4 is packed in TensorRT, which is not modelled.)"""

MAX_DIMS = 8


class Log:
    """Speaks through the logger that the caller gave."""

    def __init__(self, module: Module, logger: Any) -> None:
        self.severity = module.names["ILogger"].Severity
        self.logger = logger

    def error(self, text: str) -> None:
        """Tell of a call that failed. As in TensorRT its result says so too, but no exception."""
        self.logger.log(self.severity.ERROR, text)

    def warning(self, text: str) -> None:
        """Tell of what TensorRT recovered from."""
        self.logger.log(self.severity.WARNING, text)

    def info(self, text: str) -> None:
        """Tell of what happens."""
        self.logger.log(self.severity.INFO, text)


class Logger(Model):
    """TensorRT's own logger: prints."""

    def __init__(self, module: Module, _shell: Any, min_severity: Any) -> None:
        self.min_severity = min_severity or module.names["ILogger"].Severity.WARNING

    def log(self, severity: Any, msg: str) -> None:
        """Print what is severe enough."""
        if int(severity) <= int(self.min_severity):
            print(f"[TRT] [{severity.name[0]}] {msg}", file=sys.stderr)


class Dims(Model):
    """A shape of at most 8 dimensions. Negative dimensions stand for what is not known."""

    def __init__(self, _module: Module, _shell: Any, *values: Any) -> None:
        many = values[0] if len(values) == 1 and not isinstance(values[0], int) else values
        self.values = [operator.index(value) for value in many]
        if len(self.values) > MAX_DIMS:
            raise ValueError(f"The maximum number of dimensions is {MAX_DIMS}. Received {len(self.values)}")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> Any:
        found = self.values[key]
        return tuple(found) if isinstance(key, slice) else found

    def __setitem__(self, key: Any, value: Any) -> None:
        self.values[key] = value.values if isinstance(value, Dims) else value

    def __eq__(self, other: object) -> bool:
        return self.values == list(other)  # type: ignore[call-overload]

    def __repr__(self) -> str:
        return f"({', '.join(map(str, self.values))}{',' if len(self.values) == 1 else ''})"

    __hash__ = None  # type: ignore[assignment]
    __str__ = __repr__


class Weights(Model):
    """An array."""

    def __init__(self, _module: Module, _shell: Any, *given: Any) -> None:
        self.array = given[0] if given and isinstance(given[0], np.ndarray) else np.zeros(0, np.float32)

    def __len__(self) -> int:
        return self.array.size

    @property
    def size(self) -> int:
        """How many elements."""
        return self.array.size

    @property
    def nbytes(self) -> int:
        """How many bytes."""
        return self.array.nbytes

    def numpy(self) -> np.ndarray:
        """The array."""
        return self.array


class HostMemory(Model):
    """Bytes that TensorRT gives: an engine, a timing cache."""

    cls = "IHostMemory"

    def __init__(self, module: Module, data: bytes) -> None:
        self.module, self.data = module, data

    @property
    def nbytes(self) -> int:
        """How many."""
        return len(self.data)

    @property
    def dtype(self) -> Any:
        """Of the elements."""
        return self.module.enum("DataType.INT8")


def volume(shape: Iterable[int]) -> int:
    """The number of elements of a shape."""
    found = 1
    for dim in shape:
        found *= dim
    return found


def ints(shape: Any) -> tuple[int, ...]:
    """The dimensions of a model of `Dims`."""
    return tuple(shape.values)
