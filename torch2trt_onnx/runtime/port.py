"""One input or output of an engine: which tensors it takes, and how they lie in memory.

- LINEAR: a contiguous tensor.
- HWC, HWC8, DHWC and their like, where the channels are a multiple of the vector: a tensor of the model's shape with the strides of
  `torch.channels_last` (or `channels_last_3d`).
- Formats that pad or split the channels (HWC8 with 3 channels, CHW32): a contiguous tensor of the shape that lies in memory,
  `Layout.packed(shape)`. The number of channels cannot be read off it, so the engine's own is taken; the other dimensions are the tensor's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from torch2trt_onnx.backends.layers import Binding
from torch2trt_onnx.errors import EngineError, InputError
from torch2trt_onnx.formats import DLA_FORMATS, LAYOUTS, Layout, Shape
from torch2trt_onnx.precision import TYPES

if TYPE_CHECKING:
    import tensorrt

ALIGNMENT = {"cuda": 256, "cpu": 1}
"""Kind of device -> the bytes that an address must be a multiple of. `IExecutionContext::setTensorAddress` says 256; PyTorch's own
allocations are aligned to 512, but the second row of a tensor need not be."""

MEMORY_FORMATS = {(4, -3): "channels_last", (5, -4): "channels_last_3d"}
"""Rank and axis of the channels -> PyTorch's memory format that has them last."""

_DTYPES = {row.tensorrt: row.name for row in TYPES if row.tensorrt and row.name != "int4"}
"""TensorRT's types -> PyTorch's. It has the name int4, and no such tensors."""


@dataclass(frozen=True)
class Port:
    """One input or output.

    Args:
        binding: its entry in the engine's table; `profiles` are shapes, or values of a shape tensor.
        dtype: of its tensors.
        on_host: whether the engine reads or writes it on the host.
    """

    binding: Binding
    dtype: torch.dtype
    on_host: bool

    @property
    def name(self) -> str:
        """Of the binding."""
        return self.binding.name

    @property
    def is_input(self) -> bool:
        """Whether the engine reads it."""
        return self.binding.mode == "Input"

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.binding.mode.lower()} {self.name!r}"

    @property
    def dims(self) -> Shape:
        """The model's shape; -1 where it is dynamic."""
        return self.binding.dims

    @property
    def layout(self) -> Layout | None:
        """How it lies in memory; None where that is row-major."""
        found = LAYOUTS.get(self.binding.layout)
        return found if found is not None and len(self.dims) >= found.min_rank else None

    @property
    def channels(self) -> int:
        """How many channels it has, by the engine; -1 where they are dynamic, or it has none."""
        if self.layout is None:
            return -1
        axis = self.layout.axis
        found = {self.dims[axis]}
        if self.dims[axis] < 0 and not self.binding.is_shape:
            found = {shape[axis] for profile in self.binding.profiles for shape in profile}
        return found.pop() if len(found) == 1 else -1

    @property
    def is_packed(self) -> bool:
        """Whether its tensors have the shape that lies in memory, because PyTorch has no strides for the model's."""
        layout = self.layout
        return layout is not None and (not layout.minor or (self.channels >= 0 and self.channels % layout.vector != 0))

    def check(self, tensor: Any, device: torch.device) -> Shape:
        """The model's shape of a tensor that can be handed to the engine as it is.

        Args:
            tensor: what was given.
            device: that the engine runs on.

        Raises:
            InputError: it is no tensor, or of another device, type, rank, shape or memory layout, or its address is not aligned.
        """
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"{self.title} is a {type(tensor).__name__}, and a tensor is wanted")
        place = torch.device("cpu") if self.on_host else device
        if tensor.device != place:
            where = "the engine reads its values on the host" if self.on_host else f"the engine runs on {device}"
            raise InputError(f"{self.title} is on {tensor.device}, and {where}", fix=f"{self.name}.to('{place}')")
        if tensor.dtype != self.dtype:
            raise InputError(
                f"{self.title} is {_word(tensor.dtype)}, and the engine has {_word(self.dtype)}",
                why="nothing is cast silently",
                fix=f"{self.name}.to({self.dtype})",
            )
        shape = self._packed_shape(tensor) if self.is_packed else self._plain_shape(tensor)
        alignment = ALIGNMENT.get(place.type, 1) if not self.on_host else 1
        if tensor.data_ptr() % alignment:
            raise InputError(
                f"the memory of {self.title} begins {tensor.data_ptr() % alignment} bytes off a multiple of {alignment}",
                why="TensorRT wants that alignment, and the tensor is a part of another",
                fix=f"{self.name}.clone()",
            )
        return shape

    def empty(self, shape: Shape, device: torch.device) -> torch.Tensor:
        """A new tensor for the model's shape."""
        place = torch.device("cpu") if self.on_host else device
        return self.arranged(torch.empty(self.stored(shape), dtype=self.dtype, device=place))

    def stored(self, shape: Shape) -> Shape:
        """The shape that lies in memory, row-major."""
        return self.layout.packed(shape) if self.layout is not None else shape

    def arranged(self, stored: torch.Tensor) -> torch.Tensor:
        """The tensor that a caller sees, of one of the shape that lies in memory."""
        layout = self.layout
        return stored if layout is None or self.is_packed else stored.movedim(-1, layout.axis)

    def nbytes(self, shape: Shape) -> int:
        """What a tensor of the model's shape takes in memory."""
        return math.prod(self.stored(shape)) * self.dtype.itemsize

    def _plain_shape(self, tensor: torch.Tensor) -> Shape:
        shape = tuple(tensor.shape)
        if not self._fits(shape):
            raise InputError(f"{self.title} has shape {shape}, and the engine has {shown(self.dims)}")
        layout = self.layout
        if layout is not None and shape[layout.axis] % layout.vector:
            raise InputError(
                f"{self.title} has {shape[layout.axis]} channels, and {self.binding.layout} pads them to a multiple of {layout.vector}",
                why="PyTorch has no strides for that",
            )
        if layout is None:
            if not tensor.is_contiguous():
                raise self._misplaced(tensor, f"{self.name}.contiguous()")
        elif not tensor.movedim(layout.axis, -1).is_contiguous():
            word = MEMORY_FORMATS.get((len(shape), layout.axis))
            fix = f"contiguous(memory_format=torch.{word})" if word else _moved(layout.axis)
            raise self._misplaced(tensor, f"{self.name}.{fix}")
        return shape

    def _packed_shape(self, tensor: torch.Tensor) -> Shape:
        layout, packed = self.layout, tuple(tensor.shape)
        assert layout is not None
        if self.channels < 0:
            raise InputError(
                f"{self.title} has a dynamic number of channels, and lies in {self.binding.layout}",
                why="that pads the channels, so that their number cannot be read off the tensor",
                fix="build the engine with a static number of channels, or another format",
            )
        at = len(self.dims) + layout.axis
        logical = (*packed[:at], self.channels, *packed[at if layout.minor else at + 1 : -1])
        rank = len(self.dims) + (0 if layout.minor else 1)
        if len(packed) != rank or not self._fits(logical) or layout.packed(logical) != packed:
            raise InputError(
                f"{self.title} has shape {packed}, and the engine has {shown(self.dims)} as it lies in memory in "
                f"{self.binding.layout}: {shown(layout.packed((*self.dims[:at], self.channels, *self.dims[at + 1 :])))}",
                why=f"{self.binding.layout} pads or splits the channels, which PyTorch's strides cannot say",
                fix=f"formats.LAYOUTS[{self.binding.layout!r}].packed(shape) gives the shape in memory",
            )
        if not tensor.is_contiguous():
            raise self._misplaced(tensor, f"{self.name}.contiguous()")
        return logical

    def _fits(self, shape: Shape) -> bool:
        return len(shape) == len(self.dims) and all(d in (-1, s) for d, s in zip(self.dims, shape, strict=True))

    def _misplaced(self, tensor: torch.Tensor, fix: str) -> InputError:
        return InputError(
            f"{self.title} lies in memory with strides {tuple(tensor.stride())}, and the engine has the format "
            f"{self.binding.layout or 'LINEAR'}",
            why=f"its shape is {tuple(tensor.shape)}; nothing is copied silently",
            fix=fix,
        )


def shown(dims: Shape) -> str:
    """A shape in which `*` stands for what is dynamic."""
    words = ["*" if d < 0 else str(d) for d in dims]
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def ports(engine: tensorrt.ICudaEngine, trt: Any) -> list[Port]:
    """The inputs and outputs of an engine, in its order.

    Raises:
        EngineError: one has a type or a memory format that no tensor of PyTorch has.
    """
    return [_port(engine, trt, engine.get_tensor_name(i)) for i in range(engine.num_io_tensors)]


def _port(engine: tensorrt.ICudaEngine, trt: Any, name: str) -> Port:
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    is_shape = bool(engine.is_shape_inference_io(name))
    count = engine.num_optimization_profiles if is_input else 0
    binding = Binding(
        name,
        "Input" if is_input else "Output",
        engine.get_tensor_dtype(name).name,
        sizes(engine.get_tensor_shape(name)),
        engine.get_tensor_format(name).name,
        tuple(_range(engine, name, i, is_shape) for i in range(count)),
        is_shape,
    )
    word = _DTYPES.get(binding.dtype, "")
    dtype = getattr(torch, word, None)
    if not isinstance(dtype, torch.dtype):
        raise EngineError(f"{name!r} is {binding.dtype}, and PyTorch has no such tensors")
    if binding.format in DLA_FORMATS:
        raise EngineError(
            f"{name!r} lies in {binding.format}, whose rows are padded by amounts that depend on the device"
        )
    return Port(binding, dtype, engine.get_tensor_location(name) == trt.TensorLocation.HOST)


def _range(engine: tensorrt.ICudaEngine, name: str, index: int, is_shape: bool) -> tuple[Shape, ...]:
    if not is_shape:
        dims = sizes(engine.get_tensor_shape(name))  # of what is static, a profile need not tell anything
        return tuple(map(sizes, engine.get_tensor_profile_shape(name, index))) if -1 in dims else (dims,) * 3
    if not hasattr(engine, "get_tensor_profile_values"):  # TensorRT 8.6 tells them by the number of the binding only
        return ()
    told: Any = engine  # the stubs have this method's two arguments the wrong way round
    return tuple(tuple(int(v) for v in values) for values in told.get_tensor_profile_values(index, name))


def sizes(dims: tensorrt.Dims) -> Shape:
    """TensorRT's dimensions as a tuple."""
    return tuple(int(dims[i]) for i in range(len(dims)))


def _moved(axis: int) -> str:
    return f"movedim({axis}, -1).contiguous().movedim(-1, {axis})"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
