"""Running a conversion where its engine cannot run: the final graph in ONNX Runtime, on the CPU, with the engine's types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch

from torch2trt_onnx.compare import OnnxRunner
from torch2trt_onnx.errors import BackendError, EngineError, InputError
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.precision import ElementType
from torch2trt_onnx.runtime.engine import Engine
from torch2trt_onnx.signature import Signature
from torch2trt_onnx.typecheck import onnx_type
from torch2trt_onnx.weights import WeightStore


class OnnxModel:
    """The final graph of a conversion as a function of tensors. fp16 and bf16 are computed in fp32 and rounded at each node, as PyTorch's
    kernels for the CPU do. Tensors have the model's shapes whatever their memory formats, and results are on the CPU.

    Args:
        path: of the ONNX file, its weights beside it.
        signature: what the source model takes and returns; None: see `Signature.flat`.

    Raises:
        EngineError: ONNX Runtime cannot load the graph.
    """

    def __init__(self, path: Path, signature: Signature | None) -> None:
        graph = Graph(onnx.load(path, load_external_data=False), WeightStore.opened(path.parent))
        graph.infer_types(strict=False)
        self._inputs = {t.name: ElementType.of(onnx_type(t)) for t in graph.ir.inputs}
        self._outputs = [t.name for t in graph.ir.outputs]
        self._signature = signature or Signature.flat(list(self._inputs), self._outputs)
        try:
            self._run = OnnxRunner(path, graph)
        except Exception as error:  # ONNX Runtime's own, which have no base
            raise EngineError("ONNX Runtime cannot load the graph", why=_line(error)) from error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it as the source model is called.

        Raises:
            InputError: an argument is not as the model takes it, or has another type than the binding.
            EngineError: ONNX Runtime fails, at a shape that the graph does not have, say.
        """
        given = self._signature.flatten(args, kwargs)
        for name, kind in self._inputs.items():
            if name not in given:
                raise InputError(f"the input {name!r} is missing")
            if given[name].dtype != kind.torch:
                found = str(given[name].dtype).removeprefix("torch.")
                raise InputError(
                    f"input {name!r} is {found}, and the engine has {kind.name}",
                    why="nothing is cast silently",
                    fix=f"{name}.to({kind.torch})",
                )
        try:
            made = self._run(given)
        except Exception as error:
            raise EngineError("ONNX Runtime cannot run the graph on these inputs", why=_line(error)) from error
        tensors = [torch.from_numpy(array).to(ElementType.of(word).torch) for array, word in made]
        return self._signature.build(dict(zip(self._outputs, tensors, strict=True)))


def choose(engine: bytes, product: str, path: Path, signature: Signature | None) -> tuple[Callable[..., Any], str]:
    """The engine where it can run here, else the graph in ONNX Runtime, and why.

    Args:
        engine: serialized; empty where there is none.
        product: that built it.
        path: of the final ONNX graph.
        signature: what the source model takes and returns.
    """
    if not engine:
        return OnnxModel(path, signature), "there is no engine: the conversion stopped at the ONNX graph"
    try:
        return Engine(engine, product=product, signature=signature), ""
    except BackendError as error:
        return OnnxModel(path, signature), f"{error.what}{': ' if error.why else ''}{error.why or ''}"


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
