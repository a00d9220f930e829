"""Why a node of an fp32 model stays in fp32 under `policy="auto"`: small rules, each of which can say so in words.

What cannot run in a type at all (`planning`) and what the user says (`rules`) are apart from this. A range is judged on what was measured
where there is something (`ranges`), else on the initializers alone. The other rules know the operators: what TensorRT fuses into its
neighbours costs nothing in fp32 (measured on TensorRT-RTX 1.7.1.116, `tools/bench`), so that there the accuracy is free.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import Graph, producer
from torch2trt_onnx.passes.annotate_precision import TRANSPARENT
from torch2trt_onnx.placement import FP32, cast, inner_first
from torch2trt_onnx.precision import FLOATS, ElementType, label
from torch2trt_onnx.typecheck import onnx_type

if TYPE_CHECKING:
    from torch2trt_onnx.ranges import Range

MATRIX = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN", "Attention", "DeformConv"}
)
"""Operators that multiply matrices: what a reduced precision is for."""

BOUNDED = frozenset(
    {"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Tanh", "Erf", "Sin", "Cos", "Softsign", "Hardmax"}
)
"""Operators whose result is small whatever they read."""


@dataclass(frozen=True)
class Evidence:
    """What was measured before a decision.

    Args:
        ranges: tensor -> its range on the calibration data; empty where nothing was measured.
        source: the data in words: "4 samples of calibration/".
        is_real: whether the user gave it; random numbers say less of what comes.
        kept: node -> why it stays in fp32 whatever the rules say: the accuracy budget.
        is_static: whether each input has one shape.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    source: str = ""
    is_real: bool = False
    kept: Mapping[str, str] = field(default_factory=dict)
    is_static: bool = True


class Hazard(ABC):
    """One kind of reason.

    Args:
        graph: annotated, in the types of the source.
        to: the ONNX type to lower to.
        evidence: see there.
        losses: of the initializers.
    """

    def __init__(self, graph: Graph, to: int, evidence: Evidence, losses: Losses) -> None:
        self.graph, self.to, self.evidence, self.losses = graph, to, evidence, losses
        self.name = label(to)
        self.limits = limits_of(to)
        self.largest = float(self.limits.max)

    @abstractmethod
    def why(self, node: gs.Node) -> str:
        """Why a node is to stay in fp32, in words; "" where this rule has nothing against it."""


class OverBudget(Hazard):
    """The accuracy budget (`max_error`) does not hold with it."""

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        return self.evidence.kept.get(node.name, "")


class AuthorsChoice(Hazard):
    """The author typed it: it reads a tensor that he cast to fp32, or makes one that he rounds for one reader and not for the others.

    A node with fp32 weights of its own does not hand the first on: its type is the model's default, and no signal.
    """

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        return self._typed.get(id(node), "")

    @cached_property
    def _typed(self) -> dict[int, str]:
        nodes = list(inner_first(self.graph.ir))
        casts = {id(n) for n in nodes if n.op == "Cast" and _is_rounding(_kinds((*n.inputs, *n.outputs)))}
        found: dict[int, str] = {}
        if not casts:
            return found
        for node in nodes:
            if id(node) in casts or FP32 not in _kinds((*node.inputs, *node.outputs)):
                continue
            for tensor in node.inputs:
                maker = producer(tensor)
                if maker is None or onnx_type(tensor) != FP32 or node.op in MATRIX:
                    continue
                if id(maker) in casts:
                    found[id(node)] = f"the author casts its input to fp32, in {maker.name!r}"
                elif id(maker) in found:
                    found[id(node)] = found[id(maker)]
            for tensor in node.outputs:
                rounding = [n for n in tensor.outputs if id(n) in casts]
                if rounding and len(rounding) < len(tensor.outputs):
                    found[id(node)] = f"the author rounds its output in {rounding[0].name!r}, and reads it in fp32 too"
        return found


class InitializerRange(Hazard):
    """An initializer does not fit: values become infinite, or so many of them zero that the tensor is another one.

    Rounding changes a tensor by at most half a unit in the last place; four times that in the norm says that it has become zeros and
    subnormal numbers.
    """

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        for constant in constants_of(node):
            loss = self.losses.of(constant, self.to)
            if loss.infinite or loss.share > 2 * float(self.limits.eps):
                return f"{constant.name!r}: {loss.words(self.name)}"
        return ""


class UnmeasuredRange(Hazard):
    """Without a measurement: what follows from an initializer that does not fit, such as the -3.4e38 of an attention mask.

    Its values go on through what adds, multiplies, moves and chooses, up to what bounds them (Softmax) or multiplies matrices.
    """

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        return self._huge.get(id(node), "")

    @cached_property
    def _huge(self) -> dict[int, str]:
        found: dict[int, str] = {}
        made: dict[int, str] = {}
        for node in inner_first(self.graph.ir):
            words = next((made[id(t)] for t in node.inputs if id(t) in made), "")
            if not words and node.op not in MATRIX:
                big = next((c for c in constants_of(node) if self.losses.of(c, self.to).infinite), None)
                if big is not None:
                    largest = self.losses.of(big, self.to).largest
                    words = f"{big.name!r} reaches {largest:g}, and {self.name} ends at {self.largest:g}"
            if words and FP32 in _kinds((*node.inputs, *node.outputs)):
                found[id(node)] = words
                if node.op not in BOUNDED | MATRIX:
                    made.update(
                        (id(t), words) for t in node.outputs if onnx_type(t) == FP32 and id(t) not in self._measured
                    )
        return found

    @cached_property
    def _measured(self) -> set[int]:
        return {id(t) for node in self.graph.nodes() for t in node.outputs if t.name in self.evidence.ranges}


class CalibratedRange(Hazard):
    """What it read or made on the calibration data does not fit, with headroom for other data: too large, or all of it zero.

    A sum inside a matrix product may be larger on the way than at its end, and other data larger than what was measured: a factor of 4.
    Random data says less: a factor of 16.
    """

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        for verb, tensors in (("reads", node.inputs), ("makes", node.outputs)):
            for tensor in tensors:
                found = self.evidence.ranges.get(tensor.name) if onnx_type(tensor) == FP32 else None
                problem = self._problem(found) if found is not None else ""
                if problem:
                    return f"it {verb} {tensor.name!r}, which {problem} on {self.evidence.source}"
        return ""

    def _problem(self, found: Range) -> str:
        largest = found.largest
        headroom = 4 if self.evidence.is_real else 16
        if largest > self.largest:
            return f"reaches {largest:g} ({self.name} ends at {self.largest:g})"
        if largest > self.largest / headroom:
            return f"reaches {largest:g}, within a factor of {headroom} of the end of {self.name}"
        if 0 < largest < float(self.limits.smallest_subnormal):
            return f"ends at {largest:g}, which {self.name} takes for zero"
        return ""


NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
SUMS = frozenset({"ReduceMean", "ReduceSum"})
RISKS = {
    "Exp": "an exponential outgrows the range",
    "Log": "a logarithm of small numbers loses their digits",
    "CumSum": "a running sum keeps its errors",
    "Range": "its numbers are positions",
    **dict.fromkeys(("Sin", "Cos", "Tan"), "the digits of its argument are those of an angle"),
    **dict.fromkeys(
        ("LpNormalization", "ReduceL2", "ReduceSumSquare", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp"),
        "its sum outgrows the range",
    ),
}
"""Operators that fp16 serves badly, and why."""


class OperatorRisk(Hazard):
    """An operator that fp16 serves badly and that costs nothing in fp32: norms and their parts, exponentials, angles.

    A norm may be spelled out: the root of a mean of squares. TensorRT computes all of that in one kernel, and its sums of squares outgrow
    fp16 where its inputs pass 256.
    """

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        if node.op in NORMS and not any(reader.op in NORMS for reader in node.outputs[0].outputs):
            return f"{node.op} sums many values, and TensorRT fuses it in fp32 at no cost"
        if id(node) in self._parts:
            return "it is part of a norm, which sums squares, and TensorRT fuses it in fp32 at no cost"
        if id(node) in self._scores:
            return "it masks the scores of an attention, or follows, and TensorRT fuses it in fp32 at no cost"
        return RISKS.get(node.op, "")

    @cached_property
    def _scores(self) -> set[int]:
        """The Softmax of a masked attention, with what masks and scales its argument, where fp32 saves the kernel of the mask.

        It does so where the scores are scaled behind their product. Where queries and keys are scaled before it, as PyTorch exports
        attention, it does so for one shape only: over a range of shapes the attention would fall apart (`tools/bench/islands.py`).
        """
        found: set[int] = set()
        for node in self.graph.nodes():
            if node.op != "Softmax":
                continue
            way, product = [node], _maker(node, {"MatMul"})
            while product is None and (maker := _maker(way[-1], {"Add", "Where", "Div", "Mul"})) is not None:
                way.append(maker)
                product = _maker(maker, {"MatMul"})
            if product is None or any(True for _ in constants_of(product)):
                continue  # a classifier, of weights
            is_masked = any(maker.op == "Add" for maker in way)
            if is_masked and (self.evidence.is_static or _maker(product, {"Mul", "Div"}) is None):
                found.update(map(id, way))
        return found

    @cached_property
    def _parts(self) -> set[int]:
        """The nodes of `1 / sqrt(mean(x * x) + epsilon)`, up to the square and down to the reciprocal."""
        found: set[int] = set()
        for node in self.graph.nodes():
            if node.op != "Sqrt":
                continue
            way = [node]
            if (maker := _maker(node, {"Add", "Max", "Clip"})) is not None:
                way.append(maker)
            if (maker := _maker(way[-1], SUMS)) is None:
                continue
            way.append(maker)
            if (maker := _maker(way[-1], {"Pow", "Mul"})) is not None and (maker.op == "Pow" or _is_square(maker)):
                way.append(maker)
            way += (reader for reader in node.outputs[0].outputs if reader.op == "Reciprocal")
            found.update(map(id, way))
        return found


def _maker(node: gs.Node, ops: Container[str]) -> gs.Node | None:
    """What makes an input of a node, where it is one of some operators."""
    return next((m for t in node.inputs if (m := producer(t)) is not None and m.op in ops), None)


def _is_square(node: gs.Node) -> bool:
    return len({id(tensor) for tensor in node.inputs}) == 1


class ReductionDepth(Hazard):
    """It adds up so many products that ones alone would leave the range."""

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        depth = reduction_depth(node)
        return f"it adds up {depth} products, and {self.name} ends at {self.largest:g}" if depth > self.largest else ""


class Positions(Hazard):
    """It computes positions, from whole numbers alone, on the way to an angle: rotary embeddings need their digits."""

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        return self._found.get(id(node), "")

    @cached_property
    def _found(self) -> dict[int, str]:
        nodes = list(inner_first(self.graph.ir))
        whole = self._whole(nodes)
        found: dict[int, str] = {}
        for node in reversed(nodes):
            if id(node) in whole and any(
                reader.op in ANGLES or id(reader) in found for t in node.outputs for reader in t.outputs
            ):
                found[id(node)] = "it computes positions from whole numbers, which are to be angles"
        return found

    def _whole(self, nodes: Sequence[gs.Node]) -> set[int]:
        """The nodes that depend on no float but initializers of few values."""
        inputs = {id(t) for graph in self.graph.graphs() for t in graph.inputs}
        found: set[int] = set()
        for node in nodes:
            floats = [t for t in node.inputs if onnx_type(t) in FLOATS]
            if node.op != "Gather" and all(self._is_whole(t, found, inputs) for t in floats):
                found.add(id(node))
        return found

    @staticmethod
    def _is_whole(tensor: gs.Tensor, found: set[int], inputs: set[int]) -> bool:
        if isinstance(tensor, gs.Constant):
            return bool(math.prod(tensor.shape) <= MANY)
        maker = producer(tensor)
        return maker is not None and id(tensor) not in inputs and id(maker) in found


ANGLES = frozenset({"Sin", "Cos", "Tan"})
MANY = 4096
"""More values than the frequencies of a rotary embedding have."""

RULES: tuple[type[Hazard], ...] = (
    OverBudget,
    AuthorsChoice,
    CalibratedRange,
    UnmeasuredRange,
    InitializerRange,
    ReductionDepth,
    Positions,
    OperatorRisk,
)
"""The rules, those that a reader most wants to hear of first."""


class Safety:
    """All rules on one graph."""

    def __init__(self, graph: Graph, to: int, evidence: Evidence, losses: Losses) -> None:
        self.to = to
        self._hazards = [rule(graph, to, evidence, losses) for rule in RULES]

    def why(self, node: gs.Node) -> tuple[str, str]:
        """`(name of the rule, its reason)` of the first rule that keeps a node in fp32; empty where none does."""
        for hazard in self._hazards:
            words = hazard.why(node)
            if words:
                return type(hazard).__name__, words
        return "", ""


def limits_of(to: int) -> Any:
    """What `numpy.finfo` says of an ONNX type."""
    return ml_dtypes.finfo(ElementType.of(to).numpy)  # type: ignore[no-untyped-call]


def _kinds(tensors: Sequence[gs.Tensor]) -> set[int]:
    return {kind for t in tensors if (kind := onnx_type(t))}


def _is_rounding(kinds: set[int]) -> bool:
    """Whether a Cast of these types is between floats of two precisions."""
    return len(kinds) > 1 and kinds <= FLOATS


def reduction_depth(node: gs.Node) -> int:
    """How many products or values each element of the result adds up; 1 where that is not known."""
    if node.op in ("Conv", "ConvTranspose") and node.inputs[1].shape:
        return _known(node.inputs[1].shape[1:] if node.op == "Conv" else node.inputs[1].shape[:1])
    if node.op in ("MatMul", "Gemm") and node.inputs[0].shape:
        return _known(node.inputs[0].shape[-2:-1] if node.attrs.get("transA") else node.inputs[0].shape[-1:])
    return 1


def _known(dims: Sequence[object]) -> int:
    return math.prod(d for d in dims if isinstance(d, int))


def constants_of(node: gs.Node) -> Iterator[gs.Constant]:
    """The float initializers that a node's inputs are made of, and of nothing else but constants; no bounds of a Clip.

    A bound that becomes infinite is none, which it was before.
    """
    for tensor in node.inputs[:1] if node.op == "Clip" else node.inputs:
        yield from _constants(tensor)


def _constants(tensor: gs.Tensor) -> Iterator[gs.Constant]:
    waiting, found = [tensor], []
    while waiting:
        tensor = waiting.pop()
        if isinstance(tensor, gs.Constant):
            if onnx_type(tensor) in FLOATS:
                found.append(tensor)
            continue
        maker = producer(tensor)
        if maker is None or maker.op not in TRANSPARENT or maker.op == "DequantizeLinear":
            return
        waiting += maker.inputs if maker.op == "Concat" else maker.inputs[:1]
    yield from found


PART = 1 << 20
"""How many values are looked at at once."""


@dataclass(frozen=True)
class Loss:
    """What values lose in a narrower type.

    Args:
        size: how many there are.
        infinite: how many become infinite.
        zero: whether all that are not zero become it.
        largest: of the finite ones, by magnitude.
        share: the norm of what is lost over the norm of the values, those that become infinite left out; 0 where it is rounding.
    """

    size: int
    infinite: int
    zero: bool
    largest: float
    share: float

    @classmethod
    def of(cls, values: np.ndarray, to: int) -> Loss:
        """Of some values; read in parts, so that large weights are never copied whole.

        Where all are in range, and their root mean square is a normal number, the least of which is 16 times the largest rounding error
        of those below it, rounding changes the norm by less than `InitializerRange` asks; then the values need not be rounded.
        """
        flat, limits = values.reshape(-1), limits_of(to)
        parts = [flat[start : start + PART] for start in range(0, flat.size, PART)]
        if values.dtype == np.float32:
            largest = max((max(float(part.max()), -float(part.min())) for part in parts), default=0.0)
            mean = sum(float(np.dot(part, part)) for part in parts) / max(flat.size, 1)
            if largest <= float(limits.max) and mean > float(limits.smallest_normal) ** 2:  # NaN is neither
                return cls(flat.size, 0, False, largest, 0.0)
        return cls._rounded(parts, flat.size, to)

    @classmethod
    def _rounded(cls, parts: Sequence[np.ndarray], size: int, to: int) -> Loss:
        infinite, largest, kept, lost, whole = 0, 0.0, 0, 0.0, 0.0
        for part in parts:
            finite = part[np.isfinite(part)].astype(np.float32)
            narrow = cast(finite, to).astype(np.float32)
            fits = np.isfinite(narrow)
            infinite += finite.size - int(np.count_nonzero(fits))
            kept += int(np.count_nonzero(narrow))
            largest = max(largest, float(np.abs(finite).max(initial=0.0)))
            finite, narrow = finite[fits], narrow[fits]
            lost += float(np.square(finite - narrow, dtype=np.float64).sum())
            whole += float(np.square(finite, dtype=np.float64).sum())
        return cls(size, infinite, largest > 0 and not kept, largest, math.sqrt(lost / whole) if whole else 0.0)

    def words(self, name: str) -> str:
        """In words."""
        if self.infinite:
            return f"{self.infinite} of {self.size} values become infinite (the largest is {self.largest:g})"
        if self.zero:
            return f"all its values become zero (the largest is {self.largest:g})"
        return f"{name} changes it by {self.share:.1%} (the largest value is {self.largest:g})"


class Losses:
    """What the initializers of a graph lose; each is read once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._found: dict[tuple[int, int], Loss] = {}

    def of(self, constant: gs.Constant, to: int) -> Loss:
        """What one loses in a type."""
        key = id(constant), to
        if key not in self._found:
            self._found[key] = Loss.of(self._graph.array(constant), to)
        return self._found[key]
