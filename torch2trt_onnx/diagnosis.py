"""When numbers go wrong: the first node that a reduced precision breaks, and why; or that precision is not to blame."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from torch2trt_onnx import compare, exporters, pipeline, planning, ranges
from torch2trt_onnx.calibration import Samples, samples
from torch2trt_onnx.distances import Distance, distances
from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.exporters import Exported, source
from torch2trt_onnx.graph import PREFIX, Graph, subgraphs
from torch2trt_onnx.losses import Losses, constants_of, limits_of
from torch2trt_onnx.options import Options
from torch2trt_onnx.passes import EmulateReduced, Pass, Retype
from torch2trt_onnx.placement import FP32, inner_first
from torch2trt_onnx.plan import Asked
from torch2trt_onnx.precision import FLOATS, ElementType, Precision, label
from torch2trt_onnx.rules import Rule
from torch2trt_onnx.typecheck import NO_PRECISION, compute_type, onnx_type, retyping
from torch2trt_onnx.weights import WeightStore

TOLERANCE = 5e-2
"""Of the largest |a - b| of a tensor by its largest |b|: what makes a model wrong for most, far above fp16's rounding (5e-4 a node)."""

CHAIN = 5  # nodes of it that are told

PRECISION, ELSEWHERE, NOTHING = "precision", "not precision", "nothing wrong"


@dataclass(frozen=True)
class Suspect:
    """A node, and what is known of it.

    Args:
        name, op, module, source: as in `plan.NodePlan`.
        reason: what happens there, in words.
        error: the largest relative error of its outputs in the reduced precision; infinite where they are.
        largest: of its outputs, in fp32.
        inputs: tensor -> (largest absolute value in fp32, relative error in the reduced precision).
    """

    name: str
    op: str
    module: str
    source: str
    reason: str
    error: float
    largest: float
    inputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        where = ", ".join(filter(None, (f"module {self.module}" if self.module else "", self.source)))
        return f"{self.op} {self.name!r}{f' ({where})' if where else ''}: {self.reason}"


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Args:
        verdict: "precision", "not precision" (fp32 is wrong as well) or "nothing wrong".
        words: the same in a sentence.
        precision: that was tried, or "as it is" for a model that has one.
        tolerance: of the relative error.
        data: what it ran on, in words.
        outputs: output -> its relative error.
        broken: the first node that makes something infinite or NaN that is finite in fp32; None where there is none.
        drifting: the first node whose output is out of tolerance; None where there is none.
        chain: the nodes where the error grows most, in order.
    """

    verdict: str
    words: str
    precision: str
    tolerance: float
    data: str
    outputs: Mapping[str, float]
    broken: Suspect | None = None
    drifting: Suspect | None = None
    chain: Sequence[Suspect] = ()

    @property
    def culprit(self) -> Suspect | None:
        """The node to look at."""
        return self.broken or self.drifting

    @property
    def rule(self) -> Rule | None:
        """The rule that keeps it in fp32."""
        return Rule(Precision.FP32, name=self.culprit.name) if self.culprit is not None else None

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain data."""
        return asdict(self)


def debug(
    model: object,
    inputs: object = None,
    *,
    precision: object = Precision.FP16,
    calibration: object = None,
    tolerance: float = TOLERANCE,
    options: Options | None = None,
) -> Diagnosis:
    """Find the first node that goes wrong in a reduced precision and not in fp32.

    An fp32 model is tried with every node in `precision` that can be; a model that has reduced precisions of its own as it is, against all
    of it in fp32. Both versions run in one ONNX Runtime session, in which each reduced node computes in fp32 and rounds; only what is
    compared leaves it. Of the bodies of If, Loop and Scan it is told where something becomes infinite or NaN, not how errors grow.

    Args:
        model: as `convert` takes it.
        inputs: likewise.
        precision: fp16 or bf16.
        calibration: as `convert` takes it; None: random numbers.
        tolerance: of the relative error: the largest |a - b| of a tensor by its largest |b|, b in fp32.
        options: the exporter and the opset count.

    Raises:
        ConversionError: the model cannot be exported, repaired or run.
    """
    options, to = options or Options(), ElementType.of(Precision.of(precision)).onnx
    with tempfile.TemporaryDirectory(prefix="torch2trt_onnx-") as name:
        folder = Path(name)
        weights = WeightStore(folder)
        asked = Asked(frozenset({Precision.FP32}))
        opset = options.opset or Asked(frozenset({Precision.of(precision)})).opset
        exported = exporters.export(source.load(model), inputs, weights, exporter=options.exporter, opset=opset)
        graph = Graph(exported.model, weights)
        pipeline.run(graph, pipeline.repairs(exported.bindings))
        data = samples(calibration, exported.inputs, folder / "calibration")
        is_typed = any(onnx_type(t) in FLOATS - {FP32} for n in graph.nodes() for t in (*n.inputs, *n.outputs))
        exact, reduced = _copy(graph), _copy(graph)
        if is_typed:
            shapes = {str(i.name): i.opt_shape for i in exported.inputs}
            planning.decide(exact, asked, shapes, ())
            _apply(exact, Retype())
        else:
            _lower(reduced, to)
            _apply(reduced, Retype())
        rounded = _copy(reduced)
        _apply(rounded, EmulateReduced())
        trial = _Trial(exact, reduced, distances(exact, rounded, data), to, tolerance, data)
        what = "as it is" if is_typed else label(to)
        return trial.judged(what, _departure(exported, exact, data, folder))


def _copy(graph: Graph) -> Graph:
    return Graph(graph.to_proto(), graph.weights)


def _apply(graph: Graph, step: Pass) -> None:
    for _ in step.apply(graph):
        pass
    graph.tidy()
    graph.infer_types(strict=False)


def _lower(graph: Graph, to: int) -> None:
    """Plan every node in a precision that can run in it, whatever it computes."""
    foreign = {
        id(n) for node in graph.nodes() if node.op not in NO_PRECISION for b in subgraphs(node) for n in inner_first(b)
    }
    for node in graph.nodes():
        can = compute_type(node) == FP32 and node.op != "Cast" and id(node) not in foreign
        if can and not isinstance(retyping(node, to, graph.opset), str):
            node.metadata[f"{PREFIX}precision"] = label(to)
    if not any(node.metadata.get(f"{PREFIX}precision") == label(to) for node in graph.nodes()):
        raise PrecisionError(f"no node of the model can run in {label(to)}", fix="there is nothing to debug")


def _departure(exported: Exported, exact: Graph, data: Samples, folder: Path) -> str:
    """How far the fp32 graph is from PyTorch, in words; "" where it is not, or the source is ONNX."""
    if exported.eager is None or any(onnx_type(t) != FP32 and onnx_type(t) in FLOATS for t in exact.ir.inputs):
        return ""
    sample = next(iter(data))
    given = [i.holding(sample[str(i.name)]) for i in exported.eager_inputs if str(i.name) in sample]
    if len(given) != len(exported.eager_inputs):
        return ""
    path = exact.write(folder / "exact.onnx")
    reference = compare.torch_runner(exported.eager)
    tolerance = compare.TOLERANCES[Precision.FP32]
    found = compare.compare(path, exact, reference, given, None, tolerance, what="PyTorch")
    wrong = [f"{o.name!r} by {o.relative:.3g}" for o in found.outputs if o.relative > tolerance]
    return f"the ONNX graph in fp32 differs from PyTorch: {', '.join(wrong)}" if wrong else ""


class _Trial:
    """Both versions, and how far they are from each other."""

    def __init__(
        self, exact: Graph, reduced: Graph, found: Mapping[str, Distance], to: int, tolerance: float, data: Samples
    ) -> None:
        self.exact, self.reduced, self.found = exact, reduced, found
        self.to, self.tolerance, self.data = to, tolerance, data
        self.name, self.largest = label(to), float(limits_of(to).max)
        self.losses = Losses(exact)

    def judged(self, what: str, departure: str) -> Diagnosis:
        """The verdict."""
        outputs = {t.name: self._error(t.name) for t in self.exact.ir.outputs if t.name in self.found}
        told = what, self.tolerance, self.data.words, outputs
        wrong = self._wrong_in_fp32()
        if departure or wrong:
            return Diagnosis(ELSEWHERE, f"precision is not to blame: {departure or wrong}", *told)
        broken, drifting = self._broken(), self._drifting()
        if all(error <= self.tolerance for error in outputs.values()):
            largest = max(outputs.values(), default=0.0)
            text = f"nothing is wrong on {self.data.words}: the largest relative error of an output is {largest:.3g}"
            return Diagnosis(NOTHING, text, *told)
        first = broken or drifting
        return Diagnosis(
            PRECISION,
            f"{first}" if first is not None else "only outputs differ",
            *told,
            broken,
            drifting,
            self._chain(),
        )

    def _error(self, name: str) -> float:
        found = self.found[name]
        return float("inf") if found.breaks else found.relative

    def _wrong_in_fp32(self) -> str:
        """What is wrong with the outputs in fp32 already; a mask may hold infinities inside the model."""
        for tensor in self.exact.ir.outputs:
            found = self.found.get(tensor.name)
            if found is None or not found.odd[0]:
                continue
            has_nan = bool(found.nan[0])
            for node in self.exact.ir.nodes:
                made = [self.found[t.name] for t in node.outputs if t.name in self.found]
                if any(d.nan[0] if has_nan else d.odd[0] for d in made):
                    kind = "NaN" if has_nan else "infinities"
                    return f"output {tensor.name!r} holds {kind} in fp32 as well, first made by {node.op} {node.name!r}"
        return ""

    def _broken(self) -> Suspect | None:
        """The first node that breaks something; inside a body, where it is one of its nodes."""
        inside = self._broken_inside()
        for node in self.exact.ir.nodes:
            found = next((n for body in subgraphs(node) for n in inner_first(body) if n.name in inside), None)
            if found is not None:
                return self._suspect(found, inside[found.name], float("inf"))
            if any(self.found[t.name].breaks for t in node.outputs if t.name in self.found):
                return self._suspect(node, self._why_broken(node), float("inf"))
        return None

    def _broken_inside(self) -> dict[str, str]:
        """Nodes in bodies that make something infinite or NaN in the reduced precision alone -> why."""
        bodies = [body for node in self.exact.ir.nodes for body in subgraphs(node)]
        if not bodies:
            return {}
        exact, reduced = (ranges.measure(graph, self.data) for graph in (self.exact, self.reduced))
        found = {}
        for node in (n for body in bodies for n in inner_first(body)):
            for tensor in node.outputs:
                before, after = exact.get(tensor.name), reduced.get(tensor.name)
                if before is not None and after is not None and after.nonfinite > before.nonfinite:
                    found[node.name] = (
                        f"its output reaches {before.largest:g} in fp32, and {after.nonfinite} of {after.elements} values are not finite "
                        f"in {self.name}, which ends at {self.largest:g}"
                    )
        return found

    def _why_broken(self, node: gs.Node) -> str:
        made = max((self.found[t.name].scale for t in node.outputs if t.name in self.found), default=0.0)
        if made > self.largest:
            return f"its output reaches {made:g} in fp32, and {self.name} ends at {self.largest:g}"
        for tensor in node.inputs:
            read = self.found[tensor.name].scale if tensor.name in self.found else 0.0
            if read > self.largest:
                return f"it reads {tensor.name!r}, which reaches {read:g}, and {self.name} ends at {self.largest:g}"
        for constant in constants_of(node):
            loss = self.losses.of(constant, self.to)
            if loss.infinite or loss.zero:
                return f"its initializer {constant.name!r}: {loss.words(self.name)}"
        return "it makes of finite numbers in fp32 what is infinite or NaN: it divides by, or takes the root of, what rounding made zero"

    def _drifting(self) -> Suspect | None:
        for node in self.exact.ir.nodes:
            errors = [self._error(t.name) for t in node.outputs if t.name in self.found]
            if errors and max(errors) > self.tolerance:
                return self._suspect(node, self._why_drifting(node, max(errors)), max(errors))
        return None

    def _why_drifting(self, node: gs.Node, error: float) -> str:
        known = [self.found[t.name] for t in node.inputs if t.name in self.found]
        before = max((d.relative for d in known), default=0.0)
        text = f"its error grows from {before:.2g} at its inputs to {error:.2g}"
        made = max((self.found[t.name].scale for t in node.outputs if t.name in self.found), default=0.0)
        read = max((d.scale for d in known), default=0.0)
        if node.op in ("Sub", "Add") and read > 8 * made:
            return f"{text}: numbers of up to {read:.3g} cancel to {made:.3g}"
        for constant in constants_of(node):
            loss = self.losses.of(constant, self.to)
            if loss.infinite or loss.zero or loss.share > 0.01:
                return f"{text}: its initializer {constant.name!r}: {loss.words(self.name)}"
        return text

    def _chain(self) -> Sequence[Suspect]:
        """The nodes where the error grows most, before the first one that goes wrong and behind it."""
        grown: list[tuple[float, int, gs.Node, float]] = []
        for place, node in enumerate(self.exact.ir.nodes):
            errors = [self._error(t.name) for t in node.outputs if t.name in self.found]
            before = max((self._error(t.name) for t in node.inputs if t.name in self.found), default=0.0)
            if errors and max(errors) > before:
                grown.append((max(errors) - before, place, node, max(errors)))
        most = sorted(sorted(grown, key=lambda g: -g[0])[:CHAIN], key=lambda g: g[1])
        return tuple(self._suspect(node, self._why_drifting(node, error), error) for _, _, node, error in most)

    def _suspect(self, node: gs.Node, reason: str, error: float) -> Suspect:
        inputs = {
            t.name: (self.found[t.name].scale, self.found[t.name].relative) for t in node.inputs if t.name in self.found
        }
        made = max((self.found[t.name].scale for t in node.outputs if t.name in self.found), default=0.0)
        module, place = (node.metadata.get(f"{PREFIX}{key}", "") for key in ("module", "source"))
        return Suspect(node.name, node.op, module, place, reason, error, made, inputs)
