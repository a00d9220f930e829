"""The torch.export route (`dynamo=True`): nn.Modules and ExportedPrograms only; needs onnxscript. Better for FFT and very large models."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch
from onnx.inliner import inline_local_functions

from torch2trt_onnx.errors import ExportError
from torch2trt_onnx.exporters.origins import source_line
from torch2trt_onnx.exporters.torchscript import name_outputs
from torch2trt_onnx.graph import PREFIX

if TYPE_CHECKING:
    from torch2trt_onnx.exporters import Request

SCOPES = "pkg.torch.onnx.name_scopes"
STACK = "pkg.torch.onnx.stack_trace"


def export(request: Request) -> onnx.ModelProto:
    """Export through torch.export, without the exporter's optimiser: it folds BatchNorm into ill-typed weights, and renames weights.

    Raises:
        ExportError: onnxscript is missing, the model is a ScriptModule, or torch.export or the translation fails.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise ExportError(
            "exporter='dynamo' needs onnxscript, which is not installed", fix="pip install 'torch2trt_onnx[dynamo]'"
        )
    if (
        any(isinstance(module, torch.jit.ScriptModule) for module in request.adapter.modules())
        and request.program is None
    ):
        raise ExportError(
            "exporter='dynamo' takes no ScriptModule", fix="use exporter='torchscript', or pass the nn.Module"
        )
    names = [str(i.name) for i in request.inputs]
    try:
        program = request.program if request.program is not None else _exported(request)
        with torch.no_grad(), _without_notices():
            _cast_before_softmax(program)
            result = torch.onnx.export(
                program, dynamo=True, optimize=False, opset_version=request.opset, input_names=names, verbose=False
            )  # fmt: skip
    except Exception as error:
        raise _explained(error) from error
    assert result is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        result.save(str(path), external_data=True)
        model = onnx.load(path, load_external_data=False)
        if model.functions:
            model = inline_local_functions(model)
        model = request.weights.adopt(model, path.parent)
    prefix = "m." if request.program is None else ""
    _strip_prefix(model.graph, prefix)
    name_outputs(model.graph, request.adapter.output_names)
    _write_origins(model.graph, prefix)
    return model


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Keep the exporter's log off the user's terminal: it tells of each operator of torchvision, where that is missing."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _explained(error: BaseException) -> ExportError:
    """The first cause of an error in its own words; the outer ones tell what to do in PyTorch's repository."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    if "data-dependent" in lines[0]:
        fix = "data-dependent branches and loops need exporter='torchscript', with those functions scripted"
    else:
        fix = "see the cause; exporter='torchscript' takes some models that this one does not"
    return ExportError("torch.export cannot export the model", why="\n       ".join(lines[:4]), fix=fix)


def _exported(request: Request) -> Any:
    shapes = tuple(dict.fromkeys(i.dynamic_axes, torch.export.Dim.AUTO) for i in request.inputs)
    with torch.no_grad():
        return torch.export.export(request.adapter, request.tensors, dynamic_shapes=(shapes,), strict=False)


def _cast_before_softmax(program: Any) -> None:
    """Let `softmax(x, dtype=...)` cast its input, as PyTorch computes it, and not its result, as the exporter translates it."""
    operators = {torch.ops.aten.softmax.int, torch.ops.aten.log_softmax.int}
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in operators and len(node.args) > 2 and node.args[2] is not None:
            x, dim, dtype = node.args[:3]
            with graph.inserting_before(node):
                cast = graph.call_function(torch.ops.aten.to.dtype, (x, dtype))
                cast.meta = {**node.meta, "val": x.meta["val"].to(dtype)}
            node.args = (cast, dim)
    program.graph_module.recompile()


def _strip_prefix(graph: onnx.GraphProto, prefix: str) -> None:
    """Give weights the names of the state dict of the model, and not of the adapter around it."""
    taken = {i.name for i in graph.input}
    names = {t.name: t.name.removeprefix(prefix) for t in graph.initializer if t.name.removeprefix(prefix) not in taken}
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in _nodes(graph):
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    for info in graph.value_info:
        info.name = names.get(info.name, info.name)


def _write_origins(graph: onnx.GraphProto, prefix: str) -> None:
    for node in _nodes(graph):
        about = {entry.key: entry.value for entry in node.metadata_props}
        del node.metadata_props[:]
        scopes = [word.strip(" '\"") for word in about.get(SCOPES, "").strip("[]").split(",")]
        module = scopes[-2].removeprefix(prefix.rstrip(".")).removeprefix(".") if len(scopes) > 1 else ""
        line = source_line(_frames(about.get(STACK, "")))
        call = scopes[-1]  # the name of the call in the exported program
        for key, value in (("module", module), ("source", line), ("call", call)):
            if value:
                node.metadata_props.add(key=f"{PREFIX}{key}", value=value)


def _frames(stack: str) -> str:
    """A Python traceback, innermost last, in the form that `source_line` reads, innermost first."""
    found = []
    for line in stack.splitlines():
        words = line.strip()
        if words.startswith('File "'):
            path, rest = words.removeprefix('File "').split('", line ', 1)
            number, _, function = rest.partition(", in ")
            found.append(f"{path}({number}): {function}")
    return "\n".join(reversed(found))


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                nodes += _nodes(attribute.g)
    return nodes
