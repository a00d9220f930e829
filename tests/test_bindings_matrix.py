"""Which types have which memory formats in TensorRT-RTX: our table against real builds of every cell."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bindings_matrix import CHANNELS, TYPES

from torch2trt_onnx.formats import CHANNELS_LAST, LAYOUTS, SUPPORTED, TENSORRT_FORMATS, tensorrt_format
from torch2trt_onnx.precision import ElementType

UNTOLD = {("bfloat16", "CHW2"), ("bfloat16", "CHW4")}
"""What TensorRT-RTX builds, and then calls "Unknown format": we refuse it, as nothing could be checked."""

RANK_OF_ANOTHER = {
    (4, "float32", "DHWC"), (4, "float16", "DHWC8"), (4, "bfloat16", "DHWC8"), (4, "float16", "CDHW32"), (4, "int8", "CDHW32"),
    (5, "float16", "HWC8"), (5, "float16", "CHW4"), (5, "bfloat16", "HWC8"), (5, "float32", "CHW32"), (5, "float16", "CHW2"),
    (5, "float16", "CHW32"), (5, "float16", "HWC16"), (5, "int8", "CHW4"), (5, "int8", "CHW32"), (5, "int8", "HWC16"),
    (5, "float8_e4m3fn", "HWC16"),
}  # fmt: skip
"""What it builds in some cells of another rank than the format is for, and fails in others: we refuse all."""


@functools.cache
def matrix(rank):
    """(type, format, side, dynamic) -> what came of the build."""
    program = Path(__file__).with_name("bindings_matrix.py")
    done = subprocess.run(
        [sys.executable, str(program), str(rank)], check=True, capture_output=True, text=True, timeout=600
    )
    return {tuple(cell): outcome for *cell, outcome in json.loads(done.stdout.splitlines()[-1])}


def allowed(dtype, layout, rank):
    try:
        return tensorrt_format(layout, dtype, (2, CHANNELS, *[8] * (rank - 2)), "rtx") == layout
    except ValueError:
        return False


@pytest.mark.parametrize("rank", [4, 5])
@pytest.mark.parametrize("dtype", TYPES)
def test_each_cell_is_built_in_its_type_and_format_or_refused_as_our_table_says(dtype, rank):
    word = ElementType.of(dtype).dump
    for layout in TENSORRT_FORMATS:
        found = {key: outcome for key, outcome in matrix(rank).items() if key[:2] == (dtype, layout)}
        assert len(found) == 4, "input and output, static and dynamic"
        if allowed(dtype, layout, rank):
            assert set(found.values()) == {f"ok {word} {layout}"}, found
        elif (dtype, layout) not in UNTOLD and (rank, dtype, layout) not in RANK_OF_ANOTHER:
            assert not any(outcome.startswith("ok") for outcome in found.values()), found


def test_the_exceptions_are_still_what_tensorrt_does():
    for dtype, layout in UNTOLD:
        assert all(outcome == "ok BFloat16 " for key, outcome in matrix(4).items() if key[:2] == (dtype, layout))
    for rank, dtype, layout in RANK_OF_ANOTHER:
        assert any(outcome.startswith("ok") for key, outcome in matrix(rank).items() if key[:2] == (dtype, layout))


class TestPyTorchsFormats:
    @pytest.mark.parametrize(
        ("dtype", "channels", "product", "expected"),
        [
            ("float32", 3, "rtx", "HWC"),
            ("float16", 3, "rtx", "HWC"),
            ("uint8", 3, "rtx", "HWC"),
            ("bfloat16", 16, "rtx", "HWC8"),
            ("int8", 16, "rtx", "HWC16"),
            ("float32", 3, "tensorrt", "HWC"),
            ("float16", 8, "tensorrt", "HWC8"),
        ],
    )
    def test_channels_last_is_the_format_that_has_pytorchs_layout(self, dtype, channels, product, expected):
        assert tensorrt_format("channels_last", dtype, (1, channels, 8, 8), product) == expected

    @pytest.mark.parametrize(
        ("dtype", "channels", "product", "why"),
        [
            ("float16", 3, "tensorrt", "multiple of 8, and there are 3: TensorRT pads them"),
            ("bfloat16", -1, "rtx", "channels must be static"),
            ("int64", 8, "rtx", "there is no channels_last for int64"),
        ],
    )
    def test_a_padded_layout_is_refused_with_what_would_be_right(self, dtype, channels, product, why):
        with pytest.raises(ValueError, match=why):
            tensorrt_format("channels_last", dtype, (1, channels, 8, 8), product)

    def test_three_spatial_dimensions_have_formats_of_their_own(self):
        assert tensorrt_format("channels_last_3d", "float32", (1, 3, 4, 8, 8), "rtx") == "DHWC"
        assert tensorrt_format("channels_last_3d", "bfloat16", (1, 8, 4, 8, 8), "rtx") == "DHWC8"


def test_a_packed_shape_is_the_one_that_the_header_documents():
    assert LAYOUTS["CHW32"].packed((2, 33, 5, 6)) == (2, 2, 5, 6, 32)
    assert LAYOUTS["HWC8"].packed((2, 3, 5, 6)) == (2, 5, 6, 8)
    assert LAYOUTS["HWC"].packed((2, 3, 5, 6)) == (2, 5, 6, 3)
    assert LAYOUTS["CDHW32"].packed((2, 3, 4, 5, 6)) == (2, 1, 4, 5, 6, 32)


def test_every_format_of_a_product_has_a_layout_or_is_of_dla():
    named = {name for table in SUPPORTED.values() for name in table}
    assert named <= set(TENSORRT_FORMATS)
    assert {name for names in CHANNELS_LAST.values() for name in names} <= set(LAYOUTS)
