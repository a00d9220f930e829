"""Precisions, and the single table of element types: PyTorch, ONNX, NumPy, TensorRT."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
from onnx import TensorProto

from torch2trt_onnx.errors import InputError, PrecisionError

if TYPE_CHECKING:
    import torch


class Precision(enum.Enum):
    """What a node computes in. Integers and bool are types, not precisions, and are never gated.

    The last three are precisions by Q/DQ only: a plain Cast to int8 keeps its value semantics.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def is_quantized(self) -> bool:
        """Whether a node has it through QuantizeLinear and DequantizeLinear only."""
        return self in (Precision.FP8, Precision.INT8, Precision.INT4)

    @classmethod
    def of(cls, word: object) -> Precision:
        """The precision that a word names.

        Args:
            word: a `Precision`, or what PyTorch, NumPy or people call it: `torch.float16`, `"fp16"`, `"half"`.

        Raises:
            PrecisionError: nothing of that name is a precision.
        """
        if isinstance(word, Precision):
            return word
        try:
            found = ElementType.of(word).precision
        except InputError:
            found = None
        if found is None:
            known = ", ".join(p.value for p in cls)
            raise PrecisionError(
                f"{word!r} is not a precision", fix=f"use one of {known}, or a torch dtype such as torch.float16"
            )
        return found


@dataclass(frozen=True)
class ElementType:
    """One row of the table: what each library calls an element type."""

    name: str  # PyTorch's name, without "torch."; also the one that we print
    onnx: int  # TensorProto.DataType
    numpy: np.dtype[np.generic]
    tensorrt: str  # attribute of tensorrt.DataType; "" where TensorRT has no such type
    dump: str  # the word in TensorRT's layer information
    precision: Precision | None = None
    aliases: tuple[str, ...] = ()

    @classmethod
    def of(cls, word: object) -> ElementType:
        """The row that a word names: a torch or NumPy dtype, an ONNX enum value, or a name.

        Raises:
            InputError: no row has that name.
        """
        if isinstance(word, ElementType):
            return word
        if isinstance(word, bool) or word is None:
            raise InputError(f"{word!r} is not an element type")
        if isinstance(word, int):
            row = _BY_ONNX.get(word)
        elif isinstance(word, Precision):
            row = _BY_NAME[word.value]
        else:
            row = _BY_NAME.get(str(word).removeprefix("torch.").lower())
            if row is None and isinstance(word, type) and issubclass(word, np.generic):
                row = _BY_NAME.get(np.dtype(word).name)
        if row is None:
            raise InputError(
                f"{word!r} is not an element type that we know", fix=f"use one of {', '.join(t.name for t in TYPES)}"
            )
        return row

    @property
    def torch(self) -> torch.dtype:
        """PyTorch's dtype."""
        import torch

        found: torch.dtype = getattr(torch, self.name)
        return found

    @property
    def label(self) -> str:
        """The short word for tables: the precision where it is one, else the name."""
        return self.precision.value if self.precision else self.name


def _row(
    name: str, onnx: int, numpy: object, tensorrt: str, dump: str, precision: Precision | None = None, *aliases: str
) -> ElementType:
    return ElementType(name, onnx, np.dtype(numpy), tensorrt, dump, precision, aliases)  # type: ignore[call-overload]


T = TensorProto
TYPES: tuple[ElementType, ...] = (
    _row("float32", T.FLOAT, np.float32, "FLOAT", "Float", Precision.FP32, "fp32", "float", "f32"),
    _row("float16", T.FLOAT16, np.float16, "HALF", "Half", Precision.FP16, "fp16", "half", "f16"),
    _row("bfloat16", T.BFLOAT16, ml_dtypes.bfloat16, "BF16", "BFloat16", Precision.BF16, "bf16"),
    _row("float64", T.DOUBLE, np.float64, "", "", None, "fp64", "double", "f64"),
    _row("int64", T.INT64, np.int64, "INT64", "Int64", None, "i64", "long"),
    _row("int32", T.INT32, np.int32, "INT32", "Int32", None, "i32", "int"),
    _row("int16", T.INT16, np.int16, "", "", None, "i16"),
    _row("int8", T.INT8, np.int8, "INT8", "Int8", Precision.INT8, "i8"),
    _row("uint8", T.UINT8, np.uint8, "UINT8", "UInt8", None, "u8"),
    _row("bool", T.BOOL, np.bool_, "BOOL", "Bool"),
    _row("float8_e4m3fn", T.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn, "FP8", "FP8", Precision.FP8, "fp8"),
    _row("int4", T.INT4, ml_dtypes.int4, "INT4", "Int4", Precision.INT4),
)
_BY_ONNX = {row.onnx: row for row in TYPES}
_BY_NAME = {name: row for row in TYPES for name in (row.name, *row.aliases)}

FLOATS = frozenset(row.onnx for row in TYPES if row.precision and not row.precision.is_quantized)
"""ONNX enum values of the types that nodes compute in."""

QUANTIZED = {row.onnx: row.precision for row in TYPES if row.precision and row.precision.is_quantized} | {
    T.UINT8: Precision.INT8,  # TensorRT makes int8 of it
    T.UINT4: Precision.INT4,
}
"""ONNX enum value of what DequantizeLinear reads -> the precision that this says."""


def label(onnx_type: int | None) -> str:
    """A short word for an ONNX element type, known to the table or not."""
    if not onnx_type:
        return "?"
    row = _BY_ONNX.get(onnx_type)
    return row.label if row else str(TensorProto.DataType.Name(onnx_type)).lower()


def is_lossless(source: int, target: int) -> bool:
    """Whether each value of ONNX type `source` is also a value of type `target`, so that a Cast to it changes nothing.

    fp16 and bf16 both fit in fp32, and neither in the other. Integers fit in a float whose significand holds them.
    """
    if source == target:
        return True
    return target in _WIDER.get(source, frozenset())


_FLOAT_AND_DOUBLE = frozenset({T.FLOAT, T.DOUBLE})
_WIDER: dict[int, frozenset[int]] = {
    T.FLOAT: frozenset({T.DOUBLE}),
    T.FLOAT16: _FLOAT_AND_DOUBLE,
    T.BFLOAT16: _FLOAT_AND_DOUBLE,
    T.INT32: frozenset({T.INT64, T.DOUBLE}),
    T.INT16: frozenset({T.INT32, T.INT64}) | _FLOAT_AND_DOUBLE,
    T.INT8: frozenset({T.INT16, T.INT32, T.INT64, T.FLOAT16, T.BFLOAT16}) | _FLOAT_AND_DOUBLE,
    T.UINT8: frozenset({T.INT16, T.INT32, T.INT64, T.FLOAT16, T.BFLOAT16}) | _FLOAT_AND_DOUBLE,
    T.BOOL: frozenset({T.UINT8, T.INT8, T.INT16, T.INT32, T.INT64, T.FLOAT16, T.BFLOAT16}) | _FLOAT_AND_DOUBLE,
}


def parse_precisions(words: object) -> frozenset[Precision] | None:
    """The set of precisions that the user asked for, or None for 'as the source is typed'.

    Args:
        words: None, one word, or several; see `Precision.of`. A string may list them with commas.

    Raises:
        PrecisionError: a word is no precision, or the set is empty.
    """
    if words is None:
        return None
    if isinstance(words, str):
        words = [word.strip() for word in words.split(",") if word.strip()]
    elif not isinstance(words, Iterable):
        words = [words]
    found = frozenset(Precision.of(word) for word in words)
    if not found:
        raise PrecisionError("precisions is empty", fix="name at least one, or pass None for 'as the source is typed'")
    return found
