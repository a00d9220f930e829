"""Parse and build one ONNX file with TensorRT-RTX for SM89, in a process of its own, and tell of the engine's layers.

    .venv/bin/python tools/bench/engine_worker.py MODEL.onnx META.json [STATIC.onnx]

Builds it with the ranges of shapes that the zoo gives it and, where one is dynamic, once more at the usual shapes, where TensorRT tells the
sizes of tensors: STATIC.onnx there, if it is given. Prints a JSON object: `seconds` of the first build, and its kernels as `over_range`; of
the last engine `kernels`, `casts` and `bytes`; or `error`.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt

from torch2trt_onnx.backends.layers import EngineLayer, parse

BYTES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int64": 8, "Int32": 4, "Int8": 1, "Bool": 1, "UInt8": 1, "FP8": 1}
ONLY_CASTS = re.compile(r"__myl_(?=\w*Cast)(Cast|Move|Resh|Tran)+_myl\S*")
"""The name of a kernel that casts, and does nothing else but move."""


class Log(trt.ILogger):  # type: ignore[misc]  # no stubs
    """The one logger of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.errors = "", [""]

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT."""
        if severity.name in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message)
        elif message.startswith("Layers:\n"):
            self.layers = message


def build(log: Log, model: str, ranges: dict[str, list[list[int]]], *, static: bool) -> str:
    """Build; what TensorRT has against it, or "".

    Args:
        log: the logger.
        model: the path of the file.
        ranges: the smallest, usual and largest shape of each input.
        static: with the usual shapes alone.
    """
    log.layers, log.errors = "", []
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(model) or not network.num_outputs:
        return f"parser: {parser.get_error(0).desc() if parser.num_errors else 'no outputs'}"
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    profile, dynamic = builder.create_optimization_profile(), False
    for tensor in map(network.get_input, range(network.num_inputs)):
        if static:
            tensor.shape = tuple(ranges[tensor.name][1])
        elif -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *ranges[tensor.name])
            dynamic = True
    if dynamic and config.add_optimization_profile(profile) < 0:
        return f"profile: {log.errors[0]}"
    if builder.build_serialized_network(network, config) is None:
        return f"build: {log.errors[0]}"
    return ""


def facts(layers: list[EngineLayer]) -> dict[str, int]:
    """Of the layers that write something: how many there are, how many only cast, and the bytes of all tensors that they write."""
    kernels = [layer for layer in layers if layer.outputs]
    written = {t.name: math.prod(t.dims) * BYTES[t.dtype] for layer in kernels for t in layer.outputs}
    casts = sum(bool(ONLY_CASTS.fullmatch(layer.name)) for layer in kernels)
    return {"kernels": len(kernels), "casts": casts, "bytes": sum(written.values())}


def measured(model: str, ranges: dict[str, list[list[int]]], static: str) -> dict[str, Any]:
    """Both builds."""
    log = Log()
    start = time.perf_counter()
    error = build(log, model, ranges, static=False)
    told: dict[str, Any] = {"seconds": time.perf_counter() - start}
    if not error and any(least != most for least, _, most in ranges.values()):
        told["over_range"] = facts(parse(log.layers)[0])["kernels"]
        error = build(log, static, ranges, static=True)
    if error:
        return {**told, "error": " ".join(error.split("\n[checkMacros")[0].split())[:300]}
    return {**told, **facts(parse(log.layers)[0])}


def main() -> None:
    """Build, and tell. What TensorRT prints goes to standard error; its unloading cannot spoil the result."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ranges = json.loads(Path(sys.argv[2]).read_text())["ranges"]
    channel.write(json.dumps(measured(sys.argv[1], ranges, sys.argv[-1] if len(sys.argv) > 3 else sys.argv[1])))
    channel.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
