"""Models of `Runtime`, `ICudaEngine`, `EngineInspector`."""

from __future__ import annotations

from typing import Any

from .binding import Model, Module
from .builder import MAGIC, unpacked
from .context import ExecutionContext
from .execute import Program
from .information import told
from .layouts import VECTORS, title
from .values import NUMPY, HostMemory, Log, volume

MEMORY = 2**20
"""What each profile is said to need of the device's memory, in bytes."""


class Runtime(Model):
    """The runtime."""

    def __init__(self, module: Module, _shell: Any, logger: Any) -> None:
        self.module, self.logger, self.log = module, logger, Log(module, logger)
        self.max_threads, self.error_recorder, self.DLA_core = 1, None, -1
        self.num_DLA_cores = 0
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, data: memoryview) -> Engine | None:
        """The engine of bytes; None where they are no engine of this version."""
        read = unpacked(bytes(data))
        if read is None:
            self.log.error(
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magicTag mismatch: this is no engine)"
            )
            return None
        plan, model = read
        if plan["version"] != self.module.version.text:
            self.log.error(
                "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not compatible with this "
                f"version of TensorRT, expecting library version {self.module.version.text} got {plan['version']}, please rebuild.)"
            )
            return None
        return Engine(self.module, self.log, plan, model)


class Engine(Model):
    """An engine."""

    cls = "ICudaEngine"

    def __init__(self, module: Module, log: Log, plan: dict[str, Any], model: bytes) -> None:
        self.module, self.log, self.plan, self.model = module, log, plan, model
        self.tensors: dict[str, dict[str, Any]] = {tensor["name"]: tensor for tensor in plan["tensors"]}
        self.program = Program(model, plan["tensors"])
        self.network_name = plan["name"]
        self.error_recorder = None
        self.has_implicit_batch_dimension = False
        self.device_memory_size = self.device_memory_size_v2 = MEMORY
        self.num_aux_streams = plan["aux_streams"]
        self.refittable = plan["refittable"]
        self.streamable_weights_size = 0
        self.tactic_sources = 0
        self.engine_capability = module.enum("EngineCapability.STANDARD")

    @property
    def num_layers(self) -> int:
        """How many."""
        return len(self.plan["layers"])

    @property
    def num_io_tensors(self) -> int:
        """How many."""
        return len(self.tensors)

    @property
    def num_optimization_profiles(self) -> int:
        """How many; an engine without dynamic inputs has one that TensorRT made."""
        return max(len(self.plan["profiles"]), 1)

    @property
    def profiling_verbosity(self) -> Any:
        """As it was built."""
        return self.module.enum(f"ProfilingVerbosity.{self.plan['verbosity']}")

    def find(self, name: str) -> dict[str, Any] | None:
        """What is known of an input or output; an error in the log where the name is unknown."""
        if name not in self.tensors:
            self.log.error(
                "ICudaEngine::getTensor: Error Code 3: API Usage Error (Given invalid tensor name: "
                f"{name}. Get valid tensor names with getIOTensorName())"
            )
        return self.tensors.get(name)

    def __getitem__(self, index: int) -> str:
        return self.get_tensor_name(index)

    def get_tensor_name(self, index: int) -> str:
        """Inputs first."""
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        """Input, output, or neither."""
        found = self.find(name)
        return self.module.enum(f"TensorIOMode.{found['mode'] if found else 'NONE'}")

    def get_tensor_dtype(self, name: str) -> Any:
        """The type; FLOAT of a name that is unknown."""
        found = self.find(name)
        return self.module.enum(f"DataType.{found['dtype'] if found else 'FLOAT'}")

    def get_tensor_shape(self, name: str) -> Any:
        """The shape; -1 where it is dynamic."""
        found = self.find(name)
        return self.module.dims(found["shape"] if found else ())

    def get_tensor_location(self, name: str) -> Any:
        """Shape tensors are on the host."""
        found = self.find(name)
        return self.module.enum(f"TensorLocation.{'HOST' if found and found['is_shape'] else 'DEVICE'}")

    def is_shape_inference_io(self, name: str) -> bool:
        """Whether its values make shapes."""
        found = self.find(name)
        return bool(found and found["is_shape"])

    def get_tensor_format(self, name: str, _profile_index: int = 0) -> Any:
        """The format."""
        found = self.find(name)
        return self.module.enum(f"TensorFormat.{found['format'] if found else 'LINEAR'}")

    def get_tensor_format_desc(self, name: str, _profile_index: int = 0) -> str:
        """The format in words."""
        found = self.find(name)
        return f"{title(found['format'], found['dtype'])} (k{found['format']})" if found else ""

    def _vector(self, name: str) -> int:
        found = self.find(name)
        return VECTORS.get(found["format"], -1) if found else -1

    def get_tensor_vectorized_dim(self, name: str, _profile_index: int = 0) -> int:
        """The dimension whose elements stand together; -1 where none does."""
        return 1 if self._vector(name) > 0 else -1

    def get_tensor_components_per_element(self, name: str, _profile_index: int = 0) -> int:
        """How many of them stand together; -1 where none does."""
        return self._vector(name)

    def get_tensor_bytes_per_component(self, name: str, _profile_index: int = 0) -> int:
        """How large they are; -1 where none stand together."""
        return NUMPY[self.tensors[name]["dtype"]].itemsize if self._vector(name) > 0 else -1

    def ranges(self, name: str, index: int) -> list[tuple[int, ...]]:
        """(min, opt, max) shape of an input; of a static one without a profile its shape, thrice."""
        profiles = self.plan["profiles"]
        given = profiles[index]["shapes"].get(name) if index < len(profiles) else None
        return [tuple(shape) for shape in given or [self.tensors[name]["shape"]] * 3]

    def _of_input(self, name: str, index: int) -> bool:
        found = self.find(name)
        right = bool(found and found["mode"] == "INPUT" and 0 <= index < self.num_optimization_profiles)
        if found and not right:
            self.log.error(
                f"ICudaEngine::getProfileShape: Error Code 3: API Usage Error ({name} is no input, or there is no profile {index})"
            )
        return right

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        """(min, opt, max) shape of an input."""
        if not self._of_input(name, profile_index):
            return [self.module.dims(())] * 3
        return [self.module.dims(shape) for shape in self.ranges(name, profile_index)]

    def get_tensor_profile_values(self, profile_index: int, name: str) -> list[list[int]]:
        """(min, opt, max) values of a shape input. The names of these parameters are swapped in TensorRT's own binding."""
        if not self._of_input(name, profile_index):
            return []
        profiles = self.plan["profiles"]
        return [list(v) for v in profiles[profile_index]["values"].get(name, ())] if profiles else []

    def get_device_memory_size_for_profile(self, _profile_index: int) -> int:
        """In bytes."""
        return MEMORY

    get_device_memory_size_for_profile_v2 = get_device_memory_size_for_profile

    def create_execution_context(self, _strategy: Any = None) -> ExecutionContext:
        """A context."""
        return ExecutionContext(self)

    def create_execution_context_without_device_memory(self) -> ExecutionContext:
        """A context whose memory the caller would give."""
        return ExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        """An inspector."""
        return EngineInspector(self)

    def serialize(self) -> HostMemory:
        """The bytes that it came from."""
        import json

        return HostMemory(self.module, MAGIC + json.dumps(self.plan).encode() + b"\n" + self.model)

    @property
    def name(self) -> str:
        """Of the network."""
        return self.network_name

    def upper_bound(self, name: str, shapes: dict[str, tuple[int, ...]]) -> int:
        """Bytes that an output may need."""
        found = self.tensors[name]
        shape = self.program.shapes(shapes).get(found["onnx"], tuple(found["shape"]))
        known = volume(dim for dim in shape if dim >= 0)
        unknown = max((volume(given) for given in shapes.values()), default=1)
        return known * (unknown if -1 in shape else 1) * NUMPY[found["dtype"]].itemsize


class EngineInspector(Model):
    """Tells the layers of an engine."""

    cls = "EngineInspector"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.execution_context: ExecutionContext | None = None
        self.error_recorder = None

    def get_engine_information(self, layout: Any) -> str:
        """All layers."""
        return told(self.engine, self.execution_context, as_json=layout.name == "JSON")

    def get_layer_information(self, layer_index: int, layout: Any) -> str:
        """One layer."""
        return told(self.engine, self.execution_context, as_json=layout.name == "JSON", only=layer_index)
