"""Memory formats: which types have them, and how elements lie in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FORMATS = {
    "FLOAT": ("LINEAR", "CHW32", "HWC", "DHWC"),
    "HALF": ("LINEAR", "CHW2", "HWC8", "CHW4", "CHW16", "CHW32", "DHWC8", "CDHW32", "HWC16"),
    "BF16": ("LINEAR", "HWC8"),
    "INT8": ("LINEAR", "CHW4", "CHW32", "CDHW32"),
    "UINT8": ("LINEAR", "HWC"),
}
"""Type -> the formats that a network's inputs and outputs may have; the others have LINEAR only."""

VECTORS = {"CHW2": 2, "CHW4": 4, "CHW16": 16, "CHW32": 32, "HWC8": 8, "HWC16": 16, "DHWC8": 8, "CDHW32": 32}
"""Format -> how many channels stand together, to a multiple of which the channels are padded."""

TITLES = {
    "LINEAR": "Row major linear {} format",
    "CHW2": "Two wide channel vectorized row major {} format",
    "CHW4": "Four wide channel vectorized row major {} format",
    "CHW16": "Sixteen wide channel vectorized row major {} format",
    "CHW32": "Thirty-two wide channel vectorized row major {} format",
    "HWC": "Channel major {} format",
    "HWC8": "Channel major {} format where channel % 8 == 0",
    "HWC16": "Channel major {} format where channel % 16 == 0",
    "DHWC": "Channel major {} format with 3 spatial dimensions",
    "DHWC8": "Channel major {} format where channel % 8 == 0 with 3 spatial dimensions",
    "CDHW32": "Thirty-two wide channel vectorized row major {} format with 3 spatial dimensions",
}
WORDS = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
}


def fits(layout: str, dtype: str, rank: int) -> bool:
    """Whether a tensor may have a format."""
    spatial = 5 if "D" in layout else 4
    return layout in FORMATS.get(dtype, ("LINEAR",)) and (layout == "LINEAR" or rank == spatial)


def title(layout: str, dtype: str) -> str:
    """TensorRT's description of a format."""
    return TITLES[layout].format(WORDS.get(dtype, dtype))


def stored_shape(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """The shape of the memory of a tensor, its outermost dimension first."""
    if layout == "LINEAR":
        return tuple(shape)
    batch, channels, *spatial = shape
    width = VECTORS.get(layout, 1)
    blocks = -(-channels // width)
    if layout[0] == "C":
        return (batch, blocks, *spatial, width)
    return (batch, *spatial, blocks * width)


def load(memory: np.ndarray, shape: Sequence[int], layout: str) -> np.ndarray:
    """The tensor in row-major order, of memory of the stored shape."""
    if layout == "LINEAR":
        return memory
    if layout[0] == "C":
        blocked = np.moveaxis(memory, -1, 2)
        return blocked.reshape(shape[0], -1, *shape[2:])[:, : shape[1]]
    return np.moveaxis(memory, -1, 1)[:, : shape[1]]


def store(memory: np.ndarray, values: np.ndarray, layout: str) -> None:
    """Write a tensor into memory of the stored shape; the padding becomes zero."""
    if layout == "LINEAR":
        memory[...] = values
        return
    width = VECTORS.get(layout, 1)
    pad = -values.shape[1] % width
    padded = np.pad(values, [(0, 0), (0, pad), *[(0, 0)] * (values.ndim - 2)])
    if layout[0] == "C":
        blocked = padded.reshape(values.shape[0], -1, width, *values.shape[2:])
        memory[...] = np.moveaxis(blocked, 2, -1)
    else:
        memory[...] = np.moveaxis(padded, 1, -1)
