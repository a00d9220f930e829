"""What a conversion did, gathered from its parts, and judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch2trt_onnx import work
from torch2trt_onnx.backends import BuildResult
from torch2trt_onnx.compare import Comparison
from torch2trt_onnx.deciding import Decision
from torch2trt_onnx.errors import ProofError
from torch2trt_onnx.exporters import Exported
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.inspection import graph_bindings, weights
from torch2trt_onnx.passes.match_pytorch import differences
from torch2trt_onnx.pipeline import PassRecord
from torch2trt_onnx.plan import PrecisionPlan
from torch2trt_onnx.proof import OVERRIDDEN, prove
from torch2trt_onnx.report import NodeReport, Report, network_labels


def gather(
    name: str,
    exported: Exported,
    graph: Graph,
    records: Sequence[PassRecord],
    plan: PrecisionPlan,
    decision: Decision,
    comparison: Comparison | None,
    built: BuildResult | None,
    notes: Sequence[str],
) -> Report:
    """Put everything together, and judge it.

    Raises:
        ProofError: strict, and the engine does not prove the plan.
    """
    where: dict[str, list[str]] = {}
    for layer in built.layers if built is not None else []:
        for node in layer.nodes:
            where.setdefault(node, []).append(layer.name)
    network = built.network if built is not None else {}
    proven = prove(graph.to_proto(), plan, built) if built is not None else {}
    inside = differences(graph)
    costs = work.costs(graph, {str(i.name): i.opt_shape for i in exported.inputs})
    nodes = [
        NodeReport(
            n,
            network_labels(network.get(n.name, [])),
            tuple(where.get(n.name, ())),
            *((proven[n.name].word, proven[n.name].evidence) if n.name in proven else ("", "")),
            inside.get(n.name, ""),
            costs[n.name].macs,
            costs[n.name].nbytes,
        )
        for n in plan.nodes
    ]
    changes = [(r.name, c.node, c.action, c.why) for r in records if r.name != "AnnotatePrecision" for c in r.changes]
    told = [*exported.warnings, *notes, *_summed(records)]
    told += [f"the graph has no input {n!r}: nothing in it depends on it" for n in exported.lost]
    if comparison is not None:
        told += comparison.shapes
        if not comparison.made:
            told.append(f"the numbers were not compared: {comparison.reference.removeprefix('not made: ')}")
        told += [
            f"output {o.name!r} differs from the reference: {o.dtype} for {o.reference_dtype}, by {o.relative:.3g} "
            f"(tolerance {comparison.tolerance:g})"
            for o in comparison.outputs
            if not o.ok
        ]
    report = Report(
        name,
        plan,
        nodes,
        changes,
        told,
        exported.lost,
        comparison,
        built.backend if built is not None else "",
        built.layers if built is not None else [],
        built.bindings if built is not None else graph_bindings(graph),
        constraints=built.constraints if built is not None else [],
        targets=built.targets if built is not None else (),
        data=decision.words,
        trade=decision.trade,
        weights=weights(graph),
        log=list(dict.fromkeys(built.warnings)) if built is not None else [],
    )
    if plan.asked.strict and built is not None:
        _require_proof(report)
    report.warnings += [_departure(node) for node in nodes if node.differs or node.verdict == OVERRIDDEN]
    return report


def _require_proof(report: Report) -> None:
    """Fail where the engine does not prove that each node runs as planned.

    Raises:
        ProofError: it names every such node, and the evidence.
    """
    lines = [_departure(node) for node in report.unproven()]
    if lines:
        raise ProofError(
            f"When strict is True, the engine must prove each node's precision; {len(lines)} nodes are not as planned, or not proven",
            why="\n       ".join(lines),
            fix="a rule that gives these nodes what TensorRT runs them in, or no strict",
        )


def _departure(node: NodeReport) -> str:
    """What the engine, or else the network, says against a node's plan."""
    planned = "/".join(node.plan.outputs)
    where = f"{node.plan.op} {node.plan.name!r}, planned {planned}"
    if node.differs:
        return f"{where}, is {'/'.join(node.network)} in TensorRT's network"
    return f"{where}, is {node.verdict}: {node.evidence}"


def _summed(records: Sequence[PassRecord]) -> Iterator[str]:
    """One warning for each kind of change that the user must hear of, with all nodes by name."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for change in record.changes:
            if change.warn:
                kinds.setdefault((change.action, change.why), []).append(change.node)
    for (action, why), names in kinds.items():
        yield f"{', '.join(map(repr, names))}: {action} ({why})"
