"""The TorchScript exporter (`dynamo=False`), the only public one that takes a ScriptModule.

Nothing is folded (`do_constant_folding=False`), because folding loses the type that the author gave a weight. Weights are
exported as inputs (`export_params=False`) and attached here, straight from the module to the store: the exporter's own way
costs 2.3 times their size in memory and fails above 2 GB.
"""

from __future__ import annotations

import contextlib
import functools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import onnx
import torch

from torch2trt_onnx.errors import ConversionError, ExportError
from torch2trt_onnx.exporters import origins, symbolics
from torch2trt_onnx.exporters.adapter import unique
from torch2trt_onnx.precision import ElementType

if TYPE_CHECKING:
    from torch2trt_onnx.exporters import Request
    from torch2trt_onnx.weights import WeightStore

OPSET = 20
OPSET_BF16 = 22
"""The first opset whose Conv, LSTM and InstanceNormalization take bf16."""


def export(request: Request) -> onnx.ModelProto:
    """Trace the adapter, export the trace, and give the graph its weights, names and origins.

    Raises:
        ExportError: an operator has no translation, or the model cannot be traced.
    """
    adapter = request.adapter
    _refuse_fast_path(adapter)
    with _for_tracing(), torch.no_grad():
        try:
            traced = torch.jit.trace(adapter, request.tensors, check_trace=False)
        except ConversionError:
            raise
        except Exception as error:
            raise _explained(error, "the model cannot be traced") from error
    opset = request.opset or (OPSET_BF16 if _mentions_bf16(traced, request.tensors) else OPSET)
    model = _to_onnx(traced, request, opset)
    if request.opset is None and opset == OPSET and _has_bf16(model):
        # bf16 that shows up in the export only, in the body of a scripted function.
        model = _to_onnx(traced, request, OPSET_BF16)
    _attach_weights(model, traced, {str(i.name) for i in request.inputs}, request.weights)
    name_outputs(model.graph, adapter.output_names)
    _drop_adapter_scope(model.graph)
    origins.write(model.graph, origins.Scopes(adapter.m))
    return model


def _to_onnx(traced: torch.jit.ScriptModule, request: Request, opset: int) -> onnx.ModelProto:
    names = [str(i.name) for i in request.inputs]
    dynamic = {
        str(i.name): {axis: f"{i.name}_{axis}" for axis in i.dynamic_axes} for i in request.inputs if i.is_dynamic
    }
    with tempfile.TemporaryDirectory() as folder, symbolics.registered(opset), _quiet_verbose(), torch.no_grad():
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                traced,
                request.tensors,
                str(path),
                dynamo=False,
                do_constant_folding=False,
                export_params=False,
                keep_initializers_as_inputs=True,  # else equal weights are joined, under the name of one of them
                opset_version=opset,
                input_names=names,
                dynamic_axes=dynamic,
                verbose=True,  # keeps the source lines, in doc_string
            )
        except OSError:
            raise  # a full disk, and not the model
        except Exception as error:
            raise _explained(error, "PyTorch cannot export the model to ONNX") from error
        return onnx.load(path)


@contextlib.contextmanager
def _for_tracing() -> Iterator[None]:
    """Trace nn.MultiheadAttention and its kin as the operators that they are made of, not as their fused CPU kernels."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _quiet_verbose() -> contextlib.AbstractContextManager[object]:
    """`verbose=True` is the only way to keep source lines, and prints the whole graph as well: not to the user's terminal."""
    return mock.patch.object(torch._C, "_jit_onnx_log", lambda *_: None)


FAST_PATH = re.compile(r"aten::(_native_multi_head_attention|_transformer_encoder_layer_fwd)")


def _refuse_fast_path(adapter: torch.nn.Module) -> None:
    """Fail where the user's own trace or script holds the fused kernels that `_for_tracing` keeps out of ours."""
    for path, module in adapter.named_modules():
        if not isinstance(module, torch.jit.ScriptModule) or not module._c._has_method("forward"):
            continue
        text = str(module.graph)
        found = FAST_PATH.search(text)
        if found is None:
            continue
        where = f"{found.group(0)} in {path.removeprefix('m').removeprefix('.') or 'the module itself'}"
        if "is_autocast_enabled" in text:  # only a script asks that at run time
            raise ExportError(
                "a script of nn.MultiheadAttention cannot be exported",
                where=where,
                why="it chooses a fused CPU kernel, which ONNX has no operator for, while it runs",
                fix="trace it instead of scripting it: pass the nn.Module itself, or call torch.jit.trace after"
                " torch.backends.mha.set_fastpath_enabled(False)",
            )
        raise ExportError(
            "the trace holds a fused CPU kernel that ONNX has no operator for",
            where=where,
            why="it was traced in eval mode with the fast path of nn.MultiheadAttention on",
            fix="call torch.backends.mha.set_fastpath_enabled(False) before torch.jit.trace, or pass the nn.Module itself",
        )


def _mentions_bf16(traced: torch.jit.ScriptModule, tensors: tuple[torch.Tensor, ...]) -> bool:
    held = (*traced.parameters(), *traced.buffers(), *tensors)
    return any(t.dtype == torch.bfloat16 for t in held) or "BFloat16" in str(traced.inlined_graph)


def _has_bf16(model: onnx.ModelProto) -> bool:
    wanted = (
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.COMPLEX128,
    )  # the second is what the exporter writes for the first

    attributes = (a for graph in _graphs(model.graph) for node in graph.node for a in node.attribute)
    return any((a.name == "to" and a.i in wanted) or a.t.data_type in wanted for a in attributes)


def _attach_weights(
    model: onnx.ModelProto, traced: torch.jit.ScriptModule, names: set[str], weights: WeightStore
) -> None:
    """Make initializers of the inputs that are weights, under the names of the state dict."""
    graph = model.graph
    renamed: dict[str, str] = {}
    tied: dict[tuple[int, torch.Size, tuple[int, ...], torch.dtype], str] = {}
    for info in [i for i in graph.input if i.name not in names]:
        try:
            tensor: Any = functools.reduce(getattr, info.name.split("."), traced)
        except AttributeError:
            raise ExportError(
                f"the exporter made an input {info.name!r}, which is no weight of the model",
                fix="please report it, with the model",
            ) from None
        name = info.name.removeprefix("m.")
        name = name if name not in names else info.name
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        renamed[info.name] = tied.setdefault(key, name) if tensor.numel() else name
        if renamed[info.name] == name:
            graph.initializer.append(_stored(name, tensor, weights))
    kept = [info for info in graph.input if info.name in names]
    del graph.input[:]
    graph.input.extend(kept)
    _rename(graph, renamed)
    # Constants inside the graph, which hold the weights of frozen modules, go to the store as well.
    model.CopyFrom(weights.adopt(model, weights.directory))


def _stored(name: str, tensor: torch.Tensor, weights: WeightStore) -> onnx.TensorProto:
    kind = ElementType.of(tensor.dtype)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: np.ndarray = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    return weights.put(name, kind.onnx, tuple(tensor.shape), data.data)


def _drop_adapter_scope(graph: onnx.GraphProto) -> None:
    """Let nodes and tensors have the names that they have without the adapter: `/fc/MatMul`, not `/m/fc/MatMul`."""
    inside = list(_graphs(graph))
    names = {node.name for g in inside for node in g.node}
    names |= {name for g in inside for node in g.node for name in (*node.input, *node.output)}
    shorter = {name: name.removeprefix("/m") for name in names if name.startswith("/m/")}
    _rename(graph, {old: new for old, new in shorter.items() if new not in names})


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename nodes and tensors in a graph and the bodies in it."""
    for declared in (graph.input, graph.output, graph.initializer, graph.value_info):
        for item in declared:
            item.name = names.get(item.name, item.name)
    for node in graph.node:
        node.name = names.get(node.name, node.name)
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)


def name_outputs(graph: onnx.GraphProto, names: list[str]) -> None:
    """Give each output the name of its place in the model's result.

    The exporter would rename an input that is returned, and give a value that is returned twice one name: those get an
    Identity.
    """
    fixed = {t.name for t in (*graph.input, *graph.initializer)}
    taken = {*fixed, *_value_names(graph)}
    renamed: dict[str, str] = {}
    for output, wanted in zip(graph.output, names, strict=True):
        name = unique(wanted, taken)
        taken.add(name)
        if output.name in fixed or output.name in renamed:
            value = renamed.get(output.name, output.name)
            graph.node.append(onnx.helper.make_node("Identity", [value], [name], f"Identity_{name}"))
        else:
            renamed[output.name] = name
        output.name = name
    _rename(graph, renamed)


def _value_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for node in graph.node:
        names.update(node.output)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= _value_names(attribute.g)
    return names


HINTS: tuple[tuple[str, str], ...] = (
    (
        r"is_autocast_enabled|_enter_autocast|Autocast device",
        "this script uses torch.autocast: trace it instead of scripting it (torch.jit.trace, or pass the nn.Module)",
    ),
    (
        r"aten::(_?fft|stft|istft|view_as_(real|complex))|complex",
        "ONNX has complex numbers in the dynamo exporter only: pass the nn.Module with exporter='dynamo'",
    ),
    (
        r"Unsupported: ONNX export of operator|is not supported|Unsupported.*operator|aten::",
        "try exporter='dynamo' with the nn.Module, or write the operation with others",
    ),
)


def _explained(error: Exception, what: str) -> ExportError:
    text = str(error).strip()
    fix = next(
        (hint for pattern, hint in HINTS if re.search(pattern, text)),
        "see the cause; exporter='dynamo' takes some models that this one does not",
    )
    where = re.search(r"^(\S+\.py):?\(?(\d+)\)?", text, re.M)
    why = "\n       ".join(line for line in text.splitlines()[:3] if line.strip())
    return ExportError(what, where=f"{where.group(1)}:{where.group(2)}" if where else None, why=why, fix=fix)
