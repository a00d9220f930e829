"""What can be set beside the model, the inputs and the precisions."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    exporter: str = "torchscript"
    opset: int | None = None
    compute_capabilities: tuple[str, ...] = ("8.9", "12.0")
    tf32: bool = False
    timeout: float = 3600.0
    memory_limit: int | None = None
    compare: bool = True
    tolerance: float | None = None
