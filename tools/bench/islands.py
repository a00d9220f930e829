"""Which nodes TensorRT-RTX runs in fp32 at no cost in the midst of fp16: fused into kernels that are there anyway.

    .venv/bin/python tools/bench/islands.py [CASE ...] [--precision bf16] [--capability 12.0]

Each case is a small network in fp32 that is narrowed as a whole, and then again with an island of fp32 in it, by rules: the Softmax of an
attention, with or without what masks and scales its argument; a norm, or parts of it; a power; a pool. Counted are the engine's layers (its
kernels) and the bytes that they write. An island that adds to neither is free: its accuracy costs nothing. `OperatorRisk` in
`torch2trt_onnx/safety.py` goes by this table; `auto` is what it and the other rules make of the case. Nothing is run, so time is not
measured.

Each network is built for one shape, and for a range of shapes around it (the rows of a sequence, or the images of a batch); bytes are those
of the shape in the middle.
"""

from __future__ import annotations

import argparse
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from torch2trt_onnx import Conversion, ConversionWarning, Input, Options, convert
from torch2trt_onnx.backends.layers import LABELS, EngineLayer
from torch2trt_onnx.plan import NodePlan
from torch2trt_onnx.precision import ElementType

WIDTH, HEADS = 384, 6
LARGE = -10000.0  # of a mask; fp16 has it

Shape = tuple[int | None, ...]


class Product(nn.Module):
    """What of an attention has no weights; its scores are masked by an Add, chosen by a Where, or neither.

    Args:
        mask: "", "add" (of numbers) or "where" (of bools).
        scaled: "before" the product of queries and keys, as PyTorch exports its own attention; or "behind" it.
    """

    def __init__(self, mask: str, scaled: str) -> None:
        super().__init__()
        self.mask, self.scaled = mask, scaled

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        if self.scaled == "before" and self.mask != "where":
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask if self.mask else None)
        scale = math.sqrt(q.shape[-1])
        if self.scaled == "before":
            scores = (q / math.sqrt(scale)) @ (k.transpose(-1, -2) / math.sqrt(scale))
        else:
            scores = q @ k.transpose(-1, -2) / scale
        if self.mask == "add":
            scores = scores + mask
        elif self.mask == "where":
            scores = torch.where(mask, scores, LARGE)
        return scores.softmax(-1) @ v


class Attention(nn.Module):
    """A layer of attention, behind a norm and beside a residual."""

    def __init__(self, mask: str, scaled: str) -> None:
        super().__init__()
        self.before, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.product = Product(mask, scaled)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.before(x)
        q, k, v = (layer(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        result: Tensor = x + self.out(self.product(q, k, v, mask).transpose(1, 2).flatten(2))
        return result


class Attentions(nn.Module):
    """Two of them."""

    def __init__(self, mask: str, scaled: str) -> None:
        super().__init__()
        self.first, self.second = Attention(mask, scaled), Attention(mask, scaled)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x, mask), mask)
        return result


class RootMeanSquare(nn.Module):
    """A norm of single operators, as language models spell it out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scale


class SpelledOut(nn.Module):
    """LayerNorm of single operators, as exporters of old opsets write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scale + self.shift


class PowerGelu(nn.Module):
    """GELU as GPT-2 computes it, with a cube."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class Perceptron(nn.Module):
    """A perceptron behind a norm, beside a residual."""

    def __init__(self, inner: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.inner, self.activation = inner, activation
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(self.activation(self.up(self.inner(x))))
        return result


class Squeezed(nn.Module):
    """Channels that are weighted by what a global average pool says of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.weigh = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x * self.weigh(self.pool(x)).sigmoid()
        return result


Member = Callable[[NodePlan], bool]
"""Whether a node is in an island."""


def nodes(module: str, *ops: str) -> Member:
    """The nodes of the modules of a name, all or those of some operators."""
    path = re.compile(rf"(^|\.){re.escape(module)}(\.|$)")
    return lambda node: path.search(node.module) is not None and (not ops or node.op in ops)


def but(member: Member, suffix: str) -> Member:
    """An island without the nodes whose names end so."""
    return lambda node: member(node) and not node.name.endswith(suffix)


@dataclass(frozen=True)
class Case:
    """A network, and the islands to try in it.

    Args:
        make: the network, in fp32.
        inputs: (shape, type) of each; None is the size that may range.
        sizes: the lowest, the usual and the highest.
        islands: by name.
    """

    make: Callable[[], nn.Module | onnx.ModelProto]
    inputs: tuple[tuple[Shape, str], ...]
    sizes: tuple[int, int, int]
    islands: Mapping[str, Member]

    def given(self, *, ranged: bool) -> list[Input]:
        """The inputs, of one shape or of a range of them."""
        shapes = [([filled(shape, size) for size in self.sizes], kind) for shape, kind in self.inputs]
        return [
            Input(min_shape=low, opt_shape=opt, max_shape=high, dtype=kind) if ranged else Input(opt, dtype=kind)
            for (low, opt, high), kind in shapes
        ]


def filled(shape: Shape, size: int) -> tuple[int, ...]:
    """A shape with a size for what may range."""
    return tuple(size if dim is None else dim for dim in shape)


SEQUENCE = (((1, None, WIDTH), "float32"),)
ROWS = (128, 512, 1024)
IMAGES = (((None, 64, 32, 32), "float32"),)
BATCH = (1, 4, 8)


def _attention(mask: str, scaled: str) -> Case:
    masks = {"add": ("Add",), "where": ("Where",)}.get(mask, ())
    islands = {"Softmax": nodes("product", "Softmax")}
    if mask:
        islands["Softmax, mask"] = nodes("product", "Softmax", *masks)
    if scaled == "behind":
        islands["Softmax, mask, scale" if mask else "Softmax, scale"] = nodes("product", "Softmax", "Div", *masks)
    scores = ((1, 1, None, None), "bool" if mask == "where" else "float32")
    return Case(lambda: Attentions(mask, scaled), (*SEQUENCE, scores), ROWS, islands)


def _norm(make: Callable[[int], nn.Module], islands: Mapping[str, Member]) -> Case:
    def network() -> nn.Module:
        return nn.Sequential(*(Perceptron(make(WIDTH), nn.GELU()) for _ in range(2)))

    return Case(network, SEQUENCE, ROWS, islands)


def _image(make: Callable[[int], nn.Module], islands: Mapping[str, Member]) -> Case:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = nn.Conv2d(64, 64, 3, 1, 1), make(64), nn.Conv2d(64, 64, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(functional.silu(self.inner(self.first(x))))
            return result

    return Case(Between, IMAGES, BATCH, islands)


def lrn() -> onnx.ModelProto:
    """LRN between two convolutions; PyTorch exports none."""
    text = """<ir_version: 10, opset_import: ["": 22]> g (float[N,64,32,32] x) => (float[N,64,32,32] y) {
        a = Conv<pads=[1,1,1,1]>(x, w)  b = LRN<size=5>(a)  y = Conv<pads=[1,1,1,1]>(b, w) }"""
    model = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).normal(scale=0.05, size=(64, 64, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return model


WHOLE = {"norm": nodes("inner")}
ROOT = ("Pow", "ReduceMean", "Add", "Sqrt")
CASES = {
    "attention, scaled before": _attention("", "before"),
    "attention, scaled before, mask by Add": _attention("add", "before"),
    "attention, scaled before, mask by Where": _attention("where", "before"),
    "attention, scaled behind": _attention("", "behind"),
    "attention, scaled behind, mask by Add": _attention("add", "behind"),
    "attention, scaled behind, mask by Where": _attention("where", "behind"),
    "LayerNorm": _norm(nn.LayerNorm, WHOLE),
    "two LayerNorms in a row": _norm(
        lambda width: nn.Sequential(nn.LayerNorm(width), nn.LayerNorm(width)),
        {"first": nodes("inner.0"), "second": nodes("inner.1"), "both": nodes("inner")},
    ),
    "RMS norm, spelled out": _norm(
        RootMeanSquare,
        {
            "up to the mean": nodes("inner", "Pow", "ReduceMean"),
            "up to the root": nodes("inner", *ROOT),
            "up to its reciprocal": nodes("inner", *ROOT, "Div"),
            **WHOLE,
        },
    ),
    "LayerNorm, spelled out": _norm(
        SpelledOut,
        {
            "up to the root": but(nodes("inner", *ROOT), "Add_1"),
            "up to the quotient": but(nodes("inner", *ROOT, "Sub", "Div"), "Add_1"),
            **WHOLE,
        },
    ),
    "GELU with a power": Case(
        lambda: nn.Sequential(*(Perceptron(nn.Identity(), PowerGelu()) for _ in range(2))),
        SEQUENCE,
        ROWS,
        {"Pow": nodes("activation", "Pow"), "Tanh": nodes("activation", "Tanh"), "activation": nodes("activation")},
    ),
    "GroupNorm": _image(
        lambda channels: nn.GroupNorm(8, channels),
        {"InstanceNormalization": nodes("inner", "InstanceNormalization"), **WHOLE},
    ),
    "InstanceNorm": _image(lambda channels: nn.InstanceNorm2d(channels, affine=True), WHOLE),
    "LRN": Case(lrn, IMAGES, BATCH, {"LRN": lambda node: node.op == "LRN"}),
    "LRN, spelled out": _image(lambda _: nn.LocalResponseNorm(5), {"Pow": nodes("inner", "Pow"), **WHOLE}),
    "global average pool": _image(
        Squeezed,
        {"pool": nodes("pool"), "pool to Sigmoid": nodes("inner", "GlobalAveragePool", "Conv", "Sigmoid")},
    ),
}


@dataclass(frozen=True)
class Cost:
    """What an engine pays for.

    Args:
        kernels: its layers.
        written: the bytes that they write.
        fp32: how many nodes of the plan are in fp32, Casts left out.
    """

    kernels: int
    written: int
    fp32: int

    @classmethod
    def of(cls, conversion: Conversion, size: int) -> Cost:
        """Of an engine, where what ranges has a size."""
        layers = [layer for layer in conversion.report.layers if layer.outputs]  # others compute shapes
        fp32 = sum(node.precision == "fp32" and node.op != "Cast" for node in conversion.plan.nodes)
        return cls(len(layers), sum(bytes_of(layer, size) for layer in layers), fp32)


def bytes_of(layer: EngineLayer, size: int) -> int:
    """What a layer writes."""
    return sum(
        math.prod(size if dim < 0 else dim for dim in tensor.dims)
        * ElementType.of(LABELS.get(tensor.dtype, tensor.dtype.lower())).numpy.itemsize
        for tensor in layer.outputs
    )


def ways(case: Case, word: str, options: Options, *, ranged: bool) -> Iterator[tuple[str, Cost]]:
    """What each way of building a case costs: in fp32, narrowed, narrowed but for each island, and as `policy="auto"` has it."""
    torch.manual_seed(0)
    model = case.make()
    if isinstance(model, nn.Module):
        model.eval()

    def built(*precisions: str, kept: Iterable[str] = ()) -> Conversion:
        rules = [{"name": f"re:{re.escape(name)}", "precision": "fp32"} for name in kept]
        given = case.given(ranged=ranged)
        return convert(model, given, set(precisions), rules=rules, calibration=False, backend="rtx", options=options)

    size = case.sizes[1]
    yield "fp32", Cost.of(built("fp32"), size)
    narrow = built(word)
    yield word, Cost.of(narrow, size)
    for name, member in case.islands.items():
        kept = [node.name for node in narrow.plan.floats() if node.op != "Cast" and member(node)]
        yield name, Cost.of(built(word, kept=kept), size)
    yield "auto", Cost.of(built("fp32", word), size)


def main() -> None:
    """Build, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="; ".join(CASES))
    parser.add_argument("--precision", choices=["fp16", "bf16"], default="fp16")
    parser.add_argument("--capability", default="8.9")
    given = parser.parse_args()
    options = Options(compute_capabilities=(given.capability,), compare=False, memory_limit=4 << 30)
    warnings.simplefilter("ignore", ConversionWarning)
    columns = f"{'fp32 nodes':>11} {'kernels':>8} {'MB':>7}"
    print(f"{'':26}{'one shape':>28}{'a range of shapes':>28}\n{'':26}{columns}{columns}")
    for name in given.cases or CASES:
        print(name)
        both = [ways(CASES[name], given.precision, options, ranged=ranged) for ranged in (False, True)]
        for (way, fixed), (_, moving) in zip(*both, strict=True):
            cells = (f"{cost.fp32:>11} {cost.kernels:>8} {cost.written / 1e6:>7.2f}" for cost in (fixed, moving))
            print(f"  {way:<24}{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
