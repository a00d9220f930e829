"""Operators that TensorRT computes in fp16 or bf16 inside, made to compute as PyTorch does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.graph import PREFIX, Graph, producer, set_input
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import label
from torch2trt_onnx.typecheck import compute_type, is_standard, onnx_type

FP32, FP16, BF16 = int(TensorProto.FLOAT), int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16)
REDUCED = frozenset({FP16, BF16})

DIFFERENT: dict[str, str] = {
    "Softmax": "maximum, difference, exp and division are rounded (or, fused with MatMul, the products in front may be added up in fp16)",
    "LogSoftmax": "it is Log of Softmax, each step rounded: what Softmax rounds to 0 becomes minus infinity",
    "LayerNormalization": "the normalised value is rounded before the scale, and the scaled one before the bias",
    "RMSNormalization": "the normalised value is rounded before the scale",
    "GroupNormalization": "the normalised value is rounded before the scale, and the scaled one before the bias",
    "InstanceNormalization": "its kernel comes with TensorRT, and the engine does not tell what that rounds",
    "BatchNormalization": "the folded scale and shift are rounded, and the product before the sum",
    "Gelu": "quotient, sum and products are rounded, and beyond 32752 it is infinite; only erf is fp32",
    "Sigmoid": "it is made of an approximate tanh, so that small results lose all their digits",
    "Swish": "it is made of an approximate tanh, so that small results lose all their digits",
    "Elu": "exp(x) is rounded before 1 is subtracted, so that small results lose all their digits",
    "Selu": "exp(x), its product, the difference and both constants are rounded",
    "Softplus": "exp(x) is rounded before the logarithm",
    "Mish": "exp, logarithm and tanh are rounded one after the other",
    "HardSigmoid": "alpha, the product and the sum are rounded",
    "HardSwish": "1/6, the product and the sum are rounded",
    "LeakyRelu": "alpha is rounded",
    "Mod": "the quotient and its product are rounded",
}
"""Operator -> what differs inside, in words.

Read off the CUDA source that TensorRT-RTX 1.7.1.116 writes into its plans (`tools/bench/inside.py` prints it) for SM 8.9; no
half2 arithmetic was seen for SM 7.5, 8.0, 8.6 and 12.0, whose source was not compared otherwise. The element-wise
ones were also run on a GPU (H200) on all values of both types, beside PyTorch's own
kernels (`tools/bench/inside_on_gpu.py`): PyTorch's gave what fp32 gives, rounded once, for each of them; TensorRT's differed in 0.3%
(bf16 HardSigmoid) to 86% (bf16 Selu) of the values, by up to thousands of steps near 0. With Casts they agree but for a few
values of 63,488, and Elu and Selu next to 0, where TensorRT has no expm1.

Attention: where TensorRT fuses MatMul, Softmax and MatMul into one kernel (fmha_v2), it holds the scores in fp32 in any case. It adds
them up in fp16 or in fp32: without Casts around Softmax both were seen (fp16 in a transformer's block, fp32 in bare attention), with
them only fp32, as in PyTorch. The second MatMul adds up in fp16 with and without them.

Not here, because nothing differs there: Add, Sub, Mul, Div, Sqrt, Reciprocal, Tanh, Erf and Tan are computed in fp32 or rounded
correctly, and equal PyTorch's bit by bit; so do Exp, Log, Sin and Cos but for at most 4 of 63,488 values, by one step. Pow gets Casts by
TensorRT's parser. ReduceSum, ReduceMean and the average pools accumulate in fp32; Resize and GridSample interpolate in fp32.
ReduceLogSumExp rounds where PyTorch does, which composes it of max, exp, sum and log. Convolutions and matrix products hide
what they accumulate in.
"""

DIFFERENT_IN_BF16 = {"ReduceL2": "the squares, and the sum before its root, are rounded (in fp16 they are not)"}


@dataclass(frozen=True)
class Fused:
    """Operators, each reading the one before, that stand for one kernel of PyTorch's, which rounds once at its end.

    Args:
        ops: the first to the last.
        kernel: what PyTorch calls it.
        inverts: the last divides one by what the others make. Only `rsqrt` is exported so; the other pairs may be two calls of the
            author's, with a rounding in between, and count where both come from one call.
    """

    ops: tuple[str, ...]
    kernel: str
    inverts: bool = False


FUSED = (
    Fused(("Sigmoid", "Mul"), "silu or glu"),
    Fused(("Sigmoid", "Log"), "logsigmoid"),
    Fused(("Softplus", "Tanh", "Mul"), "mish"),
    Fused(("Sqrt", "Reciprocal"), "rsqrt"),
    Fused(("Sqrt", "Div"), "rsqrt", inverts=True),
    Fused(("InstanceNormalization", "Reshape", "Mul", "Add"), "group_norm"),
)


def differs_inside(node: gs.Node) -> str:
    """What TensorRT computes in fp16 or bf16 inside a node where PyTorch computes in fp32, in words; '' where nothing differs."""
    kind = compute_type(node)
    if kind not in REDUCED or not is_standard(node):
        return ""
    steps = DIFFERENT.get(node.op, DIFFERENT_IN_BF16.get(node.op, "") if kind == BF16 else "")
    if node.op == "Mod" and not node.attrs.get("fmod"):
        return ""
    return f"in {label(kind)} inside, where PyTorch computes in fp32: {steps}" if steps else ""


def differences(graph: Graph) -> dict[str, str]:
    """For each node that TensorRT computes in other steps than PyTorch, by its name: what differs, in words.

    That is what `MatchPyTorch` changes, and what rules of the user keep from it.
    """
    found: dict[str, str] = {}
    for inner in graph.graphs():
        for island in _islands(graph, inner):
            for node in island.nodes:
                kind = label(compute_type(node))
                steps = f"in {kind} inside, where PyTorch computes in fp32: {island.kernel} is rounded once, at its end"
                found[node.name] = differs_inside(node) or steps
        for node in inner.nodes:
            steps = differs_inside(node)
            if steps:
                found.setdefault(node.name, steps)
    return found


@dataclass
class _Island:
    """Nodes that are to compute in fp32 together, in the order in which they read each other; `kernel` is what PyTorch calls them."""

    nodes: list[gs.Node]
    kernel: str
    inside: set[int] = field(init=False)  # ids of the tensors that only these nodes see

    def __post_init__(self) -> None:
        self.inside = {id(t) for node in self.nodes[:-1] for t in node.outputs}


class MatchPyTorch(Pass):
    """Compute in fp32 what PyTorch computes in fp32 inside its fp16 and bf16 kernels, and round once behind it.

    The exporter makes several nodes of some of PyTorch's kernels: those stay in fp32 from the first to the last. Different calls of
    the author's keep the rounding between them. What a rule gives its precision stays as it is.

    Given:  y: float16 = Softmax(x: float16)
    Result: y = Cast<to=FLOAT16>(Softmax(Cast<to=FLOAT>(x)))
    """

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        for inner in graph.graphs():
            wide: dict[int, gs.Tensor] = {}  # id of a reduced tensor -> the same in fp32
            for island in list(_islands(graph, inner)):
                yield from self._widen(graph, inner, island, wide)

    @staticmethod
    def _widen(graph: Graph, inner: gs.Graph, island: _Island, wide: dict[int, gs.Tensor]) -> Iterator[Change]:
        for node in island.nodes:
            word = label(compute_type(node))
            reason = (
                f"PyTorch computes {island.kernel} in fp32 and rounds once, and TensorRT would round to {word} inside"
            )
            for index, tensor in enumerate(node.inputs):
                if id(tensor) in island.inside or onnx_type(tensor) not in REDUCED:
                    continue
                if id(tensor) not in wide:
                    wide[id(tensor)] = graph.insert_cast(inner, tensor, FP32, tensor.name)
                    _explain(producer(wide[id(tensor)]), FP32)
                set_input(node, index, wide[id(tensor)])
            for index, result in enumerate(list(node.outputs)):
                if onnx_type(result) not in REDUCED:
                    continue
                if id(result) in island.inside:
                    result.dtype = FP32
                else:
                    _cast_back(graph, inner, node, index)
            said = {"precision": label(FP32), "origin": "fidelity", "reason": reason}
            node.metadata.update({f"{PREFIX}{key}": value for key, value in said.items()})
            yield Change(node.name, f"computes in fp32, and its result is rounded to {word}", reason)


def _islands(graph: Graph, inner: gs.Graph) -> Iterator[_Island]:
    """What is to compute in fp32, one after the other; no node is in two of them."""
    outputs = {id(t) for t in inner.outputs}
    taken: set[int] = set()
    for node in list(inner.nodes):
        if compute_type(node) not in REDUCED or _is_ruled(node) or id(node) in taken:
            continue
        fused = next(filter(None, (_chain(graph, node, pattern, outputs) for pattern in FUSED)), None)
        if fused is not None:
            taken |= {id(n) for n in fused.nodes}
            yield fused
        elif differs_inside(node):
            yield _Island([node], node.op)


def _chain(graph: Graph, first: gs.Node, pattern: Fused, outputs: set[int]) -> _Island | None:
    """The nodes of a pattern that begin with one; None where they do not come from one call of PyTorch's."""
    nodes = [first]
    for op in pattern.ops[1:]:
        (result, *others), last = nodes[-1].outputs, nodes[-1]
        if last.op != pattern.ops[len(nodes) - 1] or others or len(result.outputs) != 1 or id(result) in outputs:
            return None
        reader = result.outputs[0]
        if reader.op != op or compute_type(reader) != compute_type(first) or _is_ruled(reader):
            return None
        nodes.append(reader)
    calls = {node.metadata.get(CALL_KEY, "") for node in nodes}
    is_one_call = _is_one(graph, nodes[-1].inputs[0]) if pattern.inverts else len(calls) == 1 and "" not in calls
    return _Island(nodes, pattern.kernel) if is_one_call else None


CALL_KEY = f"{PREFIX}call"
"""Metadata that nodes of one call of PyTorch's share; written by the exporters, where they can tell."""


def _is_ruled(node: gs.Node) -> bool:
    """Whether the user gives a node its precision."""
    return bool(node.metadata.get(f"{PREFIX}origin") == "rule")


def _is_one(graph: Graph, tensor: gs.Tensor) -> bool:
    """Whether a tensor is a constant one."""
    if not isinstance(tensor, gs.Constant) or int(np.prod(tensor.shape, dtype=np.int64)) != 1:
        return False
    return float(graph.array(tensor).reshape(-1)[0]) == 1.0


def _cast_back(graph: Graph, inner: gs.Graph, node: gs.Node, index: int) -> None:
    """Let the node make an fp32 tensor, and a Cast make what it made before, under the same name."""
    result = node.outputs[index]
    kind = onnx_type(result)
    made = gs.Variable(graph.fresh_name(f"{result.name}_fp32"), FP32, result.shape)
    node.outputs[index] = made
    graph.cast_into(inner, made, result, kind, node.name)
    _explain(producer(result), kind)


def _explain(cast: gs.Node | None, to: int) -> None:
    assert cast is not None
    said = {"precision": label(to), "origin": "fidelity", "reason": "PyTorch computes in fp32 inside"}
    cast.metadata = {f"{PREFIX}{key}": value for key, value in said.items()}
