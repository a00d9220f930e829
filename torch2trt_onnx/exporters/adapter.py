"""A module whose arguments and results are flat tuples of tensors, around one that takes and returns anything.

The TorchScript exporter fails on, or changes, dict outputs, None, keyword-only arguments, scalar defaults, lists of tensors
and repeated outputs. The adapter holds whatever is not a tensor, so that none of that reaches it.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from torch2trt_onnx.errors import ExportError, InputError
from torch2trt_onnx.inputs import Input
from torch2trt_onnx.signature import Leaf, Record, Signature


class Arguments:
    """The arguments of a model: a tree whose leaves are `Input`s and constants.

    Args:
        inputs: an Input or tensor; a list or tuple of positional arguments; a dict of keyword arguments; or `(args, kwargs)`. Each
            argument may itself be a list, tuple or dict, and may hold None and plain numbers, which become constants.
        module: the model, for the names of its parameters.

    Attributes:
        inputs: the Inputs, in the order of the leaves, each with a name.
        parameters: the names of the positional parameters.
    """

    def __init__(self, inputs: object, module: torch.nn.Module) -> None:
        args, kwargs = _split(inputs)
        self.parameters = parameters = _parameter_names(module)
        named = [(parameters[i] if i < len(parameters) else f"input_{i}", value) for i, value in enumerate(args)]
        self._check_call(module, len(args), kwargs)
        paths, self.tree = _leaves((tuple(args), dict(kwargs)), ("kwargs", "input"))
        self.leaves: list[Any] = []
        self.slots: list[int] = []
        self.inputs: list[Input] = []
        for path, leaf in paths:
            if isinstance(leaf, (Input, torch.Tensor)):
                found = copy.copy(Input.of(leaf))  # the user's own may stand for the input of another model as well
                if found.name is None:
                    found.name = _leaf_name(path, named)
                self.slots.append(len(self.leaves))
                self.inputs.append(found)
                leaf = None
            else:
                _refuse_hidden(leaf, _leaf_name(path, named))
            self.leaves.append(leaf)
        names = [i.name for i in self.inputs]
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f"two inputs have the name {name!r}", fix="give one of them another, with Input(name=...)"
                )
        if not self.inputs:
            raise InputError("no input is a tensor", fix="pass at least one tensor or Input")

    def fill(self, tensors: Sequence[object]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` with these tensors in the places of the Inputs."""
        leaves = list(self.leaves)
        for slot, tensor in zip(self.slots, tensors, strict=True):
            leaves[slot] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.tree)
        return args, kwargs

    @staticmethod
    def _check_call(module: torch.nn.Module, count: int, kwargs: Mapping[str, Any]) -> None:
        """Fail before anything runs where the call does not fit the signature of `forward`."""
        if isinstance(module, torch.jit.ScriptModule):
            return  # its own call says what is wrong, and its schema is not a signature
        try:
            inspect.signature(module.forward).bind(*[None] * count, **kwargs)
        except TypeError as error:
            raise InputError(
                f"the inputs do not fit {type(module).__name__}.forward{inspect.signature(module.forward)}",
                why=str(error),
            ) from None
        except ValueError:
            return  # no signature to be had


class FlatAdapter(torch.nn.Module):
    """Takes the tensors of `arguments.inputs`, returns the tensors of the result, both flat.

    Attributes:
        output_names: the names of the results, from their place in what the model returns; known after the first call.
        result: what the model returns, with a `Leaf` in the place of each tensor, where it is made of containers that let that stand there.
    """

    def __init__(self, module: torch.nn.Module, arguments: Arguments) -> None:
        super().__init__()
        self.m = module
        self._arguments = arguments
        self.output_names: list[str] = []
        self.result: Any = None
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the model."""
        args, kwargs = self._arguments.fill(tensors)
        result = self.m(*args, **kwargs)
        is_record = hasattr(result, "to_tuple") and isinstance(result, Mapping)
        if is_record:
            result = dict(result)  # a model output of transformers: a dict with attributes
        found: dict[str, torch.Tensor] = {}
        taken = {str(i.name) for i in self._arguments.inputs}
        paths, tree = _leaves(result)
        places: list[Any] = []
        for path, leaf in paths:
            if isinstance(leaf, torch.Tensor):
                name = _output_name(path)
                name = unique(f"output_{name}" if name in taken else name, {*found, *taken})
                found[name] = leaf
                leaf = Leaf(name)
            places.append(leaf)
        if torch._C._is_tracing() and self.output_names not in ([], list(found)):
            raise ExportError(
                "the model returns sizes, which are numbers when it runs and tensors when it is traced",
                where=f"output {', '.join(name for name in found if name not in self.output_names) or 'unknown'}",
                fix="return no sizes, such as x.shape, or return them as tensors: torch._shape_as_tensor(x)",
            )
        self.output_names = list(found)
        self.result = _unflattened(places, tree)
        if is_record:
            self.result = Record(self.result)
        return tuple(found.values())

    def signature(self, lost: Sequence[str], outputs: Sequence[str]) -> Signature:
        """What the model takes and returns; known after the first call.

        Args:
            lost: the inputs that the graph does not have.
            outputs: the names that the graph has for the results, in their order.
        """
        names = [str(i.name) for i in self._arguments.inputs]
        try:
            args, kwargs = self._arguments.fill([Leaf(name) for name in names])
        except Exception:  # a container of the user's own, which takes tensors only
            args, kwargs = (), {}
        described = Signature.of(
            args,
            kwargs,
            self.result,
            inputs=names,
            outputs=self.output_names,
            parameters=self._arguments.parameters,
            defaults=_defaults(self.m),
            lost=lost,
        )
        return described.with_outputs(dict(zip(self.output_names, outputs, strict=True)))


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put a module in eval mode, and afterwards each of its submodules in the mode that it was in."""
    before = [(part, part.training) for part in module.modules() if hasattr(part, "training")]
    module.eval()
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode  # not part.train(mode), which would change its submodules too


def _split(inputs: object) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(inputs, (Input, torch.Tensor)):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), inputs
    if (
        isinstance(inputs, tuple)
        and len(inputs) == 2
        and isinstance(inputs[0], (tuple, list))
        and isinstance(inputs[1], Mapping)
    ):
        return inputs[0], inputs[1]
    if isinstance(inputs, (tuple, list)):
        return inputs, {}
    raise InputError(
        f"inputs is a {type(inputs).__name__}",
        fix="pass a list of tensors or Inputs, a dict of keyword arguments, or (args, kwargs)",
    )


def _parameter_names(module: torch.nn.Module) -> list[str]:
    if isinstance(module, torch.jit.ScriptModule):
        schema: Any = module.forward
        return [a.name for a in schema.schema.arguments[1:]]
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except ValueError:
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _defaults(module: torch.nn.Module) -> dict[str, Any]:
    """The values that parameters of `forward` have where they are not given."""
    if isinstance(module, torch.jit.ScriptModule):
        schema: Any = module.forward
        return {a.name: a.default_value for a in schema.schema.arguments[1:] if a.has_default_value()}
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except ValueError:
        return {}
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _leaves(tree: Any, stem: tuple[str, ...] = ()) -> tuple[list[tuple[tuple[Any, ...], Any]], pytree.TreeSpec]:
    """The leaves of a tree with their paths, and its structure.

    Args:
        tree: any.
        stem: stands before a number in the paths where a container of the user's own has no keys.
    """
    try:
        return pytree.tree_flatten_with_path(tree)
    except ValueError:
        leaves, structure = pytree.tree_flatten(tree)
        return [((*stem, index), leaf) for index, leaf in enumerate(leaves)], structure


def _unflattened(leaves: Sequence[Any], tree: pytree.TreeSpec) -> Any:
    """A tree with these leaves; None where it has a container of the user's own, which takes tensors only."""
    try:
        return pytree.tree_unflatten(leaves, tree)
    except Exception:
        return None


def _refuse_hidden(value: Any, name: str) -> None:
    """Fail where a constant has tensors inside: tracing would make constants of them, without a word."""
    hidden = [key for key, inner in getattr(value, "__dict__", {}).items() if isinstance(inner, (Input, torch.Tensor))]
    if hidden:
        raise InputError(
            f"the argument {name} is a {type(value).__name__}, which PyTorch does not know as a container",
            why=f"its tensors ({', '.join(hidden)}) would become constants of the graph",
            fix=f"torch.export.register_dataclass({type(value).__name__}), or pass tensors, tuples, lists and dicts",
        )


def _leaf_name(path: tuple[Any, ...], named: list[tuple[str, Any]]) -> str:
    """`x` for a positional argument, `x_0` or `x_key` inside a structure, the keyword for keyword arguments."""
    side, *rest = [_step(p) for p in path]
    words = [named[int(rest[0])][0], *rest[1:]] if side == "0" else rest
    return "_".join(_clean(word) for word in words)


def _output_name(path: tuple[Any, ...]) -> str:
    words = [_clean(_step(p)) for p in path]
    if not words:
        return "output"
    return "_".join(words) if not words[0].isdigit() else "output_" + "_".join(words)


def _step(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _clean(word: str) -> str:
    # TorchScript's names, such as 'x.1', are no names of bindings.
    return re.sub(r"\W", "_", re.sub(r"\.\d+$", "", word)) or "value"


def unique(name: str, taken: Collection[str]) -> str:
    """A name that is not taken: this one, or with a number behind it."""
    count = 1
    new = name
    while new in taken:
        count += 1
        new = f"{name}_{count}"
    return new
