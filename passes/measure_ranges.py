"""Ranges of tensors, measured in the graph itself, so that only a few numbers leave it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.graph import Graph, new_node, subgraphs
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import FLOATS, ElementType
from torch2trt_onnx.typecheck import onnx_type

FP32, INT64 = int(TensorProto.FLOAT), int(TensorProto.INT64)
AXES_INPUT = 18
"""The opset from which on ReduceProd takes its axes as an input."""

SAME = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DepthToSpace", "SpaceToDepth"}
)
"""Operators whose result has the elements of their first input, and no others."""


@dataclass(frozen=True)
class Statistic:
    """A number for each tensor.

    Args:
        name: of the output that holds it.
        kind: its ONNX type.
        combine: the operator that makes one number of those of several runs.
        neutral: the number of no run at all.
    """

    name: str
    kind: int
    combine: str
    neutral: float


LOW = Statistic("lows", FP32, "Min", math.inf)
HIGH = Statistic("highs", FP32, "Max", -math.inf)
ODD = Statistic("odds", FP32, "Add", 0)
SIZE = Statistic("sizes", INT64, "Add", 0)


@dataclass
class MeasureRanges(Pass):
    """Let a graph put out the lowest and highest values of its float tensors, and nothing else.

    Not part of a conversion: it makes a copy for ONNX Runtime. A tensor costs three nodes, and a dynamic shape one more. They
    stand behind the node that makes it, so that it is let go as early as before. Where an element is not finite, the lowest and the highest
    value may be anything, and the norm is not finite, which stands for the elements that are not; of the `exact` ones the finite elements
    are measured alone, and the others counted, with six nodes more. What a body of an If, Loop or Scan measures is handed out, over all its
    runs; a Scan of opset 8 is passed over.

    Args:
        wanted: the names of the tensors to measure.
        exact: the names of those among them to measure exactly, for which opset 8 has no operators.

    Attributes:
        measured: the names of the tensors, in the order of the outputs.
        same: tensor -> measured tensor of the same elements, for what only moves them.

    Given:  y = Exp(x) => (y)
    Result: y = Exp(x)  l = ReduceMin(y)  h = ReduceMax(y)  n = ReduceL1(y) => (l, h, n, 6), each a vector with a number for each tensor
    """

    wanted: Container[str]
    exact: Container[str] = ()
    measured: list[str] = field(default_factory=list, init=False)
    same: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """What the graph puts out, in this order."""
        return LOW, HIGH, ODD, SIZE

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        scope = _Scope(self, graph, graph.ir)
        scope.measure()
        self.measured, graph.ir.outputs = scope.names, scope.vectors()
        for name in self.measured:
            yield Change(name, "is measured", "its range is wanted")


Numbers = list[gs.Tensor]
"""One tensor for each of the statistics."""


@dataclass
class _Group:
    """Tensors of one rank, for which some nodes stand once.

    Args:
        names: theirs.
        numbers: of each tensor, in as many dimensions as it has; with its shape behind them where that is dynamic.
        sizes: of each tensor, where its shape is static.
    """

    names: list[str] = field(default_factory=list)
    numbers: list[Numbers] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


class _Scope:
    """The measurements in one graph or body, and in the bodies inside it.

    Args:
        owner: what is wanted.
        graph: the whole graph.
        inner: the graph or body.
    """

    def __init__(self, owner: MeasureRanges, graph: Graph, inner: gs.Graph) -> None:
        self._owner, self._graph, self._inner = owner, graph, inner
        self._nodes: list[gs.Node] = []
        self._constants: dict[str, gs.Constant] = {}
        self._shapes: dict[tuple[int | str | None, ...], gs.Tensor] = {}
        self._groups: dict[tuple[int, bool], _Group] = defaultdict(_Group)  # by rank, and whether the shape is static
        self._parts: list[tuple[list[str], Numbers]] = []  # names, and a vector for each statistic
        self._own: set[str] = set()

    @property
    def names(self) -> list[str]:
        """Of the tensors, in the order of the vectors."""
        return [name for names, _ in self._parts for name in names]

    def measure(self) -> None:
        """Put the nodes that measure behind the nodes that make the tensors."""
        for tensor in self._inner.inputs:
            self._take(tensor)
        for node in self._inner.nodes:
            handed = self._enter(node)
            self._nodes.append(node)
            self._parts += handed
            moved = node.inputs[0].name if node.op in SAME else ""
            for tensor in node.outputs:
                if moved in self._own:
                    self._owner.same[tensor.name] = self._owner.same.get(moved, moved)
                    self._own.add(tensor.name)
                else:
                    self._take(tensor)
        self._parts += [(group.names, self._joined(rank, group)) for (rank, _), group in self._groups.items()]
        self._inner.nodes = self._nodes

    def vectors(self) -> Numbers:
        """The numbers of all tensors; at the end of the graph."""
        if not self._parts:
            return [self._neutral(statistic, 0) for statistic in self._owner.statistics]
        columns = zip(*(numbers for _, numbers in self._parts), strict=True)
        return [
            self._add("Concat", list(column), self._variable(statistic), axis=0)
            for statistic, column in zip(self._owner.statistics, columns, strict=True)
        ]

    # --- one tensor

    def _take(self, tensor: gs.Tensor) -> None:
        if tensor.name not in self._owner.wanted or onnx_type(tensor) not in FLOATS:
            return
        self._own.add(tensor.name)
        shape, values = tensor.shape, tensor
        if not shape:  # unknown, or a scalar
            shape = [None] if shape is None else [1]
            values = self._add("Reshape", [values, self._constant("flat", np.array([-1]))])
        if onnx_type(tensor) != FP32:
            values = self._add("Cast", [values], to=FP32)
        is_static = all(isinstance(size, int) for size in shape)
        group = self._groups[len(shape), is_static]
        group.names.append(tensor.name)
        is_exact = tensor.name in self._owner.exact
        group.numbers.append(self._exactly(values) if is_exact else self._fast(values))
        if is_static:
            group.sizes.append(math.prod(shape))
        else:
            group.numbers[-1].append(self._shape(values, tuple(shape)))

    def _shape(self, values: gs.Tensor, shape: tuple[int | str | None, ...]) -> gs.Tensor:
        """The shape of a tensor; one for all tensors whose dimensions have the same names."""
        if None in shape:
            return self._add("Shape", [values])
        if shape not in self._shapes:
            self._shapes[shape] = self._add("Shape", [values])
        return self._shapes[shape]

    def _fast(self, values: gs.Tensor) -> Numbers:
        return [self._add(op, [values], keepdims=1) for op in ("ReduceMin", "ReduceMax", "ReduceL1")]

    def _exactly(self, values: gs.Tensor) -> Numbers:
        infinity = self._constant("infinity", np.array(np.inf, np.float32))
        is_finite = self._add("Less", [self._add("Abs", [values]), infinity])  # false for NaN
        floor = self._constant("floor", np.array(-np.inf, np.float32))
        low = self._add("ReduceMin", [self._add("Where", [is_finite, values, infinity])], keepdims=1)
        high = self._add("ReduceMax", [self._add("Where", [is_finite, values, floor])], keepdims=1)
        odd = self._add("Cast", [self._add("Not", [is_finite])], to=FP32)
        return [low, high, self._add("ReduceSum", [odd], keepdims=1)]

    def _joined(self, rank: int, group: _Group) -> Numbers:
        """The numbers of a group, each as a vector."""
        columns = [self._add("Concat", list(column), axis=0) for column in zip(*group.numbers, strict=True)]
        if group.sizes:
            sizes: gs.Tensor = self._graph.constant(SIZE.name, np.array(group.sizes), INT64)
        else:
            rows = self._add("Reshape", [columns.pop(), self._constant(f"rows{rank}", np.array([-1, rank]))])
            if self._graph.opset < AXES_INPUT:
                sizes = self._add("ReduceProd", [rows], axes=[1], keepdims=0)
            else:
                sizes = self._add("ReduceProd", [rows, self._constant("axis", np.array([1]))], keepdims=0)
        flat = self._constant("flat", np.array([-1]))
        return [*(self._add("Reshape", [column, flat]) for column in columns), sizes]

    # --- control flow

    def _enter(self, node: gs.Node) -> list[tuple[list[str], Numbers]]:
        """What is measured in the bodies of a node, and handed out by it."""
        bodies = subgraphs(node) if node.op in ("If", "Loop", "Scan") else []
        if node.op == "Scan" and len(node.inputs) != len(bodies[0].inputs):
            return []  # of opset 8
        scopes = [_Scope(self._owner, self._graph, body) for body in bodies]
        for scope in scopes:
            scope.measure()
        names = [name for scope in scopes for name in scope.names]
        if not names:
            return []
        return [(names, self._branch(node, scopes) if node.op == "If" else self._carry(node, scopes[0]))]

    def _branch(self, node: gs.Node, scopes: Sequence[_Scope]) -> Numbers:
        """Let an If hand out the numbers of its two bodies; those of the body that does not run are neutral."""
        statistics = self._owner.statistics
        for running in scopes:
            parts = [
                scope.vectors() if scope is running else [running._neutral(s, len(scope.names)) for s in statistics]
                for scope in scopes
            ]
            running._inner.outputs += [
                running._add("Concat", list(column), running._variable(statistic), axis=0)
                for statistic, column in zip(statistics, zip(*parts, strict=True), strict=True)
            ]
        made = [self._variable(statistic) for statistic in statistics]
        node.outputs.extend(made)
        return made

    def _carry(self, node: gs.Node, scope: _Scope) -> Numbers:
        """Let a Loop or Scan carry the numbers of its body from run to run."""
        body, count = scope._inner, len(scope.names)
        if node.op == "Loop":
            while len(node.inputs) < 2:  # the trip count and the condition, which may be left out
                node.inputs.append(gs.Variable.empty())
            carried = len(node.inputs) - 2
            places = 2 + carried, 2 + carried, 1 + carried, carried
        else:
            places = (len(body.inputs) - node.attrs["num_scan_inputs"],) * 4
        made: Numbers = []
        for offset, (statistic, vector) in enumerate(zip(self._owner.statistics, scope.vectors(), strict=True)):
            at_input, at_body_input, at_body_output, at_output = (place + offset for place in places)
            before, after = scope._variable(statistic, count), self._variable(statistic, count)
            node.inputs.insert(at_input, self._neutral(statistic, count))
            body.inputs.insert(at_body_input, before)
            combined = scope._add(statistic.combine, [before, vector], scope._variable(statistic, count))
            body.outputs.insert(at_body_output, combined)
            node.outputs.insert(at_output, after)
            made.append(after)
        return made

    # --- nodes and tensors

    def _add(self, op: str, inputs: Numbers, output: gs.Variable | None = None, **attributes: object) -> gs.Variable:
        """What a new node makes of tensors, behind the nodes that are there."""
        name = self._graph.fresh_name(f"{inputs[0].name}/{op}")
        made = output if output is not None else gs.Variable(f"{name}_output")
        self._nodes.append(new_node(op, name, attributes, inputs, [made]))
        return made

    def _variable(self, statistic: Statistic, count: int | None = None) -> gs.Variable:
        """A new tensor of one statistic, for so many tensors."""
        return gs.Variable(self._graph.fresh_name(statistic.name), statistic.kind, [count])

    def _neutral(self, statistic: Statistic, count: int) -> gs.Constant:
        values = np.full(count, statistic.neutral, ElementType.of(statistic.kind).numpy)
        return self._graph.constant(statistic.name, values, statistic.kind)

    def _constant(self, name: str, values: np.ndarray) -> gs.Constant:
        """An initializer of this graph or body."""
        if name not in self._constants:
            self._constants[name] = self._graph.constant(name, values, ElementType.of(values.dtype.name).onnx)
        return self._constants[name]
