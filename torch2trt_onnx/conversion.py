"""The way of the data: model -> ONNX -> passes -> engine -> report. Read this first.

Not named after its function: importing a module `torch2trt_onnx.convert` would hide `torch2trt_onnx.convert()`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from torch2trt_onnx import building, compare, deciding, exporters, identity, passes, pipeline, planning
from torch2trt_onnx.backends import BuildResult, Progress, find_backend
from torch2trt_onnx.compare import Comparison
from torch2trt_onnx.deciding import Decision
from torch2trt_onnx.errors import PassError
from torch2trt_onnx.exporters import Exported, source
from torch2trt_onnx.gathering import gather
from torch2trt_onnx.graph import Graph, paused_gc
from torch2trt_onnx.inputs import named_outputs
from torch2trt_onnx.limits import Limits
from torch2trt_onnx.manifest import Manifest
from torch2trt_onnx.options import Options
from torch2trt_onnx.plan import AUTO, Asked, PrecisionPlan
from torch2trt_onnx.precision import parse_precisions
from torch2trt_onnx.report import Report
from torch2trt_onnx.result import Conversion, disk_errors, warn, workspace
from torch2trt_onnx.rules import parse_rules
from torch2trt_onnx.shelf import Shelf
from torch2trt_onnx.stages import Recorder, recording
from torch2trt_onnx.weights import WeightStore

if TYPE_CHECKING:
    import torch


OLD_OPSET = 17
"""What the parser of a TensorRT without int64 (8.6) reads: its release notes say up to 17, and from 18 on Reduce operators take their axes
as an input."""


def convert(
    model: object,
    inputs: object = None,
    precisions: object = None,
    *,
    strict: bool = False,
    policy: str | None = None,
    rules: object = None,
    weightless: str = "inherit",
    fidelity: str = "tensorrt",
    outputs: object = None,
    backend: str | None = None,
    options: Options | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    calibration: object = None,
    max_error: object = None,
    keep_stages: bool | str | Path | None = None,
) -> Conversion:
    """Convert a PyTorch or ONNX model to a TensorRT engine, in the precisions that its author chose.

    Args:
        model: an nn.Module, a ScriptModule, the path of a TorchScript or ONNX file, an ExportedProgram, or a ModelProto.
        inputs: `Input`s or example tensors: a list of positional arguments, a dict of keyword arguments, or `(args, kwargs)`;
            arguments may be nested. For ONNX a list in the graph's order, or a dict by name; None where its shapes are static.
        precisions: the set that the engine may use, each as `torch.float16`, `"fp16"`, `Precision.FP16`, ...; None: as the source is typed.
        strict: the set is exact: fp32 is no way out; and the built engine must prove each node's precision.
        policy: "source": each node keeps its source precision where that was asked for. "auto": what the author did not type is lowered
            where it is safe. None: "source"; or, where the model gives no signal, and fp32 and a reduced precision were asked for, "auto",
            or what a weakly typed TensorRT chooses.
        rules: `Rule`s or mappings in a sequence, or the path of a TOML file: precisions of single nodes, over all else.
        weightless: nodes without weights: "inherit" what the source gives them, "fp32", or "free" to take what moves the fewest bytes.
        fidelity: "tensorrt": nodes compute inside as TensorRT does; "pytorch": with Casts, as PyTorch does.
        outputs: `Output`s or dtypes, in the order of the model's or by name, where another type or memory format is wanted than it has.
        backend: None: what can be used here; "rtx"; "tensorrt" (strongly typed from 10 on), "tensorrt-strong", "tensorrt-weak" (8.6 to 10);
            "none": stop at the final ONNX graph.
        options: see `Options`.
        cache: a folder of earlier conversions (`Cache`): what was made from the same model, inputs, options and versions is taken from it.
        calibration: real inputs, on which "auto" measures ranges and errors: samples in an iterable (mappings from input names to arrays,
            or sequences in the order of the inputs), or the path of an .npz, or of a folder of them. None: random numbers; False: nothing.
        max_error: how far the outputs may be from those in fp32, on the calibration data: a number (of the largest |a - b| by the largest
            |b|), an `ErrorLimit`, or a mapping from outputs to either. Nodes stay in fp32 until it holds.
        progress: called with `phase`, `step` and `steps` as each step begins, and while TensorRT builds.
        keep_stages: True: keep the graph as it was exported, and after each pass that changed it, for `Conversion.save` to write to
            `stages/`. A folder: write them there as well, even where the conversion fails. It is made anew, and the cache left alone.

    Returns:
        The ONNX graph, the engine, the plan and the report.

    Raises:
        ConversionError: one of its kinds; see `torch2trt_onnx.errors`.
    """
    options = options or Options()
    asked = Asked(parse_precisions(precisions), strict, policy, parse_rules(rules), weightless, fidelity)
    limits = None if max_error is None else Limits.of(max_error)
    chosen = find_backend(backend)
    targets = chosen.targets(options) if chosen is not None else options.compute_capabilities
    has_int64, is_weak = chosen is None or chosen.capabilities.int64, chosen is not None and chosen.typing == "weak"
    key = partial(
        identity.key,
        inputs=inputs,
        outputs=outputs,
        asked=asked,
        options=options,
        engine=identity.engine_facts(chosen, options),
        calibration=calibration,
        limits=limits,
    )
    clock = _Clock(progress)
    with workspace() as folder, disk_errors(folder), recording(folder, keep_stages) as recorder:
        weights = WeightStore(folder)
        with clock("load"):
            shelf = Shelf(cache if not keep_stages else None, model, key)
            if (known := shelf.find(folder, source.title(model))) is not None:
                return known
            given = source.load(model)
        with clock("export"):
            exported = exporters.export(
                given,
                inputs,
                weights,
                exporter=options.exporter,
                opset=options.opset or asked.opset or (None if has_int64 else OLD_OPSET),
            )
            if (known := shelf.find(folder, given.name, exported)) is not None:
                return known
            wanted = named_outputs(outputs, [o.name for o in exported.model.graph.output])
            request = deciding.Request(
                asked,
                exported.inputs,
                targets,
                folder,
                is_weak,
                calibration,
                limits,
                order=[str(i.name) for i in exported.eager_inputs or exported.inputs],
            )
        with clock("repairs"), paused_gc():
            graph = recorder.begin(Graph(exported.model, weights))
            records = pipeline.run(graph, pipeline.repairs(exported.bindings), recorder.passed)
            records += pipeline.run(graph, deciding.joins(graph, request), recorder.passed, is_typed=True)
        with clock("plan"), paused_gc():
            decision = deciding.decide(graph, request)
            rounded = planning.left(graph)
        recorder.planned(graph, clock.seconds["plan"])
        with clock("lowering"), paused_gc():
            types = building.asked_types(wanted, graph)
            records += pipeline.run(
                graph,
                pipeline.lowering(asked.fidelity, types, has_int64=has_int64),
                recorder.passed,
                is_typed=True,
            )
            plan = _checked_plan(graph)
            # What `MatchPyTorch` computes in fp32 rounds as before.
            rounded += [*planning.left(graph), *plan.counts(), *building.labels(wanted)]
        with clock("write"):
            path = graph.write(folder / "model.onnx")
            notes = [*decision.notes, *_checked(path)]
        job = None
        if chosen is not None:  # now, because what it refuses need not be compared first
            job = chosen.job(building.request(graph, plan, exported.inputs, wanted, path, chosen), options, folder)
        with clock("compare"), paused_gc():
            comparison = (
                _compared(given, exported, graph, path, rounded, types, options, decision) if options.compare else None
            )
        built = None
        if chosen is not None and job is not None:
            with clock("build"):
                built = chosen.build(job, options, folder, progress)
            notes += filter(None, [building.unused(plan, built), *building.untold(plan, built)])
        report = gather(given.name, exported, graph, records, plan, decision, comparison, built, notes)
        _complete(report, clock.seconds, recorder, built)
        conversion = Conversion(
            report,
            path,
            built.engine if built is not None else None,
            signature=exported.signature,
            product=chosen.product if chosen is not None else "",
            stages=recorder,
            manifest=Manifest.of(
                report, options, chosen, source_sha256=shelf.sha256, signature=exported.signature.to_json()
            ),
        )
    warn(shelf.keep(conversion).report)  # last: where warnings are errors, what was made is kept all the same
    return conversion


def _complete(report: Report, seconds: dict[str, float], recorder: Recorder, built: BuildResult | None) -> None:
    """Put into a report what its conversion took, and what it keeps."""
    report.seconds, report.stages = seconds, recorder.told()
    report.sizes = {"weights": sum(weight.bytes for weight in report.weights)}
    if built is not None:
        report.sizes["engine"] = built.engine.stat().st_size


def _checked_plan(graph: Graph) -> PrecisionPlan:
    """The plan of the final graph, whose types must be what it says.

    Raises:
        PassError: they are not, which is a bug of ours.
    """
    plan = PrecisionPlan.read(graph)
    wrong = plan.departures(graph)
    if wrong:
        raise PassError("the graph is not what was planned", why="\n       ".join(wrong), fix=pipeline.REPORT)
    return plan


def _checked(path: Path) -> list[str]:
    """What ONNX's own checker says against the final graph. A warning only: TensorRT takes more than it, and less."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return [f"onnx.checker says of the final graph: {str(error).strip().splitlines()[0]}"]
    return []


def _compared(
    given: source.Source,
    exported: Exported,
    graph: Graph,
    path: Path,
    rounded: Sequence[str],
    types: Mapping[str, int],
    options: Options,
    decision: Decision,
) -> Comparison:
    """Compare the final graph with the model.

    Args:
        given: the model.
        exported: likewise, in ONNX.
        graph: the final graph.
        path: its file.
        rounded: the precisions that either of them rounds to.
        types: output name -> ONNX type, where one was asked for.
        options: of the conversion.
        decision: on the plan; where the user gave data to measure on, its first sample is what is compared on.
    """
    narrowed = decision.policy == AUTO
    tolerance = options.tolerance if options.tolerance is not None else compare.tolerance_of(rounded, narrowed=narrowed)
    device: torch.device | None = None
    if exported.eager is not None:
        import torch

        reference = compare.torch_runner(exported.eager)
        parameters = given.module.parameters() if given.module is not None else iter(())
        device = next((p.device for p in parameters), torch.device("cpu"))
        inputs, what = exported.eager_inputs, "PyTorch, eager, on the CPU"
    else:
        reference, what = _source_runner(exported, graph, path.parent), "the given ONNX model in ONNX Runtime"
        inputs = exported.inputs
    if (sample := decision.sample) is not None:
        inputs = [i.holding(sample[i.name]) if i.name in sample and i.example is None else i for i in inputs]
    return compare.compare(path, graph, reference, inputs, device, tolerance, what=what, asked=types)


def _source_runner(exported: Exported, graph: Graph, folder: Path) -> compare.Runner:
    """The model as it was given, in ONNX Runtime. That does not load ill-typed graphs, which we repair: then nothing is compared."""
    before = Graph(exported.model, graph.weights)
    before.infer_types(strict=False)
    if exported.bindings:
        pipeline.run(before, [passes.BindInputs(exported.bindings)])
    path = before.write(folder / "given.onnx")
    return compare.onnx_runner(path, before, [str(i.name) for i in exported.inputs])


class _Clock:
    """Seconds by step; tells of each step as it begins."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        if self._progress is not None:
            self._progress({"phase": step, "step": 0, "steps": 0})
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = time.perf_counter() - start
