"""Checks what a caller passes against a stub's annotations, as pybind11 checks it: no implicit conversion that the stub does not tell."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .stubs import REQUIRED, Parameter

Check = Callable[[Any], Any]

NULLABLE = {
    "IExecutionContext.set_output_allocator",
    "IExecutionContext.set_debug_listener",
    "IBuilderConfig.set_calibration_profile",
}
"""Methods that take a pointer, so that None is allowed. (pybind11 turns None into a null pointer, which a reference refuses.)"""


class Converter:
    """Converts values to what annotations say, for the classes of one module."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self.known: dict[str, Check] = {
            "int": _int,
            "float": _float,
            "bool": _bool,
            "str": _str,
            "tuple": lambda value: _one_of(value, tuple),
            "list": lambda value: _one_of(value, list),
            "typing_extensions.Buffer": _buffer,
            "numpy.ndarray": lambda value: _one_of(value, np.ndarray),
            "typing.Callable": _callable,
            "Dims": self._dims,
            "Weights": self._weights,
        }

    def bind(
        self, name: str, overloads: Sequence[list[Parameter]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """The arguments of a call, in the order of the first overload that takes them.

        Raises:
            TypeError: none does.
        """
        for parameters in overloads:
            try:
                return self._match(parameters, args, kwargs, name in NULLABLE)
            except TypeError:
                continue
        wanted = "\n".join(
            f"    {i + 1}. ({', '.join(f'{p.name}: {p.annotation}' for p in parameters)})"
            for i, parameters in enumerate(overloads)
        )
        invoked = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
        raise TypeError(
            f"{name.rpartition('.')[2]}(): incompatible function arguments. "
            f"The following argument types are supported:\n{wanted}\n\nInvoked with: {name}({invoked})"
        )

    def value(self, annotation: str, value: Any) -> Any:
        """A value as an annotation takes it.

        Raises:
            TypeError: it is of another type.
        """
        return self._check(annotation)(value)

    def _match(
        self, parameters: list[Parameter], args: tuple[Any, ...], kwargs: dict[str, Any], nullable: bool
    ) -> list[Any]:
        if len(args) > len(parameters) or set(kwargs) - {p.name for p in parameters[len(args) :]}:
            raise TypeError
        found = []
        for i, parameter in enumerate(parameters):
            if i < len(args):
                value = args[i]
            elif parameter.name in kwargs:
                value = kwargs[parameter.name]
            elif parameter.default != REQUIRED:
                found.append(_default(parameter.default))
                continue
            else:
                raise TypeError
            if value is None and (nullable or parameter.default == "None"):
                found.append(None)
            else:
                found.append(self.value(parameter.annotation, value))
        return found

    def _check(self, annotation: str) -> Check:
        if annotation not in self.known:
            self.known[annotation] = self._made(annotation)
        return self.known[annotation]

    def _made(self, annotation: str) -> Check:
        if annotation.startswith("list["):
            inner = self._check(annotation[5:-1])
            return lambda value: [inner(item) for item in _sequence(value)]
        kind: Any = self.names
        for part in annotation.split("."):
            kind = kind.get(part) if isinstance(kind, dict) else getattr(kind, part, None)
        if isinstance(kind, type):
            return lambda value: _one_of(value, kind)
        return lambda value: value  # "...", typing.Any and capsules: the stub does not tell

    def _dims(self, value: Any) -> Any:
        kind = self.names["Dims"]
        if isinstance(value, kind):
            return value
        return kind([_int(item) for item in _sequence(value)])

    def _weights(self, value: Any) -> Any:
        kind = self.names["Weights"]
        return kind(value) if isinstance(value, np.ndarray) else _one_of(value, kind)


def _default(text: str) -> Any:
    return {"None": None, "...": None, "True": True, "False": False}.get(text, int(text) if text.isdigit() else None)


def _int(value: Any) -> int:
    if isinstance(value, (float, str)):
        raise TypeError(f"{value!r} is no int")
    return operator.index(value)


def _float(value: Any) -> float:
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"{value!r} is no float")


def _bool(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{value!r} is no bool")


def _str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is no str")


def _one_of(value: Any, kind: type) -> Any:
    if isinstance(value, kind):
        return value
    raise TypeError(f"{value!r} is no {kind.__name__}")


def _callable(value: Any) -> Any:
    if callable(value):
        return value
    raise TypeError(f"{value!r} cannot be called")


def _buffer(value: Any) -> memoryview:
    return memoryview(value)


def _sequence(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__getitem__") or not hasattr(value, "__len__"):
        raise TypeError(f"{value!r} is no sequence")
    return [value[i] for i in range(len(value))]
