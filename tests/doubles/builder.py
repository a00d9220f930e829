"""Model of `Builder`: from a network to an engine's bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .binding import Model, Module
from .choice import BuildFailedError, Choice, Row
from .config import Config, Profile
from .layouts import fits
from .network import FLOATS, Network, Tensor
from .values import HostMemory, Log

MAGIC = b"TENSORRT DOUBLE ENGINE\n"


class Builder(Model):
    """The builder."""

    def __init__(self, module: Module, _shell: Any, logger: Any) -> None:
        self.module, self.logger, self.log = module, logger, Log(module, logger)
        self.max_threads, self.error_recorder = 1, None
        self.num_DLA_cores = self.max_DLA_batch_size = 0
        self.platform_has_tf32 = self.platform_has_fast_fp16 = self.platform_has_fast_int8 = True

    def create_network(self, flags: int) -> Network:
        """An empty network."""
        known = self.module.names["NetworkDefinitionCreationFlag"].__members__.values()
        if flags & ~sum(1 << int(flag) for flag in known):
            self.log.warning(f"Builder::createNetworkV2: unknown flags in {flags:#b}")
        return Network(self.module, self, flags)

    def create_builder_config(self) -> Config:
        """Options."""
        return Config(self.module, self.log)

    def create_optimization_profile(self) -> Profile:
        """An empty profile."""
        return Profile(self.module)

    def is_network_supported(self, network: Network, config: Config) -> bool:
        """Whether a build gets past its checks."""
        try:
            _check(network, config)
        except BuildFailedError:
            return False
        return True

    def build_serialized_network(self, network: Network, config: Config) -> HostMemory | None:
        """The engine's bytes; None and an error in the log where it fails."""
        prefix = f"{self.module.version.build_prefix} Error Code 4: "
        try:
            data = self._build(network, config)
        except BuildFailedError as error:
            self.log.error(str(error) if str(error).startswith("Error Code") else prefix + str(error))
            return None
        return HostMemory(self.module, data) if data else None

    def build_serialized_network_to_stream(self, network: Network, config: Config, writer: Any) -> bool:
        """Write the engine's bytes to the caller's writer."""
        made = self.build_serialized_network(network, config)
        return made is not None and writer.write(made.data) == len(made.data)

    def _build(self, network: Network, config: Config) -> bytes:
        formats = _check(network, config)
        choice = Choice(network, config.has)
        choice.validate()
        if not _told(config.progress_monitor, len(network.layers)):
            self.log.warning("The build was cancelled by the progress monitor")
            return b""
        rows = choice.rows()
        if config.cache is not None:
            config.cache.names |= {row.name for row in rows}
        return _serialized(self.module, network, config, rows, formats)


def _told(monitor: Any, steps: int) -> bool:
    """Tell a progress monitor of a build; whether it lets it go on."""
    if monitor is None:
        return True
    monitor.phase_start("Building Engine", None, 2)
    goes_on = _steps(monitor, "Tactic Selection", "Building Engine", max(steps, 1))
    goes_on = goes_on and monitor.step_complete("Building Engine", 0)
    goes_on = goes_on and _steps(monitor, "Serializing Engine", "Building Engine", 1)
    goes_on = goes_on and monitor.step_complete("Building Engine", 1)
    monitor.phase_finish("Building Engine")
    return bool(goes_on)


def _steps(monitor: Any, phase: str, parent: str, steps: int) -> bool:
    monitor.phase_start(phase, parent, steps)
    goes_on = all(monitor.step_complete(phase, step) for step in range(steps))
    monitor.phase_finish(phase)
    return goes_on


def _check(network: Network, config: Config) -> dict[str, str]:
    """Refuse what has nothing to do with precisions; the format of each input and output."""
    if not network.outputs:
        raise BuildFailedError("Internal Error (Network must have at least one output)")
    for problem in _profile_problems(network, config):
        raise BuildFailedError(f"Internal Error ({problem})")
    for layer in network.layers:
        strange = [t for t in layer.inputs if t is not None and t.made_type == "UINT8"]
        if strange and layer.kind not in ("CAST", "IDENTITY", "DEQUANTIZE", "SHAPE"):
            raise BuildFailedError(
                f"Internal Error ({layer.name}: UINT8 is for Cast and Identity at inputs and outputs only)"
            )
    formats = {}
    for tensor in (*network.inputs, *network.outputs):
        formats[tensor.name] = _format(network, tensor)
        if tensor.is_network_output and (tensor.io_type in FLOATS) != (tensor.made_type in FLOATS):
            raise BuildFailedError(
                f"Internal Error ({tensor.name}: no implicit conversion of an output from {tensor.made_type} to {tensor.io_type})"
            )
    return formats


def _format(network: Network, tensor: Tensor) -> str:
    """The first of the allowed formats that a tensor can have."""
    if tensor.is_shape_tensor:
        return "LINEAR"
    members = network.module.names["TensorFormat"].__members__.values()
    for member in sorted(members, key=int):
        if tensor.allowed_formats >> int(member) & 1 and fits(member.name, tensor.io_type, len(tensor.sizes)):
            return str(member.name)
    word = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16"}.get(tensor.io_type, tensor.io_type.title())
    raise BuildFailedError(
        f"API Usage Error ({tensor.name}: has dataType {word} unsupported by tensor's allowed TensorFormats.)"
    )


def _profile_problems(network: Network, config: Config) -> Iterator[str]:
    dynamic = [t for t in network.inputs if -1 in t.sizes]
    shapes = [t for t in network.inputs if t.is_shape_tensor]
    if (dynamic or shapes) and not config.profiles:
        yield "Network has dynamic or shape inputs, but no optimization profile has been defined."
    for i, profile in enumerate(config.profiles):
        for tensor in dynamic:
            if tensor.name not in profile.shapes:
                yield f"{tensor.name}: dynamic input is missing dimensions in profile {i}."
        for tensor in shapes:
            if tensor.name not in profile.values:
                yield f"{tensor.name}: shape input is missing values in profile {i}."
        for tensor in network.inputs:
            for word, shape in zip(("kMIN", "kOPT", "kMAX"), profile.shapes.get(tensor.name, ()), strict=False):
                if not _matches(shape, tensor.sizes):
                    yield (
                        f"{tensor.name}: {word} dimensions in profile {i} are {list(shape)} but input has static dimensions "
                        f"{list(tensor.sizes)}."
                    )


def _matches(shape: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    return len(shape) == len(sizes) and all(b in (-1, a) for a, b in zip(shape, sizes, strict=True))


def _serialized(module: Module, network: Network, config: Config, rows: list[Row], formats: dict[str, str]) -> bytes:
    def bound(tensor: Tensor, mode: str) -> dict[str, Any]:
        return {
            "name": tensor.name,
            "onnx": tensor.onnx_name,
            "mode": mode,
            "dtype": tensor.io_type,
            "shape": tensor.sizes,
            "format": formats[tensor.name],
            "is_shape": tensor.is_shape_tensor,
        }

    plan = {
        "version": module.version.text,
        "name": network.name,
        "verbosity": config.profiling_verbosity.name,
        "refittable": config.has("REFIT"),
        "tensors": [*(bound(t, "INPUT") for t in network.inputs), *(bound(t, "OUTPUT") for t in network.outputs)],
        "profiles": [{"shapes": p.shapes, "values": p.values} for p in config.profiles],
        "layers": [row.asdict() for row in rows],
        "aux_streams": max(config.max_aux_streams, 0),
    }
    return MAGIC + json.dumps(plan).encode() + b"\n" + network.source.model


def unpacked(data: bytes) -> tuple[dict[str, Any], bytes] | None:
    """The plan and the ONNX model of an engine's bytes; None where they are of something else."""
    if not data.startswith(MAGIC):
        return None
    plan, _, model = data.removeprefix(MAGIC).partition(b"\n")
    return json.loads(plan), model
