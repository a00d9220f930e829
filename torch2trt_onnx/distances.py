"""Two versions of one graph in one ONNX Runtime session, and how far each tensor of the one is from the same tensor of the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from torch2trt_onnx.graph import Graph
from torch2trt_onnx.precision import FLOATS
from torch2trt_onnx.sessions import Sample, run
from torch2trt_onnx.typecheck import onnx_type

OTHER = "other/"
"""What the names of the second graph begin with."""

FLAT, ZERO, INFINITY = "twin/flat", "twin/zero", "twin/infinity"


@dataclass(frozen=True)
class Distance:
    """A tensor in both graphs, over all samples.

    Args:
        error: the largest |a - b| of the elements that are finite in both.
        scale: the largest finite |b|, b of the first graph.
        odd: how many elements are not finite in the first graph, and in the second one.
        nan: how many of them are NaN.
    """

    error: float
    scale: float
    odd: tuple[int, int]
    nan: tuple[int, int]

    @property
    def relative(self) -> float:
        """The error by the scale."""
        if self.error == 0:
            return 0.0
        return self.error / self.scale if self.scale else math.inf

    @property
    def breaks(self) -> bool:
        """Whether the second graph makes something infinite or NaN that is finite, or a number, in the first one."""
        return self.odd[1] > self.odd[0] or self.nan[1] > self.nan[0]


def distances(first: Graph, second: Graph, samples: Iterable[Sample]) -> dict[str, Distance]:
    """How far the tensors outside of bodies are from each other; only a few numbers for each leave the session.

    Args:
        first: the reference; fp32 alone.
        second: the same nodes and tensors by name, some of them with another float type, computing in fp32 (`EmulateReduced`).
        samples: of the inputs, which both have.

    Raises:
        CalibrationError: ONNX Runtime cannot load both together, or run them on a sample.
    """
    there = {t.name: onnx_type(t) for node in second.ir.nodes for t in node.outputs}
    names = [
        t.name
        for node in first.ir.nodes
        for t in node.outputs
        if onnx_type(t) == TensorProto.FLOAT and there.get(t.name) in FLOATS
    ]
    if not names:
        return {}
    both = Graph(_together(first.to_proto(), second.to_proto(), names, there), first.weights)
    both.infer_types(strict=False)
    columns = np.zeros((6, len(names)))
    for found in run(both, first, samples):
        now = np.stack([vector.astype(np.float64) for vector in found])
        columns[:2] = np.maximum(columns[:2], now[:2])
        columns[2:] += now[2:]
    return {
        name: Distance(error, scale, (int(a), int(b)), (int(c), int(d)))
        for name, (error, scale, a, b, c, d) in zip(names, columns.T.tolist(), strict=True)
    }


def _together(
    first: onnx.ModelProto, second: onnx.ModelProto, names: Sequence[str], kinds: dict[str, int]
) -> onnx.ModelProto:
    """One model of both, which puts out six vectors: errors, scales, and the counts of what is not finite, and of NaN, in each."""
    shared = {v.name for v in first.graph.input} | {t.name for t in first.graph.initializer}
    _rename(second.graph, shared)
    both = onnx.ModelProto()
    both.CopyFrom(first)
    graph = both.graph
    graph.node.extend(second.graph.node)
    graph.initializer.extend(t for t in second.graph.initializer if t.name.startswith(OTHER))
    graph.value_info.extend(v for v in second.graph.value_info if v.name.startswith(OTHER))
    for name, values in (
        (FLAT, np.array([-1])),
        (ZERO, np.zeros(1, np.float32)),
        (INFINITY, np.array(np.inf, np.float32)),
    ):
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    rows = [list(_measured(graph, name, kinds[name])) for name in names]
    del graph.output[:]
    for number, column in enumerate(zip(*rows, strict=True)):
        graph.node.append(helper.make_node("Concat", column, [f"twin/{number}"], f"twin/{number}", axis=0))
        graph.output.append(helper.make_tensor_value_info(f"twin/{number}", TensorProto.FLOAT, [len(names)]))
    return both


def _measured(graph: onnx.GraphProto, name: str, kind: int) -> Iterator[str]:
    """Nodes that compare a tensor with its twin: the names of six tensors of one number. A zero keeps them from being empty."""
    made: list[str] = []

    def add(op: str, *inputs: str, **attributes: Any) -> str:
        made.append(f"twin/{name}/{len(made)}")
        graph.node.append(helper.make_node(op, inputs, [made[-1]], made[-1], **attributes))
        return made[-1]

    def flat(tensor: str) -> str:
        return add("Concat", add("Reshape", tensor, FLAT), ZERO, axis=0)

    def count(condition: str) -> str:
        return add("ReduceSum", add("Cast", condition, to=TensorProto.FLOAT), keepdims=1)

    twin = OTHER + name
    a, b = flat(name), flat(twin if kind == TensorProto.FLOAT else add("Cast", twin, to=TensorProto.FLOAT))
    finite = [add("Less", add("Abs", tensor), INFINITY) for tensor in (a, b)]  # false for NaN
    difference = add("Abs", add("Sub", a, b))
    yield add("ReduceMax", add("Where", add("And", *finite), difference, ZERO), keepdims=1)
    yield add("ReduceMax", add("Where", finite[0], add("Abs", a), ZERO), keepdims=1)
    for tensor in finite:
        yield count(add("Not", tensor))
    for tensor in (a, b):  # what is neither below infinity nor above zero; `Equal` takes no floats in old opsets
        yield count(add("Not", add("Or", add("Less", tensor, INFINITY), add("Greater", tensor, ZERO))))


def _rename(graph: onnx.GraphProto, shared: set[str]) -> None:
    """Give all names of a graph and its bodies a prefix, but for those that it shares with the other."""

    def new(name: str) -> str:
        return OTHER + name if name and name not in shared else name

    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = new(value.name)
    for node in graph.node:
        node.name = OTHER + node.name
        node.input[:] = map(new, node.input)
        node.output[:] = map(new, node.output)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g, shared)
