"""Inputs and outputs of real engines: types, memory formats, several profiles, shape tensors; and what is refused before a build."""

import numpy as np
import pytest
import torch
from graphs import parse

from torch2trt_onnx import Input, Output, convert
from torch2trt_onnx.errors import BindingError, InputError
from torch2trt_onnx.inputs import named_outputs

RELU = "g (float[N,8,16,16] x) => (float[N,8,16,16] y) { y = Relu(x) }"
RESIZE = """g (float[N,3,H,W] x, int64[2] size) => (float[N,3,A,B] y) {
    kept = Shape<start=0, end=2>(x)
    sizes = Concat<axis=0>(kept, size)
    y = Resize<mode="nearest">(x, , , sizes)
}"""


def table(conversion):
    """The engine's bindings by name."""
    return {binding.name: binding for binding in conversion.report.bindings}


class TestTypes:
    def test_an_output_has_the_type_that_was_asked_for_and_the_numbers_of_the_model(self):
        conversion = convert(parse(RELU), [Input((1, 8, 16, 16))], outputs={"y": "float16"})
        assert table(conversion)["y"].dtype == "Half"
        assert conversion.report.comparison.ok
        assert conversion.report.comparison.outputs[0].dtype == "float16"
        assert [c[2] for c in conversion.report.changes] == ["made a fp16 binding"]

    def test_both_sides_may_have_types_of_their_own(self):
        conversion = convert(parse(RELU), [Input((1, 8, 16, 16), dtype="float16")], outputs=["bfloat16"])
        found = table(conversion)
        assert (found["x"].dtype, found["y"].dtype) == ("Half", "BFloat16")
        assert [n.precision for n in conversion.plan.nodes if n.op == "Relu"] == ["fp32"]

    def test_a_model_cast_to_fp16_inside_returns_what_it_returned(self, net):
        conversion = convert(net, [Input((1, 3, 8, 8))])
        assert table(conversion)["output"].dtype == "Float"

    def test_an_output_in_a_type_that_was_not_asked_of_the_nodes_is_no_node_in_that_precision(self):
        conversion = convert(parse(RELU), [Input((1, 8, 16, 16))], {"fp32"}, strict=True, outputs=["float16"])
        assert conversion.plan.counts() == {"fp32": 1}

    def test_a_node_that_reads_what_is_an_output_too_reads_it_as_it_was(self):
        model = parse("g (float[4] x) => (float[4] y, float[4] z) { y = Exp(x)  z = Sqrt(y) }")
        conversion = convert(model, None, outputs={"y": "float16"})
        assert conversion.report.comparison.ok
        assert {o.name: o.dtype for o in conversion.report.comparison.outputs} == {"y": "float16", "z": "float32"}
        assert conversion.report.comparison.outputs[1].absolute < 1e-6

    @pytest.mark.parametrize(
        ("outputs", "why"),
        [
            ({"q": "fp16"}, "the model has no output 'q'"),
            (["fp16", "fp16"], "2 outputs were given, and the model has 1: y"),
            ([Output("y", dtype="fp16"), "fp32"], "2 outputs were given"),
        ],
    )
    def test_outputs_that_do_not_fit_the_model_are_named(self, outputs, why):
        with pytest.raises(InputError, match=why):
            convert(parse(RELU), [Input((1, 8, 16, 16))], outputs=outputs, backend="none")

    def test_an_output_that_is_an_input_cannot_have_another_type(self):
        model = parse("g (float[4] x, float[4] w) => (float[4] x, float[4] y) { y = Add(x, w) }")
        with pytest.raises(InputError, match="output 'x' cannot have another type"):
            convert(model, None, outputs={"x": "fp16"}, backend="none")

    @pytest.mark.parametrize("dtype", ["float64", "int16", "fp8", "int4"])
    def test_a_type_that_no_cast_makes_is_an_error_before_the_build_that_names_all(self, dtype):
        model = parse("g (float[4] x) => (float[4] y, float[4] z) { y = Exp(x)  z = Sqrt(y) }")
        with pytest.raises(InputError, match=rf"'y': {dtype}, 'z': {dtype}\n.*\n.*use one of float32"):
            convert(model, None, outputs=[dtype, dtype], backend="none")

    def test_one_output_may_be_asked_for_without_a_list(self):
        assert [o.dtype.name for o in named_outputs(torch.float16, ["y"])] == ["float16"]
        assert [o.format for o in named_outputs(Output(format="HWC"), ["y"])] == ["HWC"]


class TestFormats:
    @pytest.mark.parametrize(
        ("dtype", "layout", "expected"),
        [
            ("float32", torch.channels_last, "HWC"),
            ("float16", torch.channels_last, "HWC"),
            ("bfloat16", torch.channels_last, "HWC8"),
            ("float16", "CHW32", "CHW32"),
            ("float32", "LINEAR", "LINEAR"),
        ],
    )
    def test_the_engine_has_the_format_that_was_asked_for_on_both_sides(self, dtype, layout, expected):
        image = Input((1, 8, 16, 16), dtype=dtype, format=layout)
        conversion = convert(parse(RELU), [image], outputs=[Output(dtype=dtype, format=layout)])
        found = table(conversion)
        assert (found["x"].layout, found["y"].layout) == (expected, expected)
        assert conversion.report.comparison.ok

    def test_a_tensor_in_channels_last_stands_for_an_input_in_that_format(self):
        image = torch.rand(1, 8, 16, 16).to(memory_format=torch.channels_last)
        assert table(convert(torch.nn.ReLU(), [image]))["input"].layout == "HWC"

    @pytest.mark.parametrize(
        ("image", "outputs", "why"),
        [
            (
                Input((1, 8, 16, 16), format="HWC8"),
                None,
                "input 'x'.*\n.*float32 1x8x16x16\n.*HWC8 takes bfloat16, float16",
            ),
            (Input((1, 8, 16, 16)), [Output(format="CHW2")], "output 'y'.*\n.*float32 1x8x16x16\n.*CHW2 takes float16"),
        ],
    )
    def test_a_format_that_a_type_or_a_rank_cannot_have_is_an_error_before_the_build(self, image, outputs, why):
        with pytest.raises(InputError, match=why):
            convert(parse(RELU.replace("N", "1")), [image], outputs=outputs)

    def test_a_dimension_that_the_inputs_fix_is_static_in_the_outputs_too(self):
        model = parse("g (bfloat16[N,C,H,W] x) => (bfloat16[N,C,H,W] y) { y = Relu(x) }", opset=22)
        conversion = convert(model, [Input((1, 8, 8, 8))], outputs=[Output(format="channels_last")])
        assert table(conversion)["y"].layout == "HWC8"

    def test_a_dynamic_number_of_channels_has_no_padded_format(self):
        model = parse("g (bfloat16[1,C,8,8] x) => (bfloat16[1,C,8,8] y) { y = Relu(x) }", opset=22)
        image = Input(min_shape=(1, 8, 8, 8), opt_shape=(1, 16, 8, 8), max_shape=(1, 32, 8, 8), format="channels_last")
        with pytest.raises(InputError, match="number of channels must be static"):
            convert(model, [image])


class TestProfiles:
    RANGES = (((1, 8, 16, 16), (2, 8, 16, 16), (4, 8, 16, 16)), ((8, 8, 16, 16), (16, 8, 16, 16), (32, 8, 16, 16)))

    def test_the_engine_has_each_range_of_shapes_as_a_profile(self):
        conversion = convert(parse(RELU), [Input(profiles=self.RANGES)])
        assert table(conversion)["x"].profiles == self.RANGES
        assert conversion.report.comparison.ok

    def test_an_input_with_one_range_has_it_in_each_profile(self):
        model = parse("g (float[N,4] x, float[M,4] w) => (float[N,4] y, float[M,4] z) { y = Relu(x)  z = Relu(w) }")
        one = Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(3, 4))
        two = Input(profiles=[((1, 4), (1, 4), (2, 4)), ((4, 4), (5, 4), (6, 4))])
        found = table(convert(model, [one, two]))
        assert found["x"].profiles == (((1, 4), (2, 4), (3, 4)),) * 2
        assert found["w"].profiles == (((1, 4), (1, 4), (2, 4)), ((4, 4), (5, 4), (6, 4)))

    def test_different_numbers_of_profiles_are_an_error_that_names_the_inputs(self):
        model = parse("g (float[N,4] x, float[M,4] w) => (float[N,4] y, float[M,4] z) { y = Relu(x)  z = Relu(w) }")
        ranges = [((1, 4), (1, 4), (2, 4)), ((4, 4), (5, 4), (6, 4)), ((7, 4), (8, 4), (9, 4))]
        with pytest.raises(InputError, match="'x' has 2, 'w' has 3"):
            convert(model, [Input(profiles=ranges[:2]), Input(profiles=ranges)])

    @pytest.mark.parametrize(
        ("profiles", "why"),
        [
            ([((1,), (2,))], "has 2 shapes"),
            ([((1,), (2,), (3,)), ((1, 1), (2, 2), (3, 3))], "the ranks of the profiles differ"),
            ([((2,), (1,), (3,))], "min 2 <= opt 1"),
            ([], "or there is none"),
            ([5], "no profiles"),
            (5, "no profiles"),
        ],
    )
    def test_a_profile_that_is_none_says_so(self, profiles, why):
        with pytest.raises(InputError, match=why):
            Input(profiles=profiles)

    def test_the_command_line_writes_them_with_commas(self):
        found = Input.parse("x:1x4..2x4..3x4,4x4..5x4..6x4:float16")
        assert found.profiles == (((1, 4), (2, 4), (3, 4)), ((4, 4), (5, 4), (6, 4)))
        assert (found.min_shape, found.opt_shape, found.max_shape) == ((1, 4), (2, 4), (6, 4))


def test_one_dimension_of_the_model_has_one_range_in_all_inputs():
    """TensorRT does not notice where it has two."""
    model = parse("g (float[batch,4] x, float[batch,4] w) => (float[batch,4] y) { y = Add(x, w) }")
    one, other = (Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(top, 4)) for top in (4, 5))
    with pytest.raises(InputError, match=r"axis 0 of input 'x' and axis 0 of input 'w' are one dimension .*'batch'"):
        convert(model, [one, other])
    assert convert(model, [one, one]).report.comparison.ok


class TestShapeTensors:
    IMAGE = Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 16, 16), max_shape=(4, 3, 32, 32))

    def test_values_that_the_model_makes_shapes_of_have_a_range(self):
        size = Input((2,), min_values=(8, 8), opt_values=(24, 24), max_values=(64, 48))
        conversion = convert(parse(RESIZE), [self.IMAGE, size])
        assert table(conversion)["size"].is_shape
        assert not table(conversion)["x"].is_shape
        assert table(conversion)["size"].profiles == (((8, 8), (24, 24), (64, 48)),)
        compared = conversion.report.comparison
        assert compared.ok
        assert compared.outputs[0].shape == (2, 3, 24, 24)

    def test_a_module_may_have_one_too(self):
        class Crop(torch.nn.Module):
            def forward(self, image, length):
                return image[:, : length[0]] * 2

        size = Input((1,), dtype="int64", min_values=(1,), opt_values=(4,), max_values=(8,), name="length")
        conversion = convert(torch.jit.trace(Crop(), (torch.rand(2, 8), torch.tensor([4]))), [Input((2, 8)), size])
        assert table(conversion)["length"].is_shape
        assert conversion.report.comparison.ok
        assert conversion.report.comparison.outputs[0].shape == (2, 4)

    def test_without_a_range_of_values_the_error_says_how_to_give_one(self):
        with pytest.raises(BindingError, match=r"input 'size' is a shape tensor.*min_values="):
            convert(parse(RESIZE), [self.IMAGE, Input((2,), example=torch.tensor([16, 16]))])

    def test_a_range_of_values_for_an_input_that_makes_no_shapes_is_an_error(self):
        model = parse("g (int64[2] x) => (int64[2] y) { y = Add(x, x) }")
        with pytest.raises(BindingError, match="input 'x' has a range of values, and the network makes no shapes"):
            convert(model, [Input((2,), min_values=(1, 1), opt_values=(2, 2), max_values=(3, 3))])

    @pytest.mark.parametrize(
        ("values", "why"),
        [
            ({"min_values": (1, 1)}, "all three of min_values"),
            ({"min_values": (1,), "opt_values": (1,), "max_values": (1,)}, "has 2 values"),
            ({"min_values": "ab", "opt_values": "ab", "max_values": "ab"}, "no flat sequences of integers"),
            ({"min_values": (1.5, 1), "opt_values": (2, 2), "max_values": (3, 3)}, "no flat sequences of integers"),
            ({"min_values": 1, "opt_values": 2, "max_values": 3}, "no flat sequences of integers"),
            (
                {"min_values": (1, 1), "opt_values": (2, 2), "max_values": (3, 3), "dtype": "fp32"},
                "integers, and not float32",
            ),
            ({"min_values": (3, 1), "opt_values": (2, 1), "max_values": (4, 1)}, "value 0: min 3 <= opt 2"),
        ],
    )
    def test_values_that_are_no_range_say_so(self, values, why):
        with pytest.raises(InputError, match=why):
            Input((2,), **values)

    def test_values_may_be_a_tensor_or_an_array(self):
        low, high = torch.tensor([1, 2]), np.array([3, 4])
        assert Input((2,), min_values=low, opt_values=low, max_values=high).values == ((1, 2), (1, 2), (3, 4))

    def test_the_command_line_writes_values_like_shapes(self):
        found = Input.parse("size:2:int64:values=8x8..32x32..64x64")
        assert found.values == ((8, 8), (32, 32), (64, 64))
        assert np.prod(found.opt_shape) == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("y:float16", "Output(y float16 contiguous_format)"),
        ("y:HWC8:fp16", "Output(y float16 HWC8)"),
        ("y:channels_last", "Output(y  channels_last)"),
        ("out:0:fp16:HWC8", "Output(out:0 float16 HWC8)"),
    ],
)
def test_an_output_on_the_command_line_has_a_type_a_format_or_both(text, shown):
    assert repr(Output.parse(text)) == shown


@pytest.mark.parametrize("text", ["y", ":fp16", "y:fp16:fp32", "y:HWC:HWC8"])
def test_what_is_no_output_on_the_command_line_says_so(text):
    with pytest.raises(InputError, match="is not NAME"):
        Output.parse(text)
