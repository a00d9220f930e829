"""The final graph as one flow of tensors, control flow unfolded: who makes each, who reads it, and what is known before it runs.

For the proof, which follows tensors through the graph and through the engine. Unlike `Graph` it is read-only, knows the bodies
of If, Loop and Scan as part of the same flow, and is linear in the nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import onnx

from torch2trt_onnx.precision import label

CONTROL = frozenset({"If", "Loop", "Scan"})
RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
CONSTANT, SHAPE = "constant", "shape"
"""What is known of a tensor before the data is: its values; or its values once the shapes of the inputs are."""


@dataclass(frozen=True)
class Step:
    """A node; or, without a name, the way of a tensor into a body or out of it."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Flow:
    """The flow of a model.

    Args:
        model: the final graph, bodies with types; weights may be references.

    Attributes:
        steps: in an order in which makers come first, where no loop forbids it.
        types: tensor -> our word for its element type.
        weights: initializer -> its dimensions.
        known: tensor -> `CONSTANT` or `SHAPE`; data is left out.
        twins: step -> the first one that computes the same from the same; the first one itself is left out.
        inputs, outputs: the names of the graph's.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.steps: list[Step] = []
        self.types: dict[str, str] = {}
        self.weights: dict[str, tuple[int, ...]] = {}
        self.known: dict[str, str] = {}
        self.twins: dict[int, int] = {}
        self._ranks: dict[str, int] = {}
        self._values: dict[str, object] = {}  # tensor -> what two tensors of one value have in common
        self._first: dict[object, int] = {}
        self._read(model.graph)
        self.inputs = {value.name for value in model.graph.input} - self.weights.keys()
        self.outputs = {value.name for value in model.graph.output}

    def _read(self, graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            if tensor.elem_type:
                self.types[value.name] = label(tensor.elem_type)
            if tensor.HasField("shape"):
                self._ranks[value.name] = len(tensor.shape.dim)
        for weight in graph.initializer:
            self.types[weight.name] = label(weight.data_type)
            self.weights[weight.name] = tuple(weight.dims)
            self.known[weight.name] = CONSTANT
            self._values[weight.name] = _content(weight)
        for node in graph.node:
            if node.op_type in CONTROL:
                self._add_control(node)
            else:
                self._add(node)

    def _add(self, node: onnx.NodeProto) -> None:
        step = Step(node.name, node.op_type, tuple(node.input), tuple(filter(None, node.output)))
        self._know(step)
        if step.op not in RANDOM:
            self._compare(step, node)
        self.steps.append(step)

    def _know(self, step: Step) -> None:
        if step.op in RANDOM:
            return
        kinds = {self.known.get(name) for name in step.inputs if name}
        for name in step.outputs:
            if kinds <= {CONSTANT}:
                self.known[name] = CONSTANT
            elif step.op in ("Shape", "Size"):
                self.known[name] = SHAPE
            elif None not in kinds and self._ranks.get(name, 2) < 2:
                # TensorRT computes what has one dimension at most on the host; a mask made of shapes runs in a kernel.
                self.known[name] = SHAPE

    def _compare(self, step: Step, node: onnx.NodeProto) -> None:
        attributes = b"".join(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
        inputs = tuple(self._values.get(name, name) for name in step.inputs)
        key = hash((step.op, node.domain, attributes)), inputs
        first = self._first.setdefault(key, len(self.steps))
        if first != len(self.steps):
            self.twins[len(self.steps)] = first
            for own, other in zip(step.outputs, self.steps[first].outputs, strict=False):
                self._values[own] = self._values.get(other, other)

    def _add_control(self, node: onnx.NodeProto) -> None:
        attributes = {a.name: a for a in node.attribute}
        again = [attributes["body"].g.output[0].name] if node.op_type == "Loop" else []  # whether to go on
        self.steps.append(Step(node.name, node.op_type, (*node.input, *again), ()))
        if node.op_type == "If":
            for key in ("then_branch", "else_branch"):
                body = attributes[key].g
                self._read(body)
                self._tie([value.name for value in body.output], node.output)
            return
        body = attributes["body"].g
        ins, outs = ([value.name for value in values] for values in (body.input, body.output))
        if node.op_type == "Loop":
            states = len(node.input) - 2
            self._tie(node.input[2:], ins[2:], outs[1 : 1 + states])
            outs = outs[1:]
        else:
            states = len(ins) - attributes["num_scan_inputs"].i
            given = node.input[len(node.input) - len(ins) :]  # behind the lengths of sequences, in opset 8
            self._tie(given, ins, outs[:states])
        self._read(body)
        self._tie(outs, node.output)

    def _tie(self, sources: Sequence[str], targets: Sequence[str], again: Sequence[str] = ()) -> None:
        """Let each target be what its source is, or, from the second turn of a loop on, what `again` is."""
        for source, target, later in zip_longest(sources, targets, again):
            if source and target:
                self.steps.append(Step("", "Identity", tuple(filter(None, (source, later))), (target,)))


def components(links: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The connected parts of an undirected graph, given as the neighbours of each point."""
    seen = [False] * len(links)
    for start in range(len(links)):
        if seen[start]:
            continue
        seen[start] = True
        part = [start]
        for point in part:
            for other in links[point]:
                if not seen[other]:
                    seen[other] = True
                    part.append(other)
        yield part


def _content(weight: onnx.TensorProto) -> object:
    """What is equal where the values of two initializers are: their bytes, or the place in the file that holds them."""
    bare = onnx.TensorProto()
    bare.CopyFrom(weight)
    bare.ClearField("name")
    return hash(bare.SerializeToString(deterministic=True))
