"""PyTorch -> ONNX, behind one small interface.

An exporter is a function in a file of its own, named in `options.EXPORTERS`: from a module with flat inputs and outputs to a ModelProto
whose large tensors lie in a `WeightStore`, whose nodes carry their module path and source line, and whose inputs and outputs have
the names that were asked for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx.inliner import inline_local_functions

from torch2trt_onnx.errors import ExportError, InputError
from torch2trt_onnx.exporters.source import Source
from torch2trt_onnx.inputs import Input
from torch2trt_onnx.precision import ElementType, label
from torch2trt_onnx.signature import Signature
from torch2trt_onnx.weights import WeightStore

if TYPE_CHECKING:
    import torch

    from torch2trt_onnx.exporters.adapter import FlatAdapter


@dataclass
class Request:
    """What an exporter is asked for.

    Args:
        adapter: the model, flat; see `FlatAdapter`.
        tensors: example inputs at opt shape.
        inputs: what the user said of them.
        program: the ExportedProgram, where one was given.
        opset: the version to write; None: the exporter's choice.
        weights: where large tensors go.
    """

    adapter: FlatAdapter
    tensors: tuple[torch.Tensor, ...]
    inputs: Sequence[Input]
    program: Any
    opset: int | None
    weights: WeightStore


@dataclass
class Exported:
    """A model in ONNX, and what is needed to judge it.

    Args:
        model: the graph; its large tensors are references.
        inputs: what is known of each input of the *graph*, in its order, each with a name and a type.
        eager: the model in PyTorch, from flat tensors to flat tensors; None for an ONNX source.
        eager_inputs: the inputs of `eager`, in its order and with the types that it takes; the lost ones too.
        lost: names of inputs that the graph does not have, because nothing in it uses them.
        bindings: input name -> ONNX type, where the user asked for another than the graph computes in.
        warnings: what the user must hear of.
        signature: what the model takes and returns, by the names of the graph's inputs and outputs.
    """

    model: onnx.ModelProto
    inputs: list[Input]
    signature: Signature
    eager: Callable[..., Sequence[torch.Tensor]] | None = None
    eager_inputs: list[Input] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    bindings: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def export(
    source: Source, inputs: object, weights: WeightStore, *, exporter: str = "torchscript", opset: int | None = None
) -> Exported:
    """Say a model in ONNX.

    Args:
        source: the model.
        inputs: what `convert` takes; None is enough for an ONNX model with static shapes.
        weights: where large tensors go.
        exporter: a name in `options.EXPORTERS`; an ExportedProgram always takes "dynamo", and an ONNX model none.
        opset: the version of the operators; None: 20, or 22 where there is bf16, which earlier ones lack for Conv and LSTM.

    Raises:
        InputError: the inputs do not fit the model.
        ExportError: PyTorch cannot export it; the message says what to do.
    """
    if source.onnx_model is not None:
        return _from_onnx(source.onnx_model, source, inputs, weights)
    assert source.module is not None
    from torch2trt_onnx.exporters.adapter import Arguments, FlatAdapter, evaluating

    if source.program is not None:
        exporter = "dynamo"
    notes: list[str] = []
    arguments = Arguments(inputs, source.module)
    adapter = FlatAdapter(source.module, arguments)

    def eval_mode() -> contextlib.AbstractContextManager[None]:
        # The module of an ExportedProgram has one mode, and refuses to be asked for another.
        return evaluating(adapter) if source.program is None else contextlib.nullcontext()

    def eager(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        with eval_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the model warns of is told once, from its export
            return adapter(*tensors)  # type: ignore[no-any-return]

    with eval_mode(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tensors, bindings = _example(adapter, arguments.inputs, source.name)
        model = _exporter(exporter)(Request(adapter, tensors, arguments.inputs, source.program, opset, weights))
    notes += _worth_telling(caught)
    kept = {i.name for i in model.graph.input}
    lost = [str(i.name) for i in arguments.inputs if i.name not in kept]
    signature = adapter.signature(lost, [o.name for o in model.graph.output])
    notes += signature.notes
    own = [i.bound_to(str(i.name), ElementType.of(t.dtype)) for i, t in zip(arguments.inputs, tensors, strict=True)]
    return Exported(
        model,
        _in_graph_order(model, arguments.inputs),
        signature,
        eager,
        own,
        lost,
        {name: kind for name, kind in bindings.items() if name in kept},
        notes,
    )


def _exporter(name: str) -> Callable[[Request], onnx.ModelProto]:
    if name == "dynamo":
        from torch2trt_onnx.exporters import dynamo

        return dynamo.export
    from torch2trt_onnx.exporters import torchscript

    return torchscript.export


def _example(
    adapter: FlatAdapter, inputs: Sequence[Input], name: str
) -> tuple[tuple[torch.Tensor, ...], dict[str, int]]:
    """Tensors that the model runs on, and the bindings whose type differs from the one that the model takes.

    An explicit dtype wins. Where the model refuses it, because its layers have another, the model gets theirs, and a Cast in
    the graph leads from the binding to it.
    """
    import torch

    first = next((p for p in adapter.parameters() if p.is_floating_point()), None)
    device = next((p.device for p in adapter.parameters()), torch.device("cpu"))
    own = ElementType.of(first.dtype if first is not None else "float32")

    def tensors(floats: ElementType | None) -> tuple[torch.Tensor, ...]:
        made = []
        for seed, given in enumerate(inputs):
            dtype = given.dtype or own
            if floats is not None and (dtype.precision or dtype.name == "float64"):
                dtype = floats
            made.append(given.tensor(given.opt_shape, dtype, device, seed))
        return tuple(made)

    asked = tensors(None)
    try:
        _run(adapter, asked)
        if not adapter.output_names:
            raise ExportError(
                f"{name} returns no tensor",
                why=f"it returns a {type(adapter.result).__name__}, in which PyTorch sees none",
                fix="let forward return at least one, or a tuple, list or dict of them",
            )
    except ExportError:
        raise
    except Exception as error:
        shown = [f"{i.name}: {t.dtype} {tuple(t.shape)}" for i, t in zip(inputs, asked, strict=True)]
        failure = InputError(
            f"{name} does not run on these inputs",
            where=", ".join(shown).replace("torch.", ""),
            why=str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__,
            fix="check the number, order, shapes and dtypes of the inputs (integers need dtype='int64')",
        )
        retry = tensors(own)
        if first is None or all(a.dtype == b.dtype for a, b in zip(asked, retry, strict=True)):
            raise failure from error
        try:
            _run(adapter, retry)
        except Exception:
            raise failure from error
        bindings = {
            str(i.name): i.dtype.onnx for i in inputs if i.dtype and (i.dtype.precision or i.dtype.name == "float64")
        }
        return retry, bindings
    return asked, {}


def _run(adapter: FlatAdapter, tensors: Sequence[torch.Tensor]) -> None:
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter(*tensors)


def _from_onnx(model: onnx.ModelProto, source: Source, inputs: object, weights: WeightStore) -> Exported:
    if model.functions:
        model = inline_local_functions(model)
    adopted = weights.adopt(model, source.onnx_folder)
    for value in (*adopted.graph.input, *adopted.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.Clear()  # Paddle's exporter writes -1 for what is dynamic
    initializers = {t.name for t in adopted.graph.initializer}
    declared = {i.name: i for i in adopted.graph.input if i.name not in initializers}
    given = _named(inputs, list(declared))
    found = []
    bindings = {}
    for name, info in declared.items():
        found.append(_fitted(name, info, given.get(name)))
        asked = given[name].dtype if name in given else None
        if asked is not None and asked.onnx != info.type.tensor_type.elem_type:
            bindings[name] = asked.onnx
    signature = Signature.flat(list(declared), [o.name for o in adopted.graph.output])
    return Exported(adopted, found, signature, bindings=bindings)


def _named(inputs: object, names: list[str]) -> dict[str, Input]:
    """Which Input belongs to which input of an ONNX graph: by its name or key, else by its place."""
    if inputs is None:
        return {}
    if isinstance(inputs, dict):
        pairs: list[tuple[str | None, Input]] = [(key, Input.of(value)) for key, value in inputs.items()]
    else:
        if not isinstance(inputs, (list, tuple)):
            inputs = [inputs]
        pairs = [(i.name, i) for i in map(Input.of, inputs)]
    if len(pairs) > len(names):
        raise InputError(f"{len(pairs)} inputs were given, and the graph has {len(names)}: {', '.join(names)}")
    found: dict[str, Input] = {}
    for index, (name, value) in enumerate(pairs):
        key = name or names[index]
        if key not in names:
            raise InputError(f"the graph has no input {key!r}", fix=f"its inputs are {', '.join(names)}")
        found[key] = value
    return found


def _fitted(name: str, info: onnx.ValueInfoProto, given: Input | None) -> Input:
    """The Input of a graph's input: what was given, checked against what the graph declares."""
    if not info.type.HasField("tensor_type"):
        raise InputError("TensorRT takes tensors only", where=f"input {name!r} is a {info.type.WhichOneof('value')}")
    tensor = info.type.tensor_type
    dims = (
        [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        if tensor.HasField("shape")
        else None
    )
    if given is None:
        if dims is None or not all(dims):
            shown = "x".join(str(d.dim_value or d.dim_param or "?") for d in tensor.shape.dim)
            raise InputError(
                f"the shape of input {name!r} is dynamic ({shown})",
                fix=f"pass Input(min_shape=..., opt_shape=..., max_shape=..., name={name!r})",
            )
        given = Input([d for d in dims if d], name=name)
    if dims is not None:
        if len(dims) != len(given.opt_shape):
            raise InputError(
                f"input {name!r} has rank {len(dims)}, and {given.opt_shape} has rank {len(given.opt_shape)}"
            )
        for axis, (dim, low, high) in enumerate(zip(dims, given.min_shape, given.max_shape, strict=True)):
            if dim and (low != dim or high != dim):
                raise InputError(f"axis {axis} of input {name!r} is {dim} in the graph, and {low}..{high} was given")
    return given.bound_to(name, given.dtype or _element_type(name, tensor.elem_type))


def _element_type(name: str, onnx_type: int) -> ElementType:
    try:
        return ElementType.of(onnx_type)
    except InputError:
        raise InputError(f"TensorRT takes no {label(onnx_type)} tensors", where=f"input {name!r}") from None


def _in_graph_order(model: onnx.ModelProto, inputs: Sequence[Input]) -> list[Input]:
    known = {i.name: i for i in inputs}
    initializers = {t.name for t in model.graph.initializer}
    found = []
    for info in model.graph.input:
        if info.name in initializers:
            continue
        given = known.get(info.name)
        if given is None:
            raise ExportError(
                f"the exported graph has an input {info.name!r} that nobody gave",
                fix="please report it, with the model",
            )
        kind = given.dtype or _element_type(info.name, info.type.tensor_type.elem_type)
        found.append(given.bound_to(info.name, kind))
    return found


_TORCH = str(Path(next(iter(importlib.util.find_spec("torch").submodule_search_locations))))  # type: ignore[union-attr,arg-type]


def _worth_telling(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """The warnings of PyTorch that change the result: branches and sizes that tracing baked in, autocast that was off."""
    notes = []
    for warning in caught:
        text = str(warning.message).strip().splitlines()[0]
        # `torch.tensor(number)` is a constant, and says so; `torch.tensor(tensor)` gives the second warning.
        is_constant = text.startswith("torch.tensor results are registered as constants")
        if warning.category.__name__ == "TracerWarning" or text.startswith("To copy construct from a tensor"):
            if is_constant or warning.filename.startswith(_TORCH):
                continue  # nor are PyTorch's own checks of its arguments of interest
            where, short = f"{warning.filename}:{warning.lineno}", text.split(" might cause")[0]
            notes.append(f"{where}: tracing baked a value in: script the function if it depends on the input ({short})")
        elif "autocast" in text or ("CUDA" in text and "not available" in text):
            notes.append(f"autocast was off, so its fp32 is in the graph: export on the device that it names ({text})")
    return list(dict.fromkeys(notes))


__all__ = ["Exported", "Request", "export"]
