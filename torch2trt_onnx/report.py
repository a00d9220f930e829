"""What a conversion did, as one object: plain data for JSON, and a table for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any

from torch2trt_onnx.backends.layers import LABELS, Binding, EngineLayer, EngineTensor
from torch2trt_onnx.budget import Trade
from torch2trt_onnx.compare import Comparison, OutputComparison
from torch2trt_onnx.plan import Asked, NodePlan, PrecisionPlan
from torch2trt_onnx.proof import OVERRIDDEN, UNVERIFIABLE
from torch2trt_onnx.schema import BINDING, Each


@dataclass(frozen=True)
class NodeReport:
    """One node of the final graph: what was planned, and what TensorRT made of it.

    Args:
        plan: the plan of the node.
        network: the type of each of its outputs in TensorRT's network; empty without a back end, "" where TensorRT does not know.
        layers: the names of the engine layers that compute it; empty where it was folded away, or TensorRT lost its name.
        verdict: what the engine proves of its precision, in one word (`proof.Verdict`); "" without a back end, or a precision.
        evidence: of the verdict, in words.
        inside: what TensorRT rounds inside it where PyTorch does not, in words; "" where nothing differs.
        work: how often it multiplies and adds, where it multiplies matrices; at the opt shapes, or where a file tells none, with 1 for
            each dynamic dimension.
        bytes: of what it makes, likewise.
    """

    plan: NodePlan
    network: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    verdict: str = ""
    evidence: str = ""
    inside: str = ""
    work: int = 0
    bytes: int = 0

    @property
    def differs(self) -> bool:
        """Whether the network has another type than the graph says, where it knows the node."""
        pairs = zip(self.network, self.plan.outputs, strict=False)
        return any(got and planned not in ("?", got) for got, planned in pairs)

    def to_json(self) -> dict[str, Any]:
        """The plan and what came of it, as plain data."""
        return {**vars(self.plan), **{key: getattr(self, key) for key in REPORTED}}


@dataclass(frozen=True)
class Weight:
    """An initializer of the final graph that a node reads.

    Args:
        name: of the tensor.
        dtype: its type.
        dims: its shape.
        bytes: its size.
        authored: the type that the source gave it.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    bytes: int
    authored: str


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
        constraints: under weak typing, what each layer of TensorRT's network was told, or why it was told nothing.
        targets: the compute capabilities that the engine runs on.
        data: what the plan was measured on, in words; "" where nothing was.
        trade: what the accuracy budget cost; None where there was none.
        weights: those that nodes read, in their order.
        log: what TensorRT warned of while it built, each line once.
        stages: of the graph, as they were kept: name, file, nodes, seconds, changes (how many); empty where they were not.
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
    constraints: list[dict[str, Any]] = field(default_factory=list)
    targets: tuple[str, ...] = ()
    data: str = ""
    trade: Trade | None = None
    weights: list[Weight] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)

    def kept(self) -> dict[str, list[NodePlan]]:
        """The nodes that `policy="auto"` left in fp32, by the rule of `safety` that did."""
        found: dict[str, list[NodePlan]] = {}
        for node in self.plan.nodes:
            if node.kept_by:
                found.setdefault(node.kept_by, []).append(node)
        return found

    def unproven(self) -> list[NodeReport]:
        """The nodes that do not run as planned, or of which the engine does not tell; empty without an engine."""
        return [node for node in self.nodes if node.differs or node.verdict in (OVERRIDDEN, UNVERIFIABLE)]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """The report that `to_json` wrote.

        Raises:
            KeyError, TypeError: it did not.
        """
        nodes = []
        for row in data["nodes"]:
            network, layers = tuple(row.pop("network")), tuple(row.pop("layers"))
            found = [row.pop(key) for key in REPORTED[2:]]
            row |= {key: tuple(row[key]) for key in ("outputs", "tensors", "inputs")}
            nodes.append(NodeReport(NodePlan(**row), network, layers, *found))
        compared = data["comparison"]
        if compared is not None:
            compared.pop("ok")
            compared = Comparison(**{**compared, "outputs": [OutputComparison(**o) for o in compared["outputs"]]})
        plan = PrecisionPlan(tuple(n.plan for n in nodes), Asked.from_json(data["plan"]))
        rest = {key: data[key] for key in RESTORED}
        return cls(
            **rest,
            plan=plan,
            nodes=nodes,
            changes=[tuple(change) for change in data["changes"]],
            comparison=compared,
            layers=[_layer(layer) for layer in data["layers"]],
            bindings=[Binding.from_json(b) for b in data["bindings"]],
            targets=tuple(data["targets"]),
            trade=Trade.from_json(data["trade"]) if data["trade"] is not None else None,
            weights=[Weight(**{**row, "dims": tuple(row["dims"])}) for row in data["weights"]],
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        data = {
            key: value
            for key, value in vars(self).items()
            if key not in ("plan", "nodes", "comparison", "layers", "bindings", "trade", "weights")
        }
        data["plan"] = self.plan.asked.to_json()
        data["nodes"] = [node.to_json() for node in self.nodes]
        data["comparison"] = {**asdict(self.comparison), "ok": self.comparison.ok} if self.comparison else None
        data["trade"] = self.trade.to_json() if self.trade else None
        data["layers"] = [asdict(layer) for layer in self.layers]
        data["bindings"] = [asdict(binding) for binding in self.bindings]
        data["weights"] = [vars(weight) for weight in self.weights]
        return data


REPORTED = ("network", "layers", "verdict", "evidence", "inside", "work", "bytes")
"""What a `NodeReport` has beside the plan."""


RESTORED = ("source", "warnings", "lost_inputs", "backend", "seconds", "sizes", "constraints", "data", "log", "stages")
"""What of a `Report` is in JSON as it is."""


_NODE = {
    **dict.fromkeys(("name", "op", "precision", "origin", "reason", "module", "source", "authored", "quantized"), str),
    **dict.fromkeys(("verdict", "evidence", "inside", "kept_by", "scope"), str),
    **{key: [str] for key in ("outputs", "tensors", "inputs", "network", "layers")},
    **dict.fromkeys(("work", "bytes"), int),
}
_OUTPUT = {
    **dict.fromkeys(("name", "dtype", "reference_dtype"), str),
    "shape": [int],
    "absolute": Real,
    "relative": Real,
    "ok": bool,
}
_TENSORS = [{"name": str, "dtype": str, "dims": [int]}]
_WEIGHT = {"name": str, "dtype": str, "dims": [int], "bytes": int, "authored": str}
_STAGE = {"name": str, "file": str, "nodes": int, "seconds": Real, "changes": int}
_TRADE = {
    "limits": Each({"limit": Real, "metric": str}),
    "reduced": str,
    "movable": int,
    "runs": int,
    "kept": Each(str),
    "trials": [{"kept": int, "share": Real, "errors": Each(Real), "ok": bool}],
}
SCHEMA: dict[str, Any] = {
    "source": str,
    "backend": str,
    "data": str,
    "trade": (None, _TRADE),
    **{key: [str] for key in ("warnings", "lost_inputs", "targets", "log")},
    "plan": Each(object),
    "nodes": [_NODE],
    "changes": [[str]],
    "comparison": (
        None,
        {"made": bool, "reference": str, "tolerance": Real, "outputs": [_OUTPUT], "shapes": [str], "ok": bool},
    ),
    "layers": [
        {
            **dict.fromkeys(("name", "type", "tactic"), str),
            **dict.fromkeys(("inputs", "constants", "outputs"), _TENSORS),
            "nodes": [str],
        }
    ],
    "bindings": [BINDING],
    "seconds": Each(Real),
    "sizes": Each(int),
    "constraints": [Each(object)],
    "weights": [_WEIGHT],
    "stages": [_STAGE],
}
"""The form of a report: keys that must be there, and the types of their values."""


def _layer(row: dict[str, Any]) -> EngineLayer:
    tensors = {
        side: tuple(EngineTensor(t["name"], t["dtype"], tuple(t["dims"])) for t in row[side])
        for side in ("inputs", "constants", "outputs")
    }
    return EngineLayer(**{**row, **tensors, "nodes": tuple(row["nodes"])})


def network_labels(words: list[str]) -> tuple[str, ...]:
    """TensorRT's names of types as ours."""
    return tuple(map(network_label, words))


def network_label(word: str) -> str:
    """TensorRT's name of a type, in its API (HALF) or its dump (Half), as ours (fp16)."""
    return LABELS.get(word, word.lower())
