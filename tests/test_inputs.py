"""Inputs and precisions as people write them."""

import numpy as np
import onnx
import pytest
import torch

from torch2trt_onnx import Input, Options, Precision
from torch2trt_onnx.errors import InputError, PrecisionError
from torch2trt_onnx.precision import TYPES, ElementType, is_lossless, parse_precisions


def test_a_tensor_gives_its_shape_type_and_memory_format():
    given = Input.of(torch.zeros(2, 3, 4, 5, dtype=torch.float16).contiguous(memory_format=torch.channels_last))
    assert (given.opt_shape, given.dtype.name, given.format) == ((2, 3, 4, 5), "float16", "channels_last")


@pytest.mark.parametrize(
    "arguments",
    {
        "nothing": {},
        "one of three": {"min_shape": (1,)},
        "two of three": {"min_shape": (1,), "max_shape": (2,)},
        "both forms": {"shape": (1,), "min_shape": (1,), "opt_shape": (1,), "max_shape": (1,)},
        "ranks that differ": {"min_shape": (1,), "opt_shape": (1, 2), "max_shape": (1, 2)},
        "min above opt": {"min_shape": (3,), "opt_shape": (2,), "max_shape": (4,)},
        "opt above max": {"min_shape": (1,), "opt_shape": (5,), "max_shape": (4,)},
        "a dimension of 0": {"shape": (0, 3)},
        "a negative dimension": {"shape": (-1, 3)},
        "a word": {"shape": "big"},
        "an unknown type": {"shape": (1,), "dtype": "float12"},
        "an unknown format": {"shape": (1,), "format": "upside_down"},
        "a format of another rank": {"shape": (1, 2), "format": torch.channels_last},
        "an example of another shape": {"shape": (1, 2), "example": torch.zeros(2, 1)},
    }.values(),
)
def test_what_is_no_input_is_refused(arguments):
    with pytest.raises(InputError):
        Input(**arguments)


@pytest.mark.parametrize(
    ("text", "name", "shapes", "dtype", "layout"),
    [
        ("x:1x3x224x224", "x", ((1, 3, 224, 224),) * 3, None, "contiguous_format"),
        ("1x3", None, ((1, 3),) * 3, None, "contiguous_format"),
        ("ids:1x8..1x64..4x128:int64", "ids", ((1, 8), (1, 64), (4, 128)), "int64", "contiguous_format"),
        ("i:1x3x4x4:half:channels_last", "i", ((1, 3, 4, 4),) * 3, "float16", "channels_last"),
        ("i:1x3x4x4:channels_last", "i", ((1, 3, 4, 4),) * 3, None, "channels_last"),
        ("n:scalar:int64", "n", ((),) * 3, "int64", "contiguous_format"),
    ],
)
def test_the_command_lines_form_is_read(text, name, shapes, dtype, layout):
    found = Input.parse(text)
    assert (found.name, (found.min_shape, found.opt_shape, found.max_shape)) == (name, shapes)
    assert (found.dtype.name if found.dtype else None, found.format) == (dtype, layout)


@pytest.mark.parametrize(
    "text", ["", "x", "x:", "x:1x", "x:1x2..3x4", "x:1x2:float12", "x:1x2:int64:int64:int64", "a:b:1x"]
)
def test_what_is_not_of_that_form_is_refused(text):
    with pytest.raises(InputError):
        Input.parse(text)


@pytest.mark.parametrize("value_range", [None, (0, 9)])
@pytest.mark.parametrize("row", TYPES, ids=lambda row: row.name)
def test_numbers_without_pytorch_are_those_with_it(row, value_range):
    given = Input((4, 5), value_range=value_range)
    found = given.array((4, 5), row, 1)
    if row.name in ("bfloat16", "float8_e4m3fn", "int4"):  # NumPy has none of them
        assert found is None
    else:
        expected = given.tensor((4, 5), row, None, 1).numpy()
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_an_example_needs_pytorch():
    given = Input((2,), example=torch.ones(2))
    assert given.array((2,), ElementType.of("float32")) is None


def test_an_example_is_repeated_and_cut_to_other_shapes():
    given = Input(
        min_shape=(1, 2), opt_shape=(2, 3), max_shape=(4, 5), example=torch.arange(6).reshape(2, 3), dtype="int64"
    )
    kind = ElementType.of("int64")
    assert given.tensor((1, 2), kind).tolist() == [[0, 1]]
    assert given.tensor((4, 5), kind).tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]] * 2


@pytest.mark.parametrize("row", TYPES, ids=lambda row: row.name)
def test_each_library_means_the_same_type_by_its_name_of_it(row):
    assert onnx.helper.tensor_dtype_to_np_dtype(row.onnx) == row.numpy
    assert ElementType.of(row.onnx) is ElementType.of(row.name) is row
    if hasattr(torch, row.name):
        assert ElementType.of(row.torch) is row
        assert row.torch.itemsize == row.numpy.itemsize


@pytest.mark.parametrize("source", [t for t in TYPES if t.name not in ("int4", "float8_e4m3fn")], ids=lambda t: t.name)
@pytest.mark.parametrize("target", [t for t in TYPES if t.name not in ("int4", "float8_e4m3fn")], ids=lambda t: t.name)
def test_a_cast_called_lossless_brings_every_extreme_value_back(source, target):
    if not is_lossless(source.onnx, target.onnx):
        return
    info = {"f": torch.finfo, "i": torch.iinfo}.get("f" if source.torch.is_floating_point else "i")
    if source.name == "bool":
        values = torch.tensor([False, True])
    else:
        limits = info(source.torch)
        values = torch.tensor([limits.min, limits.max, 0, 1], dtype=source.torch)
        if source.torch.is_floating_point:
            values = torch.cat(
                [values, torch.tensor([limits.tiny, limits.eps, -0.0, float("inf")], dtype=source.torch)]
            )
        elif limits.bits <= 16:
            values = torch.arange(limits.min, limits.max + 1).to(source.torch)
    assert torch.equal(values.to(target.torch).to(source.torch), values)


def test_precisions_are_a_set_in_any_words():
    assert parse_precisions("fp32, half") == {Precision.FP32, Precision.FP16}
    assert parse_precisions([torch.bfloat16, np.float16]) == {Precision.BF16, Precision.FP16}
    assert parse_precisions(torch.float32) == {Precision.FP32}
    assert parse_precisions(None) is None
    with pytest.raises(PrecisionError, match="empty"):
        parse_precisions([])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("input:0:1x3:fp16", "Input(input:0 (1, 3) float16 contiguous_format)"),
        ("a:b:1x3", "Input(a:b (1, 3)  contiguous_format)"),
        ("1x3", "Input( (1, 3)  contiguous_format)"),
    ],
)
def test_names_of_inputs_may_hold_colons_and_numbers(text, shown):
    assert repr(Input.parse(text)) == shown


def test_a_dimension_is_a_whole_number():
    with pytest.raises(InputError, match=r"\(2.5, 3\) is not a shape"):
        Input((2.5, 3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"compute_capabilities": ("sm89",)},
        {"compute_capabilities": ("75",)},
        {"compute_capabilities": (8.9,)},
        {"timeout": float("nan")},
        {"tolerance": float("nan")},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=f"Options.{next(iter(wrong))}"):
        Options(**wrong)
