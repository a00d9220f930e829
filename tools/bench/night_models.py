"""Models that no night should meet: each ends, in its own way, the process that converts it."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import torch
from torch import nn

CRASH = """<ir_version: 10, opset_import: ["": 20]>
crash (float[2, 8] x) => (float[N, M] v, int64[N, M] i) <int64[2] k = {1, 1}> { v, i = TopK(x, k) }"""
"""The parser of TensorRT-RTX 1.7.1 dies of it, by SIGSEGV."""

LONG = 16_000
"""Nodes that take TensorRT-RTX minutes."""


def segfault() -> nn.Module:
    """Reads where nothing is."""
    ctypes.string_at(0)
    return nn.Identity()


def endless() -> nn.Module:
    """Loops in Python."""
    while True:
        pass


def endless_in_c() -> nn.Module:
    """Loops in a library, which no signal handler of Python's interrupts: each letter doubles the time."""
    re.match("(a+)+$", 64 * "a" + "b")
    return nn.Identity()


def greedy() -> nn.Module:
    """Takes 10 GB, a part at a time."""
    parts: list[torch.Tensor] = []
    while sum(part.numel() for part in parts) < 10 * 2**30:
        parts.append(torch.ones(2**27, dtype=torch.uint8))
    return nn.Identity()


def write_files(folder: Path, sound: Path) -> None:
    """Files that are no models.

    Args:
        folder: for them.
        sound: an ONNX file, parts of which they are.
    """
    import onnx
    from scale import model_of

    whole = sound.read_bytes()
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    script = folder / "whole.pt"
    torch.jit.script(nn.Sequential(nn.Linear(64, 64), nn.ReLU())).save(str(script))
    (folder / "truncated.pt").write_bytes(script.read_bytes()[:-500])
    script.unlink()
    onnx.save(
        onnx.load(sound),
        folder / "weightless.onnx",
        save_as_external_data=True,
        location="weightless.data",
        size_threshold=0,
    )
    (folder / "weightless.data").unlink()
    onnx.save(onnx.parser.parse_model(CRASH), folder / "parser.onnx")
    onnx.save(model_of(LONG), folder / "endless.onnx")
