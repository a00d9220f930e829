"""Two versions of a graph in one, and the difference of each tensor in both."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.graph import Graph, new_node, replace_uses
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import FLOATS
from torch2trt_onnx.typecheck import onnx_type

FP32, BOOL = int(TensorProto.FLOAT), int(TensorProto.BOOL)
COUNTED = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL})
"""Types of outputs of which the elements that differ are counted."""


RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


class CompareTwin(Pass):
    """Put another version of the graph beside it, node by node, and put out how far their tensors are from each other.

    Not part of a conversion: it makes a copy for ONNX Runtime. Both versions use the integers and bools of the graph, so that they go the
    same way and all shapes are the same; where a graph output is of these, the share of its elements that differ is put out. Random
    numbers are the same as well. Tensors in bodies have twins, and no differences. What is compared stands together, so that tensors are
    let go early.

    Args:
        twin: the same nodes and tensors by name, some of other float types; computing in fp32 (`EmulateReduced`). It is used up.

    Attributes:
        twins: float tensor -> its twin in the other version.
        differences: tensor -> the tensor that holds the difference.

    Given:  y = Exp(x) => (y), and as its twin y: float16 = Cast<to=FLOAT16>(Exp(x)) => (y)
    Result: y = Exp(x)  t: float16 = Cast<to=FLOAT16>(Exp(x))  d = Sub(Cast<to=FLOAT>(t), y) => (y, d)
    """

    def __init__(self, twin: Graph) -> None:
        self._twin = twin
        self.twins: dict[str, str] = {}
        self.differences: dict[str, str] = {}

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for node in (*graph.nodes(), *self._twin.nodes()):
            if node.op in RANDOM:
                node.attrs.setdefault("seed", 0.0)
        ours = {t.name: t for t in (*graph.ir.inputs, *_made(graph.ir))}
        symbols = {size for t in graph.ir.inputs for size in t.shape or () if isinstance(size, str)}
        pairs = [
            (ours[tensor.name], tensor)
            for tensor in _made(self._twin.ir)
            if tensor.name in ours and (_is_float(tensor) or _is_counted(graph, ours[tensor.name], symbols))
        ]
        nodes = list(_beside(graph.ir.nodes, self._twin.ir.nodes))
        shared = self._share(graph, ours)
        self._rename(graph, shared)
        graph.ir.nodes = list(self._compare(graph, nodes, pairs))
        graph.tidy()
        for name in self.differences:
            yield Change(name, "is compared with its twin", "how far they are from each other is wanted")

    def _share(self, graph: Graph, ours: dict[str, gs.Tensor]) -> set[int]:
        """Let the twin read the graph's inputs, integers and initializers; returns the `id`s of the latter."""
        integers = (t for t in _made(self._twin.ir) if onnx_type(t) and onnx_type(t) not in FLOATS)
        for tensor in (*self._twin.ir.inputs, *integers):
            if tensor.name in ours:
                replace_uses(tensor, ours[tensor.name])
        constants = {t.name: t for t in _constants(graph)}
        for constant in {id(t): t for t in _constants(self._twin)}.values():
            same = constants.get(constant.name)
            if same is not None and onnx_type(same) == onnx_type(constant):
                replace_uses(constant, same)
        return {id(t) for t in constants.values()}

    def _rename(self, graph: Graph, shared: set[int]) -> None:
        """Give the nodes and tensors that are the twin's own new names."""
        floats = {t.name for inner in graph.graphs() for t in (*inner.inputs, *_made(inner)) if _is_float(t)}
        for constant in {id(t): t for t in _constants(self._twin) if id(t) not in shared}.values():
            constant.name = graph.fresh_name(f"twin/{constant.name}")
        for inner in self._twin.graphs():
            for node in inner.nodes:
                node.name = graph.fresh_name(f"twin/{node.name}")
            for tensor in (*(inner.inputs if inner is not self._twin.ir else ()), *_made(inner)):
                name, tensor.name = tensor.name, graph.fresh_name(f"twin/{tensor.name}")
                if name in floats and _is_float(tensor):
                    self.twins[name] = tensor.name

    def _compare(
        self, graph: Graph, nodes: Sequence[gs.Node], pairs: Sequence[tuple[gs.Tensor, gs.Tensor]]
    ) -> Iterator[gs.Node]:
        """The nodes, and behind those that make the later one of two tensors the ones that compare them."""
        waiting = {id(t): pair for pair in pairs for t in pair}
        begun: set[int] = set()
        for node in nodes:
            yield node
            for tensor in node.outputs:
                pair = waiting.get(id(tensor))
                if pair is not None and id(pair[0]) in begun:
                    yield from self._difference(graph, *pair)
                elif pair is not None:
                    begun.add(id(pair[0]))

    def _difference(self, graph: Graph, tensor: gs.Tensor, twin: gs.Tensor) -> Sequence[gs.Node]:
        nodes: list[gs.Node] = []

        def add(op: str, kind: int, *inputs: gs.Tensor, **attributes: object) -> gs.Variable:
            made = gs.Variable(graph.fresh_name(f"{tensor.name}/{op}_output"), kind, tensor.shape)
            nodes.append(new_node(op, graph.fresh_name(f"{tensor.name}/{op}"), attributes, list(inputs), [made]))
            return made

        if _is_float(tensor):
            both = (t if onnx_type(t) == FP32 else add("Cast", FP32, t, to=FP32) for t in (twin, tensor))
            difference = add("Sub", FP32, *both)
        else:
            differs = add("Not", BOOL, add("Equal", BOOL, twin, tensor))
            difference = add("ReduceMean", FP32, add("Cast", FP32, differs, to=FP32), keepdims=0)
            difference.shape = []
        self.differences[tensor.name] = difference.name
        graph.ir.outputs.append(difference)
        return nodes


def _beside(ours: Sequence[gs.Node], theirs: Sequence[gs.Node]) -> Iterator[gs.Node]:
    """The nodes of both, each of ours before its twin and what stands before that."""
    places = {node.name: place for place, node in enumerate(theirs)}
    done = 0
    for node in ours:
        yield node
        until = max(done, places.get(node.name, -1) + 1)
        yield from theirs[done:until]
        done = until
    yield from theirs[done:]


def _made(inner: gs.Graph) -> Iterator[gs.Tensor]:
    """What the nodes of a graph or body make."""
    return (t for node in inner.nodes for t in node.outputs if t.name)


def _constants(graph: Graph) -> Iterator[gs.Constant]:
    return (t for node in graph.nodes() for t in node.inputs if isinstance(t, gs.Constant))


def _is_float(tensor: gs.Tensor) -> bool:
    return onnx_type(tensor) in FLOATS and getattr(tensor, "type", "tensor_type") == "tensor_type"


def _is_counted(graph: Graph, tensor: gs.Tensor, symbols: Container[str]) -> bool:
    """Whether a graph output is of integers or bools, and its shape follows from those of the inputs."""
    is_known = tensor.shape is not None and all(isinstance(d, int) or d in symbols for d in tensor.shape)
    return onnx_type(tensor) in COUNTED and is_known and any(tensor is t for t in graph.ir.outputs)
