"""What the source model takes and returns: trees (see `trees`) whose leaves name inputs and outputs of the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch2trt_onnx.errors import InputError, SourceError
from torch2trt_onnx.trees import Leaf, Record, decoded, encoded, is_plain, is_size, is_tensor, leaves, mapped, normal

if TYPE_CHECKING:
    import torch

__all__ = ["Leaf", "Record", "Signature"]

VERSION = 1


@dataclass(frozen=True)
class Signature:
    """What a model takes and returns.

    Args:
        args: positional arguments, as a tree.
        kwargs: keyword arguments.
        result: what it returns.
        parameters: the names of the model's positional parameters, so that a caller may give either by place or by name.
        defaults: values of parameters that were not given, where the model says them.
        lost: names of inputs that the graph does not have, because nothing in it depends on them.
        notes: what could not be described, and what stands there instead.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    parameters: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        parameters: Sequence[str] = (),
        defaults: Mapping[str, Any] | None = None,
        lost: Sequence[str] = (),
    ) -> Signature:
        """A signature from the model's own trees. A side with a container that cannot be described (a node type that was registered with
        PyTorch's pytree) is flat: a tuple of its tensors in their order. `notes` says so.

        Args:
            inputs, outputs: the names of the leaves, in their order.
        """
        notes = []
        args, kwargs, result = (normal(tree) for tree in (args, dict(kwargs), result))
        found = [leaf.name for leaf in leaves((args, kwargs))]
        if sorted(found) != sorted(inputs) or not is_plain((args, kwargs)):
            notes.append(_flat("takes", "positional arguments", inputs))
            args, kwargs, parameters, defaults = tuple(map(Leaf, inputs)), {}, inputs, {}
        if sorted(leaf.name for leaf in leaves(result)) != sorted(outputs) or not is_plain(result):
            notes.append(_flat("returns", "a tuple", outputs))
            result = tuple(map(Leaf, outputs))
        plain = {name: value for name, value in (defaults or {}).items() if is_plain(value)}
        return cls(args, kwargs, result, tuple(parameters), plain, tuple(lost), tuple(notes))

    @classmethod
    def flat(cls, inputs: Sequence[str], outputs: Sequence[str]) -> Signature:
        """That of an ONNX graph: its inputs by place or by name; its one output, or a tuple of them in the graph's order."""
        result = Leaf(outputs[0]) if len(outputs) == 1 else tuple(map(Leaf, outputs))
        return cls(tuple(map(Leaf, inputs)), {}, result, tuple(inputs))

    def with_outputs(self, names: Mapping[str, str]) -> Signature:
        """The same signature, where the graph has other names for its outputs."""
        return replace(self, result=mapped(self.result, lambda leaf: Leaf(names.get(leaf.name, leaf.name))))

    def without(self, names: Collection[str]) -> Signature:
        """The same signature, where the graph does not have these inputs either."""
        return replace(self, lost=(*self.lost, *(name for name in names if name not in self.lost)))

    @property
    def inputs(self) -> list[str]:
        """The names of the tensors that it takes, those that the graph lost too."""
        return [leaf.name for leaf in leaves((self.args, self.kwargs))]

    @property
    def outputs(self) -> list[str]:
        """The names of the tensors that it returns."""
        return [leaf.name for leaf in leaves(self.result)]

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The tensors of a call by the names of the graph's inputs. Inputs that the graph lost may be there, and are left out.

        Raises:
            InputError: an argument is missing or unexpected, has another structure, is no tensor where one is wanted, or is a constant that
                differs from the one that the graph was made with.
        """
        wanted, given = self._by_name(self.args, self.kwargs), self._by_name(args, kwargs)
        tensors: dict[str, torch.Tensor] = {}
        for key in given:
            if key not in wanted:
                raise InputError(f"there is no argument {_title(key)}", fix=f"it takes {self._spoken()}")
        for key, tree in wanted.items():
            if key in given:
                self._match(tree, given[key], str(key), tensors)
            elif any(leaf.name not in self.lost for leaf in leaves(tree)) or not any(leaves(tree)):
                raise InputError(f"the argument {_title(key)} is missing", fix=f"it takes {self._spoken()}")
        return {name: tensor for name, tensor in tensors.items() if name not in self.lost}

    def build(self, outputs: Mapping[str, torch.Tensor]) -> Any:
        """The result as the model has it, from tensors by the names of the graph's outputs.

        Raises:
            InputError: an output is missing.
        """
        missing = [name for name in self.outputs if name not in outputs]
        if missing:
            raise InputError(f"the output {missing[0]!r} is missing", fix=f"there are {', '.join(outputs)}")
        return mapped(self.result, lambda leaf: outputs[leaf.name])

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` takes."""
        return {
            "version": VERSION,
            "args": encoded(tuple(self.args)),
            "kwargs": encoded(dict(self.kwargs)),
            "result": encoded(self.result),
            "parameters": list(self.parameters),
            "defaults": encoded(dict(self.defaults)),
            "lost": list(self.lost),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        """The signature that `to_json` wrote.

        Raises:
            SourceError: the data is of another form.
        """
        try:
            if data["version"] != VERSION:
                raise ValueError(f"it is of version {data['version']}, and this library reads version {VERSION}")
            args, kwargs, result, defaults = (decoded(data[k]) for k in ("args", "kwargs", "result", "defaults"))
            words = (tuple(map(str, data[k])) for k in ("parameters", "lost", "notes"))
            parameters, lost, notes = words
            return cls(tuple(args), dict(kwargs), result, parameters, dict(defaults), lost, notes)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # the last of torch.device
            why = f"{type(error).__name__}: {error}"
            raise SourceError("the signature of the model cannot be read", why=why) from None

    def _by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str | int, Any]:
        """Arguments by the names of their parameters, and by their places where there is no name."""
        names = [self.parameters[i] if i < len(self.parameters) else i for i in range(len(args))]
        doubled = [name for name in names if name in kwargs]
        if doubled:
            raise InputError(f"the argument {doubled[0]!r} was given twice, by place and by name")
        found: dict[str | int, Any] = {}
        found.update(self.defaults)
        found.update(zip(names, args, strict=True))
        found.update(kwargs)
        return found

    def _spoken(self) -> str:
        by_place = [self.parameters[i] if i < len(self.parameters) else f"#{i}" for i in range(len(self.args))]
        return ", ".join([*by_place, *(f"{name}=" for name in self.kwargs)]) or "none"

    def _match(self, tree: Any, given: Any, where: str, found: dict[str, torch.Tensor]) -> None:
        """Walk the tree and what was given side by side, and collect the tensors."""
        if isinstance(tree, Leaf):
            if not is_tensor(given) and tree.name not in self.lost:
                raise _unlike(where, "a tensor", given)
            if is_tensor(given):
                found[tree.name] = given
        elif isinstance(tree, Mapping):
            if not isinstance(given, Mapping):
                raise _unlike(where, f"a dict with {_keys(tree)}", given)
            if set(given) != set(tree):
                raise _unlike(where, f"a dict with {_keys(tree)}", f"one with {_keys(given)}")
            for key, value in tree.items():
                self._match(value, given[key], f"{where}[{key!r}]", found)
        elif isinstance(tree, (tuple, list)) and not is_size(tree):
            if not isinstance(given, (tuple, list)) or len(given) != len(tree):
                size = f"one of {len(given)}" if isinstance(given, (tuple, list)) else given
                raise _unlike(where, f"a {type(tree).__name__} of {len(tree)}", size)
            for index, value in enumerate(tree):
                self._match(value, given[index], f"{where}[{index}]", found)
        elif is_tensor(given) or not _equal(tree, given):
            raise InputError(
                f"the argument {where} is {_shown(given)}, and the graph was made with {tree!r}",
                why="what is not a tensor is a constant in the graph",
                fix=f"pass {tree!r}, or convert the model with the other value",
            )


def _title(key: str | int) -> str:
    """What messages call a parameter: one without a name by its place."""
    return f"#{key}" if isinstance(key, int) else repr(key)


def _equal(a: Any, b: Any) -> bool:
    """Whether two constants are the same; NaN is itself."""
    try:
        return bool(a == b) or (a != a and b != b)  # noqa: PLR0124
    except (TypeError, ValueError, RuntimeError):
        return False


def _unlike(where: str, wanted: str, given: Any) -> InputError:
    shown = given if isinstance(given, str) and given.startswith("one ") else _shown(given)
    return InputError(f"the argument {where} is {shown}, and {wanted} is wanted")


def _shown(value: Any) -> str:
    if is_tensor(value):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return f"a {type(value).__name__}"


def _keys(tree: Mapping[Any, Any]) -> str:
    return ", ".join(map(repr, tree)) or "no keys"


def _flat(verb: str, what: str, names: Sequence[str]) -> str:
    return (
        f"what the model {verb} holds a type of container that cannot be described, so the engine and the conversion have "
        f"{what} instead: {', '.join(names)}"
    )
