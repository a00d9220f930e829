"""Each operator that PyTorch's exporters say wrongly, converted by the real one and compared with eager PyTorch."""

import io
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from torch2trt_onnx import Input, Options, convert
from torch2trt_onnx.errors import ConversionWarning, ExportError
from torch2trt_onnx.precision import Precision

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
ROUTES = pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def agreeing(model, inputs, **options):
    """The conversion, whose numbers are those of eager PyTorch, and whose outputs have its types."""
    conversion = convert(model, inputs, **{"backend": "none", **options})
    comparison = conversion.report.comparison
    assert comparison.made, comparison.reference
    assert comparison.ok, (comparison.outputs, comparison.shapes)
    assert not any(node.differs for node in conversion.report.nodes)
    if all(isinstance(x, torch.Tensor) for x in inputs):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = model(*inputs)
        results = [results] if isinstance(results, torch.Tensor) else list(results)
        assert [o.dtype for o in comparison.outputs] == [str(r.dtype).removeprefix("torch.") for r in results]
        assert [o.shape for o in comparison.outputs] == [tuple(r.shape) for r in results]
    return conversion


def precisions(conversion, *operators):
    """The precision of each node of these operators, in the order of the graph; there is one at least."""
    found = [node.precision for node in conversion.plan.nodes if node.op in operators]
    assert found, f"no {operators} among {[node.op for node in conversion.plan.nodes]}"
    return found


def traced(model, *inputs):
    """A trace for inference, without what PyTorch says of it."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, inputs, check_trace=False)


def value_of(conversion, *tensors):
    """What the final ONNX graph makes of these tensors, in ONNX Runtime, as a list of tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(conversion.onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, feeds)]


# Attention ------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, **named):
        super().__init__()
        self.named = named

    def forward(self, query, key, value, mask=None):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, **self.named)


def heads(dtype, count=4, length=6):
    return torch.randn(2, count, length, 8, generator=torch.Generator().manual_seed(count)).to(dtype)


def lower_triangle(length=6):
    return torch.ones(length, length, dtype=torch.bool).tril()


@HALVES
@pytest.mark.parametrize(
    ("named", "mask"),
    [
        ({}, None),
        ({"is_causal": True}, None),
        ({}, lower_triangle()),
        ({}, torch.linspace(-2, 2, 36).reshape(6, 6)),
        ({"scale": 0.3}, None),
        ({"scale": 0.3, "is_causal": True}, None),
    ],
    ids=["plain", "causal", "bool mask", "float mask", "scale", "scale and causal"],
)
def test_attention_runs_in_the_type_of_its_query(dtype, named, mask):
    query = heads(dtype)
    if mask is not None and mask.is_floating_point():
        mask = mask.to(dtype)
    masks = [] if mask is None else [mask]
    conversion = agreeing(Attention(**named), [query, query + 1, query * 2, *masks])
    assert precisions(conversion, "Softmax", "MatMul") == [Precision.of(dtype).value] * 3


def infinite(mask, dtype):
    """The same mask as a tensor to add."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, float("-inf"))


@HALVES
@pytest.mark.parametrize("additive", [False, True], ids=["bool mask", "float mask"])
def test_attention_gives_zero_for_a_row_that_is_masked_in_full(dtype, additive):
    query = heads(dtype)
    mask = lower_triangle()
    mask[2] = False
    mask = infinite(mask, dtype) if additive else mask
    assert torch.equal(Attention()(query, query, query, mask)[:, :, 2], torch.zeros(2, 4, 8, dtype=dtype))
    conversion = agreeing(Attention(), [query, query, query, mask])
    if dtype == torch.float16:  # ONNX Runtime has no bf16
        [found] = value_of(conversion, query, query, query, mask)
        assert torch.equal(found[:, :, 2], torch.zeros(2, 4, 8, dtype=dtype))


@HALVES
def test_scripted_attention_runs_in_the_type_of_its_query(dtype):
    class Scripted(nn.Module):
        def forward(self, query, key, value):
            return functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    query = heads(dtype)
    conversion = agreeing(torch.jit.script(Scripted()), [query, query + 1, query * 2])
    assert precisions(conversion, "Softmax", "MatMul") == [Precision.of(dtype).value] * 3


@HALVES
def test_attention_repeats_the_heads_of_grouped_queries(dtype):
    inputs = [heads(dtype), heads(dtype, 2), heads(dtype, 2) + 1]
    conversion = agreeing(Attention(enable_gqa=True, is_causal=True), inputs)
    assert precisions(conversion, "Softmax", "MatMul") == [Precision.of(dtype).value] * 3


@HALVES
def test_causal_attention_follows_the_length_of_the_sequence(dtype):
    inputs = [
        Input(min_shape=(1, 4, 2, 8), opt_shape=(2, 4, 6, 8), max_shape=(3, 4, 16, 8), dtype=dtype, name=name)
        for name in ("query", "key", "value")
    ]
    conversion = agreeing(Attention(is_causal=True), inputs)
    assert precisions(conversion, "Softmax", "MatMul") == [Precision.of(dtype).value] * 3


def test_causal_attention_starts_at_the_upper_left_where_the_lengths_differ():
    agreeing(Attention(is_causal=True), [heads(torch.float32, length=3), heads(torch.float32), heads(torch.float32)])


@HALVES
def test_tensorrt_runs_attention_with_a_mask_in_the_type_of_its_query(dtype):
    query = heads(dtype)
    conversion = agreeing(Attention(), [query, query, query, lower_triangle()], backend="rtx")
    assert precisions(conversion, "Softmax", "MatMul") == [Precision.of(dtype).value] * 3


def test_attention_with_dropout_is_refused():
    query = heads(torch.float32)
    with pytest.raises(ExportError, match=r"pass dropout_p=0\.0"):
        convert(Attention(dropout_p=0.5), [query, query, query], backend="none")


# Promotion ------------------------------------------------------------------------------------------------------------


def test_bf16_plus_a_zero_dimensional_fp32_tensor_stays_bf16():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("offset", torch.tensor(1.5))

        def forward(self, h):
            return h + self.offset

    conversion = agreeing(Scale(), [torch.randn(3, 4).bfloat16()])
    assert precisions(conversion, "Add") == ["bf16"]


def test_bf16_plus_a_zero_dimensional_fp32_input_stays_bf16():
    conversion = agreeing(Call(lambda h, t: h + t), [torch.randn(3, 4).bfloat16(), torch.tensor(1.5)])
    assert precisions(conversion, "Add") == ["bf16"]


def test_bf16_times_integers_stays_bf16():
    conversion = agreeing(Call(lambda h, i: h * i), [torch.randn(3, 4).bfloat16(), torch.arange(4)])
    assert precisions(conversion, "Mul") == ["bf16"]


def test_bf16_in_the_body_of_a_script_is_seen():
    def half_way(x):
        return (x.to(torch.bfloat16) * 3).float()

    conversion = agreeing(Call(torch.jit.script(half_way)), [torch.randn(3, 4)])
    assert precisions(conversion, "Mul") == ["bf16"]


# Numbers that fp16 does not have --------------------------------------------------------------------------------------

SMALL = torch.tensor([0, 1e-4, 0.5, 1, -3, 200, 6e4]).half()


@pytest.mark.parametrize(
    "function",
    [lambda h: h * 1e5, lambda h: 1e5 * h, lambda h: h * 70000, lambda h: h / 1e5, lambda h: h / 70000.0],
    ids=["h * 1e5", "1e5 * h", "h * 70000", "h / 1e5", "h / 70000."],
)
def test_a_number_that_overflows_fp16_is_kept_in_fp32(function):
    """0 * 1e5 is 0, and 0 * inf is NaN."""
    conversion = agreeing(Call(function), [SMALL])
    assert precisions(conversion, "Mul", "Div") == ["fp32"]
    [found] = value_of(conversion, SMALL)
    assert torch.equal(found, function(SMALL))
    assert not found.isnan().any()


@pytest.mark.parametrize(
    "function",
    [lambda h: h + 1e5, lambda h: h - 7e4, lambda h: 1e5 - h],
    ids=["h + 1e5", "h - 7e4", "1e5 - h"],
)
def test_a_sum_with_a_number_that_overflows_fp16_is_that_of_fp32_rounded(function):
    """As on CUDA. On the CPU, PyTorch rounds the number before it adds, which is the same for a small tensor only."""
    small, large = SMALL[:6], torch.tensor([6e4, -6e4]).half()
    conversion = agreeing(Call(function), [small])
    assert precisions(conversion, "Add", "Sub") == ["fp32"]
    wide = convert(Call(function), [large], backend="none", options=Options(compare=False))
    [found] = value_of(wide, large)
    assert torch.equal(found, function(large.float()).half())


@pytest.mark.parametrize(
    "function",
    [lambda h: h * 1e-6, lambda h: h / 1e-7, lambda h: h + 1e-6, lambda h: h - 1e-7, lambda h: 1e-7 - h],
    ids=["h * 1e-6", "h / 1e-7", "h + 1e-6", "h - 1e-7", "1e-7 - h"],
)
def test_a_number_below_the_normal_range_of_fp16_is_kept_in_fp32(function):
    conversion = agreeing(Call(function), [SMALL])
    assert precisions(conversion, "Mul", "Div", "Add", "Sub") == ["fp32"]
    [found] = value_of(conversion, SMALL)
    assert torch.equal(found, function(SMALL))


@pytest.mark.parametrize("function", [lambda h: h * 3, lambda h: h - 2.5, lambda h: h / 7, lambda h: h * 0])
def test_a_number_that_fp16_has_leaves_the_node_in_fp16(function):
    conversion = agreeing(Call(function), [SMALL])
    assert precisions(conversion, "Mul", "Div", "Add", "Sub") == ["fp16"]


def test_infinity_times_fp16_is_infinity():
    conversion = agreeing(Call(lambda h: h * float("inf")), [SMALL])
    [found] = value_of(conversion, SMALL)
    assert found.isnan().tolist() == [True, False, False, False, False, False, False]


# Quantization ---------------------------------------------------------------------------------------------------------


class FakeQuantize(nn.Module):
    def __init__(self, low, high, channels=False, zero_point=0):
        super().__init__()
        self.low, self.high, self.channels = low, high, channels
        steps = torch.tensor([0.01, 0.02, 0.04])
        self.register_buffer("scale", steps if channels else torch.tensor(0.02))
        self.register_buffer("zero_point", torch.full_like(self.scale, zero_point, dtype=torch.int32))

    def forward(self, x):
        if self.channels:
            return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, 1, self.low, self.high)
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, self.low, self.high)


def samples(dtype):
    """Beyond both ends of every range, and between."""
    return (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("channels", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize(
    ("low", "high", "zero_point"), [(-128, 127, 0), (-127, 127, 0), (0, 255, 0), (0, 255, 128), (0, 127, 0)]
)
def test_fake_quantize_rounds_in_fp32_and_returns_the_type_of_its_input(dtype, channels, low, high, zero_point):
    model = FakeQuantize(low, high, channels, zero_point)
    x = samples(dtype)
    conversion = agreeing(model, [x])
    assert precisions(conversion, "QuantizeLinear", "DequantizeLinear") == ["fp32", "fp32"]
    [found] = value_of(conversion, x)
    assert torch.equal(found, model(x))


@HALVES
@pytest.mark.parametrize("channels", [False, True], ids=["per tensor", "per channel"])
def test_tensorrt_takes_fake_quantize_on_a_half_precision_input(dtype, channels):
    conversion = agreeing(FakeQuantize(-127, 127, channels), [samples(dtype)], backend="rtx")
    assert precisions(conversion, "QuantizeLinear", "DequantizeLinear") == ["fp32", "fp32"]


def test_tensorrt_reading_unsigned_steps_as_signed_ones_is_told():
    """It takes the uint8 zero point 0 for an int8 one, so that what is above 127 steps is cut."""
    model, x = FakeQuantize(0, 255), samples(torch.float32)
    with pytest.warns(ConversionWarning, match="planned uint8, is int8 in TensorRT's network"):
        report = convert(model, [x], backend="rtx").report
    assert [n.plan.op for n in report.nodes if n.differs] == ["QuantizeLinear"]


def test_a_range_that_no_integer_type_of_onnx_has_is_refused():
    with pytest.raises(ExportError, match=r"fake_quantize of 0\.\.511"):
        convert(FakeQuantize(0, 511), [samples(torch.float32)], backend="none")


# Normalization --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("affine", [False, True], ids=["no weight", "weight"])
def test_rms_norm_computes_in_fp32_and_returns_the_type_of_its_input(dtype, eps, affine):
    norm = nn.RMSNorm(8, eps=eps, elementwise_affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
    conversion = agreeing(norm.to(dtype), [(torch.randn(2, 8) * 0.05).to(dtype)])
    assert set(precisions(conversion, "ReduceMean", "Sqrt", "Div", "Mul")) == {"fp32"}


def test_rms_norm_takes_several_dimensions():
    agreeing(nn.RMSNorm((3, 4)), [torch.randn(2, 3, 4)])


class Autocast(nn.Module):
    def __init__(self, device, dtype):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.device, self.dtype = device, dtype
        nn.init.normal_(self.norm.weight)

    def forward(self, x):
        with torch.autocast(self.device, dtype=self.dtype):
            return self.last(self.norm(self.first(x)))


@HALVES
def test_layer_norm_under_autocast_runs_in_fp32_between_half_precision_layers(dtype):
    conversion = agreeing(Autocast("cpu", dtype), [torch.randn(2, 8)], backend="rtx")
    word = Precision.of(dtype).value
    assert precisions(conversion, "Gemm", "LayerNormalization") == [word, "fp32", word]


def test_autocast_for_a_device_that_is_not_there_is_warned_of():
    with pytest.warns(ConversionWarning, match="autocast was off"):
        conversion = agreeing(Autocast("cuda", torch.float16), [torch.randn(2, 8)])
    assert precisions(conversion, "Gemm") == ["fp32", "fp32"]
    [note] = conversion.report.warnings
    assert "CUDA is not available" in note


class ScriptedAutocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layer(x)


def test_autocast_inside_a_script_is_refused_with_a_way_out():
    with pytest.raises(ExportError) as caught:
        convert(torch.jit.script(ScriptedAutocast()), [torch.randn(2, 8)], backend="none")
    assert "autocast" in caught.value.fix
    assert "torch.jit.trace" in caught.value.fix
    agreeing(ScriptedAutocast(), [torch.randn(2, 8)])


def test_fp32_batch_norm_on_an_fp16_input_runs_in_fp32():
    model = nn.Sequential(nn.Conv2d(3, 4, 3).half(), nn.BatchNorm2d(4)).eval()
    nn.init.normal_(model[1].running_mean)
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    conversion = agreeing(model, [torch.randn(2, 3, 8, 8).half()], backend="rtx")
    assert precisions(conversion, "Conv", "BatchNormalization") == ["fp16", "fp32"]


@HALVES
@pytest.mark.parametrize("make", [lambda: nn.GroupNorm(2, 8), lambda: nn.LayerNorm(6), lambda: nn.BatchNorm1d(8)])
def test_an_fp32_norm_on_a_half_precision_input_returns_the_type_of_its_input(dtype, make):
    conversion = agreeing(make().eval(), [torch.randn(2, 8, 6).to(dtype)], backend="rtx")
    assert conversion.report.comparison.outputs[0].dtype == str(dtype).removeprefix("torch.")


@HALVES
@ROUTES
@pytest.mark.parametrize(
    ("operator", "function"),
    [
        ("Softmax", lambda h: torch.softmax(h, -1, dtype=torch.float32)),
        ("LogSoftmax", lambda h: functional.log_softmax(h, 1, dtype=torch.float32)),
    ],
    ids=["softmax", "log_softmax"],
)
def test_softmax_with_a_dtype_casts_first(dtype, exporter, operator, function):
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    conversion = agreeing(Call(function), [x], options=Options(exporter=exporter))
    assert precisions(conversion, operator) == ["fp32"]
    assert [o.relative < 1e-6 for o in conversion.report.comparison.outputs] == [True]


# nn.MultiheadAttention ------------------------------------------------------------------------------------------------


def multihead():
    return nn.MultiheadAttention(8, 2, batch_first=True).eval()


def encoder_layer():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def test_multihead_attention_in_eval_mode_runs_in_its_own_type(dtype):
    x = torch.randn(2, 5, 8).to(dtype)
    conversion = agreeing(multihead().to(dtype), [x, x, x])
    assert set(precisions(conversion, "MatMul", "Softmax", "Gemm")) == {Precision.of(dtype).value}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def test_a_transformer_encoder_layer_in_eval_mode_runs_in_its_own_type(dtype):
    conversion = agreeing(encoder_layer().to(dtype), [torch.randn(2, 5, 8).to(dtype)])
    kinds = precisions(conversion, "MatMul", "Softmax", "Gemm", "LayerNormalization")
    assert set(kinds) == {Precision.of(dtype).value}


def test_multihead_attention_takes_a_padding_mask():
    x = torch.randn(2, 5, 8)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    agreeing(multihead(), ((x, x, x), {"key_padding_mask": padding}))


def test_a_transformer_encoder_follows_the_batch_and_the_length():
    model = nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False).eval()
    agreeing(model, [Input(min_shape=(1, 2, 8), opt_shape=(2, 5, 8), max_shape=(3, 9, 8))])


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = multihead()

    def forward(self, x):
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize("make", [SelfAttention, encoder_layer])
def test_a_saved_trace_with_the_fast_path_is_refused_with_the_switch_to_turn(make):
    x = torch.randn(2, 5, 8)
    file = io.BytesIO()
    torch.jit.save(traced(make().eval(), x), file)
    file.seek(0)
    with pytest.raises(ExportError) as caught:
        convert(torch.jit.load(file), [x], backend="none")
    assert "set_fastpath_enabled(False)" in caught.value.fix
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_trace_without_the_fast_path_is_converted():
    x = torch.randn(2, 5, 8)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model = traced(encoder_layer(), x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    agreeing(model, [x])


@pytest.mark.parametrize(("make", "count"), [(multihead, 3), (encoder_layer, 1)])
def test_a_scripted_multihead_attention_is_refused_in_favour_of_a_trace(make, count):
    with pytest.raises(ExportError) as caught:
        convert(torch.jit.script(make()), [torch.randn(2, 5, 8)] * count, backend="none")
    assert "trace it instead of scripting it" in caught.value.fix


# Tracing --------------------------------------------------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x - 1


def test_a_branch_that_tracing_bakes_in_is_warned_of_with_its_line():
    line = Branch.forward.__code__.co_firstlineno + 1
    with pytest.warns(ConversionWarning, match=rf"test_export_bugs\.py:{line}: tracing baked a value in"):
        conversion = agreeing(Branch(), [torch.ones(3)])
    assert not any(node.op == "If" for node in conversion.plan.nodes)


def test_a_constant_tensor_in_forward_is_no_cause_for_a_warning():
    assert agreeing(Call(lambda x: x * torch.tensor(2.5)), [torch.randn(3)]).report.warnings == []


def test_a_constant_tensor_made_of_an_input_is_warned_of():
    with pytest.warns(ConversionWarning, match="tracing baked a value in"):
        agreeing(Call(lambda x: x * torch.tensor(x.sum())), [torch.ones(3)])


# Complex numbers ------------------------------------------------------------------------------------------------------


def spectrum(x):
    return torch.fft.rfft(x).abs()


def spectrogram(x):
    return torch.stft(x, 16, window=torch.hann_window(16), return_complex=True).abs()


@pytest.mark.parametrize("function", [spectrum, spectrogram])
def test_fourier_transforms_are_left_to_the_dynamo_exporter(function):
    x = torch.randn(2, 64)
    with pytest.raises(ExportError) as caught:
        convert(Call(function), [x], backend="none")
    assert "exporter='dynamo'" in caught.value.fix
    agreeing(Call(function), [x], options=Options(exporter="dynamo"))


class Differences(nn.Module):
    def forward(self, x, flags):
        twice = torch.diff(x, n=2, dim=1, prepend=x[:, :1] * 0.5, append=x[:, :2])
        return torch.diff(x), twice, torch.diff(flags, dim=0), torch.diff((x * 10).long())


def test_differences_of_neighbours_are_exported():
    inputs = [torch.randn(3, 5), torch.rand(3, 5) > 0.5]
    assert convert(Differences(), inputs, backend="none").report.comparison.ok


class RunningSums(nn.Module):
    def forward(self, x, flags):
        return x.half().cumsum(0), flags.cumsum(-1), (x * 10).int().cumsum(1), flags.cumsum(0, dtype=torch.float32)


def test_running_sums_have_the_types_that_pytorch_gives_them():
    comparison = convert(RunningSums(), [torch.randn(3, 5), torch.rand(3, 5) > 0.5], backend="none").report.comparison
    assert comparison.ok
    assert [o.dtype for o in comparison.outputs] == ["float16", "int64", "int64", "float32"]
