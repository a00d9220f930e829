"""What would be planned, and whom rules would match, without rewriting or building anything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch2trt_onnx import deciding, exporters, pipeline, planning
from torch2trt_onnx.budget import Trade
from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.exporters import source
from torch2trt_onnx.graph import PREFIX, Graph
from torch2trt_onnx.limits import Limits
from torch2trt_onnx.options import Options
from torch2trt_onnx.plan import Asked, NodePlan, PrecisionPlan
from torch2trt_onnx.rules import Rule
from torch2trt_onnx.weights import WeightStore


@dataclass(frozen=True)
class RuleMatches:
    """Whom one rule matches.

    Args:
        rule: the rule.
        nodes: the names of all nodes that it matches, in the order of the graph.
        winning: of these, the ones for which no later rule wins; empty for a dead rule.
    """

    rule: Rule
    nodes: tuple[str, ...]
    winning: frozenset[str]


@dataclass(frozen=True)
class Preview:
    """What would be planned.

    Args:
        nodes: the plan of each float node of the source, before Casts are put in and constants folded.
        rules: whom each rule matches.
        notes: warnings; with `refusal` none.
        data: what the plan was measured on, in words; "" where nothing was.
        trade: what the accuracy budget costs; None where there is none.
        refusal: why nothing can be planned; None where it can.
    """

    nodes: tuple[NodePlan, ...]
    rules: tuple[RuleMatches, ...]
    notes: tuple[str, ...] = ()
    data: str = ""
    trade: Trade | None = None
    refusal: PrecisionError | None = None

    def to_json(self) -> dict[str, Any]:
        """The preview as plain data."""
        return {
            "nodes": [asdict(node) for node in self.nodes],
            "rules": [
                {
                    **found.rule.to_json(),
                    "nodes": found.nodes,
                    "winning": [n for n in found.nodes if n in found.winning],
                }
                for found in self.rules
            ],
            "warnings": self.notes,
            "data": self.data,
            "trade": self.trade.to_json() if self.trade else None,
            "error": str(self.refusal) if self.refusal else None,
        }


def preview(
    model: object,
    inputs: object,
    asked: Asked,
    options: Options,
    *,
    weak: bool = False,
    calibration: object = None,
    limits: Limits | None = None,
) -> Preview:
    """Export a model and decide on its precisions, and stop there.

    Args:
        model: as `convert` takes it.
        inputs: likewise.
        asked: what is asked of the precisions.
        options: the exporter, the opset and the devices count.
        weak: whether it is for a weakly typed TensorRT (8.6 to 10), which chooses where the model gives no signal.
        calibration: as `convert` takes it.
        limits: of the errors of the outputs.

    Raises:
        ConversionError: the model cannot be exported or repaired. What is asked for in vain is told, and not raised.
    """
    with tempfile.TemporaryDirectory(prefix="torch2trt_onnx-") as folder:
        weights = WeightStore(Path(folder))
        opset = options.opset or asked.opset
        exported = exporters.export(source.load(model), inputs, weights, exporter=options.exporter, opset=opset)
        graph = Graph(exported.model, weights)
        pipeline.run(graph, pipeline.repairs(exported.bindings))
        targets, workspace = options.compute_capabilities, Path(folder)
        order = [str(i.name) for i in exported.eager_inputs or exported.inputs]
        request = deciding.Request(asked, exported.inputs, targets, workspace, weak, calibration, limits, order)
        pipeline.run(graph, deciding.joins(graph, request), is_typed=True)
        found = tuple(_matches(graph, asked.rules))
        try:
            decision = deciding.decide(graph, request)
        except PrecisionError as error:
            return Preview((), found, refusal=error)
        return Preview(tuple(_planned(graph)), found, tuple(decision.notes), decision.words, decision.trade)


def _planned(graph: Graph) -> Iterator[NodePlan]:
    """The plan of each float node; a Cast leads elsewhere only once the graph is retyped, so its metadata counts here."""
    for plan, node in zip(PrecisionPlan.read(graph).nodes, graph.nodes(), strict=True):
        if plan.precision:
            about = {key: node.metadata.get(f"{PREFIX}{key}", "") for key in ("precision", "reason")}
            yield replace(plan, **about)


def _matches(graph: Graph, rules: Sequence[Rule]) -> Iterator[RuleMatches]:
    found = [[node.name for node in nodes] for nodes in planning.matches(graph, rules)]
    last = {name: number for number, names in enumerate(found) for name in names}
    for number, (rule, names) in enumerate(zip(rules, found, strict=True)):
        yield RuleMatches(rule, tuple(names), frozenset(name for name in names if last[name] == number))
