"""A LayerNorm that is spelled out in single operators, as one."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.graph import PREFIX, Graph, new_node, producer
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.rules import Rule
from torch2trt_onnx.typecheck import is_standard, onnx_type

OPSET = 17
"""The first that has LayerNormalization."""

MODULE = f"{PREFIX}module"


class JoinLayerNorm(Pass):
    """Write an fp32 LayerNorm of single operators as LayerNormalization, which TensorRT sums in fp32 whatever type it reads.

    The difference to the mean may be there twice, and so may the mean: some exporters write them anew for each reader. The scale and the
    bias are what the result is multiplied with and added to, where that is the same row for all; both may be missing. A norm of which
    something else reads a part stays as it is, and so does one for whose parts the user has other rules than for the whole.

    Given:  m = ReduceMean<axes=[-1]>(x); d = Sub(x, m); v = ReduceMean<axes=[-1]>(Pow(d, 2))
            y = Add(Mul(Div(d, Sqrt(Add(v, 1e-5))), scale), bias)
    Result: y = LayerNormalization<axis=-1, epsilon=1e-5, stash_type=1>(x, scale, bias)

    Args:
        rules: of the user, for single nodes.
    """

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = rules

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        if graph.opset < OPSET:
            return
        outputs = {id(t) for inner in graph.graphs() for t in inner.outputs}
        for inner in list(graph.graphs()):
            own = {id(node) for node in inner.nodes}
            for root in [node for node in inner.nodes if node.op == "Sqrt" and is_standard(node)]:
                try:
                    norm = _read(graph, root, outputs)
                except _Differs:
                    continue
                if _is_closed(norm, own, outputs) and self._treats_alike(norm):
                    yield _join(graph, inner, norm)

    def _treats_alike(self, norm: _Norm) -> bool:
        """Whether the rules say nothing of its parts, or of each the same as of the whole.

        The last part has the name of the whole, so that a rule by that name may mean either.
        """
        *others, last = [
            self._told(node.name, node.metadata.get(MODULE, ""), node.op, [t.name for t in node.outputs])
            for node in norm.parts
        ]
        whole = self._told(norm.last.name, norm.module, "LayerNormalization", [norm.last.outputs[0].name])
        return set(others) in ({None}, {whole}) and last in (None, whole)

    def _told(self, name: str, module: str, op: str, tensors: Sequence[str]) -> str | None:
        """The precision of the last rule that matches a node."""
        matching = (rule for rule in reversed(self._rules) if rule.matches(name, module, op, tensors))
        return next((rule.precision.value for rule in matching), None)


@dataclass
class _Parameter:
    """A scale or bias: an initializer, and the shape that it is read in."""

    constant: gs.Constant
    shape: tuple[int, ...]


@dataclass
class _Norm:
    """What is known of a norm.

    Args:
        x: what it reads.
        shape: of what it normalises: the last dimensions of `x`.
        epsilon: what is added to the variance.
        parts: its nodes; the last one makes its result.
        scale: what the result is multiplied with; None where that is nothing.
        bias: what is added to it then; likewise.
    """

    x: gs.Tensor
    shape: tuple[int, ...]
    epsilon: float
    parts: list[gs.Node]
    scale: _Parameter | None = None
    bias: _Parameter | None = None

    @property
    def last(self) -> gs.Node:
        """The node that makes its result."""
        return self.parts[-1]

    @property
    def module(self) -> str:
        """The path of the module that it is of, as far as its parts agree."""
        paths = [path.split(".") for node in self.parts if (path := node.metadata.get(MODULE, ""))]
        agreed = takewhile(lambda words: len(set(words)) == 1, zip(*paths, strict=False))
        return ".".join(words[0] for words in agreed)


def _is_closed(norm: _Norm, own: Collection[int], outputs: Collection[int]) -> bool:
    """Whether nothing else reads what is inside, and all of it is in one body.

    Args:
        norm: to look at.
        own: the `id`s of the nodes of that body.
        outputs: the `id`s of what the graph and all bodies put out.
    """
    parts = {id(node) for node in norm.parts}
    inside = [tensor for node in norm.parts[:-1] for tensor in node.outputs]
    return parts <= set(own) and all(id(t) not in outputs and {id(n) for n in t.outputs} <= parts for t in inside)


# --- putting it down


def _join(graph: Graph, inner: gs.Graph, norm: _Norm) -> Change:
    """Let one node make what the last of a norm makes; the next `tidy` drops those, and puts it into their place."""
    last, shape = norm.last, norm.shape
    (result,) = last.outputs
    list.clear(last.outputs)
    list.clear(result.inputs)
    if norm.scale is not None:
        scale = _row(graph, norm.scale, shape)
    else:  # the operator wants one
        scale = graph.constant(f"{last.name}/scale", np.ones(shape, np.float32), TensorProto.FLOAT)
    inputs = [norm.x, scale, *([_row(graph, norm.bias, shape)] if norm.bias is not None else [])]
    attrs: dict[str, object] = {"axis": -len(shape), "epsilon": norm.epsilon, "stash_type": int(TensorProto.FLOAT)}
    node = new_node("LayerNormalization", last.name, attrs, inputs, [result])
    node.metadata = {key: value for key, value in last.metadata.items() if key != MODULE}
    node.metadata |= {MODULE: norm.module} if norm.module else {}
    node.doc_string = last.doc_string
    inner.nodes.append(node)
    return Change(
        node.name,
        f"joined {len(norm.parts)} nodes to one LayerNormalization",
        "they are one, and TensorRT sums it in fp32 whatever type it reads",
    )


def _row(graph: Graph, parameter: _Parameter, shape: tuple[int, ...]) -> gs.Constant:
    """A scale or bias in the shape of what is normalised, as TensorRT and ONNX Runtime want it."""
    constant = parameter.constant
    if tuple(constant.shape) == shape:
        return constant
    row = np.broadcast_to(graph.array(constant).reshape(parameter.shape[-len(shape) :]), shape)
    return graph.constant(f"{constant.name}_row", row, TensorProto.FLOAT, of=constant)


# --- finding it


class _Differs(Exception):  # noqa: N818 - nothing went wrong
    """It is no norm."""


def _read(graph: Graph, root: gs.Node, outputs: Collection[int]) -> _Norm:
    """The norm that a Sqrt is of: back to what it reads, and on to its result.

    Raises:
        _Differs: it is of none.
    """
    add = _maker(root.inputs[0], "Add")
    epsilon = next((t for t in add.inputs if isinstance(t, gs.Constant)), add.inputs[0])
    variance = _maker(_operand(add, epsilon), "ReduceMean")
    square = _maker(variance.inputs[0], "Pow", "Mul")
    nodes, divided = _division(graph, root)
    subs = [_maker(tensor, "Sub") for tensor in (*_squared(graph, square), divided)]
    means = [_maker(sub.inputs[1], "ReduceMean") for sub in subs]
    x, number = subs[0].inputs[0], _number(graph, epsilon)
    if any(node.inputs[0] is not x for node in (*subs, *means)) or onnx_type(x) != TensorProto.FLOAT:
        raise _Differs
    if not 0 < number < math.inf:
        raise _Differs
    found = {id(node): node for node in (*means, *subs, square, variance, add, root, *nodes)}
    norm = _Norm(x, _shape(graph, x, (*means, variance)), number, list(found.values()))
    norm.scale = _parameter(norm, "Mul", outputs)
    norm.bias = _parameter(norm, "Add", outputs)
    return norm


def _squared(graph: Graph, square: gs.Node) -> list[gs.Tensor]:
    """What a node squares: one tensor, or two of which it makes the product."""
    if square.op == "Pow" and _number(graph, square.inputs[1]) != 2:
        raise _Differs
    return list(square.inputs[:1] if square.op == "Pow" else square.inputs)


def _division(graph: Graph, root: gs.Node) -> tuple[list[gs.Node], gs.Tensor]:
    """The nodes that divide by a root, in one step or by way of its reciprocal, and what they divide."""
    reader = _reader(root.outputs[0], "Div", "Reciprocal")
    if reader.op == "Div" and reader.inputs[1] is not root.outputs[0]:
        raise _Differs
    if reader.op == "Div" and not isinstance(reader.inputs[0], gs.Constant):
        return [reader], reader.inputs[0]
    if reader.op == "Div" and _number(graph, reader.inputs[0]) != 1:
        raise _Differs
    product = _reader(reader.outputs[0], "Mul")
    return [reader, product], _operand(product, reader.outputs[0])


def _parameter(norm: _Norm, op: str, outputs: Collection[int]) -> _Parameter | None:
    """What the result of a norm is multiplied with, or what is added to it; and with it one part more."""
    (result,) = norm.last.outputs
    try:
        reader = _reader(result, op)
        constant, dims = _initializer(_operand(reader, result))
    except _Differs:
        return None
    if id(result) in outputs or not _is_row(dims, norm):
        return None
    norm.parts.append(reader)
    return _Parameter(constant, dims)


def _initializer(tensor: gs.Tensor) -> tuple[gs.Constant, tuple[int, ...]]:
    """An initializer, and the shape that it is read in, which may be computed: Paddle takes that from the norm's input."""
    constant = tensor if isinstance(tensor, gs.Constant) else _maker(tensor, "Reshape").inputs[0]
    if not isinstance(constant, gs.Constant) or tensor.shape is None:
        raise _Differs
    dims = tuple(tensor.shape)
    if math.prod(constant.shape) != _product(dims):
        raise _Differs
    return constant, dims


def _product(dims: Sequence[object]) -> int:
    """How many elements a shape has; 0 where that is not known."""
    return math.prod(dim if isinstance(dim, int) else 0 for dim in dims)


def _is_row(dims: tuple[int, ...], norm: _Norm) -> bool:
    """Whether what has this shape is the same for all that is normalised, and makes it no larger."""
    shape = norm.shape
    if len(dims) > len(norm.x.shape) or any(dim != 1 for dim in dims[: -len(shape)]):
        return False
    inner = dims[-len(shape) :]
    return all(dim in (1, size) for dim, size in zip(reversed(inner), reversed(shape), strict=False))


def _shape(graph: Graph, x: gs.Tensor, means: Sequence[gs.Node]) -> tuple[int, ...]:
    """The shape of what all of some nodes take the mean of: the last dimensions of their input, which must be known."""
    dims = list(x.shape or ())
    axes = {tuple(sorted(_axes(graph, node, len(dims)))) for node in means}
    count = len(next(iter(axes)))
    shape = tuple(dims[-count:]) if count else ()
    is_known = all(isinstance(dim, int) and dim > 0 for dim in shape)
    if not count or axes != {tuple(range(len(dims) - count, len(dims)))} or not is_known:
        raise _Differs
    return shape


def _axes(graph: Graph, node: gs.Node, rank: int) -> list[int]:
    """What a ReduceMean is over, counted from the front; from opset 18 on it reads that."""
    if node.attrs.get("keepdims", 1) != 1:
        raise _Differs
    axes = node.attrs.get("axes", ())
    if len(node.inputs) > 1:
        if not isinstance(node.inputs[1], gs.Constant):
            raise _Differs
        axes = graph.array(node.inputs[1]).reshape(-1).tolist()
    return [axis % rank for axis in axes] if rank else []


def _maker(tensor: gs.Tensor, *ops: str) -> gs.Node:
    """The node that makes a tensor, which is to be of one of some operators."""
    node = producer(tensor)
    if node is None or node.op not in ops or not is_standard(node):
        raise _Differs
    return node


def _reader(tensor: gs.Tensor, *ops: str) -> gs.Node:
    """The one node that reads a tensor, which is to be of one of some operators."""
    if len(tensor.outputs) != 1 or tensor.outputs[0].op not in ops or not is_standard(tensor.outputs[0]):
        raise _Differs
    return tensor.outputs[0]


def _operand(node: gs.Node, tensor: gs.Tensor) -> gs.Tensor:
    """The other operand of a sum or product."""
    (other,) = [t for t in node.inputs if t is not tensor] or [tensor]
    return other


def _number(graph: Graph, tensor: gs.Tensor) -> float:
    """The value of an initializer that is one number."""
    if not isinstance(tensor, gs.Constant) or tuple(tensor.shape) not in ((), (1,)):
        raise _Differs
    return float(graph.array(tensor).item())
