"""What the places of Casts cost in the built engine: its kernels, and the bytes that they read and write.

    PYTHONPATH=tools .venv/bin/python tools/bench/borders.py [MODEL ...]

Each model is converted several ways and built by TensorRT-RTX for compute capability 8.9, with static shapes. Counted are the engine's
layers (its kernels); the bytes of all tensors at their borders, read and written, weights left out; and the Casts in the final
ONNX graph. Nothing is run, so time is not measured: kernels and bytes are what a memory-bound engine pays for.

`mixed` gives some nodes another precision by rules, with the minimum cut of `placement` that places the borders; `no cut` is the same
plan, where each node without weights and without a rule keeps its source precision. The ratios are to `fp32`, all of the model in fp32.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional

from torch2trt_onnx import ConversionWarning, Input, Options, convert, planning
from torch2trt_onnx.backends.layers import LABELS, EngineLayer
from torch2trt_onnx.precision import ElementType

OPTIONS = Options(compute_capabilities=("8.9",), compare=False)


class Block(nn.Module):
    """A transformer's block: attention and two linear layers, LayerNorm in front of each, and residuals."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.first(x)).chunk(3, -1))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        result: torch.Tensor = x + self.down(functional.gelu(self.up(self.second(x))))
        return result


class Convolutions(nn.Module):
    """A net of convolutions with what lies between them: ReLU, max pools, SiLU, BatchNorm, a concatenation, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.left, self.right = nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(32, 32, 1)
        self.norm = nn.BatchNorm2d(64)
        self.mix, self.last = nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(64, 64, 3, 1, 1)
        self.head = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(self.stem(image).relu(), 2)
        x = torch.cat([functional.max_pool2d(self.left(x), 3, 1, 1).relu(), self.right(x).relu()], 1)
        x = functional.silu(self.norm(x))
        x = self.last(functional.relu(self.mix(x))) + x
        result: torch.Tensor = self.head(functional.max_pool2d(x, 2).relu().mean((2, 3)))
        return result


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and what of it is to have another precision.

    Args:
        make: the model, in fp32.
        inputs: of static shape.
        reduced: whether `mixed` begins with the model in fp16; else in fp32.
        rules: of `mixed`.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.dtype], Any]
    reduced: bool
    rules: list[dict[str, str]]


def _minilm() -> nn.Module:
    from pretrained import minilm

    return minilm()


def _tokens(_: torch.dtype) -> dict[str, Input]:
    ids = torch.arange(128).reshape(1, 128) + 1000
    return {
        "input_ids": Input((1, 128), dtype="int64", example=ids),
        "attention_mask": Input((1, 128), dtype="int64", example=torch.ones_like(ids)),
    }


def _rows(dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.randn(1, 512, 384, dtype=dtype)]


def _image(dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.randn(4, 3, 128, 128, dtype=dtype)]


ISLANDS = [{"op": "Softmax", "precision": "fp32"}, {"op": "LayerNormalization", "precision": "fp32"}]
CASES = {
    "two attention blocks, 512 x 384": Case(
        lambda: nn.Sequential(Block(384, 6), Block(384, 6)), _rows, reduced=True, rules=ISLANDS
    ),
    "the same blocks, MatMul in fp16 by a rule": Case(
        lambda: nn.Sequential(Block(384, 6), Block(384, 6)),
        _rows,
        reduced=False,
        rules=[{"op": "MatMul", "precision": "fp16"}],
    ),
    "convolutions, fp16 by rules": Case(
        Convolutions, _image, reduced=False, rules=[{"op": "Conv", "precision": "fp16"}]
    ),
    "MiniLM, 128 tokens": Case(_minilm, _tokens, reduced=True, rules=ISLANDS),
}


@contextlib.contextmanager
def without_cut() -> Iterator[None]:
    """Nodes that may take either precision keep the one of the source."""
    with mock.patch.object(planning, "place", lambda *_: None):
        yield


def ways(case: Case) -> Iterator[tuple[str, contextlib.AbstractContextManager[None], bool, dict[str, Any]]]:
    """(name, what holds while it converts, whether the source is fp16, arguments of `convert`)."""
    both = {"fp32", "fp16"}
    plain = contextlib.nullcontext
    yield "fp32", plain(), False, {}
    yield "fp16", plain(), True, {}
    yield "mixed", plain(), case.reduced, {"precisions": both, "rules": case.rules}
    yield "mixed, no cut", without_cut(), case.reduced, {"precisions": both, "rules": case.rules}
    yield "fp16, as PyTorch", plain(), True, {"fidelity": "pytorch"}


def measure(case: Case, reduced: bool, arguments: dict[str, Any]) -> tuple[int, int, int]:
    """(kernels, bytes, Casts) of one conversion."""
    torch.manual_seed(0)
    model = case.make().eval()
    dtype = torch.float16 if reduced else torch.float32
    conversion = convert(model.to(dtype), case.inputs(dtype), backend="rtx", options=OPTIONS, **arguments)
    layers = conversion.report.layers
    casts = sum(node.op == "Cast" and bool(node.precision) for node in conversion.plan.nodes)
    return len(layers), sum(map(bytes_of, layers)), casts


def bytes_of(layer: EngineLayer) -> int:
    """What a layer reads and writes, weights left out."""
    tensors = (*layer.inputs, *layer.outputs)
    return sum(math.prod(t.dims) * ElementType.of(LABELS.get(t.dtype, t.dtype.lower())).numpy.itemsize for t in tensors)


def main() -> None:
    """Convert, build and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=", ".join(CASES))
    warnings.simplefilter("ignore", ConversionWarning)
    for name in parser.parse_args().models or CASES:
        print(f"\n{name}\n{'':18} {'kernels':>8} {'MB':>9} {'of fp32':>8} {'Casts':>6}")
        whole = 0
        for way, context, reduced, arguments in ways(CASES[name]):
            with context:
                kernels, moved, casts = measure(CASES[name], reduced, arguments)
            whole = whole or moved
            print(f"{way:18} {kernels:>8} {moved / 1e6:>9.2f} {moved / whole:>8.3f} {casts:>6}", flush=True)


if __name__ == "__main__":
    main()
