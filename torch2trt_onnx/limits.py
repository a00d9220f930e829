"""How far the outputs of a model in reduced precision may be from those in fp32: what `max_error` says, and how it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from torch2trt_onnx.errors import InputError

Array = npt.NDArray[Any]
Metric = Callable[[Array, Array], float]

REALS = (int, float, np.integer, np.floating)
FORMS = "1e-2, logits:1e-2 or logits:cosine:1e-3"


@dataclass(frozen=True)
class ErrorLimit:
    """The largest error that an output may have.

    An output of integers or bools has as its relative error, and as its cosine error, the share of elements that differ. What is not
    finite must be so in both, and the same: else the error is infinite, as it is where the shapes differ.

    Args:
        limit: a positive number.
        metric: "relative": the largest |a - b| by the largest |b|, over the whole output, b in fp32; "cosine": 1 - the cosine of the angle
            between both, each as one vector; or a function that is given both as arrays, a first, and returns the error.

    Raises:
        InputError: the limit is no positive number, or the metric none of these.
    """

    limit: float
    metric: str | Metric = "relative"

    def __post_init__(self) -> None:
        if not callable(self.metric) and self.metric not in METRICS:
            raise InputError(
                f"{self.metric!r} is no measure of error",
                fix=f"use one of {', '.join(METRICS)}, or a function of the arrays found and expected",
            )
        given: object = self.limit
        number = float(given) if isinstance(given, REALS) and not isinstance(given, bool) else math.nan
        if not 0 < number < math.inf:
            raise InputError(f"max_error is {given!r}", fix="use a positive number, such as 1e-2")
        object.__setattr__(self, "limit", number)

    @property
    def measure(self) -> str:
        """The metric's name; a function's is the qualified one."""
        if isinstance(self.metric, str):
            return self.metric
        if isinstance(self.metric, _Lost):
            return self.metric.name
        named = self.metric if hasattr(self.metric, "__qualname__") else type(self.metric)
        return f"{named.__module__}.{named.__qualname__}"

    def __str__(self) -> str:
        return f"{self.measure} error up to {self.limit:g}"

    def error(self, output: str, found: Array, expected: Array) -> float:
        """The error of an output.

        Raises:
            InputError: the user's function fails, or returns no number.
        """
        if isinstance(self.metric, str):
            return METRICS[self.metric](found, expected)
        where = f"max_error, output {output!r}"
        try:
            error = float(self.metric(found, expected))
        except InputError:
            raise
        except Exception as reason:  # whatever the user's own code raises
            raise InputError(
                f"{self.measure} fails",
                where=where,
                why=f"{type(reason).__name__}: {reason}",
                fix="it is given two NumPy arrays of one shape, found and expected, and must return a number",
            ) from reason
        if math.isnan(error):
            raise InputError(
                f"{self.measure} returns NaN",
                where=where,
                why="NaN is neither within a limit nor beyond it",
                fix="return infinity for what cannot be measured",
            )
        return error

    @classmethod
    def of(cls, given: object) -> ErrorLimit:
        """A limit from an `ErrorLimit`, or from the largest relative error.

        Raises:
            InputError: it is neither.
        """
        return given if isinstance(given, ErrorLimit) else cls(given)  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ErrorLimit:
        """What `to_json` wrote. Of a function only its name is left, so that it measures nothing any more."""
        return cls(data["limit"], data["metric"] if data["metric"] in METRICS else _Lost(data["metric"]))

    def to_json(self) -> dict[str, Any]:
        """The limit as plain data."""
        return {"limit": self.limit, "metric": self.measure}


@dataclass(frozen=True)
class _Lost:
    """A user's function that was saved by its name."""

    name: str

    def __call__(self, *_: Array) -> float:
        raise InputError(f"{self.name} was saved by its name only", fix="give the function again")


@dataclass(frozen=True)
class Limits:
    """What the user allows.

    Args:
        every: of each output that has no limit of its own; None: they are not limited.
        named: output -> its own limit.
    """

    every: ErrorLimit | None = None
    named: Mapping[str, ErrorLimit] = field(default_factory=dict)

    @classmethod
    def of(cls, given: object) -> Limits:
        """The limits from `max_error`: a number, an `ErrorLimit`, or a mapping from outputs to either.

        Raises:
            InputError: it is none of these, or says nothing.
        """
        if isinstance(given, Limits):
            return given
        if not isinstance(given, Mapping):
            return cls(ErrorLimit.of(given))
        if not given:
            raise InputError("max_error limits no output", fix="name one, or give a number for all of them")
        return cls(named={str(name): ErrorLimit.of(limit) for name, limit in given.items()})

    @classmethod
    def parse(cls, words: Iterable[str]) -> Limits:
        """The limits from a command line: `LIMIT`, `METRIC:LIMIT`, `OUTPUT:LIMIT` or `OUTPUT:METRIC:LIMIT` each.

        Raises:
            InputError: a word is none of these, or says what another has said.
        """
        found: dict[str, ErrorLimit] = {}
        for word in words:
            name, limit = _parsed(word)
            if name in found:
                what = f"the output {name!r}" if name else "every output"
                raise InputError(f"max_error was given twice for {what}", where=word, fix="leave one out")
            found[name] = limit
        return cls(found.pop("", None), found)

    def by_output(self, names: Sequence[str]) -> dict[str, ErrorLimit]:
        """The limit of each output that has one.

        Args:
            names: of the graph's outputs.

        Raises:
            InputError: a limit is for an output that the graph does not have.
        """
        unknown = [name for name in self.named if name not in names]
        if unknown:
            raise InputError(
                f"the model has no output {', '.join(map(repr, unknown))}",
                where="max_error",
                fix=f"its outputs are {', '.join(names)}",
            )
        limits = {name: self.named.get(name, self.every) for name in names}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Limits:
        """What `to_json` wrote."""
        every = data["every"]
        named = {name: ErrorLimit.from_json(limit) for name, limit in data["named"].items()}
        return cls(ErrorLimit.from_json(every) if every is not None else None, named)

    def to_json(self) -> dict[str, Any]:
        """The limits as plain data."""
        named = {name: limit.to_json() for name, limit in self.named.items()}
        return {"every": self.every.to_json() if self.every is not None else None, "named": named}


def _parsed(word: str) -> tuple[str, ErrorLimit]:
    """`(output, limit)` of a word; "" for every output. Names may have colons, so it is read from behind."""
    head, _, number = word.rpartition(":")
    name, _, metric = head.rpartition(":")
    if metric not in METRICS:
        name, metric = head, "relative"
    try:
        return name, ErrorLimit(float(number), metric)
    except (ValueError, InputError) as error:
        raise InputError(
            f"{number!r} is no limit of an error", where=f"--max-error {word}", fix=f"use a positive number: {FORMS}"
        ) from error


def _relative(found: Array, expected: Array) -> float:
    pair = _finite(found, expected)
    if isinstance(pair, float):
        return pair
    a, b = pair
    difference, largest = float(np.abs(a - b).max(initial=0)), float(np.abs(b).max(initial=0))
    if not difference:
        return 0.0
    return difference / largest if largest else math.inf


def _cosine(found: Array, expected: Array) -> float:
    pair = _finite(found, expected)
    if isinstance(pair, float):
        return pair
    lengths = [float(np.linalg.norm(x)) for x in pair]
    if not all(lengths):
        return float(any(lengths))  # all zeros have no direction
    a, b = (x / length for x, length in zip(pair, lengths, strict=True))
    return float(np.sum((a - b) ** 2)) / 2  # is 1 - a.b, without its cancellation


METRICS: dict[str, Metric] = {"relative": _relative, "cosine": _cosine}


def _finite(found: Array, expected: Array) -> tuple[Array, Array] | float:
    """What is finite in both, flat, as float64; or the error itself where that says it."""
    if found.shape != expected.shape:
        return math.inf
    if expected.dtype.kind != "f":
        return float(np.mean(found != expected)) if expected.size else 0.0
    a, b = (x.astype(np.float64).reshape(-1) for x in (found, expected))
    finite = np.isfinite(b)
    same = np.array_equal(np.isfinite(a), finite) and np.array_equal(a[~finite], b[~finite], equal_nan=True)
    return (a[finite], b[finite]) if same else math.inf
