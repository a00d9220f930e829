"""Models that `policy="auto"` lowers, and what comes of it, for the tests."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from graphs import parse
from torch import nn

from torch2trt_onnx import ConversionWarning, convert

BOTH = {"fp32", "fp16"}
HALF = torch.float16
X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
ARRAYS = {
    "w": np.random.default_rng(0).normal(scale=0.5, size=(4, 4)).astype(np.float32),
    "large": np.array([1e6, 1, 1, 1], np.float32),
    "thousand": np.array(1000, np.float32),
    "lowest": np.array(np.finfo(np.float32).min, np.float32),
    "row": np.ones((1, 4), np.float32),
}


SQUARED = """g (float[2,4] x) => (float[2,4] y) {
    s = Mul(x, x)  a = MatMul(x, w)  b = Sigmoid(a)  c = Div(s, thousand)  y = Add(b, c) }"""
REAL = np.full((2, 4), 400, np.float32)  # its squares are beyond 65504


def squared():
    return parse(SQUARED, ARRAYS)


def run(model, precisions=BOTH, inputs=None, *, backend="none", **asked):
    """A conversion, and its warnings in one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        model = model.eval() if isinstance(model, nn.Module) else model
        conversion = convert(model, inputs, precisions, backend=backend, **asked)
    assert all(issubclass(w.category, ConversionWarning) for w in caught), [str(w.message) for w in caught]
    return conversion, "\n".join(str(w.message) for w in caught)


def computed(conversion, *tensors):
    """What a conversion computes, as arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)  # it runs on the CPU
        found = conversion(*tensors)
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


def kept(conversion):
    return {rule: [node.name for node in nodes] for rule, nodes in conversion.report.kept().items()}


def planned(conversion):
    """What each node but Casts is to run in."""
    return {node.name: node.precision for node in conversion.plan.floats() if node.op != "Cast"}


def error_of(found, expected):
    """The largest difference, by the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
