"""What is asked of a back end, as a job for its child process; and what came of it, as a result or an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch2trt_onnx.backends import inspector, layers
from torch2trt_onnx.backends.job import Dims, InputJob, Job, NodeJob, OutputJob
from torch2trt_onnx.backends.layers import Binding, EngineLayer
from torch2trt_onnx.errors import BackendError, BindingError, BuildError, InputError, ParseError
from torch2trt_onnx.formats import Shape, tensorrt_format
from torch2trt_onnx.inputs import Input, Output

Progress = Callable[[Mapping[str, Any]], None]
"""Called with `phase`, `step` and `steps` while an engine is built."""


@dataclass
class BuildResult:
    """An engine, and what it says of itself.

    Args:
        backend: the product and version that built it.
        engine: the file of the serialized engine.
        network: ONNX node -> type of each output in TensorRT's network ("" where it does not know the node); empty under weak typing,
            where that proves nothing.
        layers: the engine's kernels.
        bindings: the engine's inputs and outputs.
        warnings: what TensorRT warned of.
        seconds: of parsing and of building.
        constraints: under weak typing, what each layer of the network was told (`constraints.Told`), as plain data.
        version: of the library.
        targets: the compute capabilities that it runs on.
    """

    backend: str
    engine: Path
    network: dict[str, list[str]]
    layers: list[EngineLayer]
    bindings: list[Binding]
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    constraints: list[dict[str, Any]] = field(default_factory=list)
    version: str = ""
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What a back end is asked to build.

    Args:
        model: the final ONNX file, its external data beside it.
        inputs: of the graph, in its order, each with its name and type.
        outputs: likewise.
        shapes: name -> shape of each output; -1 where a dimension is not known.
        nodes: all nodes, in the order of the graph.
        precisions: those that a weakly typed network may use.
        strict: whether a layer that cannot have its precision is an error.
    """

    model: Path
    inputs: Sequence[Input]
    outputs: Sequence[Output]
    shapes: dict[str, Shape]
    nodes: tuple[NodeJob, ...]
    precisions: tuple[str, ...] = ()
    strict: bool = False


def job(
    request: Request, product: str, typing: str, targets: tuple[str, ...], title: str, tf32: bool, folder: Path
) -> Job:
    """The job of a request.

    Raises:
        InputError: an input or output has no such format, or the inputs have different numbers of profiles.
    """
    counts = {len(i.profiles) for i in request.inputs} - {1}
    if len(counts) > 1:
        told = ", ".join(f"{i.name!r} has {len(i.profiles)}" for i in request.inputs)
        raise InputError(
            "the inputs have different numbers of optimization profiles",
            why=told,
            fix="give one range, which then holds in all, or the same number",
        )

    def layout(given: Input | Output, dims: Shape, where: str) -> str:
        assert given.dtype is not None
        try:
            return tensorrt_format(given.format, given.dtype.name, dims, product)
        except ValueError as error:
            shape = "x".join("?" if d < 0 else str(d) for d in dims) or "scalar"
            raise InputError(
                f"{title} cannot have {where} in the format {given.format}",
                where=f"{where}: {given.dtype.name} {shape}",
                why=str(error),
            ) from None

    inputs = []
    for given in request.inputs:
        dims = tuple(-1 if axis in given.dynamic_axes else d for axis, d in enumerate(given.opt_shape))
        named = layout(given, dims, f"input {given.name!r}")
        inputs.append(InputJob(str(given.name), _type(given), named, given.profiles, given.values))
    outputs = []
    for asked in request.outputs:
        named = layout(asked, request.shapes[str(asked.name)], f"output {asked.name!r}")
        outputs.append(OutputJob(str(asked.name), _type(asked), named))
    return Job(
        product,
        typing,
        str(request.model),
        str(folder / "model.engine"),
        tuple(inputs),
        tuple(outputs),
        request.nodes,
        request.precisions,
        request.strict,
        targets,
        tf32,
    )


def _type(given: Input | Output) -> str:
    assert given.dtype is not None
    return given.dtype.tensorrt


def result(told: dict[str, Any], asked: Job, title: str) -> BuildResult:
    """What came of a job.

    Raises:
        BackendError: the child process says that TensorRT said no, or the engine's inputs and outputs are not what was asked for.
    """
    if not told["ok"]:
        raise _error(told)
    engine = told["engine"]
    found, bindings = (layers if engine["form"] == "dump" else inspector).parse(engine["layers"])
    if engine["bindings"] is not None:
        bindings = [Binding.from_json(row) for row in engine["bindings"]]
    values = {given.name: given.values for given in asked.inputs if given.values is not None}
    bindings = [_with_values(b, values.get(b.name), engine["form"]) for b in bindings]
    _check_bindings(asked, bindings)
    return BuildResult(
        title,
        Path(asked.engine),
        told["network"],
        found,
        bindings,
        [text for severity, text in told["log"] if severity == "WARNING"],
        told["seconds"],
        told["constraints"],
        told["version"],
        asked.targets,
    )


def _with_values(binding: Binding, values: tuple[Dims, Dims, Dims] | None, form: str) -> Binding:
    """A binding with the values of a shape tensor that were asked for, where the engine does not tell them: a dump has shapes in their
    place, and TensorRT 8.6 nothing."""
    if values is None or (form != "dump" and all(binding.profiles)):
        return binding
    return replace(binding, profiles=(values,) * len(binding.profiles))


def _check_bindings(asked: Job, bindings: Sequence[Binding]) -> None:
    """Compare the engine's table with what was asked: a caller who trusts the wrong one reads and writes past his tensors.

    Raises:
        BindingError: naming every difference.
    """
    found = {b.name: b for b in bindings}
    wrong: list[str] = []
    expected: list[InputJob | OutputJob] = [*asked.inputs, *asked.outputs]
    for given in expected:
        side = "input" if isinstance(given, InputJob) else "output"
        binding = found.get(given.name)
        if binding is None:
            wrong.append(f"the engine has no {side} {given.name!r}")
            continue
        wrong += [
            f"{side} {given.name!r}: the {what} {want} was asked for, and the engine has {have}"
            for what, want, have in _compared(given, binding)
            if want != have
        ]
    extra = set(found) - {given.name for given in expected}
    wrong += [f"the engine has a binding {name!r} that nobody asked for" for name in sorted(extra)]
    if wrong:
        raise BindingError(
            "the engine's inputs and outputs are not what was asked for",
            why="\n       ".join(wrong),
            fix="ask for another type or format of these; if that is no help, please report it",
        )


def _compared(given: InputJob | OutputJob, binding: Binding) -> list[tuple[str, object, object]]:
    """(what, what was asked, what the engine has) of a binding, as far as the engine tells."""
    rows: list[tuple[str, object, object]] = [
        ("type", layers.LABELS.get(given.dtype), layers.LABELS.get(binding.dtype)),
        ("format", given.format, binding.layout or given.format),
    ]
    if isinstance(given, InputJob) and given.values is None and binding.profiles:
        count = len(binding.profiles)
        rows.append(
            ("ranges", given.profiles * count if len(given.profiles) == 1 else given.profiles, binding.profiles)
        )
    return rows


def _error(told: dict[str, Any]) -> BackendError:
    errors = told["errors"] or [{"text": "it gave no reason"}]
    if told["stage"] == "parse":
        return _parse_error(errors[0])
    text = "\n       ".join(dict.fromkeys(_plain(e["text"]) for e in errors))
    if told["stage"] == "bindings":
        return BindingError("the network's inputs are not what was given", why=text, fix="see the cause")
    node = re.search(r"\[ONNX Layer: (.*?)\]|node (\S+?)[.,)\]]*(?:\s|$)", text)
    return BuildError(
        "TensorRT cannot build the engine",
        where=next((f"node {g!r}" for g in node.groups() if g), None) if node else None,
        why=(text or "it gave no reason") + _untold(told["constraints"]),
        fix="see the cause: an unsupported combination of operator, type and target, most often",
    )


def _untold(constraints: Sequence[Mapping[str, str]]) -> str:
    """Which layers were told no precision before the build, and why; "" where all were, or none is ever told one."""
    reasons: dict[str, list[str]] = {}
    for row in constraints:
        if row["reason"]:
            reasons.setdefault(row["reason"], []).append(row["name"])
    rows = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "".join(f"\n       told no precision: {row}" for row in rows)


def _parse_error(first: dict[str, str]) -> ParseError:
    text = first["text"].strip()
    unknown = "Plugin not found" in text
    node = first.get("node")
    return ParseError(
        f"TensorRT's parser refuses the node {node!r}" if node else "TensorRT's parser refuses the model",
        where=f"operator {first.get('operator') or '?'}, error {first.get('code') or '?'}",
        why="TensorRT has no such operator" if unknown else text,
        fix="write the operation with operators that TensorRT has"
        if unknown
        else "see the cause; torch2trt-onnx inspect shows the node and its types",
    )


def _plain(text: str) -> str:
    """An error of TensorRT's without the notes that a machine without a GPU adds."""
    return text.split("\n[checkMacros", maxsplit=1)[0].strip()
