"""The plan: which precision each node runs in, where that comes from, and why. Made once; back ends and reports read it.

It lies in the metadata of the nodes, so the ONNX file alone tells it. `planning` makes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.graph import PREFIX, Graph, subgraphs
from torch2trt_onnx.precision import Precision, label
from torch2trt_onnx.rules import Rule
from torch2trt_onnx.typecheck import compute_type, onnx_type

ASKED_KEY = f"{PREFIX}asked"

COMPILER = "compiler"
"""The origin of a node's precision where a weakly typed TensorRT may choose another."""

SOURCE, AUTO = "source", "auto"
"""The policies; "auto" is the origin of what it lowers as well."""

KEPT = "kept"
"""The origin of what `policy="auto"` leaves in fp32."""

WEIGHTLESS = ("inherit", "fp32", "free")
FIDELITIES = ("tensorrt", "pytorch")


@dataclass(frozen=True)
class Asked:
    """What the user asks of the precisions of a model.

    Args:
        precisions: the set that the engine may use; None: as the source is typed.
        strict: the set is exact, so that fp32 is no way out.
        policy: "source": each node keeps its source precision where that is in the set. "auto": nodes that the author did not type are
            lowered where it is safe. None: "source" where the model gives a signal, or fp32 or a reduced precision is not in the set; else
            "auto", or under weak typing what the compiler chooses.
        rules: see `Rule`; they win over everything else.
        weightless: of nodes without weights: "inherit" the type that the source gives them; "fp32"; or "free": what moves the
            fewest bytes.
        fidelity: "tensorrt": each node computes inside as TensorRT does; "pytorch": Casts make it compute inside as PyTorch does.

    Raises:
        PrecisionError: a word that is none of these; or PyTorch's arithmetic is asked for without fp32, in which PyTorch computes inside
            its fp16 kernels.
    """

    precisions: frozenset[Precision] | None = None
    strict: bool = False
    policy: str | None = None
    rules: tuple[Rule, ...] = ()
    weightless: str = "inherit"
    fidelity: str = "tensorrt"

    def __post_init__(self) -> None:
        if self.policy not in (None, SOURCE, AUTO):
            raise PrecisionError(
                f"{self.policy!r} is no policy", fix="use policy='source' or policy='auto', or leave it out"
            )
        for name, word, known in (("weightless", self.weightless, WEIGHTLESS), ("fidelity", self.fidelity, FIDELITIES)):
            if word not in known:
                raise PrecisionError(f"{name} is {word!r}", fix=f"use one of {', '.join(known)}")
        wanted = self.precisions or frozenset()
        if self.fidelity == "pytorch" and self.strict and wanted and Precision.FP32 not in wanted:
            raise PrecisionError(
                f"When strict is True, the precisions are exact ({self.words}), and fidelity='pytorch' needs fp32 among them",
                why="PyTorch computes Softmax, LayerNorm, Gelu and others in fp32 inside, and its Casts say so to TensorRT",
                fix="add fp32 to precisions, or leave strict or fidelity out",
            )

    @property
    def words(self) -> str:
        """The precisions for messages."""
        return (
            ", ".join(p.value for p in Precision if self.precisions and p in self.precisions)
            or "as the source is typed"
        )

    @property
    def opset(self) -> int | None:
        """The opset to export, where what is asked for needs one: earlier ones than 22 have no bf16 convolution."""
        wanted = {*(self.precisions or ()), *(rule.precision for rule in self.rules)}
        return 22 if Precision.BF16 in wanted else None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Asked:
        """What `to_json` wrote."""
        wanted = data["precisions"]
        return cls(
            **{
                **data,
                "precisions": frozenset(map(Precision.of, wanted)) if wanted is not None else None,
                "rules": tuple(map(Rule.of, data["rules"])),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """What was asked for as plain data."""
        wanted = sorted(p.value for p in self.precisions) if self.precisions is not None else None
        return {**vars(self), "precisions": wanted, "rules": [rule.to_json() for rule in self.rules]}


@dataclass(frozen=True)
class NodePlan:
    """What is planned for one node of the final graph.

    Args:
        name: the node's unique name.
        op: its operator type.
        precision: "fp32", "fp16" or "bf16"; "" where it computes with no float.
        origin: where that comes from: of the source's own, "weights", "tensors" or "cast"; where the plan departs from it, "rule",
            "policy", "widened", "narrowed", "operator" (it cannot run in what was asked), "border" (cheapest there), "fidelity",
            "auto" (lowered by `policy="auto"`), "kept" (which left it in fp32);
            "compiler": a weakly typed TensorRT may choose among those asked for.
        reason: the tensors, the rule or the request that say so, in words.
        outputs: the type of each output ("?" where unknown).
        module: the path of the module that it comes from, where known.
        source: `file:line function`, where known.
        authored: the precision that the source gives it; "" where the node is not of the source.
        tensors: the name of each output.
        kept_by: the rule of `safety` that left it in fp32; "operator" where it cannot run in the reduced precision.
        quantized: "int8", "fp8" or "int4" where it multiplies what Q/DQ made; `precision` then is that of the tensors around.
        inputs: the name of each tensor that it reads, initializers too; "" where one is left out.
        scope: the name of the If, Loop or Scan in whose body it is; "" outside of all.
    """

    name: str
    op: str
    precision: str
    origin: str
    reason: str
    outputs: tuple[str, ...]
    module: str = ""
    source: str = ""
    authored: str = ""
    quantized: str = ""
    tensors: tuple[str, ...] = ()
    kept_by: str = ""
    inputs: tuple[str, ...] = ()
    scope: str = ""

    @property
    def is_free(self) -> bool:
        """Whether the compiler may choose another precision of those asked for."""
        return self.origin == COMPILER

    @property
    def runs_in(self) -> str:
        """The precision that it multiplies in: the quantized one where there is one."""
        return self.quantized or self.precision


@dataclass(frozen=True)
class PrecisionPlan:
    """The plan of a whole graph.

    Args:
        nodes: in the order of the graph, bodies of control flow behind it.
        asked: what it follows.
    """

    nodes: tuple[NodePlan, ...]
    asked: Asked = field(default_factory=Asked)

    @classmethod
    def read(cls, graph: Graph) -> PrecisionPlan:
        """The plan that a graph's metadata tells."""
        asked = graph.metadata.get(ASKED_KEY)
        return cls(
            tuple(_node_plan(node, scope) for scope, node in _scoped(graph)),
            Asked.from_json(json.loads(asked)) if asked else Asked(),
        )

    def floats(self) -> Iterator[NodePlan]:
        """The nodes that have a precision."""
        return (node for node in self.nodes if node.precision)

    def counts(self) -> dict[str, int]:
        """How many nodes run in each precision, Casts left out; the most frequent first."""
        return dict(Counter(node.runs_in for node in self.floats() if node.op != "Cast").most_common())

    def departures(self, graph: Graph) -> list[str]:
        """The nodes of a graph whose types are not what their plan says, in words; a bug of ours, if any."""
        found = zip(self.nodes, graph.nodes(), strict=True)
        return [
            f"{plan.op} {plan.name!r} is {label(compute_type(node))}, planned {plan.precision}"
            for plan, node in found
            if plan.precision and label(compute_type(node)) != plan.precision
        ]


def _scoped(graph: Graph) -> Iterator[tuple[str, gs.Node]]:
    """`(name of the control-flow node around it, node)` of all nodes, in their order."""
    waiting = [("", graph.ir)]
    for scope, inner in waiting:
        yield from ((scope, node) for node in inner.nodes)
        waiting.extend((node.name, body) for node in inner.nodes for body in subgraphs(node))


def _node_plan(node: gs.Node, scope: str) -> NodePlan:
    keys = ("precision", "origin", "reason", "module", "source", "authored", "quantized", "kept_by")
    about = {key: node.metadata.get(f"{PREFIX}{key}", "") for key in keys}
    if node.op == "Cast" and about["precision"]:  # other Casts are merged into it on the way
        given, to = (label(onnx_type(t)) for t in (node.inputs[0], node.outputs[0]))
        about["precision"] = label(compute_type(node))
        ours = f", where {about['reason']}" if about["origin"] != "cast" else ""
        about["reason"] = f"Cast from {given} to {to}{ours}"
    types = tuple(label(onnx_type(t)) for t in node.outputs)
    tensors, inputs = (tuple(t.name for t in side) for side in (node.outputs, node.inputs))
    return NodePlan(node.name, node.op, outputs=types, tensors=tensors, inputs=inputs, scope=scope, **about)
