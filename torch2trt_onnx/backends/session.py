"""One build with TensorRT, in the child process: what all its behaviours have in common.

A behaviour is a subclass in a file of its own: weakly typed networks, strongly typed ones, TensorRT-RTX. They differ in how the network is
made, in what it is told of precisions, in how the builder is configured, and in how the engine is read.

Objects are annotated with the type stubs of TensorRT 10.13, so that mypy sees a call that it does not have. The module itself is passed in,
because TensorRT-RTX has the same names in another module.
"""

from __future__ import annotations

import contextlib
import json
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from torch2trt_onnx.backends.job import InputJob, Job
from torch2trt_onnx.backends.library import Capabilities, derived, probe

if TYPE_CHECKING:
    import tensorrt

Constraint = dict[str, Any]


class RefusalError(Exception):
    """TensorRT said no, or would.

    Args:
        stage: "parse", "bindings", "config" or "build".
        errors: each with a `text`, and of the parser with `code`, `node` and `operator`.
    """

    def __init__(self, stage: str, errors: list[dict[str, str]]) -> None:
        super().__init__(stage)
        self.stage, self.errors = stage, errors


class Session(ABC):
    """One build. The objects live as long as it does: TensorRT crashes where a network outlives its builder, or a parser its network.

    Args:
        trt: the module.
        job: what to build.
        channel: where progress goes, a JSON object a line.
    """

    def __init__(self, trt: Any, job: Job, channel: TextIO) -> None:
        self.trt, self.job = trt, job
        self.can: Capabilities = probe(trt)
        self.log: Any = derived(trt.ILogger, Log)
        self._channel = channel
        self._seconds: dict[str, float] = {}
        self._needs_profile = False

    def run(self) -> dict[str, Any]:
        """Parse, build, and read back what was built.

        Returns:
            `ok`; `stage` and `errors` where not; `network` (node -> type of each output, where that proves anything), `constraints` (what
            each layer was told, or why it was not), `engine` (what `read` gives), `log` (warnings and errors), `seconds` of parsing and
            building, `version`.
        """
        result: dict[str, Any] = {
            "ok": False,
            "errors": [],
            "network": {},
            "constraints": [],
            "log": self.log.kept,
            "seconds": self._seconds,
            "version": self.trt.__version__,
        }
        try:
            self.builder: tensorrt.Builder = self.trt.Builder(self.log)
            self.network: tensorrt.INetworkDefinition = self.builder.create_network(self.creation_flags())
            self.parse()
            self.bind()
            result["constraints"] = self.constrain()
            result["network"] = self.network_types()
            config: tensorrt.IBuilderConfig = self.builder.create_builder_config()
            self.configure(config)
            self.add_profiles(config)
            self.build(config)
            result["engine"] = self.read()
        except RefusalError as refusal:
            return {**result, "stage": refusal.stage, "errors": refusal.errors}
        return {**result, "ok": True}

    # --- what a behaviour says

    @abstractmethod
    def creation_flags(self) -> int:
        """The flags of the network, as a bit mask."""

    def constrain(self) -> list[Constraint]:
        """Tell the layers their precisions. Returns what each was told, or why it was not."""
        return []

    def network_types(self) -> dict[str, list[str]]:
        """The type of each output of each ONNX node in the network, where that is the type that it runs in."""
        return {}

    def configure(self, config: tensorrt.IBuilderConfig) -> None:
        """Set what the builder is to heed."""
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED  # the proof reads the layers
        (config.set_flag if self.job.tf32 else config.clear_flag)(self.trt.BuilderFlag.TF32)
        if self.can.progress:
            config.progress_monitor = derived(self.trt.IProgressMonitor, Monitor, self._channel)

    @abstractmethod
    def read(self) -> dict[str, Any]:
        """What the built engine tells of itself: `layers` (text) in the form `form` ("dump" or "json"), and `bindings` where they are not
        in the text."""

    # --- the steps

    def creation_flag(self, name: str) -> int:
        """The bit of a flag, or 0 where the library has none of that name."""
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, name, None)
        return 1 << int(flag) if flag is not None else 0

    def parse(self) -> None:
        """Make the network of the ONNX file."""
        self.parser: tensorrt.OnnxParser = self.trt.OnnxParser(self.network, self.log)
        start = time.perf_counter()
        parsed = self.parser.parse_from_file(self.job.model)
        self._seconds["parse"] = time.perf_counter() - start
        if not parsed or not self.network.num_outputs:
            raise RefusalError(
                "parse", [self._parser_error(self.parser.get_error(i)) for i in range(self.parser.num_errors)]
            )

    def _parser_error(self, error: tensorrt.ParserError) -> dict[str, str]:
        read = {}
        for key, method in (("code", "code"), ("node", "node_name"), ("operator", "node_operator"), ("text", "desc")):
            try:
                told = getattr(error, method, str)()
                read[key] = str(getattr(told, "name", told))
            except UnicodeDecodeError:
                read[key] = "(not text)"
        number = error.node()
        if not read["node"] and 0 <= number < len(self.job.nodes):  # TensorRT 8.6 tells the number of the node only
            read["node"] = self.job.nodes[number].name
        read["text"] = read["text"].split("\n[checkMacros")[0]
        return read

    def bind(self) -> None:
        """Allow each input and output its one format."""
        inputs = {t.name: t for t in map(self.network.get_input, range(self.network.num_inputs))}
        outputs = {t.name: t for t in map(self.network.get_output, range(self.network.num_outputs))}
        for given in self.job.inputs:
            tensor = inputs.get(given.name)
            if tensor is None:
                raise RefusalError("bindings", [{"text": f"the network has no input {given.name!r}"}])
            self._check_shape_tensor(given, tensor.is_shape_tensor)
            self._needs_profile |= given.values is not None or -1 in sizes(tensor.shape)
            tensor.allowed_formats = self._format(given.format)
        for asked in self.job.outputs:
            if asked.name in outputs:
                outputs[asked.name].allowed_formats = self._format(asked.format)

    def _format(self, name: str) -> int:
        found = getattr(self.trt.TensorFormat, name, None)
        if found is None:
            raise RefusalError("bindings", [{"text": f"this TensorRT has no format {name}"}])
        return 1 << int(found)

    @staticmethod
    def _check_shape_tensor(given: InputJob, is_shape: bool) -> None:
        if is_shape == (given.values is not None):
            return
        text = (
            f"input {given.name!r} is a shape tensor: the network makes shapes of its values, so these need a range "
            "(Input(..., min_values=, opt_values=, max_values=))"
            if is_shape
            else f"input {given.name!r} has a range of values, and the network makes no shapes of them: it is no shape tensor"
        )
        raise RefusalError("bindings", [{"text": text}])

    def add_profiles(self, config: tensorrt.IBuilderConfig) -> None:
        """One optimization profile for each range of shapes that was given."""
        count = max((len(i.profiles) for i in self.job.inputs), default=1)
        for index in range(count if self._needs_profile else 0):
            profile = self.builder.create_optimization_profile()
            for given in self.job.inputs:
                if given.values is not None:
                    profile.set_shape_input(given.name, *map(list, given.values))
                else:
                    profile.set_shape(given.name, *self._dims(given, index))
            if not profile or config.add_optimization_profile(profile) < 0:
                raise RefusalError(
                    "config", self._errors() or [{"text": f"TensorRT refused the optimization profile {index}"}]
                )

    def _dims(self, given: InputJob, index: int) -> tuple[tensorrt.Dims, ...]:
        shapes = given.profiles[index if len(given.profiles) > 1 else 0]
        return tuple(self.trt.Dims(list(shape)) for shape in shapes)

    def build(self, config: tensorrt.IBuilderConfig) -> None:
        """Build the engine and write it to its file."""
        start = time.perf_counter()
        engine = self.builder.build_serialized_network(self.network, config)
        self._seconds["build"] = time.perf_counter() - start
        if engine is None:
            raise RefusalError("build", self._errors())
        Path(self.job.engine).write_bytes(memoryview(engine))

    def _errors(self) -> list[dict[str, str]]:
        return [{"text": text} for severity, text in self.log.kept if severity != "WARNING"]


def sizes(dims: tensorrt.Dims) -> list[int]:
    """A shape of TensorRT's."""
    return [int(dims[i]) for i in range(len(dims))]


class Log:
    """The one logger of the process, without its base, which only the library has. It keeps warnings, errors and the dump of the layers."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, str]] = []
        self.layers = ""

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT."""
        if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
            self.kept.append((severity.name, message))
        elif message.startswith("Layers:\n"):
            self.layers = message


class Monitor:
    """Tells the parent of each phase of a build, and at most ten times a second of its steps; likewise without its base."""

    def __init__(self, channel: TextIO) -> None:
        self._channel = channel
        self._steps: dict[str, int] = {}
        self._last = 0.0

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
        """Called by TensorRT."""
        self._steps[phase_name] = num_steps
        self._tell(phase_name, 0)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Called by TensorRT; whether to go on."""
        if time.monotonic() - self._last > 0.1:
            self._tell(phase_name, step)
        return True

    def phase_finish(self, phase_name: str) -> None:
        """Called by TensorRT."""
        self._steps.pop(phase_name, None)

    def _tell(self, phase: str, step: int) -> None:
        self._last = time.monotonic()
        with contextlib.suppress(OSError):
            self._channel.write(json.dumps({"phase": phase, "step": step, "steps": self._steps.get(phase, 0)}) + "\n")
