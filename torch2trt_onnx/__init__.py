"""PyTorch models in TensorRT, in the precisions that their authors chose.

The names below are the public face. They are loaded when they are first used, so that `import torch2trt_onnx` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch2trt_onnx.backends import Backend, find_backend
    from torch2trt_onnx.conversion import convert
    from torch2trt_onnx.diagnosis import Diagnosis, debug
    from torch2trt_onnx.errors import ConversionError, ConversionWarning
    from torch2trt_onnx.inputs import Input, Output
    from torch2trt_onnx.limits import ErrorLimit
    from torch2trt_onnx.options import Options
    from torch2trt_onnx.plan import NodePlan, PrecisionPlan
    from torch2trt_onnx.precision import Precision
    from torch2trt_onnx.report import Report
    from torch2trt_onnx.result import Conversion
    from torch2trt_onnx.runtime import Engine

__version__ = "0.1.0"

_HOMES = {
    "Backend": "backends",
    "Conversion": "result",
    "ConversionError": "errors",
    "ConversionWarning": "errors",
    "Diagnosis": "diagnosis",
    "Engine": "runtime",
    "ErrorLimit": "limits",
    "Input": "inputs",
    "NodePlan": "plan",
    "Options": "options",
    "Output": "inputs",
    "Precision": "precision",
    "PrecisionPlan": "plan",
    "Report": "report",
    "convert": "conversion",
    "debug": "diagnosis",
    "find_backend": "backends",
}

__all__ = [
    "Backend",
    "Conversion",
    "ConversionError",
    "ConversionWarning",
    "Diagnosis",
    "Engine",
    "ErrorLimit",
    "Input",
    "NodePlan",
    "Options",
    "Output",
    "Precision",
    "PrecisionPlan",
    "Report",
    "convert",
    "debug",
    "find_backend",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
