"""Constant folding that keeps the values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.graph import Graph, producer, replace_uses, subgraphs
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import FLOATS, ElementType
from torch2trt_onnx.typecheck import onnx_type

LIMIT = 1 << 20
"""Bytes. Larger results are left to TensorRT: folding them here would copy weights for nothing."""

EXACT = frozenset(
    {
        "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile",
        "Transpose", "Unsqueeze", "Where", "ConstantOfShape", "Neg",
    }
)  # fmt: skip
"""Operators whose result does not depend on the precision that a library computes them in."""

NEVER = frozenset(
    {
        "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout",
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant",
    }
)  # fmt: skip
"""Random operators, and Q/DQ, which say a precision by standing in the graph."""

GROWING = frozenset({"Expand", "Tile", "ConstantOfShape", "Range", "Resize", "Pad", "OneHot", "EyeLike"})


class FoldConstants(Pass):
    """Replace what depends on constants and static shapes only by its value, computed by ONNX Runtime, operator by operator.

    Nothing is rewritten on the way: graphsurgeon's own folding elides `int -> float -> x 0.5 -> int` into zeros, and makes
    doubles of float constants. fp16 arithmetic is left to TensorRT, because ONNX Runtime's CPU kernels compute it in fp32
    and may skip the rounding between two nodes; so is bf16, and what is larger than 1 MiB.

    Given:  x: float[1,3,8,8]; s = Shape(x); h = Gather(s, 2); t = Mul(h, 2)
    Result: t = 16
    """

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for inner in graph.graphs():
            yield from self._fold(graph, inner)

    def _fold(self, graph: Graph, inner: gs.Graph) -> Iterator[Change]:
        chosen: list[gs.Node] = []
        outputs = {id(t) for t in inner.outputs}
        within: set[int] = set()  # tensors that chosen nodes make
        for node in inner.nodes:
            value = _static_shape(graph, node)
            if value is not None:
                result = node.outputs[0]
                if id(result) not in outputs and result.outputs:
                    replace_uses(result, graph.constant(result.name, value, TensorProto.INT64))
                    yield Change(node.name, "folded", "the shape is static")
            elif _is_foldable(node, within) and _is_safe(graph, node):
                chosen.append(node)
                within.update(id(t) for t in node.outputs)
        # What makes a graph output stays, as outputs need a producer, and reads the values of what is before it.
        inside = {id(node) for node in chosen if not any(id(t) in outputs for t in node.outputs)}
        frontier = [
            t
            for node in chosen
            for t in node.outputs
            if t.name and id(t) not in outputs and any(id(reader) not in inside for reader in t.outputs)
        ]
        values = _evaluate(graph, chosen, frontier)
        for tensor in frontier:
            if tensor.name in values:
                name = producer(tensor).name  # type: ignore[union-attr]
                replace_uses(tensor, graph.constant(tensor.name, values[tensor.name], onnx_type(tensor)))
                yield Change(name, "folded", "its inputs are constants")


def _is_foldable(node: gs.Node, within: set[int]) -> bool:
    if (node.domain or "") not in ("", "ai.onnx") or node.op in NEVER or subgraphs(node) or not node.inputs:
        return False
    if node.unread:  # what is run here lacks them
        return False
    if not all(isinstance(t, gs.Constant) or id(t) in within or not t.name for t in node.inputs):
        return False
    if any(_nbytes(t) > LIMIT for t in node.inputs if isinstance(t, gs.Constant)):
        return False
    for tensor in node.outputs:
        kind = onnx_type(tensor)
        if not tensor.name:
            continue
        size = _nbytes(tensor) if kind else -1
        if not kind or tensor.type != "tensor_type" or size > LIMIT or (size < 0 and node.op in GROWING):
            return False
    kinds = {onnx_type(t) for t in (*node.inputs, *node.outputs) if t.name}
    if TensorProto.FLOAT16 in kinds and node.op not in EXACT:
        return False
    return kinds <= _RUNNABLE


def _is_safe(graph: Graph, node: gs.Node) -> bool:
    """Whether ONNX Runtime survives it: the smallest integer divided by -1 ends the process, and by 0 did in old versions."""
    if node.op not in ("Div", "Mod") or onnx_type(node.outputs[0]) in (*FLOATS, TensorProto.DOUBLE):
        return True
    divisor = node.inputs[1]
    if isinstance(divisor, gs.Constant):
        values = graph.array(divisor)
    else:
        values = _evaluate(graph, _ancestors([divisor]), [divisor]).get(divisor.name, np.zeros(1))
    return not np.isin(values, (0, -1)).any()


_RUNNABLE = frozenset(
    ElementType.of(name).onnx
    for name in ("float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
)


def _nbytes(tensor: gs.Tensor) -> int:
    """The size of a tensor in bytes; -1 where its shape is not known."""
    if tensor.shape is None or not all(isinstance(d, int) for d in tensor.shape):
        return -1
    return int(math.prod(tensor.shape) * onnx.helper.tensor_dtype_to_np_dtype(onnx_type(tensor)).itemsize)


def _static_shape(graph: Graph, node: gs.Node) -> np.ndarray | None:
    """The value of `Shape(x)`, or of `Gather(Shape(x), constant)`, where the dimensions that it reads are static."""
    if node.op == "Shape":
        dims = node.inputs[0].shape
        if dims is None:
            return None
        part = list(dims)[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
        return np.asarray(part, np.int64) if all(isinstance(d, int) for d in part) else None
    if node.op != "Gather" or not isinstance(node.inputs[1], gs.Constant):
        return None
    maker = producer(node.inputs[0])
    if maker is None or maker.op != "Shape" or maker.inputs[0].shape is None:
        return None
    dims = list(maker.inputs[0].shape)[slice(maker.attrs.get("start", 0), maker.attrs.get("end"))]
    index = graph.array(node.inputs[1]).astype(np.int64)
    if any(not -len(dims) <= i < len(dims) or not isinstance(dims[i], int) for i in index.reshape(-1).tolist()):
        return None
    return np.asarray(np.take([d if isinstance(d, int) else 0 for d in dims], index), np.int64)


def _evaluate(graph: Graph, nodes: list[gs.Node], wanted: list[gs.Tensor]) -> dict[str, np.ndarray]:
    """The values of `wanted`, by ONNX Runtime without its optimisations; those that it cannot compute are left out."""
    if not wanted:
        return {}
    try:
        return _run(graph, nodes, wanted)
    except Exception:
        # One operator spoils the session for all: find out which results can be had without it.
        if len(wanted) == 1:
            return {}
        half = len(wanted) // 2
        parts = (_evaluate(graph, _ancestors(part), part) for part in (wanted[:half], wanted[half:]))
        return dict(chain.from_iterable(part.items() for part in parts))


def _ancestors(tensors: list[gs.Tensor]) -> list[gs.Node]:
    """The nodes that some tensors depend on, in topological order."""
    order: list[gs.Node] = []
    seen: set[int] = set()
    stack = [(producer(t), False) for t in tensors]
    while stack:
        node, done = stack.pop()
        if node is None:
            continue
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((producer(t), False) for t in node.inputs)
    return order


def _run(graph: Graph, nodes: list[gs.Node], wanted: list[gs.Tensor]) -> dict[str, np.ndarray]:
    import onnxruntime as ort

    constants = {t.name: t for node in nodes for t in node.inputs if isinstance(t, gs.Constant)}
    onnx_graph = onnx.helper.make_graph(
        [gs.exporters.onnx_exporter.OnnxExporter.export_node(node) for node in nodes],
        "constants",
        [],
        [onnx.helper.make_tensor_value_info(t.name, onnx_type(t), None) for t in wanted],
        [onnx.numpy_helper.from_array(np.array(graph.array(t)), name) for name, t in constants.items()],
    )
    model = onnx.helper.make_model(onnx_graph, opset_imports=[onnx.helper.make_opsetid("", graph.opset)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [t.name for t in wanted]
    return dict(zip(names, session.run(names, {}), strict=True))
