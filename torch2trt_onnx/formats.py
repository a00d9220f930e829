"""Memory formats of bindings: TensorRT's, and which of them says what PyTorch's mean.

Layouts and types are those that NvInferRuntimeBase.h documents at `TensorFormat`: of 8.6 (fp16 alone where later ones take bf16 as
well; a library without bf16 has no such tensor anyway) and of 10.13. TensorRT-RTX differs from its header, so its column was measured, on
1.7.1.116 (`tests/test_bindings_matrix.py` builds every cell).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]

LINEAR = "LINEAR"
TORCH_FORMATS: dict[str, int | None] = {"contiguous_format": None, "channels_last": 4, "channels_last_3d": 5}
"""PyTorch's memory formats, and the rank that each needs (None: any)."""


@dataclass(frozen=True)
class Layout:
    """How a TensorRT format lays out a tensor.

    Args:
        axis: of the channels, from the end: -3, or -4 where there is a depth.
        vector: the channels that lie together; their number is padded to a multiple of it.
        minor: whether the channels are the last axis in memory ("HWC"); else they are split, and a last axis of `vector` holds the
            channels that lie together ("CHW32").
    """

    axis: int
    vector: int
    minor: bool

    @property
    def min_rank(self) -> int:
        """The smallest rank of a tensor."""
        return -self.axis

    def packed(self, shape: Shape) -> Shape:
        """The shape of the same tensor as it lies in memory."""
        at = len(shape) + self.axis
        groups = -(-shape[at] // self.vector)
        before, after = shape[:at], shape[at + 1 :]
        if self.minor:
            return (*before, *after, groups * self.vector)
        return (*before, groups, *after, self.vector)


LAYOUTS: Mapping[str, Layout] = {
    "CHW2": Layout(-3, 2, False),
    "HWC8": Layout(-3, 8, True),
    "CHW4": Layout(-3, 4, False),
    "CHW16": Layout(-3, 16, False),
    "CHW32": Layout(-3, 32, False),
    "DHWC8": Layout(-4, 8, True),
    "CDHW32": Layout(-4, 32, False),
    "HWC": Layout(-3, 1, True),
    "HWC16": Layout(-3, 16, True),
    "DHWC": Layout(-4, 1, True),
}
"""The formats that are not row-major. Those of DLA pad rows, by amounts that depend on the device, and are passed on as they are."""

DLA_FORMATS = ("DLA_LINEAR", "DLA_HWC4")
TENSORRT_FORMATS = (LINEAR, *LAYOUTS, *DLA_FORMATS)

_F32, _F16, _BF16, _I8, _U8 = "float32", "float16", "bfloat16", "int8", "uint8"
_NOT_F32 = frozenset({_F16, _BF16})
SUPPORTED: Mapping[str, Mapping[str, frozenset[str]]] = {
    "tensorrt": {
        "CHW2": _NOT_F32,
        "HWC8": _NOT_F32,
        "CHW4": frozenset({_F16, _I8}),
        "CHW16": frozenset({_F16, _I8}),
        "CHW32": frozenset({_F32, _F16, _I8}),
        "DHWC8": _NOT_F32,
        "CDHW32": frozenset({_F16, _I8}),
        "HWC": frozenset({_F32, _U8}),
        "HWC16": frozenset({_F16}),
        "DHWC": frozenset({_F32}),
        "DLA_LINEAR": frozenset({_F16, _I8}),
        "DLA_HWC4": frozenset({_F16, _I8}),
    },
    "rtx": {
        "CHW2": frozenset({_F16}),
        "HWC8": _NOT_F32,
        "CHW4": frozenset({_F16, _I8}),
        "CHW32": frozenset({_F32, _F16, _I8}),
        "DHWC8": _NOT_F32,
        "CDHW32": frozenset({_F16, _I8}),
        "HWC": frozenset({_F32, _F16, _U8}),
        "HWC16": frozenset({_F16, _I8, "float8_e4m3fn"}),
        "DHWC": frozenset({_F32}),
    },
}
"""Product -> format -> the types that it takes. Every type is LINEAR as well.

bf16 is CHW2 and CHW4 in TensorRT-RTX too, but its engine then says "Unknown format", which nobody can check."""

CHANNELS_LAST = {"channels_last": ("HWC", "HWC8", "HWC16"), "channels_last_3d": ("DHWC", "DHWC8")}
"""PyTorch's formats -> TensorRT's with the same layout, the one without padding first."""


def tensorrt_format(word: str, dtype: str, shape: Shape, product: str) -> str:
    """TensorRT's format for what was asked of a tensor.

    Args:
        word: PyTorch's memory format, or TensorRT's name.
        dtype: PyTorch's name of the type.
        shape: of the tensor; -1 where a dimension is dynamic.
        product: "tensorrt" or "rtx".

    Raises:
        ValueError: the type, the rank or the number of channels has no such format; it says what would be right.
    """
    if word in ("contiguous_format", LINEAR):
        return LINEAR
    supported = SUPPORTED[product]
    if word in CHANNELS_LAST:
        rank = TORCH_FORMATS[word]
        if len(shape) != rank:
            raise ValueError(f"{word} needs rank {rank}, and the tensor has rank {len(shape)}")
        for name in CHANNELS_LAST[word]:
            if dtype in supported.get(name, ()) and shape[1] % LAYOUTS[name].vector == 0:
                return name
        raise ValueError(_no_channels_last(word, dtype, shape[1], supported))
    if dtype not in supported.get(word, ()):
        takes = ", ".join(sorted(supported.get(word, ()))) or "no type"
        right = ", ".join([LINEAR, *(name for name, types in supported.items() if dtype in types)])
        raise ValueError(f"{word} takes {takes}, and the tensor is {dtype}; for that there is {right}")
    least = LAYOUTS[word].min_rank if word in LAYOUTS else 3
    if len(shape) < least:
        raise ValueError(f"{word} needs rank {least} or more, and the tensor has rank {len(shape)}")
    if product == "rtx" and word != "HWC" and len(shape) != least + 1:
        raise ValueError(f"TensorRT-RTX builds {word} for rank {least + 1} only, and the tensor has rank {len(shape)}")
    return word


def _no_channels_last(word: str, dtype: str, channels: int, supported: Mapping[str, frozenset[str]]) -> str:
    """Why a tensor cannot lie as PyTorch lays it out: TensorRT's format of its type pads the channels, or there is none."""
    padded = [LAYOUTS[n].vector for n in CHANNELS_LAST[word] if dtype in supported.get(n, ())]
    if not padded:
        return f"there is no {word} for {dtype}; use contiguous_format"
    if channels < 0:
        return f"for {dtype} the number of channels must be static, and a multiple of {min(padded)}"
    return (
        f"for {dtype} the channels must be a multiple of {min(padded)}, and there are {channels}: TensorRT pads them, and PyTorch "
        "does not; pad them in the model, or use contiguous_format"
    )


def elements(name: str, shape: Shape) -> int:
    """How many elements a tensor of a format takes in memory, with its padding."""
    return math.prod(LAYOUTS[name].packed(shape) if name in LAYOUTS else shape)
