"""Where each node comes from: the path of its module, and the line of the source."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import onnx
import torch

from torch2trt_onnx.graph import PREFIX

CONTAINERS = frozenset({"ModuleList", "ModuleDict"})
"""Modules that are never called, so that they are no step in a scope."""


class Scopes:
    """The module paths that the scopes in node names stand for.

    The exporter names a node of `encoder.layer.0.fc` `/encoder/layer.0/fc/MatMul` in the first trace of a process. In later
    ones, and in scripts, a step into a ModuleList loses the name of the list, has `_1` behind it where that makes two alike,
    or is missing altogether. So the names of a node's weights decide where its scope leaves it open.

    Args:
        model: the module that was exported.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        containers = {
            path
            for path, module in self._modules.items()
            if getattr(module, "original_name", type(module).__name__) in CONTAINERS
        }
        self._inside: dict[tuple[str, str], list[str]] = {}
        for path in self._modules.keys() - containers - {""}:
            caller = path.rpartition(".")[0]
            while caller in containers:
                caller = caller.rpartition(".")[0]
            name = path.removeprefix(f"{caller}.") if caller else path
            for step in {name, name.rpartition(".")[2]}:
                self._inside.setdefault((caller, step), []).append(path)

    def path(self, node_name: str, weights: Iterable[str]) -> str:
        """The path of a node's module, as far as its scope and the names of its weights tell it; '' for the model itself."""
        owners = {self._owner(weight) for weight in weights} - {""}
        path = ""
        for step in node_name.split("/")[1:-1]:
            found = self._inside.get((path, step)) or self._inside.get((path, _NUMBERED.sub("", step)), [])
            if len(found) > 1:
                found = [p for p in found if any(f"{owner}.".startswith(f"{p}.") for owner in owners)]
            if len(found) != 1:
                break
            path = found[0]
        deeper = [owner for owner in owners if not path or owner.startswith(f"{path}.")]
        return deeper[0] if len(owners) == len(deeper) == 1 else path

    def _owner(self, weight: str) -> str:
        owner = weight.rpartition(".")[0]
        while owner and owner not in self._modules:
            owner = owner.rpartition(".")[0]
        return owner


_NUMBERED = re.compile(r"_\d+$")


def write(graph: onnx.GraphProto, scopes: Scopes) -> None:
    """Keep the module path and the source line of each node in its metadata."""
    _write(graph, scopes, {t.name: t.name for t in graph.initializer})


def _write(graph: onnx.GraphProto, scopes: Scopes, weights: dict[str, str]) -> None:
    for node in graph.node:
        used = [weights[name] for name in node.input if name in weights]
        if node.op_type in ("Transpose", "Cast", "Identity") and used:
            weights[node.output[0]] = used[0]
        module, line, call = scopes.path(node.name, used), source_line(node.doc_string), call_line(node.doc_string)
        for key, value in (("module", module), ("source", line), ("call", call)):
            if value:
                node.metadata_props.add(key=f"{PREFIX}{key}", value=value)
        node.doc_string = ""
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _write(attribute.g, scopes, weights)


_FRAME = re.compile(r"^(.*)\((\d+)\): (.*)$")
_OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


_CALL = re.compile(r"""\s*(?:File ")?\S*torch[/\\]nn[/\\]functional\.py(?:\(|", line )(\d+)""")


def call_line(stack: str) -> str:
    """The line of torch.nn.functional that calls a kernel, in a trace's stack or a script's; '' where the innermost frame is another's.

    Nodes of one such line come from one call, such as the Sigmoid and the Mul of `silu`; the author's own `x * x.sigmoid()` has none.
    """
    found = _CALL.match(stack)
    return f"torch/nn/functional.py:{found.group(1)}" if found else ""


def source_line(stack: str) -> str:
    """`file:line function`, the innermost frame that is neither PyTorch's nor ours; '' where there is none."""
    for line in stack.splitlines():
        frame = _FRAME.match(line)
        if frame and not frame.group(1).startswith(_OWN):
            return f"{frame.group(1)}:{frame.group(2)} {frame.group(3)}"
    return ""
