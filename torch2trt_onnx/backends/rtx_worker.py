"""Parse and build with TensorRT-RTX, as a program: `python -m torch2trt_onnx.backends.rtx_worker JOB.json`.

Runs in a process of its own, because hostile graphs crash TensorRT's parser or never come back from it. Reads a job, writes the engine
and a result as files beside it, and says on its standard output, a JSON object a line, how far it is. What TensorRT itself prints goes to
standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO


def main(job_path: str) -> None:
    """Do the job and write `result.json` beside it."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # TensorRT prints some errors past its logger
    threading.Thread(target=_die_with_parent, daemon=True).start()
    job = json.loads(Path(job_path).read_text())
    result = build(job, channel)
    Path(job_path).with_name("result.json").write_text(json.dumps(result))
    channel.flush()
    os._exit(0)  # the result is on disk: what TensorRT does while it unloads cannot spoil it


def _die_with_parent() -> None:
    sys.stdin.buffer.read()  # ends when the parent does
    os._exit(1)


def build(job: dict[str, Any], channel: TextIO) -> dict[str, Any]:
    """Parse and build.

    Args:
        job: `model` and `engine` (paths), `inputs` (name, min, opt, max, format), `nodes` (name, number of outputs),
            `compute_capabilities`, `tf32`.
        channel: where progress goes.

    Returns:
        `ok`; `stage` and `errors` where not; `network` (node -> type of each output), `layers` (TensorRT's text), `log` (warnings),
        `seconds` of parsing and building.
    """
    import tensorrt_rtx as trt

    log = _make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    start = time.perf_counter()
    parsed = parser.parse_from_file(job["model"])
    seconds = {"parse": time.perf_counter() - start}
    if not parsed or not network.num_outputs:
        return {
            "ok": False,
            "stage": "parse",
            "errors": [_parser_error(parser, i) for i in range(parser.num_errors)],
            "log": log.kept,
        }
    result: dict[str, Any] = {
        "network": _network_types(network, parser, job["nodes"]),
        "log": log.kept,
        "seconds": seconds,
    }
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_flag(config, trt.BuilderFlag.TF32, job["tf32"])
    config.num_compute_capabilities = len(job["compute_capabilities"])
    for index, name in enumerate(job["compute_capabilities"]):
        capability = getattr(trt.ComputeCapability, "SM" + name.replace(".", ""), None)
        if capability is None:
            known = [c for c in dir(trt.ComputeCapability) if c.startswith("SM")]
            return {
                **result,
                "ok": False,
                "stage": "config",
                "errors": [{"text": f"no compute capability {name}; this TensorRT-RTX knows {', '.join(known)}"}],
            }
        config.set_compute_capability(capability, index)
    problem = _bind(trt, builder, network, config, job["inputs"])
    if problem:
        return {**result, "ok": False, "stage": "config", "errors": [{"text": problem}]}
    config.progress_monitor = _make_progress(trt, channel)
    start = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    seconds["build"] = time.perf_counter() - start
    if engine is None:
        return {
            **result,
            "ok": False,
            "stage": "build",
            "errors": [{"text": text} for severity, text in log.kept if severity != "WARNING"],
        }
    Path(job["engine"]).write_bytes(memoryview(engine))
    return {**result, "ok": True, "errors": [], "layers": log.layers}


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """The one logger of the process: keeps warnings and errors, and the dump of the layers."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.kept: list[tuple[str, str]] = []
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                self.kept.append((severity.name, message))
            elif message.startswith("Layers:\n"):
                self.layers = message

    return Log()


def _make_progress(trt: Any, channel: TextIO) -> Any:
    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells the parent of each phase, and at most ten times a second of its steps."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.last = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self.steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self.last > 0.1:
                self._tell(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def _tell(self, phase: str, step: int) -> None:
            self.last = time.monotonic()
            with contextlib.suppress(OSError):
                channel.write(json.dumps({"phase": phase, "step": step, "steps": self.steps.get(phase, 0)}) + "\n")

    return Progress()


def _set_flag(config: Any, flag: Any, on: bool) -> None:
    (config.set_flag if on else config.clear_flag)(flag)


def _bind(trt: Any, builder: Any, network: Any, config: Any, inputs: list[dict[str, Any]]) -> str:
    """Set formats and the optimization profile; what is wrong, or ''."""
    known = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    profile = builder.create_optimization_profile()
    dynamic = False
    for given in inputs:
        tensor = known.get(given["name"])
        if tensor is None:
            return f"the network has no input {given['name']!r}; it has {', '.join(known)}"
        if given["format"]:
            tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, given["format"]))
        if -1 in tuple(tensor.shape):
            if tensor.is_shape_tensor:
                return f"input {given['name']!r} is a shape tensor: its values, not its shape, need a range"
            profile.set_shape(given["name"], given["min"], given["opt"], given["max"])
            dynamic = True
        elif tensor.is_shape_tensor:
            return f"input {given['name']!r} is a shape tensor: its values need a range, which cannot be given yet"
    if dynamic and config.add_optimization_profile(profile) < 0:
        return "TensorRT refused the optimization profile"
    return ""


def _network_types(network: Any, parser: Any, nodes: list[tuple[str, int]]) -> dict[str, list[str]]:
    """The type of each output of each ONNX node in the network, which under strong typing is the type that it runs in."""
    by_layer: dict[str, list[str]] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for name in layer.metadata.split("\x1f"):
            made = [layer.get_output(i).dtype.name for i in range(layer.num_outputs)]
            by_layer.setdefault(name.removeprefix("[ONNX Layer: ").removesuffix("]"), []).extend(made)
    types: dict[str, list[str]] = {}
    for name, outputs in nodes:
        tensors = [parser.get_layer_output_tensor(name, i) for i in range(outputs)]
        found = [t.dtype.name if t is not None else "" for t in tensors]
        # The parser does not know nodes in the bodies of loops by name; their layers do.
        types[name] = found if any(found) else by_layer.get(name, [])[-1:]
    return types


def _parser_error(parser: Any, index: int) -> dict[str, str]:
    error = parser.get_error(index)
    read = {}
    for key, get in (
        ("code", lambda: error.code().name),
        ("node", error.node_name),
        ("operator", error.node_operator),
        ("text", error.desc),
    ):
        try:
            read[key] = str(get())
        except UnicodeDecodeError:
            read[key] = "(not text)"
    read["text"] = read["text"].split("\n[checkMacros")[0]
    return read


if __name__ == "__main__":
    main(sys.argv[1])
