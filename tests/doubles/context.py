"""Model of `IExecutionContext`: shapes, addresses, and a run that reads and writes the memory at those addresses."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from .binding import Model
from .execute import run_on_device
from .layouts import load, store, stored_shape
from .values import NUMPY, ints, volume

if TYPE_CHECKING:
    from .engine import Engine

DEVICE = "TENSORRT_DOUBLE_DEVICE"
ALIGNMENT = 256


class ExecutionContext(Model):
    """A context."""

    cls = "IExecutionContext"

    def __init__(self, engine: Engine) -> None:
        self.engine, self.log = engine, engine.log
        self.on_device = os.environ.get(DEVICE) == "cuda"
        if self.on_device:
            _ = engine.program.device_weights
        self.active_optimization_profile = 0
        self.given: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.name, self.debug_sync, self.enqueue_emits_profile = "", False, True
        self.persistent_cache_limit, self.profiler, self.error_recorder = 0, None, None
        self.nvtx_verbosity = engine.profiling_verbosity
        self.temporary_allocator = None
        self.all_shape_inputs_specified = True

    def _names(self, mode: str) -> list[str]:
        return [tensor["name"] for tensor in self.engine.tensors.values() if tensor["mode"] == mode]

    def _error(self, where: str, text: str) -> None:
        self.log.error(f"IExecutionContext::{where}: Error Code 3: API Usage Error ({text})")

    def set_optimization_profile_async(self, profile_index: int, _stream: int) -> bool:
        """Choose a profile; all shapes are forgotten."""
        if not 0 <= profile_index < self.engine.num_optimization_profiles:
            self._error("setOptimizationProfileAsync", f"there is no optimization profile {profile_index}")
            return False
        if profile_index != self.active_optimization_profile:
            self.given.clear()
        self.active_optimization_profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        """Set the shape of an input, within the profile."""
        found = self.engine.find(name)
        if found is None or found["mode"] != "INPUT":
            self._error("setInputShape", f"{name} is no input")
            return False
        sizes = tuple(shape) if isinstance(shape, (list, tuple)) else ints(shape)
        low, _, high = self.engine.ranges(name, self.active_optimization_profile)
        inside = len(sizes) == len(low) and all(a <= b <= c for a, b, c in zip(low, sizes, high, strict=True))
        if not inside:
            self._error(
                "setInputShape",
                f"Set dimensions {list(sizes)} for tensor {name} do not satisfy any optimization profiles. Valid range for profile "
                f"{self.active_optimization_profile}: {list(low)}..{list(high)}.",
            )
            return False
        self.given[name] = sizes
        return True

    def _missing(self) -> list[str]:
        return [n for n in self._names("INPUT") if -1 in self.engine.tensors[n]["shape"] and n not in self.given]

    @property
    def all_binding_shapes_specified(self) -> bool:
        """Whether each dynamic input has a shape."""
        return not self._missing()

    def infer_shapes(self) -> list[str]:
        """The inputs that lack a shape, or a shape input's values."""
        shapes = [n for n in self._names("INPUT") if self.engine.tensors[n]["is_shape"] and not self.addresses.get(n)]
        return [*self._missing(), *shapes]

    def known_shapes(self) -> dict[str, Any]:
        """By ONNX name: shapes of inputs, and the values of those that make shapes."""
        found: dict[str, Any] = {}
        for name in self._names("INPUT"):
            tensor = self.engine.tensors[name]
            found[tensor["onnx"]] = self.given.get(name, tuple(tensor["shape"]))
            if tensor["is_shape"] and self.addresses.get(name):
                found[tensor["onnx"]] = _at(self.addresses[name], tensor["shape"], tensor["dtype"]).copy()
        return found

    def get_tensor_shape(self, name: str) -> Any:
        """The shape; -1 where it is not known yet, or depends on data."""
        return self.engine.module.dims(self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        found = self.engine.find(name)
        if found is None:
            return ()
        if found["mode"] == "INPUT":
            return self.given.get(name, tuple(found["shape"]))
        if not self.all_binding_shapes_specified:
            return tuple(found["shape"])
        return self.engine.program.shapes(self.known_shapes()).get(found["onnx"], tuple(found["shape"]))

    def get_tensor_strides(self, name: str) -> Any:
        """The strides, in elements, of a tensor in row-major order."""
        shape = self._shape(name)
        return self.engine.module.dims([volume(shape[i + 1 :]) for i in range(len(shape))])

    def get_max_output_size(self, name: str) -> int:
        """Bytes that an output may need; 0 of what is no output."""
        found = self.engine.find(name)
        if found is None or found["mode"] != "OUTPUT":
            return 0
        shape = self._shape(name)
        if -1 not in shape:
            return volume(stored_shape(shape, found["format"])) * NUMPY[found["dtype"]].itemsize
        return self.engine.upper_bound(
            name, {k: v for k, v in self.known_shapes().items() if not isinstance(v, np.ndarray)}
        )

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where a tensor lies."""
        if self.engine.find(name) is None:
            return False
        self.addresses[name] = memory
        return True

    def get_tensor_address(self, name: str) -> int:
        """Where a tensor lies; 0 where nobody said."""
        return self.addresses.get(name, 0)

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        """What gives memory for an output whose size is known while it runs only."""
        if name not in self._names("OUTPUT"):
            self._error("setOutputAllocator", f"{name} is no output")
            return False
        self.allocators[name] = allocator
        return True

    def get_output_allocator(self, name: str) -> Any:
        """What was set."""
        return self.allocators.get(name)

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Run. False, and an error in the log, where something is missing."""
        problem = self._problem()
        if problem:
            self._error("enqueueV3", problem)
            return False
        run = self._run_on_device if self.on_device else self._run_on_host
        return run(stream_handle)

    def _problem(self) -> str:
        for name in self._missing():
            return f"The shape of input tensor {name} is not set. Call setInputShape before enqueue."
        for name in self._names("INPUT"):
            if not self.addresses.get(name):
                return f"Address is not set for input tensor {name}. Call setInputTensorAddress or setTensorAddress before enqueue/execute."
        for name in self._names("OUTPUT"):
            if not self.addresses.get(name) and self.allocators.get(name) is None:
                return (
                    f"Neither address or allocator is set for output tensor {name}. Call setOutputTensorAddress, setTensorAddress "
                    "or setOutputAllocator before enqueue/execute."
                )
            if -1 in self._shape(name) and self.allocators.get(name) is None:
                return f"The shape of output tensor {name} depends on data: it needs an output allocator."
        return ""

    def _run_on_host(self, stream: int) -> bool:
        given = {}
        for name in self._names("INPUT"):
            tensor = self.engine.tensors[name]
            shape = self._shape(name)
            memory = _at(self.addresses[name], stored_shape(shape, tensor["format"]), tensor["dtype"])
            given[tensor["onnx"]] = np.ascontiguousarray(load(memory, shape, tensor["format"]))
        made = self.engine.program.run(given)
        for name in self._names("OUTPUT"):
            tensor = self.engine.tensors[name]
            values = np.asarray(made[tensor["onnx"]]).astype(NUMPY[tensor["dtype"]])
            address = self._room(name, values.shape, stream)
            if values.size and not address:
                self._error("enqueueV3", f"the output allocator of {name} gave no memory")
                return False
            if values.size:
                store(
                    _at(address, stored_shape(values.shape, tensor["format"]), tensor["dtype"]),
                    values,
                    tensor["format"],
                )
        return True

    def _room(self, name: str, shape: tuple[int, ...], stream: int) -> int:
        """Where an output goes: its allocator is asked, and told the shape."""
        allocator, address = self.allocators.get(name), self.addresses.get(name, 0)
        if allocator is None:
            return address
        tensor = self.engine.tensors[name]
        size = volume(stored_shape(shape, tensor["format"])) * NUMPY[tensor["dtype"]].itemsize
        if hasattr(allocator, "reallocate_output_async"):
            address = allocator.reallocate_output_async(name, address, size, ALIGNMENT, stream)
        else:
            address = allocator.reallocate_output(name, address, size, ALIGNMENT)
        allocator.notify_shape(name, self.engine.module.dims(shape))
        return int(address or 0)

    def _run_on_device(self, stream: int) -> bool:
        import torch

        given = {}
        for name in self._names("INPUT"):
            tensor = self.engine.tensors[name]
            given[tensor["onnx"]] = _on_device(self.addresses[name], self._shape(name), tensor)
        made = run_on_device(self.engine.program, given, stream)
        for name in self._names("OUTPUT"):
            tensor = self.engine.tensors[name]
            values = made[tensor["onnx"]]
            address = self._room(name, tuple(values.shape), stream)
            with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
                _on_device(address, tuple(values.shape), tensor).copy_(values)
        return True


def _at(address: int, shape: Any, dtype: str) -> np.ndarray:
    """The memory at an address, as an array that can be written."""
    kind = NUMPY[dtype]
    count = volume(shape)
    if not count:
        return np.empty(tuple(shape), kind)
    raw = (ctypes.c_uint8 * (count * kind.itemsize)).from_address(address)
    return np.frombuffer(raw, np.uint8).view(kind).reshape(tuple(shape))


class _Memory:
    """Device memory that PyTorch wraps without a copy."""

    def __init__(self, address: int, shape: tuple[int, ...], typestr: str) -> None:
        self.__cuda_array_interface__ = {"data": (address, False), "shape": shape, "typestr": typestr, "version": 3}


def _on_device(address: int, shape: tuple[int, ...], tensor: dict[str, Any]) -> Any:
    """A tensor of row-major device memory; channels-last memory is read through permuted strides."""
    import torch

    typestr = {"BF16": "<i2", "BOOL": "|b1"}.get(tensor["dtype"]) or NUMPY[tensor["dtype"]].str
    stored = stored_shape(shape, tensor["format"])
    wrapped = torch.as_tensor(_Memory(address, stored, typestr), device="cuda")
    if tensor["dtype"] == "BF16":
        wrapped = wrapped.view(torch.bfloat16)
    if tensor["format"] == "LINEAR":
        return wrapped
    if tensor["format"][0] == "C":
        raise NotImplementedError("the double of TensorRT does not model blocked formats on a device")
    return wrapped.movedim(-1, 1)[:, : shape[1]]
