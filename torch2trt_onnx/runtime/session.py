"""Launching an engine: one execution context, and the order of its launches on the device."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from torch2trt_onnx.backends.library import derived
from torch2trt_onnx.errors import EngineError, InputError
from torch2trt_onnx.formats import Shape
from torch2trt_onnx.runtime import profiles
from torch2trt_onnx.runtime.log import Log, log_of
from torch2trt_onnx.runtime.port import Port, sizes

if TYPE_CHECKING:
    import tensorrt

Tensors = Mapping[str, torch.Tensor]
PLACEHOLDER = 256
"""Bytes of memory that stand for a tensor without elements: PyTorch gives that no address, and TensorRT wants one."""


class Session:
    """One execution context. Its memory for activations is used by one launch at a time, so launches wait for each other: threads by a
    lock, and streams of the device by an event, which no thread waits for.

    Args:
        engine: the engine.
        trt: the library's module.
        ports: the engine's inputs and outputs.
        device: that it runs on.

    Raises:
        EngineError: there is no memory for a context, or TensorRT makes none.
    """

    def __init__(self, engine: tensorrt.ICudaEngine, trt: Any, ports: Sequence[Port], device: torch.device) -> None:
        self._engine, self._trt, self._device = engine, trt, device
        self._log: Log = log_of(trt)
        self.inputs = [p for p in ports if p.is_input]
        self.outputs = [p for p in ports if not p.is_input]
        self._lock = threading.RLock()
        self._stream: torch.cuda.Stream | None = None
        self._done: torch.cuda.Event | None = None
        self._placeholder: torch.Tensor | None = None
        self._allocators: dict[str, Growing] = {}
        self._held: list[torch.Tensor] = []
        with on_device(self._device):
            context: tensorrt.IExecutionContext | None = engine.create_execution_context()
        if context is None:
            raise self._failed("TensorRT makes no execution context for the engine")
        self.context = context

    def run(self, given: Tensors, into: Tensors | None = None) -> dict[str, torch.Tensor]:
        """Check, bind, launch on the caller's current stream, and return the outputs, which are complete when that stream is.

        Args:
            given: each input by its name.
            into: tensors for outputs by their names; the others are made.

        Raises:
            InputError: a tensor is missing, unexpected, or not as the engine reads it, or a shape is in no profile. Nothing was launched.
            EngineError: TensorRT refused.
        """
        into = into or {}
        self._check_names(given, into)
        found = {port.name: port.check(given[port.name], self._device) for port in self.inputs}
        values = {p.name: _values(given[p.name]) for p in self.inputs if p.binding.is_shape}
        with self._lock, on_device(self._device), self._ordered() as stream:
            self._bind_inputs(given, found, {**found, **values}, stream)
            made, growing = self._bind_outputs(into)
            self._hold_host_memory({**given, **made})
            if not self.context.execute_async_v3(stream):
                raise self._failed("TensorRT did not run the engine")
            made.update((name, growing[name].tensor(self._port(name))) for name in growing)
            self._mark_used((*given.values(), *into.values()))
        return {port.name: made[port.name] for port in self.outputs}

    def data_dependent(self) -> list[str]:
        """The outputs whose shape is known only after a launch, with the shapes of the last one."""
        return [p.name for p in self.outputs if -1 in sizes(self.context.get_tensor_shape(p.name))]

    # --- binding

    def _check_names(self, given: Tensors, into: Tensors) -> None:
        for what, tensors, known in (("input", given, self.inputs), ("output", into, self.outputs)):
            names = [port.name for port in known]
            odd = [name for name in tensors if name not in names]
            missing = [name for name in names if name not in tensors] if what == "input" else []
            if odd or missing:
                text = f"the {what} {missing[0]!r} is missing" if missing else f"the engine has no {what} {odd[0]!r}"
                raise InputError(text, fix=f"its {what}s are {', '.join(names)}")

    def _bind_inputs(
        self, given: Tensors, shapes: Mapping[str, Shape], ranged: Mapping[str, Shape], stream: int
    ) -> None:
        """Choose the profile, and tell the shapes and addresses of the inputs."""
        context = self.context
        current = context.active_optimization_profile
        chosen = profiles.choose(self.inputs, ranged, self._engine.num_optimization_profiles, current)
        if chosen != current and not context.set_optimization_profile_async(chosen, stream):
            raise self._failed(f"TensorRT does not switch to the optimization profile {chosen}")
        for port in self.inputs:
            if -1 in port.dims and not context.set_input_shape(port.name, shapes[port.name]):
                raise self._failed(f"TensorRT refuses the shape {shapes[port.name]} of {port.title}")
            self._bind(port, given[port.name])
        try:
            lacking = context.infer_shapes()
        except RuntimeError as error:
            raise self._failed("TensorRT cannot infer the shapes of the outputs", str(error)) from None
        if lacking:
            raise self._failed(f"TensorRT wants to know more of {', '.join(lacking)}")

    def _bind_outputs(self, into: Tensors) -> tuple[dict[str, torch.Tensor], dict[str, Growing]]:
        """The outputs in memory of their shapes, and those whose shape the launch will tell."""
        made: dict[str, torch.Tensor] = {}
        growing: dict[str, Growing] = {}
        for port in self.outputs:
            shape = sizes(self.context.get_tensor_shape(port.name))
            if -1 in shape:
                if port.name in into:
                    raise InputError(
                        f"the shape of {port.title} is known only after the launch, so no tensor can be given for it",
                        fix="leave it out of `outputs`",
                    )
                growing[port.name] = self._allocator(port)
                continue
            is_given = port.name in into
            made[port.name] = self._given(port, into[port.name], shape) if is_given else port.empty(shape, self._device)
            self._bind(port, made[port.name])
        return made, growing

    def _allocator(self, port: Port) -> Growing:
        """What gives an output its memory during the launch. There is one for each, for good: TensorRT keeps a pointer to it."""
        found = self._allocators.get(port.name)
        if found is None:
            made: Any = derived(self._trt.IOutputAllocator, Growing, self._device)
            found = self._allocators[port.name] = made
            if not self.context.set_output_allocator(port.name, made):
                raise self._failed(f"TensorRT takes no allocator for {port.title}")
        found.reset()
        return found

    def _given(self, port: Port, tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
        if port.check(tensor, self._device) != shape:
            wanted = port.stored(shape) if port.is_packed else shape
            raise InputError(
                f"the tensor for {port.title} has shape {tuple(tensor.shape)}, and the result has {wanted}"
            )
        return tensor

    def _bind(self, port: Port, tensor: torch.Tensor) -> None:
        address = tensor.data_ptr()
        if not tensor.numel():
            if self._placeholder is None:
                self._placeholder = torch.empty(PLACEHOLDER, dtype=torch.uint8, device=self._device)
            address = self._placeholder.data_ptr()
        if not self.context.set_tensor_address(port.name, address):
            raise self._failed(f"TensorRT refuses the address of {port.title}")

    def _hold_host_memory(self, tensors: Tensors) -> None:
        """Keep what the engine reads and writes on the host until the next launch; the device's memory is the allocator's to keep."""
        self._held = [tensors[p.name] for p in (*self.inputs, *self.outputs) if p.on_host and p.name in tensors]

    def _port(self, name: str) -> Port:
        return next(port for port in self.outputs if port.name == name)

    # --- the device

    @contextlib.contextmanager
    def _ordered(self) -> Iterator[int]:
        """The stream to launch on, as TensorRT takes it, in the order of the caller's current stream and behind the last launch.

        On the default stream TensorRT would synchronise the device, so that a stream of our own stands in for it: it waits for the
        caller's, and the caller's waits for it.
        """
        if self._device.type != "cuda":
            yield 0
            return
        current = torch.cuda.current_stream(self._device)
        capturing = torch.cuda.is_current_stream_capturing()
        stream = current if current.cuda_stream else self._own_stream()
        if stream is not current:
            stream.wait_stream(current)
        if self._done is not None and not capturing:
            stream.wait_event(self._done)
        try:
            yield stream.cuda_stream
        finally:
            if not capturing:  # an event of a graph means nothing outside of it
                self._done = self._done or torch.cuda.Event()
                self._done.record(stream)
            if stream is not current:
                current.wait_stream(stream)

    def _own_stream(self) -> torch.cuda.Stream:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        return self._stream

    def _mark_used(self, tensors: Sequence[torch.Tensor]) -> None:
        """Tell the allocator that the current stream uses these, where another one made them: they may be freed once this returns."""
        if self._device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return
        current = torch.cuda.current_stream(self._device)
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(current)

    def _failed(self, what: str, why: str = "") -> EngineError:
        return EngineError(what, why="\n       ".join(filter(None, [why, self._log.take()])) or "it gave no reason")


class Growing:
    """Memory for an output whose shape depends on the data: TensorRT asks for it during the launch, and tells the shape."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Forget the last launch. Its tensor keeps its memory."""
        self._memory: torch.Tensor | None = None
        self._shape: Shape | None = None
        self._error: Exception | None = None

    def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:  # noqa: ARG002
        """Called by TensorRT: at least `size` bytes, at a multiple of `alignment`; 0 where there are none."""
        try:
            memory_of = torch.empty(size + alignment, dtype=torch.uint8, device=self._device)
        except Exception as error:  # an exception would pass through TensorRT
            self._error = error
            return 0
        offset = -memory_of.data_ptr() % alignment if alignment else 0
        self._memory = memory_of[offset:]
        return self._memory.data_ptr()

    def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:  # noqa: ARG002
        """The same, in later versions. PyTorch's memory is for the current stream, which waits for the one of the launch."""
        return self.reallocate_output(tensor_name, memory, size, alignment)

    def notify_shape(self, tensor_name: str, shape: tensorrt.Dims) -> None:  # noqa: ARG002
        """Called by TensorRT once it knows."""
        self._shape = sizes(shape)

    def tensor(self, port: Port) -> torch.Tensor:
        """The output, of the shape that it got.

        Raises:
            EngineError: TensorRT told none, or there was no memory.
        """
        if self._error is not None:
            raise EngineError(f"there is no memory for {port.title}", why=str(self._error)) from self._error
        if self._shape is None or self._memory is None:
            raise EngineError(f"TensorRT did not tell the shape of {port.title}")
        plain = self._memory[: port.nbytes(self._shape)].view(port.dtype)
        return port.arranged(plain.view(port.stored(self._shape)))


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes a CUDA device the current one: TensorRT uses that, whatever memory it is given."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _values(tensor: torch.Tensor) -> Shape:
    return tuple(int(v) for v in tensor.flatten().tolist())
