"""Models of a network: `ITensor`, `ILayer`, `INetworkDefinition`.

Types are kept as the names of members of DataType ("HALF").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .binding import Model, Module
from .values import Dims, Log, ints

FLOATS = ("FLOAT", "HALF", "BF16")
INTEGERS = ("INT32", "INT64", "BOOL", "UINT8")


class Tensor(Model):
    """A tensor. `made_type` is the type that its layer gives it; `asked_type` what the caller set on an input or output."""

    cls = "ITensor"

    def __init__(self, network: Network, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        self.network, self.name, self.onnx_name = network, name, name
        self.made_type, self.asked_type = dtype, ""
        self.sizes = shape
        self.layer: Layer | None = None
        self.is_shape_tensor = False
        self.allowed_formats = (1 << len(network.module.names["TensorFormat"].__members__)) - 1
        self.location = network.module.enum("TensorLocation.DEVICE")
        self.broadcast_across_batch = False
        self.dynamic_range: Any = None
        self.symbols: dict[int, str] = {}

    @property
    def io_type(self) -> str:
        """The type at the border of the engine."""
        return (
            self.asked_type if self.asked_type and (self.is_network_input or self.is_network_output) else self.made_type
        )

    @property
    def dtype(self) -> Any:
        """The type, as DataType."""
        return self.network.module.enum(f"DataType.{self.io_type}")

    @dtype.setter
    def dtype(self, value: Any) -> None:
        if not (self.is_network_input or self.is_network_output):
            return  # "The type is unchanged if the tensor is not a network input tensor, or marked as an output tensor"
        if self.network.strong and value.name != self.made_type:
            self.network.log.error(
                f"ITensor::setType: Error Code 3: API Usage Error (the type of {self.name} is inferred in a strongly typed "
                f"network: {self.made_type}, not {value.name})"
            )
            return
        self.asked_type = value.name

    @property
    def shape(self) -> Any:
        """The shape; -1 where a dimension is dynamic."""
        return self.network.module.dims(self.sizes)

    @shape.setter
    def shape(self, value: Dims) -> None:
        if self.is_network_input:
            self.sizes = ints(value)

    @property
    def is_network_input(self) -> bool:
        """Whether it is a network's input."""
        return self in self.network.inputs

    @property
    def is_network_output(self) -> bool:
        """Whether it is a network's output."""
        return self in self.network.outputs

    @property
    def is_execution_tensor(self) -> bool:
        """Whether it is computed on the device."""
        return not self.is_shape_tensor

    def get_dimension_name(self, index: int) -> str | None:
        """The symbol of a dynamic dimension."""
        return self.symbols.get(index)

    def set_dimension_name(self, index: int, name: str) -> None:
        """Name a dimension."""
        self.symbols[index] = name

    def set_dynamic_range(self, low: float, high: float) -> bool:
        """Set the range for int8."""
        self.dynamic_range = (low, high)
        return True

    def reset_dynamic_range(self) -> None:
        """Forget the range."""
        self.dynamic_range = None


class Layer(Model):
    """A layer. `op` is the ONNX operator that it came from, `to` the type that the operator itself fixes (Cast, Quantize).

    A network's layer is an `ILayer` for Python, as with TensorRT, whose own subclasses pybind11 does not know: a caller who wants
    `to_type` of a Cast sets the object's `__class__` to `ICastLayer` first.
    """

    cls = "ILayer"

    def __init__(self, network: Network, kind: str, name: str, op: str) -> None:
        self.network, self.kind, self.name, self.op = network, kind, name, op
        self.metadata = ""
        self.inputs: list[Tensor | None] = []
        self.outputs: list[Tensor] = []
        self.to = ""
        self.asked_precision = ""
        self.asked_outputs: dict[int, str] = {}
        self.weights_type = ""

    def _tells(self, what: str) -> bool:
        """Whether a constraint may be set; an error where the types are the graph's."""
        if self.network.strong:
            self.network.log.error(
                f"ILayer::{what}: Error Code 3: API Usage Error (Parameter check failed, condition: "
                f"!mNetwork->isStronglyTyped(). {self.name}: {what} is not supported when network is strongly typed.)"
            )
        return not self.network.strong

    @property
    def type(self) -> Any:
        """The kind of the layer."""
        return self.network.module.enum(f"LayerType.{self.kind}")

    @property
    def precision(self) -> Any:
        """What was asked; FLOAT where nothing was."""
        return self.network.module.enum(f"DataType.{self.asked_precision or 'FLOAT'}")

    @precision.setter
    def precision(self, value: Any) -> None:
        if self._tells("setPrecision"):
            self.asked_precision = value.name

    @property
    def precision_is_set(self) -> bool:
        """Whether one was asked."""
        return bool(self.asked_precision)

    def reset_precision(self) -> None:
        """Ask none."""
        if self._tells("resetPrecision"):
            self.asked_precision = ""

    def set_output_type(self, index: int, dtype: Any) -> None:
        """Ask for the type of an output. The type of the tensor stays as it is."""
        if not 0 <= index < len(self.outputs):
            self.network.log.error(
                f"ILayer::setOutputType: Error Code 3: API Usage Error (index {index} is out of range)"
            )
        elif self._tells("setOutputType"):
            self.asked_outputs[index] = dtype.name

    def output_type_is_set(self, index: int) -> bool:
        """Whether a type was asked."""
        return index in self.asked_outputs

    def reset_output_type(self, index: int) -> None:
        """Ask none."""
        if self._tells("resetOutputType"):
            self.asked_outputs.pop(index, None)

    def get_output_type(self, index: int) -> Any:
        """What was asked; else the type of the tensor."""
        return self.network.module.enum(f"DataType.{self.asked_outputs.get(index) or self.outputs[index].made_type}")

    @property
    def num_inputs(self) -> int:
        """How many."""
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        """How many."""
        return len(self.outputs)

    def get_input(self, index: int) -> Tensor | None:
        """An input; None where there is none."""
        return self.inputs[index] if 0 <= index < len(self.inputs) else None

    def get_output(self, index: int) -> Tensor | None:
        """An output; None where there is none."""
        return self.outputs[index] if 0 <= index < len(self.outputs) else None

    @property
    def to_type(self) -> Any:
        """What a Cast or a Quantize makes."""
        return self.network.module.enum(f"DataType.{self.to or self.outputs[0].made_type}")

    @property
    def compute_precision(self) -> Any:
        """What a normalization computes in."""
        return self.network.module.enum(f"DataType.{self.__dict__.get('normalizes_in', 'FLOAT')}")

    @compute_precision.setter
    def compute_precision(self, value: Any) -> None:
        self.normalizes_in = value.name

    @property
    def is_shape(self) -> bool:
        """Whether all that it makes is shape arithmetic, which runs on the host in integers."""
        return bool(self.outputs) and all(tensor.is_shape_tensor for tensor in self.outputs)


@dataclass
class Source:
    """The ONNX model that a network came from, its weights inside it."""

    model: bytes = b""
    functions: dict[str, list[str]] = field(default_factory=dict)


class Network(Model):
    """A network."""

    cls = "INetworkDefinition"

    def __init__(self, module: Module, builder: Any, flags: int) -> None:
        self.module, self.builder, self.flags = module, builder, flags
        self.log: Log = builder.log
        self.name = "Unnamed Network 0"
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.layers: list[Layer] = []
        self.source = Source()
        self.error_recorder = None

    def _has(self, flag: str) -> bool:
        members = self.module.names["NetworkDefinitionCreationFlag"].__members__
        return flag in members and bool(self.flags >> int(members[flag]) & 1)

    @property
    def strong(self) -> bool:
        """Whether the types are those of the graph."""
        return self.module.version.always_strong or self._has("STRONGLY_TYPED")

    @property
    def has_implicit_batch_dimension(self) -> bool:
        """Whether the batch is no dimension, as before TensorRT 10 without the flag."""
        return self.module.version.implicit_batch and not self._has("EXPLICIT_BATCH")

    def get_flag(self, flag: Any) -> bool:
        """Whether it was created with a flag."""
        return bool(self.flags >> int(flag) & 1)

    @property
    def num_layers(self) -> int:
        """How many."""
        return len(self.layers)

    @property
    def num_inputs(self) -> int:
        """How many."""
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        """How many."""
        return len(self.outputs)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    def get_layer(self, index: int) -> Layer | None:
        """A layer; None where there is none."""
        return self.layers[index] if 0 <= index < len(self.layers) else None

    def get_input(self, index: int) -> Tensor | None:
        """An input; None where there is none."""
        return self.inputs[index] if 0 <= index < len(self.inputs) else None

    def get_output(self, index: int) -> Tensor | None:
        """An output; None where there is none."""
        return self.outputs[index] if 0 <= index < len(self.outputs) else None

    def mark_output(self, tensor: Tensor) -> None:
        """Make a tensor an output."""
        if tensor not in self.outputs:
            self.outputs.append(tensor)

    def unmark_output(self, tensor: Tensor) -> None:
        """Make it none."""
        if tensor in self.outputs:
            self.outputs.remove(tensor)
