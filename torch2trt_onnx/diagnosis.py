"""When numbers go wrong: the first node that a reduced precision breaks, and why; or that precision is not to blame."""

from __future__ import annotations

import tempfile
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_graphsurgeon as gs

from torch2trt_onnx import compare, exporters, pipeline, planning
from torch2trt_onnx.calibration import Samples, samples
from torch2trt_onnx.culprits import Culprits, Suspect
from torch2trt_onnx.distances import distances
from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.exporters import Exported, source
from torch2trt_onnx.graph import PREFIX, Graph
from torch2trt_onnx.inputs import Input
from torch2trt_onnx.options import Options
from torch2trt_onnx.passes import Pass, Retype
from torch2trt_onnx.placement import FP32
from torch2trt_onnx.plan import Asked
from torch2trt_onnx.precision import FLOATS, ElementType, Precision, label
from torch2trt_onnx.rules import Rule
from torch2trt_onnx.typecheck import compute_type, onnx_type, retyping
from torch2trt_onnx.weights import WeightStore

TOLERANCE = compare.NARROWED
"""Of the largest |a - b| of a tensor by its largest |b|, b in fp32."""

PRECISION, ELSEWHERE, NOTHING = "precision", "not precision", "nothing wrong"


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Args:
        verdict: "precision", "not precision" (fp32 is wrong as well) or "nothing wrong".
        words: the same in a sentence.
        precision: that was tried, or "as it is" for a model that has reduced precisions of its own.
        tolerance: of the relative error.
        data: what it ran on, in words.
        outputs: output -> its relative error; of integers and bools the share of elements that differ.
        broken: the first node that makes something infinite or NaN that is finite in fp32, and that an output is wrong by; None where there
            is none.
        drifting: likewise the first node whose output is finite, and out of tolerance.
        chain: the nodes that lead to the culprit, and it.
        rules: that keep nodes in fp32.
        mended: whether they were tried, and all outputs are within the tolerance then.
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
    rules: Sequence[Rule] = ()
    mended: bool = False

    @property
    def culprit(self) -> Suspect | None:
        """The node to look at."""
        return self.broken or self.drifting

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain data."""
        return {**asdict(self), "rules": [rule.to_json() for rule in self.rules]}


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
        model: as `convert` takes it; or a folder that `Conversion.save` wrote.
        inputs: likewise.
        precision: fp16 or bf16.
        calibration: as `convert` takes it; None: random numbers.
        tolerance: of the relative error: the largest |a - b| of a tensor by its largest |b|, b in fp32.
        options: the exporter and the opset count.

    Raises:
        ConversionError: the model cannot be exported, repaired or run.
    """
    options, wanted = options or Options(), Precision.of(precision)
    if isinstance(model, (str, Path)) and Path(model).is_dir():
        model = Path(model) / "model.onnx"
    with tempfile.TemporaryDirectory(prefix="torch2trt_onnx-") as name:
        folder = Path(name)
        opset = options.opset or Asked(frozenset({wanted})).opset
        given, weights = source.load(model), WeightStore(folder)
        exported = exporters.export(given, inputs, weights, exporter=options.exporter, opset=opset)
        graph = Graph(exported.model, weights)
        pipeline.run(graph, pipeline.repairs(exported.bindings))
        order = [str(i.name) for i in exported.eager_inputs] or None
        data = samples(calibration, exported.inputs, folder / "calibration", order=order)
        trial = _Trial(graph, exported, ElementType.of(wanted).onnx, tolerance, data)
        return trial.judged(_departure(given, exported, graph, data, folder))


class _Trial:
    """A model in fp32, and in a version with reduced precisions.

    Args:
        graph: repaired.
        exported: what it is from.
        to: the type to try where the graph has fp32 alone.
        tolerance: of errors.
        data: to run on.
    """

    def __init__(self, graph: Graph, exported: Exported, to: int, tolerance: float, data: Samples) -> None:
        self._graph, self._tolerance, self._data = graph, tolerance, data
        own = {kind for node in graph.nodes() for t in node.outputs if (kind := onnx_type(t)) in FLOATS - {FP32}}
        self._is_typed, self._to = bool(own), min(own, default=to)
        self.exact = _copy(graph)
        if self._is_typed:
            shapes = {str(i.name): i.opt_shape for i in exported.inputs}
            planning.decide(self.exact, Asked(frozenset({Precision.FP32})), shapes, ())
            _apply(self.exact, Retype())

    def judged(self, departure: str) -> Diagnosis:
        """The verdict.

        Args:
            departure: what is wrong with the graph whatever the precision, in words; "" where nothing is.
        """
        found = self._culprits(())
        what = "as it is" if self._is_typed else label(self._to)
        told = what, self._tolerance, self._data.words, found.outputs
        departure = departure or found.odd()
        if departure:
            return Diagnosis(ELSEWHERE, f"precision is not to blame: {departure}", *told)
        if found.holds:
            return Diagnosis(NOTHING, self._fine(found), *told)
        broken, drifting = found.broken(), found.drifting()
        culprit = broken or drifting
        assert culprit is not None  # an output is wrong, and so the node that makes it
        chain = found.chain(culprit)
        names, mended = self._mend(found, culprit, chain)
        return Diagnosis(
            PRECISION,
            str(found.suspect(culprit)),
            *told,
            found.suspect(broken) if broken is not None else None,
            found.suspect(drifting) if drifting is not None else None,
            [found.suspect(node) for node in chain],
            [Rule(Precision.FP32, name=name) for name in names],
            mended,
        )

    def _fine(self, found: Culprits) -> str:
        if not found.outputs:
            return "no output can be compared"
        largest = max(found.outputs.values())
        text = f"on {self._data.words} the largest relative error of an output is {largest:.2g}"
        return text if self._data.is_real else f"{text}; give data that the model goes wrong on as calibration"

    def _mend(self, found: Culprits, culprit: gs.Node, chain: Sequence[gs.Node]) -> tuple[list[str], bool]:
        """The nodes to keep in fp32, and whether all outputs are within the tolerance then: as few as do, of some that are tried."""
        around = [n.name for n in found.overflowing(culprit)]
        names: list[str] = []
        for more in ([culprit.name], around, [n.name for n in chain]):
            tried = list(dict.fromkeys([*names, *more]))
            if tried != names and self._culprits(tried).holds:
                return tried, True
            names = tried
        return names, False

    def _culprits(self, kept: Container[str]) -> Culprits:
        """What is wrong where the nodes of some names are kept in fp32."""
        reduced = _copy(self._graph)
        for node in reduced.nodes():
            kind = FP32 if node.name in kept else 0 if self._is_typed else self._to
            if kind and _is_free(node, kind, reduced):
                node.metadata[f"{PREFIX}precision"] = label(kind)
        _apply(reduced, Retype())
        kinds = {node.name: kind for node in reduced.nodes() if (kind := compute_type(node))}
        if not kept and all(kind == FP32 for kind in kinds.values()):
            raise PrecisionError(f"no node of the model can run in {label(self._to)}", fix="there is nothing to debug")
        found = distances(self.exact, reduced, self._data)
        return Culprits(self.exact, found, kinds, self._to, self._tolerance)


def _copy(graph: Graph) -> Graph:
    return Graph(graph.to_proto(), graph.weights)


def _apply(graph: Graph, step: Pass) -> None:
    for _ in step.apply(graph):
        pass
    graph.tidy()
    graph.infer_types(strict=False)


def _is_free(node: gs.Node, kind: int, graph: Graph) -> bool:
    """Whether a node that computes with floats can run in a type."""
    return node.op != "Cast" and compute_type(node) != 0 and not isinstance(retyping(node, kind, graph.opset), str)


def _departure(given: source.Source, exported: Exported, graph: Graph, data: Samples, folder: Path) -> str:
    """How far the graph is from PyTorch as it is typed, in words; "" where it is not, or the model is none of PyTorch."""
    if exported.eager is None or given.module is None:
        return ""
    import torch

    sample = next(iter(data))
    inputs = [
        Input(held.shape, name=i.name, dtype=i.dtype, example=torch.from_numpy(held))
        if (held := sample.get(str(i.name))) is not None
        else i
        for i in exported.eager_inputs
    ]
    device = next((p.device for p in given.module.parameters()), torch.device("cpu"))
    kinds = {onnx_type(t) for node in graph.nodes() for t in node.outputs} & FLOATS
    tolerance = compare.tolerance_of([label(kind) for kind in kinds])
    path, reference = graph.write(folder / "given.onnx"), compare.torch_runner(exported.eager)
    found = compare.compare(path, graph, reference, inputs, device, tolerance, what="PyTorch")
    wrong = [f"{o.name!r} by {o.relative:.3g}" for o in found.outputs if o.relative > tolerance]
    where = " in fp32" if kinds == {FP32} else ""
    return f"the ONNX graph{where} differs from PyTorch: {', '.join(wrong)}" if wrong else ""
