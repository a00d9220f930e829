"""What a file tells of itself, and what this machine can do."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import tempfile
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from torch2trt_onnx import fitness, stages, work
from torch2trt_onnx.backends import Backend, load_engine
from torch2trt_onnx.backends.layers import Binding
from torch2trt_onnx.errors import ConversionError, EngineMismatchError, SourceError
from torch2trt_onnx.exporters import source
from torch2trt_onnx.graph import PREFIX, Graph, authored_type, paused_gc
from torch2trt_onnx.manifest import ENGINE, REPORT, Manifest
from torch2trt_onnx.passes import AnnotatePrecision
from torch2trt_onnx.passes.match_pytorch import differences
from torch2trt_onnx.plan import PrecisionPlan
from torch2trt_onnx.precision import label
from torch2trt_onnx.report import SCHEMA, NodeReport, Report, Weight
from torch2trt_onnx.schema import wrong
from torch2trt_onnx.typecheck import onnx_type
from torch2trt_onnx.weights import WeightStore, check_external, nbytes_of

ENGINES = (".engine", ".plan", ".trt")
"""What files of engines are called."""


def read(path: Path) -> Report:
    """The report of a saved folder or the engine in it, or of an ONNX file, ours or another's; of a stage with what was done before; of an
    engine alone what it tells where it can be loaded.

    Raises:
        SourceError: it is none of these.
        ManifestError, EngineMismatchError: an engine is not that of the report beside it.
        BackendError, InspectionError: an engine alone cannot be loaded here, or tells nothing.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix in ENGINES and path.is_file():
        return _read_engine(path)
    path = stages.find(path)
    model = source.load_onnx(path)
    check_external(model, path)
    try:
        report = _read_onnx(path, model)
    except ConversionError:
        raise
    except Exception as error:  # whatever onnx and graphsurgeon raise at a graph that is none
        why = f"{type(error).__name__}: {error}"
        raise SourceError("the graph of the file cannot be read", where=str(path), why=why) from error
    if (path.parent / stages.INDEX).is_file():
        _add_history(report, path)
    return report


def _read_engine(path: Path) -> Report:
    folder = path.parent
    if path.name != ENGINE or not (folder / REPORT).is_file():
        alone = load_engine(path)
        return Report(
            str(path),
            PrecisionPlan(()),
            [],
            backend=alone.backend,
            layers=alone.layers,
            bindings=alone.bindings,
            sizes={"engine": path.stat().st_size},
        )
    manifest = Manifest.read(folder)
    wrong_files = fitness.hashes(manifest.files, [name for name in (ENGINE, REPORT) if name in manifest.files], folder)
    if wrong_files:
        raise EngineMismatchError(
            "the engine is not the one that the report beside it tells of",
            where=str(path),
            why="\n       ".join(map(str, wrong_files)),
            fix="inspect the folder that it came from, or convert and save again",
        )
    return _read_folder(folder)


def _add_history(report: Report, path: Path) -> None:
    """Tell what was done before a stage: the index beside it does."""
    known = stages.read(path.parent)
    last = max((at for at, stage in enumerate(known) if stage.file == path.name), default=-1)
    report.changes = [(stage.name, *change) for stage in known[: last + 1] for change in stage.changes]


def _read_folder(path: Path) -> Report:
    file = path / "report.json"
    try:
        data = json.loads(file.read_bytes())
        problem = wrong(data, SCHEMA, "the report")
        if not problem and data["backend"] and "engine" not in data["sizes"]:
            problem = "the report tells no size of its engine"
        if problem:
            raise ValueError(problem)
        return Report.from_json(data)
    except FileNotFoundError:
        raise SourceError(
            "the folder holds no report of a conversion", where=str(file), fix="name a folder that `convert -o` wrote"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConversionError) as error:
        why = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise SourceError(
            "the report of the conversion cannot be read",
            where=str(file),
            why=why,
            fix="another version wrote it, or it is damaged: convert and save it again",
        ) from None


def _read_onnx(path: Path, model: onnx.ModelProto) -> Report:
    with tempfile.TemporaryDirectory() as folder, paused_gc():
        graph = Graph(model, WeightStore(Path(folder)))
        graph.infer_types(strict=False)
        if not any(f"{PREFIX}precision" in node.metadata for node in graph.nodes()):
            for _ in AnnotatePrecision().apply(graph):
                pass  # another's file: it is annotated here, in memory
        plan = PrecisionPlan.read(graph)
        inside = differences(graph)
        costs = work.costs(graph)
        nodes = [
            NodeReport(n, inside=inside.get(n.name, ""), work=costs[n.name].macs, bytes=costs[n.name].nbytes)
            for n in plan.nodes
        ]
        return Report(str(path), plan, nodes, bindings=graph_bindings(graph), weights=weights(graph))


def declared_bindings(path: Path) -> tuple[dict[str, tuple[int, ...] | None] | None, list[str] | None]:
    """The inputs of an ONNX file, each with its shape where that is static, and the names of its outputs; None of another file, before
    it is exported.

    Raises:
        SourceError: the file cannot be read.
    """
    model = source.load(path).onnx_model
    if model is None:
        return None, None
    weights = {w.name for w in model.graph.initializer}
    inputs: dict[str, tuple[int, ...] | None] = {}
    for value in model.graph.input:
        if value.name not in weights:
            dims = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            inputs[value.name] = dims if all(dims) else None
    return inputs, [o.name for o in model.graph.output]


def graph_bindings(graph: Graph) -> list[Binding]:
    """The inputs and outputs of a graph, a dynamic dimension as -1."""
    found = []
    for mode, tensors in (("Input", graph.ir.inputs), ("Output", graph.ir.outputs)):
        for tensor in tensors:
            dims = tuple(d if isinstance(d, int) else -1 for d in tensor.shape or ())
            found.append(Binding(tensor.name, mode, label(onnx_type(tensor)), dims, ""))
    return found


def weights(graph: Graph) -> list[Weight]:
    """The initializers that the nodes of a graph read, in their order."""
    read = {id(t): t for node in graph.nodes() for t in node.inputs if isinstance(t, gs.Constant)}
    found = []
    for tensor in read.values():
        kind, dims = onnx_type(tensor), tuple(map(int, tensor.shape))
        found.append(Weight(tensor.name, label(kind), dims, nbytes_of(kind, dims), authored_type(tensor)))
    return found


def diagnose() -> dict[str, str]:
    """What is installed, and what can be built with it."""
    from torch2trt_onnx.backends import BACKENDS

    found = {"python": platform.python_version()}
    for package in ("torch2trt_onnx", "torch", "onnx", "onnxruntime", "onnx-graphsurgeon", "onnxscript"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    for name, backend in BACKENDS.items():
        reason = backend.missing()
        found[f"backend {name}"] = f"cannot be used: {reason}" if reason else f"{backend.title}: {_abilities(backend)}"
    found["exporter dynamo"] = "available" if found["onnxscript"] != "not installed" else "needs onnxscript"
    found["GPU"] = _gpu()
    return found


def _abilities(backend: Backend) -> str:
    """What a back end can do here, in words."""
    can = backend.capabilities
    types = ", ".join(name for name in ("bf16", "fp8", "int4", "int64") if can.table()[name])
    place = "with or without a GPU" if can.targets else "on the GPU that it is for"
    return f"{backend.typing} typing, builds {place}; has {types or 'neither bf16 nor int64'}"


def _gpu() -> str:
    try:
        import torch
    except ImportError:
        return "unknown without torch"
    if not torch.cuda.is_available():
        return "none that PyTorch sees; engines are built all the same"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"
