"""The way of the data: model -> ONNX -> passes -> engine -> report. Read this first.

Not named after its function: importing a module `torch2trt_onnx.convert` would hide `torch2trt_onnx.convert()`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from torch2trt_onnx import building, compare, exporters, identity, passes, pipeline, planning
from torch2trt_onnx.backends import Progress, find_backend
from torch2trt_onnx.compare import Comparison
from torch2trt_onnx.errors import PassError, PrecisionError
from torch2trt_onnx.exporters import Exported, source
from torch2trt_onnx.gathering import gather
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.inputs import named_outputs
from torch2trt_onnx.manifest import Manifest
from torch2trt_onnx.options import Options
from torch2trt_onnx.plan import Asked, PrecisionPlan
from torch2trt_onnx.precision import Precision, parse_precisions
from torch2trt_onnx.report import Report
from torch2trt_onnx.result import Conversion, disk_errors, warn, workspace
from torch2trt_onnx.rules import parse_rules
from torch2trt_onnx.shelf import Shelf
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
) -> Conversion:
    """Convert a PyTorch or ONNX model to a TensorRT engine, in the precisions that its author chose.

    Args:
        model: an nn.Module, a ScriptModule, the path of a TorchScript or ONNX file, an ExportedProgram, or a ModelProto.
        inputs: `Input`s or example tensors: a list of positional arguments, a dict of keyword arguments, or `(args, kwargs)`;
            arguments may be nested. For ONNX a list in the graph's order, or a dict by name; None where its shapes are static.
        precisions: the set that the engine may use, each as `torch.float16`, `"fp16"`, `Precision.FP16`, ...; None: as the source is typed.
        strict: the set is exact: fp32 is no way out; and the built engine must prove each node's precision.
        policy: "source": each node keeps its source precision where that was asked for. None: so too, but a weakly typed TensorRT chooses
            where the model gives no signal. "auto" is not built yet.
        rules: `Rule`s or mappings in a sequence, or the path of a TOML file: precisions of single nodes, over all else.
        weightless: nodes without weights: "inherit" what the source gives them, "fp32", or "free" to take what moves the fewest bytes.
        fidelity: "tensorrt": nodes compute inside as TensorRT does; "pytorch": with Casts, as PyTorch does.
        outputs: `Output`s or dtypes, in the order of the model's or by name, where another type or memory format is wanted than it has.
        backend: None: what can be used here; "rtx"; "tensorrt" (strongly typed from 10 on), "tensorrt-strong", "tensorrt-weak" (8.6 to 10);
            "none": stop at the final ONNX graph.
        options: see `Options`.
        cache: a folder of earlier conversions (`Cache`): what was made from the same model, inputs, options and versions is taken from it.
        progress: called with `phase`, `step` and `steps` as each step begins, and while TensorRT builds.

    Returns:
        The ONNX graph, the engine, the plan and the report.

    Raises:
        ConversionError: one of its kinds; see `torch2trt_onnx.errors`.
    """
    options = options or Options()
    asked = Asked(parse_precisions(precisions), strict, policy, parse_rules(rules), weightless, fidelity)
    _refuse_fidelity(asked)
    chosen = find_backend(backend)
    targets = chosen.targets(options) if chosen is not None else options.compute_capabilities
    has_int64 = chosen is None or chosen.capabilities.int64
    key = partial(
        identity.key,
        inputs=inputs,
        outputs=outputs,
        asked=asked,
        options=options,
        engine=identity.engine_facts(chosen, options),
    )
    clock = _Clock(progress)
    with workspace() as folder, disk_errors(folder):
        weights = WeightStore(folder)
        with clock("load"):
            shelf = Shelf(cache, model, key)
            if (known := shelf.find(folder, source.title(model))) is not None:
                return known
            given = source.load(model)
        with clock("export"):
            opset = options.opset or asked.opset or (None if has_int64 else OLD_OPSET)
            exported = exporters.export(given, inputs, weights, exporter=options.exporter, opset=opset)
            if (known := shelf.find(folder, given.name, exported)) is not None:
                return known
            wanted = named_outputs(outputs, [o.name for o in exported.model.graph.output])
        with clock("passes"), _paused_gc():
            graph = Graph(exported.model, weights)
            records = pipeline.run(graph, pipeline.repairs(exported.bindings))
            shapes = {str(i.name): i.opt_shape for i in exported.inputs}
            weak = chosen is not None and chosen.typing == "weak"
            notes = planning.decide(graph, asked, shapes, targets, compiler_chooses=weak)
            left = planning.left(graph)
            types = building.asked_types(wanted, graph)
            records += pipeline.run(graph, pipeline.lowering(asked.fidelity, types, has_int64=has_int64))
            left += planning.left(graph)  # what `MatchPyTorch` computes in fp32, and rounds as before
            plan = _checked_plan(graph)
        with clock("write"):
            path = graph.write(folder / "model.onnx")
            notes += _checked(path)
        job = None
        if chosen is not None:  # now, because what it refuses need not be compared first
            job = chosen.job(building.request(graph, plan, exported.inputs, wanted, path, chosen), options, folder)
        with clock("compare"), _paused_gc():
            rounded = [*plan.counts(), *left, *building.labels(wanted)]
            comparison = (
                _compared(given, exported, graph, path, rounded, types, options, folder) if options.compare else None
            )
        built = None
        if chosen is not None and job is not None:
            with clock("build"):
                built = chosen.build(job, options, folder, progress)
            notes += filter(None, [building.unused(plan, built), *building.untold(plan, built)])
        report = gather(given.name, exported, graph, records, plan, comparison, built, notes)
        engine = built.engine if built is not None else None
        _measure(report, clock.seconds, weights.nbytes(graph.to_proto()), engine)
        conversion = Conversion(
            report,
            path,
            engine,
            signature=exported.signature,
            product=chosen.product if chosen is not None else "",
            manifest=Manifest.of(
                report,
                options,
                chosen,
                source_sha256=shelf.mark.sha256 if shelf.mark is not None else None,
                signature=exported.signature.to_json(),
            ),
        )
    warn(shelf.keep(conversion).report)  # last: where warnings are errors, what was made is kept all the same
    return conversion


def _measure(report: Report, seconds: dict[str, float], weights: int, engine: Path | None) -> None:
    report.seconds, report.sizes = seconds, {"weights": weights}
    if engine is not None:
        report.sizes["engine"] = engine.stat().st_size


def _refuse_fidelity(asked: Asked) -> None:
    """Fail where PyTorch's arithmetic is asked for, and fp32 is not: that is what PyTorch computes in inside its fp16 kernels.

    Raises:
        PrecisionError: it is so.
    """
    if asked.fidelity == "pytorch" and asked.strict and asked.precisions and Precision.FP32 not in asked.precisions:
        raise PrecisionError(
            f"When strict is True, the precisions are exact ({asked.words}), and fidelity='pytorch' needs fp32 among them",
            why="PyTorch computes Softmax, LayerNorm, Gelu and others in fp32 inside, and its Casts say so to TensorRT",
            fix="add fp32 to precisions, or leave strict or fidelity out",
        )


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
    folder: Path,
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
        folder: for temporary files.
    """
    tolerance = options.tolerance if options.tolerance is not None else compare.tolerance_of(rounded)
    device: torch.device | None = None
    if exported.eager is not None:
        import torch

        reference = compare.torch_runner(exported.eager)
        parameters = given.module.parameters() if given.module is not None else iter(())
        device = next((p.device for p in parameters), torch.device("cpu"))
        inputs, what = exported.eager_inputs, "PyTorch, eager, on the CPU"
    else:
        reference, what = _source_runner(exported, graph, folder), "the given ONNX model in ONNX Runtime"
        inputs = exported.inputs
    return compare.compare(path, graph, reference, inputs, device, tolerance, what=what, asked=types)


def _source_runner(exported: Exported, graph: Graph, folder: Path) -> compare.Runner:
    """The model as it was given, in ONNX Runtime. That does not load ill-typed graphs, which we repair: then nothing is compared."""
    before = Graph(exported.model, graph.weights)
    before.infer_types(strict=False)
    if exported.bindings:
        pipeline.run(before, [passes.BindInputs(exported.bindings)])
    path = before.write(folder / "given.onnx")
    return compare.onnx_runner(path, before, [str(i.name) for i in exported.inputs])


@contextmanager
def _paused_gc() -> Iterator[None]:
    """No cyclic garbage collection while graphs are built, and one when they are done with.

    A graph of 64,000 nodes is a million objects that all live; searching them again and again for garbage made the time per
    node grow with the size.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
            gc.collect()


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
