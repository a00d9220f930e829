"""Placing what is free: nodes that can run in either of two precisions run where the fewest bytes are moved.

`planning` decides the rest; `borders` finds the cheapest choice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx import borders
from torch2trt_onnx.borders import NARROW, NEITHER, WIDE, Flow
from torch2trt_onnx.graph import Graph, Tie, subgraphs
from torch2trt_onnx.plan import Asked
from torch2trt_onnx.precision import FLOATS, ElementType, is_lossless, label
from torch2trt_onnx.typecheck import Retyping, onnx_type, retyping

FP32, FP16, BF16 = int(TensorProto.FLOAT), int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16)

MOVING = frozenset(
    {
        "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Gather", "GatherElements", "GatherND",
        "Concat", "Split", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "ScatterElements", "ScatterND",
    }
)  # fmt: skip
"""Operators that move values and compute none."""

MONOTONE = frozenset(
    {"Relu", "MaxPool", "GlobalMaxPool", "Max", "Min", "Clip", "Neg", "Abs", "ReduceMax", "ReduceMin", "Where"}
)
"""Operators that choose among values: rounding before them gives what rounding after them gives, to the bit."""

LARGEST_READ = 4096  # elements of a constant whose values are looked at one by one


@dataclass
class Choice:
    """What is decided for one node, or for one thing that a control-flow node hands over.

    Args:
        node: which.
        given: the ONNX type that it has in the source.
        to: the type that it is to have.
        origin: where that comes from.
        reason: in words.
        free: it may take another type where that is cheaper.
        tie: what is handed over; None for a node of its own.
        may_round: it may round what the source does not: the user sets it free, or lets it be lowered.
    """

    node: gs.Node
    given: int
    to: int
    origin: str
    reason: str
    free: bool = False
    tie: Tie | None = None
    may_round: bool = False

    @property
    def changed(self) -> bool:
        """Whether it departs from the source."""
        return self.to != self.given


@dataclass
class Sketch:
    """A plan in the making.

    Args:
        graph: which is planned.
        asked: what the user wants.
        enabled: the ONNX types of the precisions asked for; None for any.
        choices: all that is decided.
        of: `id` of a node -> its choice.
        tied: `id` of a node -> the choices of what it hands over; empty but for control flow.
    """

    graph: Graph
    asked: Asked
    enabled: set[int] | None
    choices: list[Choice] = field(default_factory=list)
    of: dict[int, Choice] = field(default_factory=dict)
    tied: dict[int, list[Choice]] = field(default_factory=dict)

    def makers(self) -> dict[int, Choice]:
        """`id` of a tensor -> what makes it."""
        made = {id(t): c for c in self.of.values() for t in c.node.outputs}
        return made | {id(t): c for group in self.tied.values() for c in group if c.tie for t in c.tie.makes}

    def readers(self, tensor: gs.Tensor) -> Iterator[tuple[gs.Node, int]]:
        """`(node, position)` of each use of a tensor as an input."""
        for node in {id(n): n for n in tensor.outputs}.values():
            yield from ((node, index) for index, t in enumerate(node.inputs) if t is tensor)

    def reader(self, node: gs.Node, index: int) -> Choice | None:
        """What reads an input of a node; None for a condition or a trip count, and for nodes of no precision."""
        if id(node) in self.of:
            return self.of[id(node)]
        return next((c for c in self.tied[id(node)] if c.tie and index in c.tie.inputs), None)

    def neighbours(self, choice: Choice, makers: Mapping[int, Choice]) -> Iterator[Choice]:
        """What makes the tensors that a choice reads, and what reads those that it makes."""
        made = choice.tie.makes if choice.tie else choice.node.outputs
        read = choice.tie.reads(choice.node) if choice.tie else choice.node.inputs
        yield from (makers[id(t)] for t in read if id(t) in makers)
        for tensor in made:
            yield from filter(None, (self.reader(*use) for use in self.readers(tensor)))


def place(sketch: Sketch, fits: Callable[[Choice, int], bool], shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Give what is free the type in which the fewest bytes are moved, where the plan departs from the source around it.

    Args:
        sketch: all nodes decided, and some of them free.
        fits: whether a free choice may have a type at all.
        shapes: of the dynamic inputs, by name.
    """
    for kind in (FP16, BF16):
        places = _open_places(sketch, fits, kind)
        if places:
            problem = _Problem(sketch, places, kind, sketch.graph.sizes(shapes))
            for choice, narrow in zip(places, borders.cheapest(len(places), problem.flows()), strict=True):
                choice.free = False
                to = kind if narrow else FP32
                if to != choice.to:
                    choice.to, choice.origin = to, "border"
                    choice.reason = f"it fits {label(kind)} and fp32, and fewest bytes move in {label(to)}"


def _open_places(sketch: Sketch, fits: Callable[[Choice, int], bool], kind: int) -> list[Choice]:
    """What is free between fp32 and a type, and hangs together with something that departs from the source.

    Where fp32 was not asked for, only beside a node that must be fp32: rounding between two of them may lose the range.
    """
    enabled, is_free = sketch.enabled, sketch.asked.weightless == "free"
    if is_free and enabled is not None and kind not in enabled:
        return []
    places = [c for c in sketch.choices if c.free and c.to in (FP32, kind) and fits(c, FP32) and fits(c, kind)]
    index = {id(c): i for i, c in enumerate(places)}
    links: list[tuple[int, int]] = []
    touched: set[int] = set()
    wide: set[int] = set()
    makers = sketch.makers()
    for mine, choice in enumerate(places):
        if choice.changed or is_free:
            touched.add(mine)
        for other in sketch.neighbours(choice, makers):
            if id(other) in index:
                links.append((mine, index[id(other)]))
                continue
            if other.changed:
                touched.add(mine)
            if other.to == FP32 and other.tie is None:
                wide.add(mine)
    part = borders.components(len(places), links)
    opened = {part[i] for i in touched}
    if enabled is not None and FP32 not in enabled:
        opened &= {part[i] for i in wide}
    return [c for i, c in enumerate(places) if part[i] in opened]


class _Problem:
    """The tensors around what is free, as `borders` takes them."""

    def __init__(self, sketch: Sketch, places: list[Choice], kind: int, sizes: Mapping[str, int]) -> None:
        self._sketch, self._places, self._kind, self._sizes = sketch, places, kind, sizes
        self._index = {id(c): i for i, c in enumerate(places)}
        self._makers = sketch.makers()
        self._results = _body_results(sketch)
        self._outputs = {id(t) for t in sketch.graph.ir.outputs}
        self._types: dict[int, Retyping] = {}
        self._exact = self._representable()

    def flows(self) -> list[Flow]:
        """Each tensor that a place makes or reads."""
        tensors: dict[int, gs.Tensor] = {}
        for choice in self._places:
            made = choice.tie.makes if choice.tie else choice.node.outputs
            read = choice.tie.reads(choice.node) if choice.tie else choice.node.inputs
            tensors |= {id(t): t for t in (*made, *read) if onnx_type(t) in FLOATS}
        return [self._flow(t) for t in tensors.values()]

    def _flow(self, tensor: gs.Tensor) -> Flow:
        maker = self._maker(tensor)
        readers: list[int] = []
        bound: list[int] = []
        raw = 0
        for node, index in self._sketch.readers(tensor):
            choice = self._sketch.reader(node, index)
            if choice is None:
                raw += 1  # Shape and Size see no values
            elif node.op == "Cast" and id(choice) not in self._index:
                raw += 1
                bound += [WIDE] * (choice.to != self._kind)  # a Cast to this type rounds by itself
            else:
                readers.append(self._place(choice, index))
        readers += [self._place(c, 0) for c in self._results.get(id(tensor), [])]
        if id(tensor) in self._outputs:
            readers.append(self._label(onnx_type(tensor)))
        # A reader of a third type costs the same Cast either way, and sees the rounding.
        bound += [WIDE if place == NEITHER else place for place in readers]
        readers = [place for place in readers if place != NEITHER]
        may_round = maker < 0 or id(tensor) in self._exact or self._places[maker].may_round
        elements = self._sizes.get(tensor.name, 1)
        if isinstance(tensor, gs.Constant):
            elements = int(np.prod(tensor.shape, dtype=np.int64))
        return Flow(max(elements, 1), maker, tuple(readers), raw, () if may_round else tuple(bound))

    def _maker(self, tensor: gs.Tensor) -> int:
        if isinstance(tensor, gs.Constant):
            return NEITHER
        choice = self._makers.get(id(tensor))
        if choice is None:
            return self._label(onnx_type(tensor))  # an input
        if id(choice) in self._index:
            return self._index[id(choice)]
        return self._label(self._made(choice, tensor))

    def _place(self, choice: Choice, index: int) -> int:
        """The place of a reader, or the type that it reads an input in."""
        if id(choice) in self._index:
            return self._index[id(choice)]
        return self._label(choice.to if choice.tie else self._retyping(choice).inputs[index])

    def _label(self, kind: int) -> int:
        return {FP32: WIDE, self._kind: NARROW}.get(kind, NEITHER)

    def _made(self, choice: Choice, tensor: gs.Tensor) -> int:
        if choice.tie or choice.node.op == "Cast":
            return choice.to
        index = next(i for i, t in enumerate(choice.node.outputs) if t is tensor)
        return self._retyping(choice).outputs[index]

    def _retyping(self, choice: Choice) -> Retyping:
        if id(choice) not in self._types:
            types = retyping(choice.node, choice.to, self._sketch.graph.opset)
            assert isinstance(types, Retyping)  # _obstacle has asked
            self._types[id(choice)] = types
        return self._types[id(choice)]

    def _representable(self) -> set[int]:
        """The tensors whose values the narrow type has already, so that holding them in it rounds nothing."""
        exact: set[int] = set()
        kind = self._kind

        def is_exact(tensor: gs.Tensor) -> bool:
            if isinstance(tensor, gs.Constant):
                if onnx_type(tensor) == FP32 and np.prod(tensor.shape, dtype=np.int64) <= LARGEST_READ:
                    values = self._sketch.graph.array(tensor).astype(np.float32)
                    return bool(np.array_equal(cast(values, kind).astype(np.float32), values, equal_nan=True))
                return is_lossless(onnx_type(tensor), kind)
            return id(tensor) in exact or (id(tensor) not in self._makers and onnx_type(tensor) == kind)

        def hands_on(node: gs.Node) -> bool:
            source = onnx_type(node.inputs[0])
            if node.op == "Cast" and source not in FLOATS:
                return is_lossless(source, kind)
            return all(is_exact(t) for t in node.inputs if onnx_type(t) in FLOATS)

        for node in inner_first(self._sketch.graph.ir):
            for tie in self._sketch.tied[id(node)]:
                if node.op == "If" and tie.tie and all(map(is_exact, tie.tie.reads(node))):
                    exact.update(id(t) for t in tie.tie.makes)
            choice = self._sketch.of.get(id(node))
            if choice is None:
                continue
            free = id(choice) in self._index
            if node.op == "Cast" or free:
                rounds = choice.to == kind and not free
                if rounds or (node.op in MOVING | MONOTONE | {"Cast"} and hands_on(node)):
                    exact.update(id(t) for t in node.outputs)
            else:
                made = zip(node.outputs, self._retyping(choice).outputs, strict=True)
                exact.update(id(t) for t, to in made if to == kind)
        return exact


def _body_results(sketch: Sketch) -> dict[int, list[Choice]]:
    """`id` of a tensor -> what takes it out of a body."""
    found: dict[int, list[Choice]] = defaultdict(list)
    for group in sketch.tied.values():
        for choice in group:
            for body, index in choice.tie.results if choice.tie else []:
                found[id(body.outputs[index])].append(choice)
    return found


def inner_first(graph: gs.Graph) -> Iterator[gs.Node]:
    """All nodes, those of a body right before the node that has it."""
    for node in graph.nodes:
        for body in subgraphs(node):
            yield from inner_first(body)
        yield node


def is_embedding(node: gs.Node) -> bool:
    """Whether a node looks up weights, which say its type: they are its own to round."""
    return node.op == "Gather" and isinstance(node.inputs[0], gs.Constant)


def cast(values: np.ndarray, to: int) -> np.ndarray:
    """Values in another float type; what does not fit becomes infinite or zero."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(ElementType.of(to).numpy)
