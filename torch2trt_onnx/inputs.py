"""What the user says of the inputs and outputs of the model: shape or ranges of shapes, type, memory format, name."""

from __future__ import annotations

import copy
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch2trt_onnx.errors import InputError
from torch2trt_onnx.formats import TENSORRT_FORMATS, TORCH_FORMATS, Shape
from torch2trt_onnx.precision import ElementType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

Range = tuple[Shape, Shape, Shape]
"""The smallest, the best and the largest shape (or values) of one optimization profile."""

VALUES, RANGE = "values=", "range="
PLAIN = "fiub"
"""Kinds of types that NumPy has by itself: bf16, fp8 and int4 are none."""

FORMATS = (*TORCH_FORMATS, *TENSORRT_FORMATS)


class Input:
    """One input: `shape`, or all three of `min_shape`, `opt_shape` and `max_shape`, or several ranges as `profiles`.

    Args:
        shape: the static shape, each dimension at least 1 (`()` for a 0-d tensor).
        min_shape, opt_shape, max_shape: the range of shapes, of one rank, with min <= opt <= max in each dimension. The
            model is traced, compared and tuned at `opt_shape`.
        dtype: the type of the binding, as torch, NumPy or people call it. None: the type that the graph declares.
        format: `torch.contiguous_format`, `torch.channels_last` (rank 4), a string of the same name, or the name of a TensorRT
            format ("HWC8", "CHW32", ...; see `formats`), whose memory the caller then lays out himself.
        name: the name of the binding. None: the name of the argument of `forward`.
        example: a tensor of `opt_shape`, used where the model runs for tracing and comparison (token ids, masks); None:
            random numbers, and zeros and ones for integers.
        profiles: `(min, opt, max)` of each optimization profile. Inputs with several have the same number; one with a single range has
            it in all. The model is traced and compared at the opt shape of the first.
        value_range: the smallest and the largest number that it holds, such as `(0, 30521)` for the ids of tokens. Where the model runs on
            random numbers, they are drawn evenly from it.
        min_values, opt_values, max_values: the values of a shape tensor: an integer input that says shapes inside the model, such as the
            size that it resizes to. All three, as flat sequences of as many numbers as `shape` has elements.

    Raises:
        InputError: one or two of the three shapes, several forms at once, ranks that differ, min > opt or opt > max.
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
        profiles: Sequence[Sequence[Sequence[int]]] | None = None,
        min_values: Sequence[int] | None = None,
        opt_values: Sequence[int] | None = None,
        max_values: Sequence[int] | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.name = name
        self.dtype = None if dtype is None else ElementType.of(dtype)
        where = f"input {name!r}" if name else "an input"
        self.format = _format(format, where)
        triple = (min_shape, opt_shape, max_shape)
        given = sum(s is not None for s in triple)
        forms = (shape is not None) + (given > 0) + (profiles is not None)
        if forms != 1 or given not in (0, 3):
            raise InputError(
                "give shape, or all three of min_shape, opt_shape and max_shape, or profiles",
                where=where,
                why=f"shape={shape}, min_shape={min_shape}, opt_shape={opt_shape}, max_shape={max_shape}, profiles={profiles}",
            )
        ranges = profiles if profiles is not None else [tuple(s if s is not None else shape for s in triple)]
        try:
            self.profiles: tuple[Range, ...] = tuple(_range(list(r), where) for r in ranges)
        except TypeError:
            raise InputError(f"{profiles!r} are no profiles", where=where, fix="give [(min, opt, max), ...]") from None
        if not self.profiles or len({len(r[0]) for r in self.profiles}) > 1:
            raise InputError(f"the ranks of the profiles differ, or there is none: {profiles}", where=where)
        self.min_shape: Shape = tuple(map(min, zip(*(r[0] for r in self.profiles), strict=True)))
        self.opt_shape: Shape = self.profiles[0][1]
        self.max_shape: Shape = tuple(map(max, zip(*(r[2] for r in self.profiles), strict=True)))
        rank = TORCH_FORMATS.get(self.format)
        if rank is not None and len(self.opt_shape) != rank:
            raise InputError(
                f"{self.format} needs rank {rank}, and {self.opt_shape} has rank {len(self.opt_shape)}", where=where
            )
        if example is not None and tuple(example.shape) != self.opt_shape:
            raise InputError(
                f"the example has shape {tuple(example.shape)}, and opt_shape is {self.opt_shape}", where=where
            )
        self.example = example
        self.values = _values((min_values, opt_values, max_values), self, where)
        self.value_range = value_range
        if value_range is not None and not -math.inf < value_range[0] <= value_range[1] < math.inf:
            raise InputError(f"the value_range {value_range} is none", where=where, fix="give (smallest, largest)")

    @classmethod
    def of(cls, value: object) -> Input:
        """An Input from an Input, or from a tensor: its shape, type and memory format are taken.

        Raises:
            InputError: `value` is neither.
        """
        if isinstance(value, Input):
            return value
        import torch  # only for who has tensors: it takes a second and 200 MB

        if isinstance(value, torch.Tensor):
            return cls(value.shape, dtype=value.dtype, format=_memory_format(value), example=value.detach())
        raise InputError(f"{value!r} cannot stand for an input", fix="pass a tensor or an Input")

    @classmethod
    def parse(cls, text: str) -> Input:
        """An Input from the command line: `NAME:SHAPE[:DTYPE][:FORMAT][:values=MIN..OPT..MAX][:range=LOW..HIGH]`.

        SHAPE is `1x3x224x224`, or `MIN..OPT..MAX` such as `1x3x224x224..4x3x224x224..8x3x224x224`, or several of those with commas, one
        for each optimization profile. A 0-d shape is `scalar`. NAME may be left out, with its colon, or hold colons. The values of a shape
        tensor are written like shapes: `size:2:int64:values=8x8..32x32..64x64`; what an input holds, as `range=0..30521`.

        Raises:
            InputError: the text does not have this form.
        """
        words = text.split(":")
        # The last one, because names may hold colons and numbers ("input:0"), and nothing behind the shape looks like one.
        shape_at = next((i for i in reversed(range(len(words))) if _SHAPES.fullmatch(words[i])), None)
        wrong = InputError(
            f"--input {text!r} is not NAME:SHAPE[:DTYPE][:FORMAT]",
            fix="for example x:1x3x224x224, ids:1x8..1x64..4x128:int64, or img:1x3x32x32:float16:channels_last",
        )
        if shape_at is None:
            raise wrong
        asked: dict[str, str] = {}
        for word in words[shape_at + 1 :]:
            is_values = word.startswith(VALUES) and _SHAPES.fullmatch(word.removeprefix(VALUES))
            is_range = _RANGE.fullmatch(word)
            key = "values" if is_values else "range" if is_range else "format" if word in FORMATS else "dtype"
            if key in asked:
                raise wrong
            asked[key] = word.removeprefix(VALUES).removeprefix(RANGE)
        values = _parsed_range(asked["values"], text) if "values" in asked else (None, None, None)
        return cls(
            name=":".join(words[:shape_at]) or None,
            dtype=asked.get("dtype"),
            format=asked.get("format", "contiguous_format"),
            profiles=[_parsed_range(part, text) for part in words[shape_at].split(",")],
            min_values=values[0],
            opt_values=values[1],
            max_values=values[2],
            value_range=_bounds(asked["range"]) if "range" in asked else None,
        )

    def bound_to(self, name: str, dtype: ElementType) -> Input:
        """The same input under the name that its graph has for it, with a type that is known."""
        bound = copy.copy(self)
        bound.name, bound.dtype = name, dtype
        return bound

    def holding(self, numbers: npt.NDArray[np.generic]) -> Input:
        """The same input with numbers as its example; they may have another shape, of its rank."""
        import torch

        held = copy.copy(self)
        held.example = torch.from_numpy(numbers)
        return held

    @property
    def is_dynamic(self) -> bool:
        """Whether any dimension has a range."""
        return self.min_shape != self.max_shape

    @property
    def is_shape_tensor(self) -> bool:
        """Whether its values have a range, because the model makes shapes of them."""
        return self.values is not None

    def at(self, point: str) -> tuple[Shape, Shape | None]:
        """The shape, and of a shape tensor the values, at "min", "opt" or "max"."""
        shape: Shape = getattr(self, f"{point}_shape")
        return shape, self.values[("min", "opt", "max").index(point)] if self.values is not None else None

    @property
    def dynamic_axes(self) -> list[int]:
        """The dimensions that have a range."""
        return [
            axis for axis, (low, high) in enumerate(zip(self.min_shape, self.max_shape, strict=True)) if low != high
        ]

    def tensor(
        self,
        shape: Shape,
        dtype: ElementType,
        device: torch.device | None = None,
        seed: int = 0,
        values: Shape | None = None,
    ) -> torch.Tensor:
        """A tensor to run the model on: the example, repeated or cut to the shape, or `numbers`.

        Args:
            shape: of the tensor.
            dtype: of the tensor.
            device: where it is made.
            seed: keeps several inputs apart.
            values: of a shape tensor; see `at`.
        """
        import torch

        kind = dtype.torch
        if self.example is not None and self.values is None:
            data = self.example
            for axis, size in enumerate(shape):
                index = torch.arange(size, device=data.device) % data.shape[axis]
                data = data.index_select(axis, index)
        else:
            data = torch.from_numpy(self.numbers(shape, dtype, seed, values))
        data = data.to(device=device, dtype=kind, copy=True)  # a model may write into its input
        # TensorRT's own formats lay out the same numbers; the model, and whoever compares with it, sees them row-major.
        plain = self.format not in TORCH_FORMATS
        return data.contiguous(memory_format=torch.contiguous_format if plain else getattr(torch, self.format))

    def array(
        self, shape: Shape, dtype: ElementType, seed: int = 0, values: Shape | None = None
    ) -> npt.NDArray[np.generic] | None:
        """As `tensor`, without PyTorch, whose import takes a second; None where it needs that.

        Args:
            shape: of the array.
            dtype: of the array.
            seed: keeps several inputs apart.
            values: of a shape tensor; see `at`.
        """
        if self.example is not None or dtype.numpy.kind not in PLAIN:
            return None
        return self.numbers(shape, dtype, seed, values).astype(dtype.numpy)

    def numbers(
        self, shape: Shape, dtype: ElementType, seed: int = 0, values: Shape | None = None
    ) -> npt.NDArray[np.generic]:
        """Numbers to run the model on where there is no example: the values of a shape tensor, or reproducible random ones.

        Floats are drawn from a normal distribution, and integers and bool are 0 or 1, which are valid wherever an index or a mask is
        meant; or both evenly from `value_range`.

        Args:
            shape: of the array.
            dtype: whether floats or integers; they come as float32 or int64.
            seed: keeps several inputs apart.
            values: of a shape tensor; see `at`.
        """
        import numpy as np

        if values is None and self.values is not None:
            values = self.values[1]
        if values is not None:
            return np.array(values, np.int64).reshape(shape)
        random = np.random.default_rng(seed)
        is_float = dtype.name.startswith(("float", "bfloat"))
        if is_float and self.value_range is None:
            return random.standard_normal(shape, np.float32)
        low, high = self.value_range or (0, 1)
        if is_float:
            return random.uniform(low, high, shape).astype(np.float32)
        return random.integers(math.ceil(low), math.floor(high), shape, endpoint=True)

    def __repr__(self) -> str:
        shapes = ", ".join("..".join(map(str, r)) for r in self.profiles) if self.is_dynamic else f"{self.opt_shape}"
        return f"Input({self.name or ''} {shapes} {self.dtype.name if self.dtype else ''} {self.format})"


def to_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor as NumPy has it: bf16 as fp32, fp64 as it is."""
    import torch

    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


class Output:
    """What is asked of one output; what is not said is as the model has it.

    Args:
        name: of the binding; None: by its place.
        dtype: the type of the binding, as torch, NumPy or people call it. None: what the model returns.
        format: as for `Input`.

    Raises:
        InputError: a type or a format that nothing has.
    """

    def __init__(self, name: str | None = None, *, dtype: object = None, format: object = "contiguous_format") -> None:  # noqa: A002
        self.name = name
        self.dtype = None if dtype is None else ElementType.of(dtype)
        self.format = _format(format, f"output {name!r}" if name else "an output")

    @classmethod
    def parse(cls, text: str) -> Output:
        """An Output from the command line: `NAME[:DTYPE][:FORMAT]`.

        Raises:
            InputError: the text does not have this form.
        """
        name, *words = text.split(":")
        while len(words) > 1 and not _is_asked(words[0]):  # of a name that holds colons ("out:0")
            name += f":{words.pop(0)}"
        asked = {"format" if word in FORMATS else "dtype": word for word in words}
        if not name or not words or len(asked) != len(words):
            raise InputError(
                f"{text!r} is not NAME[:DTYPE][:FORMAT]", fix="for example logits:float16, or mask:uint8:HWC"
            )
        return cls(name, dtype=asked.get("dtype"), format=asked.get("format", "contiguous_format"))

    def bound_to(self, name: str) -> Output:
        """The same under the name that the graph has for it."""
        bound = copy.copy(self)
        bound.name = name
        return bound

    def __repr__(self) -> str:
        return f"Output({self.name or ''} {self.dtype.name if self.dtype else ''} {self.format})"


def _is_asked(word: str) -> bool:
    """Whether a word is a format or a type."""
    try:
        return word in FORMATS or bool(ElementType.of(word))
    except InputError:
        return False


def named_outputs(given: object, names: Sequence[str]) -> list[Output]:
    """What is asked of each output of a graph, in its order.

    Args:
        given: None; an `Output`, or one or a dtype for each output in a sequence; or a mapping from names to either.
        names: of the graph's outputs.

    Raises:
        InputError: an output that the graph does not have, or one asked for twice.
    """
    if given is None:
        given = []
    if isinstance(given, Mapping):
        pairs = [(str(key), _output(value)) for key, value in given.items()]
    elif isinstance(given, Iterable) and not isinstance(given, str):
        values = [_output(value) for value in given]
        if len(values) > len(names):
            raise InputError(f"{len(values)} outputs were given, and the model has {len(names)}: {', '.join(names)}")
        pairs = [(value.name or names[index], value) for index, value in enumerate(values)]
    else:
        pairs = [((value := _output(given)).name or names[0], value)]
    found: dict[str, Output] = {}
    for name, value in pairs:
        if name not in names:
            raise InputError(f"the model has no output {name!r}", fix=f"its outputs are {', '.join(names)}")
        if name in found:
            raise InputError(f"the output {name!r} was given twice")
        found[name] = value
    return [found.get(name, Output()).bound_to(name) for name in names]


def _output(value: object) -> Output:
    if isinstance(value, Output):
        return value
    return Output(dtype=value)


_SHAPE = r"(scalar|\d+(x\d+)*)"
_RANGE = re.compile(rf"{RANGE}[-+.\de]+\.\.[-+.\de]+")
_SHAPES = re.compile(rf"{_SHAPE}(\.\.{_SHAPE})*(,{_SHAPE}(\.\.{_SHAPE})*)*")


def _parsed_range(text: str, whole: str) -> Range:
    """`1x3` or `MIN..OPT..MAX`."""
    shapes = [() if s == "scalar" else tuple(map(int, s.split("x"))) for s in text.split("..")]
    if len(shapes) == 1:
        shapes *= 3
    if len(shapes) != 3:
        raise InputError(f"--input {whole!r} has {len(shapes)} shapes", fix="give one, or MIN..OPT..MAX")
    return shapes[0], shapes[1], shapes[2]


def _bounds(text: str) -> tuple[float, float]:
    """`LOW..HIGH`."""
    low, _, high = text.partition("..")
    try:
        return float(low), float(high)
    except ValueError:
        raise InputError(f"range={text} is not LOW..HIGH", fix="for example range=0..30521") from None


def _format(word: object, where: str) -> str:
    found = str(word).removeprefix("torch.")
    if found not in FORMATS:
        raise InputError(f"{found!r} is not a memory format", where=where, fix=f"use one of {', '.join(FORMATS)}")
    return found


def _range(given: Sequence[Sequence[int] | None], where: str) -> Range:
    if len(given) != 3:
        raise InputError(f"the profile {given} has {len(given)} shapes", where=where, fix="give (min, opt, max)")
    shapes = [_dims(s, where) for s in given]
    if len({len(s) for s in shapes}) > 1:
        raise InputError(f"the ranks of min {shapes[0]}, opt {shapes[1]} and max {shapes[2]} differ", where=where)
    for axis, (low, opt, high) in enumerate(zip(*shapes, strict=True)):
        if not low <= opt <= high:
            raise InputError(f"axis {axis}: min {low} <= opt {opt} <= max {high} does not hold", where=where)
    return shapes[0], shapes[1], shapes[2]


def _values(given: Sequence[Sequence[int] | None], of: Input, where: str) -> Range | None:
    if all(values is None for values in given):
        return None
    if any(values is None for values in given):
        raise InputError(
            "give all three of min_values, opt_values and max_values", where=where, why=f"they are {given}"
        )
    if of.dtype is not None and not of.dtype.name.startswith(("int", "uint")):
        raise InputError(f"a shape tensor has integers, and not {of.dtype.name}", where=where)
    try:
        found = [tuple(map(operator.index, values)) for values in given if values is not None]
    except TypeError:
        raise InputError(
            "the values of a shape tensor are no flat sequences of integers", where=where, why=f"they are {given}"
        ) from None
    if of.is_dynamic or any(len(values) != math.prod(of.opt_shape) for values in found):
        raise InputError(
            f"a shape tensor of shape {of.opt_shape} has {math.prod(of.opt_shape)} values, and its shape is static",
            where=where,
            why=f"the values are {given}",
        )
    for index, (low, opt, high) in enumerate(zip(*found, strict=True)):
        if not low <= opt <= high:
            raise InputError(f"value {index}: min {low} <= opt {opt} <= max {high} does not hold", where=where)
    return found[0], found[1], found[2]


def _dims(shape: Sequence[int] | None, where: str) -> Shape:
    assert shape is not None
    try:
        dims = tuple(map(operator.index, shape))
    except TypeError:
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
