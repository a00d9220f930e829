"""What a conversion did, as one object: plain data for JSON, and a table for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch2trt_onnx.backends.layers import Binding, EngineLayer
from torch2trt_onnx.compare import Comparison
from torch2trt_onnx.plan import NodePlan, PrecisionPlan
from torch2trt_onnx.precision import TYPES

_LABELS = {word: row.label for row in TYPES for word in (row.tensorrt, row.dump) if word}


@dataclass(frozen=True)
class NodeReport:
    """One node of the final graph: what was planned, and what TensorRT made of it.

    Args:
        plan: the plan of the node.
        network: the type of each of its outputs in TensorRT's network; empty without a back end, "" where TensorRT does not know.
        layers: the names of the engine layers that compute it; empty where it was folded away, or TensorRT lost its name.
    """

    plan: NodePlan
    network: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether the network has another type than the graph says, where it knows the node."""
        pairs = zip(self.network, self.plan.outputs, strict=False)
        return any(got and planned not in ("?", got) for got, planned in pairs)


@dataclass
class Report:
    """The report of a conversion.

    Args:
        source: what the model is called.
        plan: see `PrecisionPlan`.
        nodes: in the order of the graph.
        changes: (pass, node, action, why) of each edit, annotations left out.
        warnings: what the user must hear of.
        lost_inputs: inputs that the graph does not have.
        comparison: None where there was none.
        backend: product and version; "" without one.
        layers: of the engine.
        bindings: of the engine.
        seconds: of each step.
        sizes: in bytes: the weights, the engine.
    """

    source: str
    plan: PrecisionPlan
    nodes: list[NodeReport]
    changes: list[tuple[str, str, str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lost_inputs: list[str] = field(default_factory=list)
    comparison: Comparison | None = None
    backend: str = ""
    layers: list[EngineLayer] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        data = {
            key: value
            for key, value in vars(self).items()
            if key not in ("plan", "nodes", "comparison", "layers", "bindings")
        }
        data["plan"] = {**self.plan.to_json(), "nodes": None}
        del data["plan"]["nodes"]
        data["nodes"] = [{**asdict(n.plan), "network": n.network, "layers": n.layers} for n in self.nodes]
        data["comparison"] = {**asdict(self.comparison), "ok": self.comparison.ok} if self.comparison else None
        data["layers"] = [asdict(layer) for layer in self.layers]
        data["bindings"] = [asdict(binding) for binding in self.bindings]
        return data


def network_labels(words: list[str]) -> tuple[str, ...]:
    """TensorRT's names of types as ours."""
    return tuple(_LABELS.get(word, word.lower()) for word in words)
