"""The layers of an engine, from what TensorRT prints while it builds (`ProfilingVerbosity.DETAILED`).

TensorRT-RTX has no JSON without a GPU: the engine inspector needs an engine, and that a device. The text is one line a layer. Names
may hold brackets and commas, so the lines are read by the fixed words between them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch2trt_onnx.precision import TYPES

LINE = re.compile(
    r"^Name: (?P<name>.*), LayerType: (?P<type>\S*), Inputs: \[(?P<inputs>.*)\], Constants: \[(?P<constants>.*)\], "
    r"Outputs: \[(?P<outputs>.*)\], TacticName: (?P<tactic>.*), StreamId: (?P<stream>-?\d+), Metadata: (?P<metadata>.*)$"
)
TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<dims>[-\d,]*)\], Strides: \[[-\d,]*\], StrideOrder: \[[-\d,]*\], "
    r"Datatype: (?P<dtype>\w+), Format: (?P<format>.*?) \}"
)
BINDING = re.compile(
    r"^\s*Name: (?P<name>.*), IOMode: (?P<mode>\w+), DataType: (?P<dtype>\w+), Dimensions: \[(?P<dims>[-\d,]*)\], Location: \w+, "
    r"IsShapeInferenceIO: (?P<shape>\w+), ProfileInfo: \[(?P<profiles>.*)\]"
)
FORMAT = re.compile(r"Format: (.*?) \}")
PROFILE = re.compile(r"MinShape: \[([-\d,]*)\], OptShape: \[([-\d,]*)\], MaxShape: \[([-\d,]*)\]")
NODE = "[ONNX Layer: "
KIND = re.compile(r"\(k([A-Z0-9_]+)\)")
LABELS = {word: row.label for row in TYPES for word in (row.tensorrt, row.dump) if word}
"""TensorRT's names of the types, in its API (HALF) and its dump (Half), as ours (fp16)."""


@dataclass(frozen=True)
class EngineTensor:
    """A tensor at the border of an engine layer. `dtype` is TensorRT's word (Float, Half, BFloat16, ...)."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class EngineLayer:
    """A kernel of the engine.

    Args:
        name: TensorRT's.
        type: TensorRT's word: gemm, kgen, correlation, ...
        inputs, constants, outputs: what it reads and writes.
        nodes: the names of the ONNX nodes that it computes; empty for inserted moves and for the few operators whose names TensorRT loses.
        tactic: the kernel's name, "" where TensorRT gives none. It may tell in what the layer computes where its borders do not:
            "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_...".
    """

    name: str
    type: str
    inputs: tuple[EngineTensor, ...]
    constants: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    nodes: tuple[str, ...]
    tactic: str = ""


@dataclass(frozen=True)
class Binding:
    """An input or output of the engine.

    Args:
        name: of the binding.
        mode: "Input" or "Output".
        dtype: TensorRT's word (Float, Half, ...), or one of ours where there is no engine.
        dims: -1 where a dimension is dynamic.
        format: TensorRT's description of the memory format; "" where it is not told.
        profiles: (min, opt, max) shape in each optimization profile, of a shape tensor the values; empty for outputs.
        is_shape: whether the engine reads its values on the host, to make shapes of them.
    """

    name: str
    mode: str
    dtype: str
    dims: tuple[int, ...]
    format: str
    profiles: tuple[tuple[tuple[int, ...], ...], ...] = ()
    is_shape: bool = False

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Binding:
        """What `dataclasses.asdict` gave, once it went through JSON.

        Raises:
            KeyError, TypeError: it is no such thing.
        """
        profiles = tuple(tuple(map(tuple, shapes)) for shapes in row["profiles"])
        return cls(**{**row, "dims": tuple(row["dims"]), "profiles": profiles})

    @property
    def layout(self) -> str:
        """The name of the format (LINEAR, HWC8, ...), where the description tells one."""
        found = KIND.search(self.format)
        if found is None and "channel-last" in self.format:  # those without padding are described, and not named
            return "DHWC" if "3 spatial dimensions" in self.format else "HWC"
        return found[1] if found else self.format if self.format.isupper() else ""


def parse(text: str) -> tuple[list[EngineLayer], list[Binding]]:
    """The layers and the bindings that a dump tells; lines of no known form are passed over."""
    layers, bindings = [], []
    for line in text.splitlines():
        found = LINE.match(line)
        if found:
            layers.append(
                EngineLayer(
                    found["name"],
                    found["type"],
                    _tensors(found["inputs"]),
                    _tensors(found["constants"]),
                    _tensors(found["outputs"]),
                    _nodes(found["metadata"]),
                    found["tactic"],
                )
            )
            continue
        bound = BINDING.match(line)
        if bound:
            layout = FORMAT.search(bound["profiles"])
            ranges = tuple(tuple(map(_dims, found.groups())) for found in PROFILE.finditer(bound["profiles"]))
            bindings.append(
                Binding(
                    bound["name"],
                    bound["mode"],
                    bound["dtype"],
                    _dims(bound["dims"]),
                    layout[1] if layout else "",
                    ranges,
                    bound["shape"] == "true",
                )
            )
    return layers, bindings


def _tensors(text: str) -> tuple[EngineTensor, ...]:
    return tuple(EngineTensor(t["name"], t["dtype"], _dims(t["dims"])) for t in TENSOR.finditer(text))


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(d) for d in text.split(",") if d)


def _nodes(metadata: str) -> tuple[str, ...]:
    """The nodes of a layer; of one in a body, the metadata says after " | " in which."""
    parts = (part.strip() for part in metadata.split("\x1f"))
    names = (part.removeprefix(NODE).removesuffix("]").split(" | ")[0] for part in parts if part.startswith(NODE))
    return tuple(dict.fromkeys(names))
