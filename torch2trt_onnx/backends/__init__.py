"""From the final ONNX graph to an engine. The only folder that imports TensorRT, and that in a child process.

A back end is a class in a file of its own, in `BACKENDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch2trt_onnx.backends.layers import Binding, EngineLayer
from torch2trt_onnx.errors import BackendMissingError
from torch2trt_onnx.inputs import Input
from torch2trt_onnx.options import Options

Progress = Callable[[Mapping[str, Any]], None]
"""Called with `phase`, `step` and `steps` while an engine is built."""


@dataclass
class BuildResult:
    """An engine, and what it says of itself.

    Args:
        backend: the product and version that built it.
        engine: the file of the serialized engine.
        network: ONNX node -> type of each output in TensorRT's network ("" where it does not know the node).
        layers: the engine's kernels.
        bindings: the engine's inputs and outputs.
        warnings: what TensorRT warned of.
        seconds: of parsing and of building.
    """

    backend: str
    engine: Path
    network: dict[str, list[str]]
    layers: list[EngineLayer]
    bindings: list[Binding]
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class Backend(ABC):
    """One behaviour of TensorRT."""

    name: ClassVar[str]

    @staticmethod
    @abstractmethod
    def missing() -> str:
        """Why it cannot be used here; '' where it can. Imports nothing heavy."""

    @staticmethod
    @abstractmethod
    def version() -> str:
        """Product and version, where it is installed."""

    @abstractmethod
    def build(
        self,
        model: Path,
        inputs: Sequence[Input],
        nodes: Sequence[tuple[str, int]],
        options: Options,
        folder: Path,
        progress: Progress | None,
    ) -> BuildResult:
        """Parse and build.

        Args:
            model: the final ONNX file, its external data beside it.
            inputs: with a name, a range of shapes and a format each.
            nodes: (name, number of outputs) of the nodes whose types in the network are wanted.
            options: what the user asked of the build.
            folder: for temporary files and the engine.
            progress: told of how far it is.

        Raises:
            BackendError: it said no, crashed, or ran over a limit.
        """


def find(name: str | None) -> Backend | None:
    """The back end of a name; None for "none"; the first that is installed where no name is given.

    Raises:
        BackendMissingError: it is unknown, or not installed.
    """
    from torch2trt_onnx.backends.rtx import RtxBackend

    known: dict[str, type[Backend]] = {"rtx": RtxBackend}
    if name == "none":
        return None
    if name == "tensorrt":
        raise BackendMissingError(
            "the back end for TensorRT 8.6 to 11 is not built yet",
            fix="use backend='rtx', or backend='none' for the typed ONNX file",
        )
    if name is not None and name not in known:
        raise BackendMissingError(f"there is no back end {name!r}", fix=f"use one of {', '.join(known)}, none")
    chosen = [known[name]] if name is not None else list(known.values())
    reasons = []
    for backend in chosen:
        reason = backend.missing()
        if not reason:
            return backend()
        reasons.append(f"{backend.name}: {reason}")
    raise BackendMissingError(
        "no TensorRT is installed" if name is None else f"the back end {name!r} cannot be used here",
        why="; ".join(reasons),
        fix="pip install 'torch2trt_onnx[rtx]', or stop at the ONNX file with backend='none'",
    )
