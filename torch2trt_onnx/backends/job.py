"""What a build is asked for, in a form that goes to the child process as JSON and comes back the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

Dims = tuple[int, ...]


@dataclass(frozen=True)
class InputJob:
    """An input of the network.

    Args:
        name: its name.
        dtype: TensorRT's name of its type (FLOAT, HALF, ...).
        format: TensorRT's name of its memory format.
        profiles: (min, opt, max) shape in each optimization profile.
        values: (min, opt, max) values of a shape tensor; None for other inputs.
    """

    name: str
    dtype: str
    format: str
    profiles: tuple[tuple[Dims, Dims, Dims], ...]
    values: tuple[Dims, Dims, Dims] | None = None


@dataclass(frozen=True)
class OutputJob:
    """An output of the network; see `InputJob`."""

    name: str
    dtype: str
    format: str


@dataclass(frozen=True)
class NodeJob:
    """A node of the final graph, as a back end needs its plan.

    Args:
        name: its name.
        outputs: (tensor, TensorRT's name of its type; "" where TensorRT has no such type) of each output.
        precision: TensorRT's name of the type that it computes in; "" where it computes with no float.
        free: whether the compiler may choose another.
        quantized: whether it multiplies what Q/DQ made.
    """

    name: str
    outputs: tuple[tuple[str, str], ...]
    precision: str = ""
    free: bool = False
    quantized: bool = False


@dataclass(frozen=True)
class Job:
    """One build.

    Args:
        product: "tensorrt" or "rtx".
        typing: "weak" or "strong".
        model: the path of the final ONNX file.
        engine: the path to write.
        inputs, outputs: in the order of the graph.
        nodes: all, in the order of the graph, those in bodies of control flow last.
        precisions: our names of those that a weakly typed network may use.
        strict: whether a layer that cannot have its precision fails the build (weak typing).
        targets: the compute capabilities to build for, where the library takes such a list.
        tf32: whether fp32 matrix products may run in TF32.
    """

    product: str
    typing: str
    model: str
    engine: str
    inputs: tuple[InputJob, ...]
    outputs: tuple[OutputJob, ...]
    nodes: tuple[NodeJob, ...]
    precisions: tuple[str, ...] = ()
    strict: bool = False
    targets: tuple[str, ...] = ()
    tf32: bool = False

    def to_json(self) -> dict[str, Any]:
        """The job as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Job:
        """The job that `to_json` gave."""
        found = json.loads(json.dumps(data), object_hook=_tuples)
        return cls(
            **{
                **found,
                "inputs": tuple(InputJob(**row) for row in found["inputs"]),
                "outputs": tuple(OutputJob(**row) for row in found["outputs"]),
                "nodes": tuple(NodeJob(**row) for row in found["nodes"]),
            }
        )


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    """Lists of JSON as the tuples that they were."""
    return {key: _tuple(value) for key, value in row.items()}


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
