"""From the plan to what a back end is asked: the final graph's nodes, inputs and outputs in its words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch2trt_onnx.backends import Backend, BuildResult, Request
from torch2trt_onnx.backends.job import NodeJob
from torch2trt_onnx.backends.layers import LABELS
from torch2trt_onnx.errors import InputError, PrecisionError
from torch2trt_onnx.formats import Shape
from torch2trt_onnx.graph import Graph, producer
from torch2trt_onnx.inputs import Input, Output, named_outputs
from torch2trt_onnx.plan import NodePlan, PrecisionPlan
from torch2trt_onnx.precision import TYPES, ElementType, Precision, label
from torch2trt_onnx.typecheck import onnx_type


def request(
    graph: Graph, plan: PrecisionPlan, inputs: Sequence[Input], outputs: Sequence[Output], path: Path, backend: Backend
) -> Request:
    """What a back end is asked to build.

    Args:
        graph: the final one.
        plan: its plan.
        inputs: of the graph, in its order.
        outputs: likewise.
        path: the file that the graph is written to.
        backend: the one that is asked.

    Raises:
        PrecisionError: its library has no such precision; every node is named.
        InputError: its library has no such type of an output.
    """
    _refuse_missing_types(plan, backend)
    _refuse_split_dimensions(graph, inputs)
    tensors = {t.name: t for t in (*graph.ir.inputs, *graph.ir.outputs)}
    typed_inputs = [i.bound_to(str(i.name), ElementType.of(onnx_type(tensors[str(i.name)]))) for i in inputs]
    sizes = _static_sizes(graph, inputs)
    typed_outputs, shapes = [], {}
    for asked, tensor in zip(outputs, graph.ir.outputs, strict=True):
        typed = asked.bound_to(tensor.name)
        typed.dtype = ElementType.of(onnx_type(tensor))
        typed_outputs.append(typed)
        shapes[tensor.name] = tuple(d if isinstance(d, int) else sizes.get(d, -1) for d in tensor.shape or ())
    wide = [o.name for o in typed_outputs if o.dtype is not None and o.dtype.name == "int64"]
    if wide and not backend.capabilities.int64:
        raise InputError(
            f"output {wide[0]!r} cannot be int64", why=f"{backend.title} has no int64", fix="ask for int32"
        )
    precisions = _allowed(plan)
    if backend.typing == "weak":
        _refuse_reduced_outputs(typed_outputs, precisions)
    return Request(path, typed_inputs, typed_outputs, shapes, _nodes(graph, plan), precisions, plan.asked.strict)


def request_as_is(graph: Graph, path: Path, backend: Backend, inputs: Sequence[Input] | None = None) -> Request:
    """What a back end is asked to build of a graph as it stands, with the plan that its metadata tells.

    Args:
        graph: any.
        path: the file that it is written to.
        backend: the one that is asked.
        inputs: of the graph, in its order; None where all shapes are static.
    """
    if inputs is None:
        inputs = [Input([d for d in t.shape if isinstance(d, int)], name=t.name) for t in graph.ir.inputs]
    outputs = named_outputs(None, [t.name for t in graph.ir.outputs])
    return request(graph, PrecisionPlan.read(graph), inputs, outputs, path, backend)


def _nodes(graph: Graph, plan: PrecisionPlan) -> tuple[NodeJob, ...]:
    found = []
    for node, planned in zip(graph.nodes(), plan.nodes, strict=True):
        outputs = tuple((t.name, _word(onnx_type(t))) for t in node.outputs)
        kind = ElementType.of(planned.precision).tensorrt if planned.precision else ""
        found.append(NodeJob(node.name, outputs, kind, planned.is_free, bool(planned.quantized)))
    return tuple(found)


def _word(kind: int) -> str:
    """TensorRT's name of an ONNX type; "" where it is unknown, or TensorRT has none."""
    try:
        return ElementType.of(kind).tensorrt if kind else ""
    except InputError:
        return ""


def _allowed(plan: PrecisionPlan) -> tuple[str, ...]:
    """The precisions that the network may use: those asked for, and what Q/DQ in the model needs; as the model is typed where nothing
    was asked."""
    asked = plan.asked.precisions
    used = {Precision.of(node.runs_in) for node in plan.floats()}
    found = used if asked is None else asked | {p for p in used if p.is_quantized}
    return tuple(p.value for p in Precision if p in found)


def _refuse_missing_types(plan: PrecisionPlan, backend: Backend) -> None:
    can = backend.capabilities
    has = {Precision.BF16: can.bf16, Precision.FP8: can.fp8, Precision.INT4: can.int4}
    lacking: dict[Precision, list[str]] = {}
    for node in plan.floats():
        precision = Precision.of(node.runs_in)
        if not has.get(precision, True):
            lacking.setdefault(precision, []).append(f"{node.op} {node.name!r}")
    for precision in map(Precision, _allowed(plan) if backend.typing == "weak" else ()):
        if not has.get(precision, True):  # the builder needs its flag, whatever comes to use it
            lacking.setdefault(precision, ["asked of the compiler, where the model gives no signal"])
    if lacking:
        raise PrecisionError(
            f"Requested {', '.join(p.value for p in lacking)}, but {backend.title} has no such type",
            why="; ".join(f"{p.value}: {', '.join(names)}" for p, names in lacking.items()),
            fix="leave it out of precisions, or retype those layers",
        )


def _refuse_split_dimensions(graph: Graph, inputs: Sequence[Input]) -> None:
    """One dimension of the model in two inputs with two ranges: TensorRT does not notice, and fails when the sizes differ at run time."""
    shapes = {t.name: t.shape or () for t in graph.ir.inputs}
    first: dict[str, tuple[str, list[Shape]]] = {}
    for given in inputs:
        for axis, symbol in enumerate(shapes[str(given.name)]):
            if not isinstance(symbol, str):
                continue
            where = f"axis {axis} of input {given.name!r}"
            ranges = [tuple(shape[axis] for shape in profile) for profile in given.profiles]
            other, known = first.setdefault(symbol, (where, ranges))
            count = max(len(ranges), len(known))
            if ranges * (count // len(ranges)) != known * (count // len(known)):
                raise InputError(
                    f"{other} and {where} are one dimension of the model ({symbol!r}), and have different ranges",
                    why=f"{known} and {ranges} (min, opt, max of each profile)",
                    fix="give both the same, or names of their own in the model",
                )


def _static_sizes(graph: Graph, inputs: Sequence[Input]) -> dict[object, int]:
    """Name of a dimension of the model -> its size, where the inputs leave it no range."""
    shapes = {t.name: t.shape or () for t in graph.ir.inputs}
    return {
        symbol: given.opt_shape[axis]
        for given in inputs
        for axis, symbol in enumerate(shapes[str(given.name)])
        if isinstance(symbol, str) and axis not in given.dynamic_axes
    }


def _refuse_reduced_outputs(outputs: Sequence[Output], precisions: Sequence[str]) -> None:
    """Under weak typing a Cast to a reduced type needs the flag of its precision, and that would free every layer to use it."""
    reduced = [
        (o.name, o.dtype.label)
        for o in outputs
        if o.dtype is not None and o.dtype.precision in (Precision.FP16, Precision.BF16)
    ]
    odd = [(name, kind) for name, kind in reduced if kind not in precisions]
    if odd:
        raise InputError(
            f"outputs cannot have types that are not among the precisions: {', '.join(f'{name!r}: {kind}' for name, kind in odd)}",
            why="under weak typing the Cast to it needs the builder's flag",
            fix="add it to precisions, or ask for float32",
        )


def unused(plan: PrecisionPlan, built: BuildResult) -> str:
    """What the compiler was free to use and did not, in words; "" where there is nothing to say."""
    if not any(node.is_free for node in plan.nodes):
        return ""
    kinds = {LABELS.get(t.dtype) for layer in built.layers for t in (*layer.inputs, *layer.constants, *layer.outputs)}
    idle = [p.value for p in plan.asked.precisions or () if p.value not in kinds and p is not Precision.FP32]
    if not idle:
        return ""
    return f"{', '.join(sorted(idle))} was asked for, and TensorRT chose it for no layer: the engine's tensors are all in other types"


def untold(plan: PrecisionPlan, built: BuildResult) -> list[str]:
    """The nodes with a planned precision that no layer could be told, and why: what weak typing cannot ask for."""
    told = {row["node"] for row in built.constraints if not row["reason"]}
    reasons: dict[str, str] = {row["node"]: row["reason"] for row in built.constraints if row["reason"] and row["node"]}
    return [
        f"{node.op} {node.name!r}, planned {node.precision}: {reasons[node.name]}"
        for node in plan.floats()
        if _is_pinned(node) and node.name in reasons and node.name not in told
    ]


def _is_pinned(node: NodePlan) -> bool:
    return not node.is_free and not node.quantized and node.op not in ("Cast", "QuantizeLinear", "DequantizeLinear")


def asked_types(outputs: Sequence[Output], graph: Graph) -> dict[str, int]:
    """Output name -> ONNX type, where one was asked for.

    Raises:
        InputError: a type that TensorRT has not, or makes with Q/DQ alone; or an output that no node makes cannot have another type.
    """
    given = {t.name: onnx_type(t) for t in graph.ir.outputs}
    new = [o for o in outputs if o.dtype is not None and o.dtype.onnx != given.get(str(o.name))]
    odd = [f"{o.name!r}: {o.dtype.label}" for o in new if o.dtype is not None and not _is_castable(o.dtype)]
    if odd:
        raise InputError(
            f"outputs cannot have the types that were asked for: {', '.join(odd)}",
            why="TensorRT has no such type, or makes it with QuantizeLinear in the model only",
            fix=f"use one of {', '.join(t.name for t in TYPES if _is_castable(t))}",
        )
    makers = {t.name: producer(t) for t in graph.ir.outputs}
    unmade = [o.name for o in outputs if o.dtype is not None and makers.get(str(o.name)) is None]
    if unmade:
        raise InputError(
            f"output {unmade[0]!r} cannot have another type",
            why="it is an input or a constant of the model that no node makes",
            fix="ask for no type, or let the model compute something",
        )
    return {str(o.name): o.dtype.onnx for o in outputs if o.dtype is not None}


def _is_castable(kind: ElementType) -> bool:
    """Whether a Cast in TensorRT makes a type."""
    return bool(kind.tensorrt) and kind.precision not in (Precision.FP8, Precision.INT4)


def labels(outputs: Sequence[Output]) -> list[str]:
    """The precisions that outputs were asked in: what they round to."""
    return [label(o.dtype.onnx) for o in outputs if o.dtype is not None and o.dtype.precision]
