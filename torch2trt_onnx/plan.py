"""The plan: which precision each node runs in, where that comes from, and why. Made once; back ends and reports read it.

It lies in the metadata of the nodes, so the ONNX file alone tells it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.graph import PREFIX, Graph
from torch2trt_onnx.precision import Precision, label
from torch2trt_onnx.typecheck import onnx_type

ASKED_KEY = f"{PREFIX}precisions"
POLICY_KEY = f"{PREFIX}policy"
STRICT_KEY = f"{PREFIX}strict"


@dataclass(frozen=True)
class NodePlan:
    """What is planned for one node of the final graph.

    Args:
        name: the node's unique name.
        op: its operator type.
        precision: "fp32", "fp16" or "bf16"; "" where it computes with no float.
        origin: "weights", "tensors" or "cast"; "" likewise.
        reason: the tensors that say so, in words.
        outputs: the type of each output ("?" where unknown).
        module: the path of the module that it comes from, where known.
        source: `file:line function`, where known.
    """

    name: str
    op: str
    precision: str
    origin: str
    reason: str
    outputs: tuple[str, ...]
    module: str = ""
    source: str = ""


@dataclass(frozen=True)
class PrecisionPlan:
    """The plan of a whole graph.

    Args:
        nodes: in the order of the graph, bodies of control flow behind it.
        precisions: what was asked for; None: as the source is typed.
        policy: "source": each node keeps its source precision.
        strict: whether the set is exact.
    """

    nodes: tuple[NodePlan, ...]
    precisions: frozenset[Precision] | None = None
    policy: str = "source"
    strict: bool = False

    @classmethod
    def read(cls, graph: Graph) -> PrecisionPlan:
        """The plan that a graph's metadata tells."""
        asked = graph.metadata.get(ASKED_KEY, "")
        return cls(
            tuple(_node_plan(node) for node in graph.nodes()),
            frozenset(Precision.of(word) for word in asked.split(",")) if asked else None,
            graph.metadata.get(POLICY_KEY, "source"),
            graph.metadata.get(STRICT_KEY) == "true",
        )

    def floats(self) -> Iterator[NodePlan]:
        """The nodes that have a precision."""
        return (node for node in self.nodes if node.precision)

    def counts(self) -> dict[str, int]:
        """How many nodes run in each precision, Casts left out; the most frequent first."""
        return dict(Counter(node.precision for node in self.floats() if node.op != "Cast").most_common())

    def to_json(self) -> dict[str, Any]:
        """What was asked for, as plain data; the nodes stand in the report."""
        return {
            "precisions": sorted(p.value for p in self.precisions) if self.precisions is not None else None,
            "policy": self.policy,
            "strict": self.strict,
        }


def check_request(graph: Graph, precisions: frozenset[Precision] | None, strict: bool) -> list[str]:
    """Write what was asked for into the graph, and fail where the source contradicts it.

    Args:
        graph: annotated; see `AnnotatePrecision`.
        precisions: what was asked for; None: as the source is typed.
        strict: whether the set is exact, so that fp32 is no way out.

    Returns:
        Warnings.

    Raises:
        PrecisionError: the source holds a precision that was not asked for, naming every such node; or a reduced precision was asked
            for and not one node runs in it.
    """
    graph.metadata[POLICY_KEY] = "source"
    graph.metadata[STRICT_KEY] = "true" if strict else "false"
    if precisions is None:
        return []
    graph.metadata[ASKED_KEY] = ",".join(sorted(p.value for p in precisions))
    plan = PrecisionPlan.read(graph)
    allowed = {p.value for p in precisions}
    outside = [node for node in plan.floats() if node.precision not in allowed]
    wrong = [node for node in outside if strict or node.precision != Precision.FP32.value]
    found = ", ".join(sorted(allowed))
    if wrong:
        lead = "When strict is True, each node" if strict else "Each node"
        lines = "\n       ".join(f"{n.op} {n.name!r} is {n.precision}: {n.reason}" for n in wrong)
        held = ", ".join(sorted({n.precision for n in wrong}))
        raise PrecisionError(
            f"{lead} needs a precision that was asked for ({found}); {len(wrong)} have another ({held})",
            why=lines,
            fix=f"add {held} to precisions, or convert those layers in the model; retyping a graph to another precision is not built yet",
        )
    reduced = allowed - {Precision.FP32.value}
    if reduced and not any(node.precision in reduced for node in plan.floats()):
        raise PrecisionError(
            f"{', '.join(sorted(reduced))} was asked for, and not one node of the model runs in it",
            why="under strong typing the types in the graph are the types of the network, so this would be an fp32 engine",
            fix="cast layers in the model (layer.half(), torch.autocast); lowering an fp32 model for you (policy='auto') is not built yet",
        )
    return [f"fp32 was not asked for, and {len(outside)} nodes stay in it"] if outside else []


def _node_plan(node: Any) -> NodePlan:
    about = {
        key: node.metadata.get(f"{PREFIX}{key}", "") for key in ("precision", "origin", "reason", "module", "source")
    }
    return NodePlan(node.name, node.op, outputs=tuple(label(onnx_type(t)) for t in node.outputs), **about)
