"""TensorRT-RTX: always strongly typed, and built ahead of time without a GPU."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch2trt_onnx.backends import Backend, BuildResult, Progress, layers, worker
from torch2trt_onnx.errors import BuildError, InputError, ParseError
from torch2trt_onnx.inputs import Input
from torch2trt_onnx.options import Options

FORMATS: dict[str, tuple[str, frozenset[str]]] = {
    "channels_last": ("HWC", frozenset({"float32", "float16", "uint8"})),
}
"""PyTorch's memory format -> TensorRT's with the same layout, and the types that take it (measured on 1.7.1.116)."""


class RtxBackend(Backend):
    """Parses and builds in a child process; see `rtx_worker`."""

    name: ClassVar[str] = "rtx"

    @staticmethod
    def missing() -> str:
        """Why it cannot be used here."""
        return "" if importlib.util.find_spec("tensorrt_rtx") else "the module tensorrt_rtx is not installed"

    @staticmethod
    def version() -> str:
        """Product and version."""
        for package in ("tensorrt_rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu12"):
            try:
                return f"TensorRT-RTX {importlib.metadata.version(package)}"
            except importlib.metadata.PackageNotFoundError:
                continue
        return "TensorRT-RTX"

    def build(
        self,
        model: Path,
        inputs: Sequence[Input],
        nodes: Sequence[tuple[str, int]],
        options: Options,
        folder: Path,
        progress: Progress | None,
    ) -> BuildResult:
        """Parse and build in a child process."""
        engine = folder / "model.engine"
        job = {
            "model": str(model),
            "engine": str(engine),
            "inputs": [_binding(i) for i in inputs],
            "nodes": list(nodes),
            "compute_capabilities": list(options.compute_capabilities),
            "tf32": options.tf32,
        }
        result = worker.run(
            "torch2trt_onnx.backends.rtx_worker",
            job,
            folder,
            model_name=str(model.name),
            timeout=options.timeout,
            memory_limit=options.memory_limit,
            on_progress=progress,
        )
        if not result["ok"]:
            raise _error(result)
        found, bindings = layers.parse(result["layers"])
        return BuildResult(
            self.version(),
            engine,
            result["network"],
            found,
            bindings,
            [text for severity, text in result["log"] if severity == "WARNING"],
            result["seconds"],
        )


def _binding(given: Input) -> dict[str, Any]:
    layout = None
    if given.format != "contiguous_format":
        if given.format not in FORMATS:
            raise InputError(
                f"TensorRT-RTX has no format for {given.format}",
                where=f"input {given.name!r}",
                fix="use contiguous_format",
            )
        layout, types = FORMATS[given.format]
        if given.dtype is not None and given.dtype.name not in types:
            raise InputError(
                f"TensorRT-RTX takes {given.format} ({layout}) for {', '.join(sorted(types))} only",
                where=f"input {given.name!r} is {given.dtype.name}",
            )
    return {
        "name": given.name,
        "min": given.min_shape,
        "opt": given.opt_shape,
        "max": given.max_shape,
        "format": layout,
    }


def _error(result: dict[str, Any]) -> ParseError | BuildError:
    errors = result["errors"]
    first = errors[0] if errors else {"text": "it gave no reason"}
    if result["stage"] == "parse":
        text = first["text"].strip()
        unknown = "Plugin not found" in text
        return ParseError(
            f"TensorRT's parser refuses the node {first.get('node', '')!r}"
            if first.get("node")
            else "TensorRT's parser refuses the model",
            where=f"operator {first.get('operator', '?')}, error {first.get('code', '?')}",
            why="TensorRT has no such operator" if unknown else text,
            fix="write the operation with operators that TensorRT has"
            if unknown
            else "see the cause; torch2trt-onnx inspect shows the node and its types",
        )
    text = "\n       ".join(dict.fromkeys(_plain(e["text"]) for e in errors))
    node = re.search(r"\[ONNX Layer: (.*?)\]|node ([^\s\]]+)", text)
    return BuildError(
        "TensorRT cannot build the engine",
        where=next((f"node {g!r}" for g in node.groups() if g), None) if node else None,
        why=text or "it gave no reason",
        fix="see the cause: an unsupported combination of operator, type and target, most often",
    )


def _plain(text: str) -> str:
    """An error of TensorRT's without the notes that a machine without a GPU adds."""
    return text.split("\n[checkMacros", maxsplit=1)[0].strip()
