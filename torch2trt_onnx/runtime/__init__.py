"""Running an engine on tensors of PyTorch: `Engine`.

`log` is what TensorRT says; a `Port` is one input or output, and says how its tensors lie in memory; `profiles` chooses where there are
several ranges of shapes; a `Session` launches; `graphed` replays a launch as a CUDA graph.
"""

from __future__ import annotations

from torch2trt_onnx.runtime.engine import Engine, EngineModule
from torch2trt_onnx.runtime.graphed import GraphedEngine

__all__ = ["Engine", "EngineModule", "GraphedEngine"]
