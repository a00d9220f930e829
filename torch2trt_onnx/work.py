"""How much each node computes, by its shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_graphsurgeon as gs

from torch2trt_onnx.formats import Shape
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.typecheck import onnx_type
from torch2trt_onnx.weights import nbytes_of

Find = Callable[[gs.Tensor], Shape]


@dataclass(frozen=True)
class Cost:
    """What a node costs.

    Args:
        macs: how often it multiplies and adds, where it multiplies matrices (`MATRIX`); 0 for other nodes.
        nbytes: of what it makes.
    """

    macs: int
    nbytes: int


def costs(graph: Graph, shapes: Mapping[str, Sequence[int | None]] | None = None) -> dict[str, Cost]:
    """Node -> what it costs.

    Nodes of bodies count once, however often they run. Dimensions that are not known count as 1. The graph stays as it is.

    Args:
        graph: with unique node names, and the types of its tensors known.
        shapes: of the inputs that are dynamic, by name; None: the shapes that the tensors have count, which costs no inference.
    """
    find = _shapes(graph, shapes) if shapes is not None else _own_shape
    return {
        node.name: Cost(
            _macs(node, find), sum(nbytes_of(onnx_type(tensor), find(tensor)) for tensor in node.outputs if tensor.name)
        )
        for node in graph.nodes()
    }


def work(graph: Graph, shapes: Mapping[str, Sequence[int | None]]) -> dict[str, int]:
    """Node -> how often it multiplies, as in `costs`; but of nodes that multiply no matrices, the elements that they make."""
    find = _shapes(graph, shapes)
    return {
        node.name: _macs(node, find) or sum(prod(find(t)) for t in node.outputs if t.name) for node in graph.nodes()
    }


def _macs(node: gs.Node, find: Find) -> int:
    return MATRIX[node.op](node, find) if node.op in MATRIX else 0


def _conv(node: gs.Node, find: Find) -> int:
    return prod(find(node.outputs[0])) * prod(find(node.inputs[1])[1:])  # the weights of one channel


def _conv_transpose(node: gs.Node, find: Find) -> int:
    return prod(find(node.inputs[0])) * prod(
        find(node.inputs[1])[1:]
    )  # each input goes through the weights of its channel


def _matmul(node: gs.Node, find: Find) -> int:
    return prod(find(node.outputs[0])) * prod(find(node.inputs[0])[-1:])


def _gemm(node: gs.Node, find: Find) -> int:
    a = find(node.inputs[0])
    return prod(find(node.outputs[0])) * prod(a[:1] if node.attrs.get("transA") else a[-1:])


def _recurrent(node: gs.Node, find: Find) -> int:
    data, *weights = (find(t) for t in node.inputs[:3])
    return prod(data[:2]) * sum(map(prod, weights))  # a step of a batch element goes through all the weights


def _attention(node: gs.Node, find: Find) -> int:
    past = prod(find(node.inputs[4])[-2:-1]) if len(node.inputs) > 4 and node.inputs[4].name else 0
    keys = prod(find(node.inputs[1])[-2:-1]) + past
    return (prod(find(node.inputs[0])) + prod(find(node.outputs[0]))) * keys


def _einsum(node: gs.Node, find: Find) -> int:
    """A loop over all indices; one operand is moved or summed, and multiplied with nothing."""
    operands = node.attrs["equation"].replace(" ", "").split("->")[0].split(",")
    sizes: dict[str | int, int] = {}
    for words, tensor in zip(operands, node.inputs, strict=True):
        shape = find(tensor)
        head, _, tail = words.partition("...")
        hidden = range(len(head), len(shape) - len(tail))  # what the dots stand for, counted from behind
        labels = [*head, *(index - len(shape) + len(tail) for index in hidden), *tail]
        for word, size in zip(labels, shape, strict=False):
            sizes[word] = max(size, sizes.get(word, 1))
    return prod(sizes.values()) * (len(operands) - 1)


MATRIX: dict[str, Callable[[gs.Node, Find], int]] = {
    "Conv": _conv,
    "DeformConv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "RNN": _recurrent,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "Attention": _attention,
}
"""Operators that multiply matrices."""


def _own_shape(tensor: gs.Tensor) -> Shape:
    return tuple(dim if isinstance(dim, int) else 1 for dim in tensor.shape or ())


def _shapes(graph: Graph, shapes: Mapping[str, Sequence[int | None]]) -> Find:
    """Finds the shape of a tensor; () where it is not known."""
    known = graph.dims(shapes)

    def find(tensor: gs.Tensor) -> Shape:
        return tuple(tensor.shape) if isinstance(tensor, gs.Constant) else known.get(tensor.name, ())

    return find
