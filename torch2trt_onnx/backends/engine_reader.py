"""What an engine of TensorRT 8.6 to 11 tells of itself through its inspector, which needs the GPU that it was built for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch2trt_onnx.backends.session import RefusalError, Session, sizes

if TYPE_CHECKING:
    import tensorrt


class EngineReader(Session):
    """A session whose engine is loaded again, and asked."""

    def read(self) -> dict[str, Any]:
        """See `tell`."""
        told = tell(self.trt, self.log, Path(self.job.engine))
        if told is None:
            raise RefusalError("build", self._errors() or [{"text": "the engine that was built cannot be loaded"}])
        return told


def tell(trt: Any, log: Any, path: Path) -> dict[str, Any] | None:
    """The inspector's JSON, and the table of the bindings; None where the engine cannot be loaded.

    Args:
        trt: the module.
        log: its logger, which hears why.
        path: of the engine.
    """
    runtime: tensorrt.Runtime = trt.Runtime(log)
    loaded: Any = runtime.deserialize_cuda_engine(path.read_bytes())  # the stubs say that it always comes
    if loaded is None:
        return None
    engine: tensorrt.ICudaEngine = loaded
    inspector = engine.create_engine_inspector()
    context = _at_best_shapes(trt, engine)
    if context is not None:
        inspector.execution_context = context  # without shapes, a dynamic engine tells no types
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return {
        "form": "json",
        "layers": text,
        "bindings": [_binding(trt, engine, i) for i in range(engine.num_io_tensors)],
    }


def _at_best_shapes(trt: Any, engine: tensorrt.ICudaEngine) -> tensorrt.IExecutionContext | None:
    """A context whose inputs have their best shapes, without memory for activations; None where all shapes are static."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    dynamic = [name for name in inputs if -1 in sizes(engine.get_tensor_shape(name))]
    if not dynamic:
        return None
    strategies = getattr(trt, "ExecutionContextAllocationStrategy", None)
    context = (
        engine.create_execution_context(strategies.USER_MANAGED)
        if strategies is not None
        else engine.create_execution_context_without_device_memory()
    )
    for name in dynamic:
        context.set_input_shape(name, engine.get_tensor_profile_shape(name, 0)[1])
    return context


def _binding(trt: Any, engine: tensorrt.ICudaEngine, index: int) -> dict[str, Any]:
    name = engine.get_tensor_name(index)
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    is_shape = bool(engine.is_shape_inference_io(name))
    count = engine.num_optimization_profiles if is_input else 0
    return {
        "name": name,
        "mode": "Input" if is_input else "Output",
        "dtype": engine.get_tensor_dtype(name).name,
        "dims": sizes(engine.get_tensor_shape(name)),
        "format": engine.get_tensor_format(name).name,
        "profiles": [_range(engine, name, i, is_shape) for i in range(count)],
        "is_shape": is_shape,
    }


def _range(engine: tensorrt.ICudaEngine, name: str, index: int, is_shape: bool) -> list[list[int]]:
    if not is_shape:
        return list(map(sizes, engine.get_tensor_profile_shape(name, index)))
    if not hasattr(engine, "get_tensor_profile_values"):  # TensorRT 8.6 tells them by the binding's number only
        return []
    told: Any = engine  # the stubs have this method's two arguments the wrong way round
    return [[int(v) for v in values] for values in told.get_tensor_profile_values(index, name)]
