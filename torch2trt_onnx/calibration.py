"""What a model is measured on: the user's samples, or random ones, checked and as often as they are wanted.

One sample is in memory at a time. What can be read only once, such as a generator, is written to files as it is read.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from torch2trt_onnx.errors import InputError
from torch2trt_onnx.inputs import Input, to_numpy
from torch2trt_onnx.precision import ElementType

Array = npt.NDArray[Any]
Sample = dict[str, Array]

HELD = {"bfloat16": np.dtype(np.float32), "float64": np.dtype(np.float32)}
"""What NumPy feeds for a type that it lacks, or that TensorRT does."""

FIX = (
    "give an iterable of samples, each a mapping from names to arrays or a sequence in the order of the inputs; or the path of an .npz "
    "file, or of a folder of them"
)


class Samples:
    """Samples that can be iterated over again and again, one in memory at a time; each has an array for each input of the graph.

    Args:
        read: gives the samples from the first one on.
        is_real: whether they are the user's own.
        what: where they come from, for `words`.

    Attributes:
        is_real: as given.
    """

    def __init__(self, read: Callable[[], Iterator[Sample]], *, is_real: bool, what: str) -> None:
        self._read, self.is_real, self._what = read, is_real, what
        self._count = 0

    def __iter__(self) -> Iterator[Sample]:
        seen = 0
        for seen, sample in enumerate(self._read(), 1):
            self._count = max(self._count, seen)
            yield sample
        if not seen:
            raise InputError("the calibration data are empty", where=self._what, fix=FIX)

    @property
    def words(self) -> str:
        """How many there were so far, and where they come from, such as "4 samples of calib"."""
        return f"{self._count} {self._what}".replace("samples", "sample" if self._count == 1 else "samples")


def samples(
    given: object, inputs: Sequence[Input], folder: Path, *, order: Sequence[str] | None = None, number: int = 1
) -> Samples:
    """The samples of what a user gives as `calibration`.

    Args:
        given: None for random ones, drawn as each Input says; a sample; an iterable of samples; or the path of an .npz file (one sample) or
            of a folder of them. A sample is a mapping from names to arrays or tensors, a sequence of these in the order of the inputs, or,
            where there is one input, an array.
        inputs: of the graph, each with a name and a type.
        folder: for what can be read only once.
        order: the names of the model's inputs, with those that the graph has lost; None: those of `inputs`.
        number: of random samples.

    Raises:
        InputError: it is none of that, or empty. Iterating raises it too: of a sample that does not fit the inputs.
    """
    checks = _Checks(inputs, order if order is not None else [str(i.name) for i in inputs])
    if given is None:
        has_examples = any(i.example is not None for i in inputs)
        what = "samples of the examples" if has_examples else "random samples"
        return Samples(lambda: (checks.random(n) for n in range(number)), is_real=False, what=what)
    if isinstance(given, (str, os.PathLike)):
        return _of_files(Path(given), checks)
    if isinstance(given, Mapping) or _is_array(given):
        given = [given]
    if not isinstance(given, Iterable):
        raise InputError(f"a {type(given).__name__} is no calibration data", fix=FIX)
    if isinstance(given, Sequence):
        return Samples(lambda: map(checks.fit, given, map(_nth, count(1))), is_real=True, what="given samples")
    return Samples(_Spool(map(checks.fit, given, map(_nth, count(1))), folder), is_real=True, what="given samples")


class _Spool:
    """Reads an iterator once, and writes what it gives to files, from which it is read from then on."""

    def __init__(self, rest: Iterator[Sample], folder: Path) -> None:
        self._rest, self._folder = rest, folder
        self._files: list[Path] = []

    def __call__(self) -> Iterator[Sample]:
        for index in count():
            if index == len(self._files):
                sample = next(self._rest, None)
                if sample is None:
                    return
                self._folder.mkdir(parents=True, exist_ok=True)
                path = self._folder / f"sample-{index}.npz"
                # By number, because a name that is a parameter of `savez` could not be written.
                np.savez(path, *sample.values())
                self._files.append(path)
                self._names = list(sample)
            else:
                with np.load(self._files[index]) as arrays:
                    sample = {name: arrays[f"arr_{n}"] for n, name in enumerate(self._names)}
            yield sample


def _of_files(path: Path, checks: _Checks) -> Samples:
    paths = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not paths:
        raise InputError("the folder of the calibration data holds no .npz file", where=str(path), fix=FIX)
    if not paths[0].is_file():
        raise InputError("there is no such file of calibration data", where=str(path), fix=FIX)

    def read() -> Iterator[Sample]:
        return (checks.fit(_loaded(file), str(file)) for file in paths)

    return Samples(read, is_real=True, what=f"samples of {path}")


def _loaded(path: Path) -> Sample:
    try:
        with path.open("rb") as file:  # NumPy leaves open what turns out to be no archive
            found = np.load(file)  # without pickles, which can run any code
            if isinstance(found, np.ndarray):
                raise ValueError("it holds one array, without a name")
            return dict(found)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            "the calibration data cannot be read", where=str(path), why=str(error), fix="write it with numpy.savez"
        ) from error


def _nth(index: int) -> str:
    return f"sample {index}"


class _Checks:
    """What a sample must be: the inputs of the graph, and the order of the model's.

    Args:
        inputs: see `samples`.
        order: likewise.
    """

    def __init__(self, inputs: Sequence[Input], order: Sequence[str]) -> None:
        self.inputs, self.order = inputs, order

    def random(self, number: int) -> Sample:
        """A sample as the Inputs say."""
        first = number * len(self.inputs)  # of the seeds, so that no two tensors are the same
        return {str(i.name): _drawn(i, first + n) for n, i in enumerate(self.inputs)}

    def fit(self, sample: object, where: str) -> Sample:
        """The arrays of a sample by the names of the graph's inputs.

        Raises:
            InputError: it does not fit them.
        """
        named = self._named(sample, where)
        known = {str(i.name) for i in self.inputs}
        unknown = [name for name in named if name not in known and name not in self.order]
        missing = [name for name in known if name not in named]
        if unknown or missing:
            told = [f"it lacks {', '.join(map(repr, missing))}"] if missing else []
            told += [f"the model has no input {', '.join(map(repr, unknown))}"] if unknown else []
            raise InputError(
                "a sample of the calibration data does not have the model's inputs",
                where=where,
                why="; ".join(told),
                fix=f"its inputs are {', '.join(self.order)}",
            )
        return {str(i.name): _fitted(named[str(i.name)], i, f"{where}, input {i.name!r}") for i in self.inputs}

    def _named(self, sample: object, where: str) -> Mapping[str, object]:
        if isinstance(sample, Mapping):
            return sample
        values = [sample] if _is_array(sample) else sample
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise InputError(f"a sample of the calibration data is a {type(sample).__name__}", where=where, fix=FIX)
        if len(values) != len(self.order):
            counted = "an array" if _is_array(sample) else f"a sequence of {len(values)}"
            raise InputError(
                f"a sample of the calibration data is {counted}, and the model has {len(self.order)} inputs",
                where=where,
                fix=f"give a sequence or a mapping of {', '.join(self.order)}",
            )
        return dict(zip(self.order, values, strict=True))


def _drawn(given: Input, seed: int) -> Array:
    """Numbers for an input at opt shape."""
    kind = ElementType.of(given.dtype)
    if given.example is not None:
        return to_numpy(given.tensor(given.opt_shape, kind, seed=seed))
    numbers = given.numbers(given.opt_shape, kind, seed)  # which needs no PyTorch
    return numbers.astype(kind.numpy).astype(HELD.get(kind.name, kind.numpy))


def _fitted(value: object, given: Input, where: str) -> Array:
    """An array that an input takes.

    Raises:
        InputError: another type, rank or shape.
    """
    kind = ElementType.of(given.dtype)
    array = _array(value, where)
    wrong = [
        f"axis {axis} is {size}, and the input takes {low}..{high}"
        for axis, (size, low, high) in enumerate(zip(array.shape, given.min_shape, given.max_shape, strict=False))
        if not low <= size <= high
    ]
    if array.ndim != len(given.opt_shape):
        wrong = [f"it has rank {array.ndim}, and the input has rank {len(given.opt_shape)}"]
    if wrong:
        shapes = f"{given.min_shape}..{given.max_shape}" if given.is_dynamic else f"{given.opt_shape}"
        raise InputError(
            f"a sample of the calibration data has the shape {array.shape}",
            where=where,
            why="; ".join(wrong),
            fix=f"give the shape {shapes}, or a wider range to the Input",
        )
    cast = _cast(array, kind)
    if cast is None:
        raise InputError(
            f"a sample of the calibration data is {array.dtype.name}, and the input is {kind.name}",
            where=where,
            why="its values do not all fit"
            if _is_cast(array.dtype, kind)
            else "that is no cast which keeps its values",
            fix=f"give {HELD.get(kind.name, kind.numpy).name}",
        )
    return cast


def _array(value: object, where: str) -> Array:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    if torch is not None and isinstance(value, torch.Tensor):
        return to_numpy(value)
    try:
        return np.asarray(value)
    except ValueError as error:  # lists of several lengths
        raise InputError("a sample of the calibration data is no array", where=where, why=str(error)) from error


def _is_array(value: object) -> bool:
    """Whether a value is an array of NumPy, or a tensor of PyTorch."""
    return hasattr(value, "__array__")


def _is_cast(given: np.dtype[Any], kind: ElementType) -> bool:
    """Whether arrays of one type may be taken for another, as long as its values fit: no step from integers to floats, nor to fp16."""
    to, held = kind.numpy, HELD.get(kind.name, kind.numpy)
    is_integer = np.issubdtype(given, np.integer) and np.issubdtype(to, np.integer)
    is_float = (np.issubdtype(given, np.floating) or given == ml_dtypes.bfloat16) and held == np.float32
    return is_integer or given == to or is_float


def _cast(array: Array, kind: ElementType) -> Array | None:
    """An array as it is fed to an input of a type; None where it does not fit."""
    if not _is_cast(array.dtype, kind):
        return None
    with np.errstate(over="ignore"):
        cast = array.astype(kind.numpy, copy=False).astype(HELD.get(kind.name, kind.numpy), copy=False)
    if np.issubdtype(array.dtype, np.integer):
        return cast if np.array_equal(cast, array) else None
    is_held = cast is array or np.array_equal(np.isfinite(cast), np.isfinite(array.astype(np.float64)))
    return cast if is_held else None
