"""Trees of a model's own containers: a `Leaf` where it has a tensor, and the value itself where it has a constant (None, a flag).

As JSON a tree comes back equal, and nothing is imported by name for it: a named tuple comes back as one of the same fields, made anew. What
is a dict with attributes (the model outputs of transformers) is a `Record`, before and after.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Leaf:
    """The place of a tensor. `name` is that of the input or output of the graph."""

    name: str


class Record(dict[str, Any]):
    """A dict whose values are attributes as well, and items by number, as the model outputs of transformers are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """The values, in their order."""
        return tuple(self.values())


def leaves(tree: Any) -> Iterator[Leaf]:
    """The leaves of a tree, in their order."""
    if isinstance(tree, Leaf):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from leaves(value)


def mapped(tree: Any, put: Callable[[Leaf], Any]) -> Any:
    """A tree like this one, with something else in the places of the leaves."""
    if isinstance(tree, Leaf):
        return put(tree)
    if isinstance(tree, collections.defaultdict):
        return collections.defaultdict(tree.default_factory, {k: mapped(v, put) for k, v in tree.items()})
    if type(tree) in _DICTS:
        return type(tree)((key, mapped(value, put)) for key, value in tree.items())
    if not isinstance(tree, (tuple, list)) or is_size(tree):
        return tree
    items = [mapped(value, put) for value in tree]
    if hasattr(tree, "_make"):
        return type(tree)._make(items)
    return type(tree)(items)  # lists, tuples, and what torch.max and its like return


def normal(tree: Any) -> Any:
    """A tree with a `Record` in place of each dict that has attributes."""
    if isinstance(tree, Mapping) and hasattr(tree, "to_tuple"):
        return Record((str(key), normal(value)) for key, value in tree.items())
    if isinstance(tree, collections.defaultdict):
        return collections.defaultdict(tree.default_factory, {key: normal(value) for key, value in tree.items()})
    if type(tree) in _DICTS:
        return type(tree)((key, normal(value)) for key, value in tree.items())
    if type(tree) in (list, tuple):
        return type(tree)(map(normal, tree))
    if _fields(tree) and not is_size(tree):
        items = list(map(normal, tree))
        return type(tree)._make(items) if hasattr(tree, "_make") else type(tree)(items)
    return tree


_DICTS = (dict, collections.OrderedDict, Record)


def _fields(tree: Any) -> tuple[str, ...]:
    """The names of the items of a named tuple, or of what torch.max and its like return; empty where it is neither."""
    if not isinstance(tree, tuple):
        return ()
    return tuple(
        getattr(tree, "_fields", ()) or (getattr(tree, "__match_args__", ()) if hasattr(tree, "n_fields") else ())
    )


def is_plain(tree: Any) -> bool:
    """Whether a tree can be said as JSON."""
    try:
        encoded(tree)
    except TypeError:
        return False
    return True


def encoded(tree: Any) -> Any:
    """A tree as JSON: plain values as they are, anything else as an object of one key that says what it is.

    Raises:
        TypeError: there is something in it that is neither.
    """
    if tree is None or isinstance(tree, (bool, str)) or type(tree) is int:
        return tree
    if isinstance(tree, Leaf):
        return {"tensor": tree.name}
    if type(tree) is float:
        return tree if math.isfinite(tree) else {"float": repr(tree)}
    if type(tree) in _DICTS or isinstance(tree, collections.defaultdict):
        kind = "record" if isinstance(tree, Record) else "dict"
        return {kind: [[_encoded_key(key), encoded(value)] for key, value in tree.items()]}
    if is_size(tree):
        return {"size": [int(d) for d in tree]}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: list(map(encoded, tree))}
    if _fields(tree):
        return {"namedtuple": [type(tree).__name__, list(_fields(tree)), list(map(encoded, tree))]}
    if type(tree).__module__ == "torch" and type(tree).__name__ in ("dtype", "device"):
        return {type(tree).__name__: str(tree).removeprefix("torch.")}
    raise TypeError(f"{type(tree).__name__} cannot be described")


def _encoded_key(key: Any) -> Any:
    if key is None or type(key) in (bool, str, int):
        return key
    raise TypeError(f"a key of type {type(key).__name__} cannot be described")


def decoded(data: Any) -> Any:
    """The tree that `encoded` gave."""
    if not isinstance(data, Mapping):
        if data is None or isinstance(data, (bool, str, int, float)):
            return data
        raise TypeError(f"{data!r} describes nothing")
    ((kind, value),) = data.items()
    return _DECODERS[kind](value)


def _decoded_namedtuple(value: Any) -> Any:
    name, fields, items = value
    return _namedtuple(str(name), tuple(map(str, fields)))._make(map(decoded, items))


@functools.cache
def _namedtuple(name: str, fields: tuple[str, ...]) -> Any:
    return collections.namedtuple(name, fields)


def _decoded_dtype(value: Any) -> Any:
    import torch

    found = getattr(torch, str(value))
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{value!r} is no dtype")
    return found


def _decoded_device(value: Any) -> Any:
    import torch

    return torch.device(str(value))


def _decoded_size(value: Any) -> Any:
    import torch

    return torch.Size(value)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "tensor": lambda value: Leaf(str(value)),
    "float": float,
    "dict": lambda value: {key: decoded(item) for key, item in value},
    "record": lambda value: Record((str(key), decoded(item)) for key, item in value),
    "list": lambda value: list(map(decoded, value)),
    "tuple": lambda value: tuple(map(decoded, value)),
    "namedtuple": _decoded_namedtuple,
    "size": _decoded_size,
    "dtype": _decoded_dtype,
    "device": _decoded_device,
}


def is_size(tree: Any) -> bool:
    """Whether it is a `torch.Size`, which is a constant and no container."""
    return type(tree).__module__ == "torch" and type(tree).__name__ == "Size"


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor."""
    import torch

    return isinstance(value, torch.Tensor)
