"""From a repaired graph to its plan: who decides, what is measured for it, and whether the accuracy budget holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch2trt_onnx import budget, pipeline, planning, ranges
from torch2trt_onnx.budget import Trade
from torch2trt_onnx.calibration import Sample, Samples, samples
from torch2trt_onnx.errors import CalibrationError, PrecisionError
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.inputs import Input
from torch2trt_onnx.limits import Limits
from torch2trt_onnx.plan import AUTO, Asked
from torch2trt_onnx.precision import Precision
from torch2trt_onnx.safety import Evidence

Shapes = Mapping[str, Sequence[int | None]]

ROUNDS = 8
"""How often a plan is held to the accuracy budget, at most."""


@dataclass(frozen=True)
class Request:
    """What a plan is decided on, beside the graph.

    Args:
        asked: of the precisions.
        inputs: of the graph.
        targets: the compute capabilities to build for.
        folder: for temporary files.
        weak: whether it is for a weakly typed TensorRT, which can choose by itself.
        calibration: what `calibration.samples` takes; None: random numbers, where something is to be measured; False: nothing is.
        limits: of the errors of the outputs; None: none.
        order: the names of the model's inputs, with those that the graph has lost; None: those of `inputs`.
    """

    asked: Asked
    inputs: Sequence[Input]
    targets: Sequence[str]
    folder: Path
    weak: bool = False
    calibration: object = None
    limits: Limits | None = None
    order: Sequence[str] | None = None


@dataclass(frozen=True)
class Decision:
    """What came of it, beside the plan that the graph now holds.

    Args:
        policy: who decided; see `planning.policy`.
        notes: warnings.
        data: what it was measured on; None where nothing was.
        trade: of the accuracy budget; None where there is none.
        measured: whether ranges or errors were measured on the data.
    """

    policy: str
    notes: list[str]
    data: Samples | None = None
    trade: Trade | None = None
    measured: bool = False

    @property
    def words(self) -> str:
        """What it was measured on, in words; "" where it could not be."""
        return self.data.words if self.data is not None and self.measured else ""

    @property
    def sample(self) -> Sample | None:
        """The first sample of the user's own."""
        return next(iter(self.data)) if self.data is not None and self.data.is_real else None


def joins(graph: Graph, request: Request) -> list[pipeline.Step]:
    """The passes to run before `decide`, which depend on who decides."""
    return pipeline.joins(_policy(graph, request), request.asked.rules)


def decide(graph: Graph, request: Request) -> Decision:
    """Write the plan into the graph.

    Raises:
        ConversionError: what is asked for cannot be; the calibration data does not fit; or the budget cannot be held.
    """
    asked, limits = request.asked, request.limits
    policy = _policy(graph, request)
    shapes = {str(i.name): i.opt_shape for i in request.inputs}
    data = _data(request, policy)
    evidence, notes = _measured(graph, data, policy, asked)
    evidence = replace(evidence, is_static=not any(i.is_dynamic for i in request.inputs))

    annotated = [(node, dict(node.metadata)) for node in graph.nodes()]

    def plan(evidence: Evidence) -> list[str]:
        for node, about in annotated:  # a plan is written over what it is made from
            node.metadata = dict(about)
        return planning.decide(graph, asked, shapes, request.targets, policy=policy, evidence=evidence)

    planned, trade = plan(evidence), None
    if limits is not None and data is not None:
        for _ in range(ROUNDS):
            # A plan with more nodes in fp32 has its borders elsewhere, so it is held to the limits again.
            found = _held(graph, data, limits, shapes, asked)
            trade = found if trade is None else trade.then(found)
            if not found.kept:
                break
            planned = plan(replace(evidence, kept=trade.kept))
        else:
            raise PrecisionError(
                f"max_error is not held after {ROUNDS} rounds, each of which kept more nodes in fp32",
                why=f"{len(trade.kept) if trade is not None else 0} nodes are kept by now",
                fix="allow a little more, or keep more nodes in fp32 by rules",
            )
    return Decision(policy, [*notes, *planned], data, trade, bool(evidence.ranges) or trade is not None)


def _policy(graph: Graph, request: Request) -> str:
    """Who decides. What the compiler would choose is not known here, so there is no holding it to a budget."""
    return planning.policy(graph, request.asked, weak=request.weak and request.limits is None)


def _held(graph: Graph, data: Samples, limits: Limits, shapes: Shapes, asked: Asked) -> Trade:
    """What to keep in fp32 of the plan that stands.

    Raises:
        PrecisionError: the budget cannot be held.
    """
    if not asked.strict or asked.precisions is None or Precision.FP32 in asked.precisions:
        return budget.hold(graph, data, limits, shapes, planning.movable(graph))
    try:
        return budget.hold(graph, data, limits, shapes, ())
    except PrecisionError as error:
        raise PrecisionError(
            f"When strict is True, the precisions are exact ({asked.words}), and max_error cannot be held in them",
            why=error.why,
            fix="add fp32 to precisions, or leave strict out",
        ) from error


def _data(request: Request, policy: str) -> Samples | None:
    """What there is to measure on, where something is to be measured."""
    given = request.calibration
    if given is False and request.limits is not None:
        raise PrecisionError("max_error needs data to measure errors on", fix="leave calibration=False out")
    if given is False or (given is None and policy != AUTO and request.limits is None):
        return None
    return samples(given, request.inputs, request.folder / "calibration", order=request.order)


def _measured(graph: Graph, data: Samples | None, policy: str, asked: Asked) -> tuple[Evidence, list[str]]:
    """The ranges of the tensors, where they have a say: where a node of an fp32 model may stay in fp32.

    That random numbers do not run through the model is no reason to fail: the initializers are left to judge by.
    """
    narrows = not asked.strict and asked.precisions is not None and Precision.FP32 not in asked.precisions
    if data is None or not (policy == AUTO or narrows):
        return Evidence(), []
    try:
        found = ranges.measure(graph, data)
    except CalibrationError as error:
        if data.is_real:
            raise
        return Evidence(), [f"no ranges were measured, and only initializers were judged: {error.what}: {error.why}"]
    return Evidence(found, data.words, data.is_real), []
