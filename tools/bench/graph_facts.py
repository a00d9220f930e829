"""What an ONNX graph says of itself: whether it is valid, its Casts between floats, and what share of its matrix work is in fp16."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from convert_worker import line
from onnx import TensorProto, helper

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
Shape = Sequence[int]
Shapes = Mapping[str, Shape]


def facts(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Of a file.

    Args:
        path: the file.
        shapes: of its inputs.

    Returns:
        `checker` (what it says against the graph, or ""), `casts`, `nodes`, `fp32` (nodes that compute with floats, and none of them fp16),
        `macs` (multiplications with an addition), `share` of them in fp16.
    """
    model = onnx.load(path)
    known = run_shapes(model, shapes)
    model = onnx.shape_inference.infer_shapes(concrete(model, shapes), data_prop=True)
    types, inferred = {}, {}
    for name, value in tensors(model.graph):
        types[name], inferred[name] = value
    known = {**inferred, **known}
    nodes = list(every_node(model.graph))
    casts = sum(
        n.op_type == "Cast" and types.get(n.input[0]) in FLOATS and helper.get_node_attr_value(n, "to") in FLOATS
        for n in nodes
    )
    work: dict[bool, int] = {True: 0, False: 0}
    for node in nodes:
        if node.op_type in MACS:
            work[types.get(node.input[0]) == TensorProto.FLOAT16] += MACS[node.op_type](node, known)
    return {
        "checker": checked(path),
        "casts": casts,
        "nodes": len(nodes),
        "fp32": sum(_is_wide(n, types) for n in nodes),
        "macs": sum(work.values()),
        "share": work[True] / max(1, sum(work.values())),
    }


def checked(path: Path) -> str:
    """What ONNX's checker, with strict inference, says against a file; "" where nothing."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
        onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return line(error)
    return ""


def concrete(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> onnx.ModelProto:
    """A copy whose inputs have these shapes, and whose other tensors have none yet."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.name in shapes:
            made = helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shapes[value.name])
            value.CopyFrom(made)
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    del copy.graph.value_info[:]
    return copy


def run_shapes(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of the inputs and outputs of all matrix work outside bodies, from a run on zeros; none where it does not run."""
    import numpy as np
    import onnxruntime as ort

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    made = {name for node in copy.graph.node for name in node.output} | set(shapes)
    wanted = dict.fromkeys(
        name for n in copy.graph.node if n.op_type in MACS for name in (*n.input, *n.output) if name in made
    )
    for index, name in enumerate(wanted):
        copy.graph.node.append(helper.make_node("Shape", [name], [f"shape of {name}"], f"shape {index}"))
    del copy.graph.output[:]
    copy.graph.output.extend(
        helper.make_tensor_value_info(f"shape of {name}", TensorProto.INT64, None) for name in wanted
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
        kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(float16)": np.float16}
        feeds = {i.name: np.zeros(shapes[i.name], kinds[i.type]) for i in session.get_inputs() if i.name in shapes}
        found = session.run(None, feeds)
    except Exception:  # ONNX Runtime's own, which have no common class; the static shapes are left then
        return {}
    return {name: [int(d) for d in shape] for name, shape in zip(wanted, found, strict=True)}


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from every_node(body)


def tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[int, Shape]]]:
    """The type and shape of each tensor, those of bodies too; a dimension that is not known is 1."""
    for initializer in graph.initializer:
        yield initializer.name, (initializer.data_type, list(initializer.dims))
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        yield value.name, (kind.elem_type, [d.dim_value or 1 for d in kind.shape.dim])
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constant = node.attribute[0].t
            yield node.output[0], (constant.data_type, list(constant.dims))
        for body in _bodies(node):
            yield from tensors(body)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def _is_wide(node: onnx.NodeProto, types: Mapping[str, int]) -> bool:
    """Whether a node computes with fp32, and with no fp16."""
    kinds = {types.get(name) for name in (*node.input, *node.output)}
    return TensorProto.FLOAT in kinds and TensorProto.FLOAT16 not in kinds and node.op_type not in ("Constant", "Cast")


def _of_convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes.get(node.output[0], ())) * math.prod(shapes.get(node.input[1], ())[1:])


def _of_transposed(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes.get(node.input[0], ())) * math.prod(shapes.get(node.input[1], ())[1:])


def _of_product(node: onnx.NodeProto, shapes: Shapes) -> int:
    inner = shapes.get(node.input[0], ())
    across = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(shapes.get(node.output[0], ())) * (inner[0 if across else -1] if inner else 1)


def _of_recurrence(node: onnx.NodeProto, shapes: Shapes) -> int:
    steps = math.prod(shapes.get(node.input[0], ())[:2])
    return steps * sum(math.prod(shapes.get(name, ())) for name in node.input[1:3])


def _of_einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    equation = helper.get_node_attr_value(node, "equation").decode().replace(" ", "").split("->")[0]
    sizes: dict[str, int] = {}
    for labels, name in zip(equation.split(","), node.input, strict=True):
        sizes |= dict(zip(labels, shapes.get(name, ()), strict=False))
    return math.prod(sizes.values())


MACS: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "Conv": _of_convolution,
    "ConvTranspose": _of_transposed,
    "MatMul": _of_product,
    "Gemm": _of_product,
    "Einsum": _of_einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _of_recurrence),
}
"""Operator -> the multiplications of a node with an addition each."""
