"""What can be set beside the model, the inputs and the precisions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch2trt_onnx.errors import InputError

EXPORTERS = ("torchscript", "dynamo")
CAPABILITY = re.compile(r"[0-9]+\.[0-9]")


@dataclass(frozen=True)
class Options:
    """Options of a conversion; the defaults are what most people want.

    Args:
        exporter: "torchscript" or "dynamo" (nn.Modules only; better for FFT, and for very large models).
        opset: the ONNX opset to export; None: 20, or 22 where there is bf16.
        compute_capabilities: the GPUs that TensorRT-RTX builds for.
        tf32: let fp32 matrix products run in TF32, which keeps 10 of the 23 bits.
        timeout: of the build, in seconds.
        memory_limit: of the build, in bytes of resident memory; None: nine tenths of what is free when it starts.
        compare: run the final graph in ONNX Runtime and compare it with the model.
        tolerance: the largest |a - b| / (1 + |b|) that passes; None: by the precisions in the plan (`compare.TOLERANCES`).

    Raises:
        InputError: a value that makes no sense.
    """

    exporter: str = "torchscript"
    opset: int | None = None
    compute_capabilities: tuple[str, ...] = ("8.9", "12.0")
    tf32: bool = False
    timeout: float = 3600.0
    memory_limit: int | None = None
    compare: bool = True
    tolerance: float | None = None

    def __post_init__(self) -> None:
        wrong = [
            ("exporter", self.exporter not in EXPORTERS, f"one of {', '.join(EXPORTERS)}"),
            (
                "compute_capabilities",
                not isinstance(self.compute_capabilities, tuple)
                or not self.compute_capabilities
                or not all(isinstance(c, str) and CAPABILITY.fullmatch(c) for c in self.compute_capabilities),
                "a tuple such as ('8.9', '12.0')",
            ),
            ("timeout", not self.timeout > 0, "above 0 seconds"),
            ("memory_limit", self.memory_limit is not None and not self.memory_limit > 0, "above 0 bytes, or None"),
            ("tolerance", self.tolerance is not None and not self.tolerance >= 0, "at least 0, or None"),
        ]
        for name, is_wrong, right in wrong:
            if is_wrong:
                raise InputError(f"Options.{name} is {getattr(self, name)!r}", fix=f"use {right}")
