"""Makes the classes of a module from the table of its stubs, as pybind11 would: they have what the stub declares, and nothing else.

An object of such a class is a thin shell. What it does is in its model, an object of tests/doubles' own: a method of the shell checks
its arguments, records the call and calls the method of the same name of the model.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

from .convert import Converter
from .recording import write
from .stubs import ClassSpec, ModuleSpec

BUFFERS = {"IHostMemory"}
"""Classes with the buffer protocol, which a Python class has (before 3.12) only from a base that has it."""
PASSIVE = {"__init__", "__del__", "__enter__", "__exit__", "__buffer__", "__release_buffer__"}
UNMODELLED = {"IActivationLayer.type", "IPoolingLayer.type"}
"""Attributes of which a model has one of the same name that means another thing (`ILayer.type`)."""
VALUES = {"Dims", "Dims2", "Dims3", "Dims4", "DimsHW", "Permutation"}


class Model:
    """What a shell stands for.

    Args:
        cls: the class that the stub declares for it.
        name: of the object, for recordings.
    """

    cls = ""
    name = ""
    shell: Any = None


class Shelled(type):
    """Refuses an object whose class forgot to call the constructor of its base, as pybind11 does."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        if not hasattr(made, "_double"):
            raise TypeError(f"{cls.__module__}.{cls.__name__}.__init__() must be called when overriding __init__")
        return made


class Shell(metaclass=Shelled):
    """Base of all classes but enums."""

    __slots__ = ("__weakref__", "_double")

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise TypeError(f"{type(self).__module__}.{type(self).__name__}: No constructor defined!")


class Buffer(array.array):  # type: ignore[type-arg]
    """Base of `BUFFERS`. Of an array it keeps its buffer only."""

    __slots__ = ("_double",)
    __repr__ = object.__repr__
    __len__ = __iter__ = __getitem__ = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in type(self).__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return super().__getattribute__(name)


class Module:
    """The classes of one version.

    Args:
        spec: what they have.
        makers: class -> what makes the model of an object that the caller constructs, from the arguments.
        version: of the library.
        title: `__module__` of the classes.
    """

    def __init__(
        self, spec: ModuleSpec, makers: dict[str, Callable[..., Any]], version: Any, title: str = "tensorrt"
    ) -> None:
        self.spec, self.makers, self.version, self.title = spec, makers, version, title
        self.names: dict[str, Any] = {}
        self.convert = Converter(self.names)
        for name, cls in spec.classes.items():
            self._add(name, cls)
        for alias, member in spec.aliases.items():
            owner, _, name = member.rpartition(".")
            if owner in self.names and hasattr(self.names[owner], name):
                self.names[alias] = getattr(self.names[owner], name)

    def enum(self, member: str) -> Any:
        """The member of an enum, as "DataType.HALF"."""
        owner, _, name = member.rpartition(".")
        return self.names[owner].__members__[name]

    def show(self, value: Any) -> Any:
        """What a caller sees of a model's answer: shells for models, `Dims` for tuples that stand for shapes."""
        if isinstance(value, Model):
            if value.shell is None:
                cls = self.names[value.cls]
                if value.cls in BUFFERS:
                    value.shell = cls.__new__(cls, "B", value.data)  # type: ignore[attr-defined]
                else:
                    value.shell = cls.__new__(cls)
                value.shell._double = value
            return value.shell
        return [self.show(item) for item in value] if isinstance(value, list) else value

    def inner(self, value: Any) -> Any:
        """What a model sees of an argument: models for shells. An object of a user's class stays itself, for its overrides."""
        if isinstance(value, list):
            return [self.inner(item) for item in value]
        if isinstance(value, (Shell, Buffer)) and type(value).__module__ == self.title:
            return value._double
        return value

    def dims(self, shape: Any) -> Any:
        """A `Dims`."""
        return self.names["Dims"](tuple(shape))

    def _add(self, name: str, spec: ClassSpec) -> None:
        """Make a class, after those that it derives from."""
        if name in self.names:
            return
        for base in spec.bases:
            if base in self.spec.classes:
                self._add(base, self.spec.classes[base])
        self.names[name] = _enum(self, spec, name) if spec.is_enum else self._class(name, spec)

    def _class(self, name: str, spec: ClassSpec) -> type:
        bases = tuple(self.names[base] for base in spec.bases) or ((Buffer,) if name in BUFFERS else (Shell,))
        body: dict[str, Any] = {"__slots__": (), "__module__": self.title, **spec.constants}
        for nested, inside in spec.nested.items():
            inherited = getattr(bases[0], nested, None)
            body[nested] = inherited or _enum(self, inside, f"{name}.{nested}")
            body.update(body[nested].__members__)
        for method, overloads in spec.methods.items():
            if method not in PASSIVE:
                body[method] = self._method(name, method, overloads)
        body.update({attribute: self._property(name, attribute) for attribute in spec.properties})
        if "__init__" in spec.methods:
            body["__init__"] = self._constructor(name, spec)
        if "__enter__" in spec.methods:
            body["__enter__"], body["__exit__"] = (lambda self: self), (lambda self, *_: None)
        if "__hash__" not in spec.methods and "__eq__" in spec.methods:
            body["__hash__"] = None
        return type(bases[0])(name, bases, body)

    def _constructor(self, name: str, spec: ClassSpec) -> Callable[..., None]:
        def construct(shell: Any, *args: Any, **kwargs: Any) -> None:
            values = self.convert.bind(f"{name}.__init__", spec.methods["__init__"], args, kwargs)
            if name not in VALUES:
                self._record(name, shell, call="__init__", args=[*args, *kwargs.values()])
            shell._double = self.makers.get(name, _Bare)(self, *(self.inner(value) for value in values))
            shell._double.cls = shell._double.cls or name
            if shell._double.shell is None:
                shell._double.shell = shell

        return construct

    def _method(self, owner: str, name: str, overloads: list[Any]) -> Callable[..., Any]:
        def call(shell: Any, *args: Any, **kwargs: Any) -> Any:
            values = self.convert.bind(f"{owner}.{name}", overloads, args, kwargs)
            if not name.startswith("__"):
                self._record(owner, shell, call=name, args=[*args, *kwargs.values()])
            found = getattr(_model(shell), name, None)
            if found is None:
                raise NotImplementedError(f"the double of TensorRT does not model {owner}.{name}")
            return self.show(found(*(self.inner(value) for value in values)))

        call.__name__ = name
        call.__qualname__ = f"{owner}.{name}"
        return call

    def _property(self, owner: str, name: str) -> property:
        declared = self.spec.classes[owner].properties[name]

        def read(shell: Any) -> Any:
            model = _model(shell)
            try:
                if f"{owner}.{name}" not in UNMODELLED:
                    return self.show(getattr(model, name))
            except AttributeError:
                if hasattr(type(model), name):
                    raise
            raise NotImplementedError(f"the double of TensorRT does not model {owner}.{name}")

        def assign(shell: Any, value: Any) -> None:
            nullable = value is None and declared.annotation.startswith("I")
            converted = None if nullable else self._assigned(owner, name, declared.annotation, value)
            self._record(owner, shell, set=name, value=value)
            setattr(_model(shell), name, self.inner(converted))

        return property(read, assign if declared.settable else None)

    def _assigned(self, owner: str, name: str, annotation: str, value: Any) -> Any:
        try:
            return self.convert.value(annotation, value)
        except TypeError as error:
            raise TypeError(
                f"(): incompatible function arguments: {owner}.{name} is {annotation}, not {value!r}"
            ) from error

    def _record(self, owner: str, shell: Any, **what: Any) -> None:
        write(
            {
                "object": self._id(owner, shell),
                "class": owner,
                **{key: self._told(value) for key, value in what.items()},
            }
        )

    def _id(self, owner: str, shell: Any) -> str:
        name = getattr(getattr(shell, "_double", None), "name", "")
        return f"{owner} {name}" if name else owner

    def _told(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._told(item) for item in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Member):
            return str(value)
        if type(value).__name__ in VALUES:
            return list(_model(value).values)
        if isinstance(value, (bytes, bytearray, memoryview, Buffer)):
            return f"<{memoryview(value).nbytes} bytes>"
        return self._id(type(value).__name__, value)


class _Bare(Model):
    """The model of an interface that the caller implements."""

    def __init__(self, *_args: Any) -> None:
        pass


def _model(shell: Any) -> Any:
    try:
        return shell._double
    except AttributeError:
        raise TypeError(f"{type(shell).__name__}.__init__() must be called when overriding __init__") from None


class Member:
    """Base of enums. As with pybind11 an enum is no int, and its class is not iterable: `__members__` is."""

    __slots__ = ("name", "value")
    __members__: dict[str, Any]
    _arithmetic = False

    def __init__(self, value: int) -> None:
        found = [member for member in self.__members__.values() if member.value == int(value)]
        object.__setattr__(self, "value", int(value))
        object.__setattr__(self, "name", found[0].name if found else "???")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"property of {type(self).__name__!r} object has no setter")

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        same = type(self) is type(other) or (self._arithmetic and isinstance(other, int))
        return same and self.value == int(other)  # type: ignore[call-overload]

    def _compared(self, other: Any) -> int:
        if not self._arithmetic or not isinstance(other, (int, type(self))):
            raise TypeError(f"{self} cannot be compared with {other!r}")
        return self.value - int(other)

    def __lt__(self, other: Any) -> bool:
        return self._compared(other) < 0

    def __le__(self, other: Any) -> bool:
        return self._compared(other) <= 0

    def __gt__(self, other: Any) -> bool:
        return self._compared(other) > 0

    def __ge__(self, other: Any) -> bool:
        return self._compared(other) >= 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


def _enum(module: Module, spec: ClassSpec, qualified: str) -> type:
    names = {"__module__": module.title, "__slots__": (), "__qualname__": qualified, "__members__": {}}
    cls = type(spec.name, (Member,), {**names, "_arithmetic": "__lt__" in spec.methods})
    for name, value in spec.members.items():
        member = cls.__new__(cls)
        object.__setattr__(member, "name", name)
        object.__setattr__(member, "value", value)
        cls.__members__[name] = member  # type: ignore[attr-defined]
        setattr(cls, name, member)
    return cls
