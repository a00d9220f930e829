"""Which optimization profile an engine runs in: one that holds the shapes of all inputs, and the values of those that say shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch2trt_onnx.errors import InputError
from torch2trt_onnx.formats import Shape
from torch2trt_onnx.runtime.port import Port, shown


def choose(inputs: Sequence[Port], given: Mapping[str, Shape], count: int, current: int) -> int:
    """The profile to run in: the current one where it holds everything, because a switch costs; else the one with the smallest ranges.

    Args:
        inputs: of the engine.
        given: the shape of each input, or the values of a shape tensor.
        count: how many profiles there are.
        current: the one that is set.

    Raises:
        InputError: no profile holds everything; it says which input is outside what.
    """
    fitting = [i for i in range(count) if all(_holds(port, given[port.name], i) for port in inputs)]
    if current in fitting:
        return current
    if not fitting:
        raise _outside(inputs, given, count)
    return min(fitting, key=lambda index: sum(_room(port, index) for port in inputs))


def _holds(port: Port, given: Shape, index: int) -> bool:
    ends = _ends(port, index)
    return ends is None or all(low <= size <= high for low, size, high in zip(ends[0], given, ends[1], strict=True))


def _ends(port: Port, index: int) -> tuple[Shape, Shape] | None:
    """The smallest and the largest; None where the engine does not tell them, or there are none: what is static was checked before."""
    if index >= len(port.binding.profiles):
        return None
    found = port.binding.profiles[index]
    return (found[0], found[-1]) if found else None


def _room(port: Port, index: int) -> float:
    """How many shapes a range holds, as a logarithm."""
    ends = _ends(port, index)
    return sum(math.log(high - low + 1) for low, high in zip(*ends, strict=True)) if ends else 0.0


def _outside(inputs: Sequence[Port], given: Mapping[str, Shape], count: int) -> InputError:
    for port in inputs:
        what = "values" if port.binding.is_shape else "shape"
        if not any(_holds(port, given[port.name], i) for i in range(count)):
            where = "the range of the engine" if count == 1 else f"all {count} ranges of the engine"
            return InputError(
                f"{port.title} has {what} {given[port.name]}, outside {where}",
                why=f"that is {' and '.join(_spoken(port, i) for i in range(count))}",
                fix=f"convert the model with a range that holds this {what}",
            )
    each = [f"{port.name} {given[port.name]}" for port in inputs if _ends(port, 0) is not None]
    return InputError(
        f"no optimization profile holds all inputs together: {', '.join(each)}",
        why="; ".join(f"profile {i}: {', '.join(f'{p.name} {_spoken(p, i)}' for p in inputs)}" for i in range(count)),
        fix="pass shapes of one profile, or convert the model with one that holds these",
    )


def _spoken(port: Port, index: int) -> str:
    ends = _ends(port, index)
    return f"{shown(ends[0])} to {shown(ends[1])}" if ends else f"{shown(port.dims)}"
