"""What the user says of an input of the model: shape or range of shapes, type, memory format, name."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch2trt_onnx.errors import InputError
from torch2trt_onnx.precision import ElementType

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]

FORMATS = {"contiguous_format": None, "channels_last": 4, "channels_last_3d": 5}
"""PyTorch's memory formats, and the rank that each needs (None: any)."""


class Input:
    """One input: either `shape`, or all three of `min_shape`, `opt_shape` and `max_shape`.

    Args:
        shape: the static shape, each dimension at least 1 (`()` for a 0-d tensor).
        min_shape, opt_shape, max_shape: the range of shapes, of one rank, with min <= opt <= max in each dimension. The
            model is traced, compared and tuned at `opt_shape`.
        dtype: the type of the binding, as torch, NumPy or people call it. None: the type that the graph declares.
        format: `torch.contiguous_format` or `torch.channels_last` (rank 4); a string of the same name will do.
        name: the name of the binding. None: the name of the argument of `forward`.
        example: a tensor of `opt_shape`, used where the model runs for tracing and comparison (token ids, masks); None:
            random numbers, and zeros and ones for integers.

    Raises:
        InputError: one or two of the three shapes, both forms at once, ranks that differ, min > opt or opt > max.
    """

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        *,
        min_shape: Sequence[int] | None = None,
        opt_shape: Sequence[int] | None = None,
        max_shape: Sequence[int] | None = None,
        dtype: object = None,
        format: object = "contiguous_format",  # noqa: A002 - the word of the specification
        name: str | None = None,
        example: torch.Tensor | None = None,
    ) -> None:
        self.name = name
        self.dtype = None if dtype is None else ElementType.of(dtype)
        self.format = str(format).removeprefix("torch.")
        where = f"input {name!r}" if name else "an input"
        triple = (min_shape, opt_shape, max_shape)
        given = sum(s is not None for s in triple)
        if (shape is not None and given) or (shape is None and given != 3):
            raise InputError(
                "give either shape, or all three of min_shape, opt_shape and max_shape",
                where=where,
                why=f"shape={shape}, min_shape={min_shape}, opt_shape={opt_shape}, max_shape={max_shape}",
            )
        shapes = [_dims(s if s is not None else shape, where) for s in triple]
        self.min_shape, self.opt_shape, self.max_shape = shapes
        if len({len(s) for s in shapes}) > 1:
            raise InputError(f"the ranks of min {shapes[0]}, opt {shapes[1]} and max {shapes[2]} differ", where=where)
        for axis, (low, opt, high) in enumerate(zip(*shapes, strict=True)):
            if not low <= opt <= high:
                raise InputError(f"axis {axis}: min {low} <= opt {opt} <= max {high} does not hold", where=where)
        if self.format not in FORMATS:
            raise InputError(
                f"{self.format!r} is not a memory format", where=where, fix=f"use one of {', '.join(FORMATS)}"
            )
        rank = FORMATS[self.format]
        if rank is not None and len(self.opt_shape) != rank:
            raise InputError(
                f"{self.format} needs rank {rank}, and {self.opt_shape} has rank {len(self.opt_shape)}", where=where
            )
        if example is not None and tuple(example.shape) != self.opt_shape:
            raise InputError(
                f"the example has shape {tuple(example.shape)}, and opt_shape is {self.opt_shape}", where=where
            )
        self.example = example

    @classmethod
    def of(cls, value: object) -> Input:
        """An Input from an Input, or from a tensor: its shape, type and memory format are taken.

        Raises:
            InputError: `value` is neither.
        """
        import torch

        if isinstance(value, Input):
            return value
        if isinstance(value, torch.Tensor):
            return cls(value.shape, dtype=value.dtype, format=_memory_format(value), example=value.detach())
        raise InputError(f"{value!r} cannot stand for an input", fix="pass a tensor or an Input")

    @classmethod
    def parse(cls, text: str) -> Input:
        """An Input from the command line: `NAME:SHAPE[:DTYPE][:FORMAT]`.

        SHAPE is `1x3x224x224`, or `MIN..OPT..MAX` such as `1x3x224x224..4x3x224x224..8x3x224x224`. A 0-d shape is `scalar`. NAME
        may be left out, with its colon.

        Raises:
            InputError: the text does not have this form.
        """
        words = text.split(":")
        shape_at = next((i for i, word in enumerate(words[:2]) if _SHAPE.fullmatch(word)), None)
        if shape_at is None or len(words) > shape_at + 3:
            raise InputError(
                f"--input {text!r} is not NAME:SHAPE[:DTYPE][:FORMAT]",
                fix="for example x:1x3x224x224, ids:1x8..1x64..4x128:int64, or img:1x3x32x32:float16:channels_last",
            )
        shapes = [() if s == "scalar" else tuple(map(int, s.split("x"))) for s in words[shape_at].split("..")]
        dtype = None
        memory = "contiguous_format"
        for word in words[shape_at + 1 :]:
            if word in FORMATS:
                memory = word
            else:
                dtype = ElementType.of(word)
        name = words[0] if shape_at else None
        if len(shapes) == 1:
            return cls(shapes[0], dtype=dtype, format=memory, name=name)
        if len(shapes) == 3:
            return cls(
                min_shape=shapes[0], opt_shape=shapes[1], max_shape=shapes[2], dtype=dtype, format=memory, name=name
            )
        raise InputError(f"--input {text!r} has {len(shapes)} shapes", fix="give one, or MIN..OPT..MAX")

    def bound_to(self, name: str, dtype: ElementType) -> Input:
        """The same input under the name that its graph has for it, with a type that is known."""
        bound = copy.copy(self)
        bound.name, bound.dtype = name, dtype
        return bound

    @property
    def is_dynamic(self) -> bool:
        """Whether any dimension has a range."""
        return self.min_shape != self.max_shape

    @property
    def dynamic_axes(self) -> list[int]:
        """The dimensions that have a range."""
        return [
            axis for axis, (low, high) in enumerate(zip(self.min_shape, self.max_shape, strict=True)) if low != high
        ]

    def tensor(
        self, shape: Shape, dtype: ElementType, device: torch.device | None = None, seed: int = 0
    ) -> torch.Tensor:
        """A tensor to run the model on: the example, repeated or cut to `shape`, or reproducible numbers.

        Floats are drawn from a normal distribution; integers and bool are 0 or 1, which are valid wherever an index or a
        mask is meant. `seed` keeps several inputs apart.
        """
        import torch

        kind = dtype.torch
        if self.example is not None:
            data = self.example
            for axis, size in enumerate(shape):
                index = torch.arange(size, device=data.device) % data.shape[axis]
                data = data.index_select(axis, index)
        else:
            generator = torch.Generator().manual_seed(seed)
            floats = kind.is_floating_point
            data = (
                torch.randn(shape, generator=generator) if floats else torch.randint(0, 2, shape, generator=generator)
            )
        data = data.to(device=device, dtype=kind, copy=True)  # a model may write into its input
        return data.contiguous(memory_format=getattr(torch, self.format))

    def __repr__(self) -> str:
        shapes = f"{self.min_shape}..{self.opt_shape}..{self.max_shape}" if self.is_dynamic else f"{self.opt_shape}"
        return f"Input({self.name or ''} {shapes} {self.dtype.name if self.dtype else ''} {self.format})"


_SHAPE = re.compile(r"(scalar|\d+(x\d+)*)(\.\.(scalar|\d+(x\d+)*))*")


def _dims(shape: Sequence[int] | None, where: str) -> Shape:
    assert shape is not None
    try:
        dims = tuple(int(d) for d in shape)
    except (TypeError, ValueError):
        raise InputError(f"{shape!r} is not a shape", where=where, fix="use a tuple of integers") from None
    if any(d < 1 for d in dims):
        raise InputError(
            f"the shape {dims} has a dimension below 1",
            where=where,
            fix="use min/opt/max shapes for a dynamic dimension",
        )
    return dims


def _memory_format(tensor: torch.Tensor) -> str:
    import torch

    if tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    return "contiguous_format"
