"""Why a node of an fp32 model stays in fp32 under `policy="auto"`: small rules, each of which can say so in words.

What cannot run in a type at all (`planning`) and what the user says (`rules`) are apart from this. A range is judged on what was measured
where there is something (`ranges`), else on the initializers alone. The other rules know the operators: what TensorRT fuses into its
neighbours costs nothing in fp32 (measured on TensorRT-RTX 1.7.1.116, `tools/bench`), so that there the accuracy is free.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import BOUND_KEY, Graph, producer, subgraphs, ties
from torch2trt_onnx.losses import Losses, constants_of, limits_of, read_by
from torch2trt_onnx.placement import FP16, FP32, MONOTONE, MOVING, inner_first
from torch2trt_onnx.precision import FLOATS, label
from torch2trt_onnx.typecheck import onnx_type
from torch2trt_onnx.work import MATRIX

if TYPE_CHECKING:
    from torch2trt_onnx.ranges import Range

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
        casts = {id(n) for n in nodes if _is_authors(n)}
        found: dict[int, str] = {}
        if not casts:
            return found
        handed: dict[int, str] = {}  # what control flow hands over -> why it is typed
        outputs = {id(t) for t in self.graph.ir.outputs}
        for node in (*nodes, *nodes):  # twice, because a body comes before what its loop hands over to it
            for tie in ties(node):
                words = next(filter(None, (self._why_typed(t, casts, found, handed) for t in tie.reads(node))), "")
                handed.update((id(t), words) for t in tie.makes if words)
            if id(node) in casts or FP32 not in _kinds((*node.inputs, *node.outputs)):
                continue
            if node.op not in MATRIX or not any(True for _ in constants_of(node)):
                for tensor in node.inputs:
                    words = self._why_typed(tensor, casts, found, handed)
                    if words:
                        found[id(node)] = words
            for tensor in node.outputs:
                rounding = [n for n in tensor.outputs if id(n) in casts]
                if rounding and len(rounding) < len(tensor.outputs) + (id(tensor) in outputs):
                    found[id(node)] = f"the author rounds its output in {rounding[0].name!r}, and reads it in fp32 too"
                    self._hand_back(node, found)
        return found

    @staticmethod
    def _hand_back(node: gs.Node, found: dict[int, str]) -> None:
        """What a node hands on without computing must not be rounded by what makes it either."""
        waiting = [node]
        while waiting:
            reader = waiting.pop()
            makers = (producer(t) for t in reader.inputs if reader.op in MOVING | MONOTONE and onnx_type(t) == FP32)
            for maker in makers:
                if maker is not None and id(maker) not in found and maker.op != "Cast":
                    found[id(maker)] = found[id(node)]
                    waiting.append(maker)

    @staticmethod
    def _why_typed(tensor: gs.Tensor, casts: set[int], found: Mapping[int, str], handed: Mapping[int, str]) -> str:
        """Why a tensor is fp32 by the author's word; "" where it is not."""
        maker = producer(tensor)
        if onnx_type(tensor) != FP32:
            return ""
        if maker is not None and id(maker) in casts:
            return f"the author casts its input to fp32, in {maker.name!r}"
        return handed.get(id(tensor), "") or (found.get(id(maker), "") if maker is not None else "")


class InitializerRange(Hazard):
    """An initializer does not fit: values become infinite, or a factor becomes another one, of zeros and subnormal numbers.

    Rounding changes a tensor by at most half a unit in the last place; four times that in the norm says that it has few digits left. What
    is added may lose its digits: what it is added to has them. It may not become zero, because it may be what keeps a divisor from it.
    """

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        for index, tensor in enumerate(node.inputs):
            is_added = node.op in ("Add", "Sub") or (index == 2 and node.op in ("Conv", "ConvTranspose", "Gemm"))
            for constant in read_by(node, tensor):
                loss = self.losses.of(constant, self.to)
                if loss.infinite or loss.zero or (loss.share > 2 * float(self.limits.eps) and not is_added):
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
                if node.op not in BOUNDED and node.op not in MATRIX:
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
        attention, it does so for fp16 and one shape only: over a range of shapes, and in bf16, the attention would fall apart
        (`tools/bench/islands.py`).
        """
        found: set[int] = set()
        for node in self.graph.nodes():
            if node.op != "Softmax":
                continue
            way = _way_to_product(node, 6)
            product = _maker(way[-1], {"MatMul"}) if way else None
            if product is None or any(True for _ in constants_of(product)):
                continue  # a classifier, of weights
            is_masked = any(maker.op == "Add" for maker in way)
            is_scaled_before = _maker(product, {"Mul", "Div"}) is not None
            if is_masked and (not is_scaled_before or (self.evidence.is_static and self.to == FP16)):
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
            way += (reader for reader in node.outputs[0].outputs if _is_reciprocal(reader))
            found.update(map(id, way))
        return found


def _way_to_product(node: gs.Node, most: int) -> list[gs.Node]:
    """From a node back through what scales and masks, up to the one that reads a product of matrices; empty where there is none."""
    if _maker(node, {"MatMul"}) is not None:
        return [node]
    makers = [m for t in node.inputs if (m := producer(t)) is not None and m.op in ("Add", "Where", "Div", "Mul")]
    ways = (_way_to_product(maker, most - 1) for maker in makers if most)
    return next(([node, *way] for way in ways if way), [])


def _maker(node: gs.Node, ops: Container[str]) -> gs.Node | None:
    """What makes an input of a node, where it is one of some operators."""
    return next((m for t in node.inputs if (m := producer(t)) is not None and m.op in ops), None)


def _is_reciprocal(node: gs.Node) -> bool:
    return node.op == "Reciprocal" or (node.op == "Div" and isinstance(node.inputs[0], gs.Constant))


def _is_square(node: gs.Node) -> bool:
    return len({id(tensor) for tensor in node.inputs}) == 1


class ReductionDepth(Hazard):
    """It adds up so many products that ones alone would leave the range."""

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        depth = reduction_depth(node)
        return f"it adds up {depth} products, and {self.name} ends at {self.largest:g}" if depth > self.largest else ""


class Positions(Hazard):
    """It computes positions, from whole numbers alone, on the way to an angle, which needs their digits (rotary embeddings), or to a whole
    number again (a size that is computed in floats).
    """

    def why(self, node: gs.Node) -> str:
        """In words, or ""."""
        return self._found.get(id(node), "")

    @cached_property
    def _found(self) -> dict[int, str]:
        nodes = list(inner_first(self.graph.ir))
        whole = self._whole(nodes)
        found: dict[int, str] = {}
        for node in reversed(nodes):
            readers = (reader for t in node.outputs for reader in t.outputs)
            if id(node) in whole and any(_needs_digits(reader) or id(reader) in found for reader in readers):
                found[id(node)] = (
                    "it computes positions from whole numbers, which are to be angles, or whole numbers again"
                )
        return found

    def _whole(self, nodes: Sequence[gs.Node]) -> set[int]:
        """The nodes that depend on no float but initializers of few values."""
        found: set[int] = set()
        for node in nodes:
            floats = [t for t in node.inputs if onnx_type(t) in FLOATS]
            if node.op != "Gather" and not subgraphs(node) and all(self._is_whole(t, found) for t in floats):
                found.add(id(node))
        return found

    @staticmethod
    def _is_whole(tensor: gs.Tensor, found: set[int]) -> bool:
        if isinstance(tensor, gs.Constant):
            return bool(math.prod(tensor.shape) <= MANY)
        maker = producer(tensor)
        return maker is not None and id(maker) in found


def _needs_digits(node: gs.Node) -> bool:
    """Whether the digits of what a node reads are those of an angle, or of a whole number."""
    return node.op in ANGLES or (node.op == "Cast" and not _kinds(node.outputs) & FLOATS)


ANGLES = frozenset({"Sin", "Cos", "Tan"})
MANY = 4096
"""More values than the frequencies of a rotary embedding have."""

RULES: tuple[type[Hazard], ...] = (
    OverBudget,
    AuthorsChoice,
    InitializerRange,
    CalibratedRange,
    UnmeasuredRange,
    ReductionDepth,
    Positions,
    OperatorRisk,
)
"""The rules. Where several are against a node, the first one is told: causes stand before what they lead to."""


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


def _kinds(tensors: Sequence[gs.Tensor]) -> set[int]:
    return {kind for t in tensors if (kind := onnx_type(t))}


def _is_authors(node: gs.Node) -> bool:
    """Whether a node is a Cast of the author's between floats of two precisions."""
    kinds = _kinds((*node.inputs, *node.outputs))
    return node.op == "Cast" and len(kinds) > 1 and kinds <= FLOATS and BOUND_KEY not in node.metadata


def reduction_depth(node: gs.Node) -> int:
    """How many products or values each element of the result adds up; 1 where that is not known."""
    if node.op in ("Conv", "ConvTranspose") and node.inputs[1].shape:
        return _known(node.inputs[1].shape[1:] if node.op == "Conv" else node.inputs[1].shape[:1])
    if node.op in ("MatMul", "Gemm"):
        turned = [bool(node.attrs.get(key)) for key in ("transA", "transB")]
        shapes = [list(t.shape) if t.shape else [] for t in node.inputs[:2]]
        places = (-2 if turned[0] else -1), (-1 if turned[1] or len(shapes[1]) < 2 else -2)  # of what is summed over
        return max(_known(shape[place:][:1]) for shape, place in zip(shapes, places, strict=True))
    return 1


def _known(dims: Sequence[object]) -> int:
    return math.prod(d for d in dims if isinstance(d, int))
