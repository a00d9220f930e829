"""Pretrained models that PyPI packages ship: they convert, build, and agree with eager PyTorch."""

import warnings
from collections import Counter

import pretrained
import pytest
import torch
from torch import nn

from torch2trt_onnx import ConversionWarning, Input, convert
from torch2trt_onnx.proof import FOLDED, FUSED, HONOURED, OVERRIDDEN, UNVERIFIABLE

FLOATS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def converted(model, inputs, precisions=None, **options):
    """The report of a conversion whose warnings are no matter of the test, with what each must show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        report = convert(model, inputs, precisions, backend="rtx", **options).report
    assert report.comparison.ok, report.comparison
    assert [n.plan.name for n in report.nodes if n.differs] == []
    assert report.sizes["engine"] > 0
    counts = Counter(n.verdict for n in report.nodes if n.plan.precision)
    print(f"{report.source}: {dict(report.plan.counts())}: {dict(counts)}")
    assert set(counts) <= {HONOURED, FUSED, FOLDED}, [
        n for n in report.nodes if n.verdict in (OVERRIDDEN, UNVERIFIABLE)
    ]
    return report


@pytest.mark.parametrize(("name", "size"), [("PNet", 48), ("RNet", 24), ("ONet", 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_face_detector_runs_in_the_type_of_its_weights(name, size, dtype):
    model = torch.jit.trace(pretrained.facenet(name).to(dtype), torch.randn(1, 3, size, size, dtype=dtype))
    images = Input(min_shape=(1, 3, size, size), opt_shape=(2, 3, size, size), max_shape=(4, 3, size, size))
    report = converted(model, [images], FLOATS[dtype], strict=True)
    assert set(report.plan.counts()) == {FLOATS[dtype]}


def test_a_face_detector_in_bf16_is_proven_with_its_pools_in_fp32_which_tensorrt_has_not_in_bf16():
    model = pretrained.facenet("RNet").to(torch.bfloat16)
    report = converted(model, [torch.randn(1, 3, 24, 24, dtype=torch.bfloat16)], {"bf16", "fp32"}, strict=True)
    pools = {(n.plan.precision, n.verdict) for n in report.nodes if n.plan.op == "MaxPool"}
    assert pools == {("fp32", HONOURED)}


def test_the_pyramid_network_takes_images_of_any_size():
    images = Input(min_shape=(1, 3, 12, 12), opt_shape=(1, 3, 48, 64), max_shape=(2, 3, 120, 160))
    assert converted(pretrained.facenet("PNet"), [images]).comparison.shapes == []


@pytest.mark.slow
def test_silero_vad_converts_from_its_torchscript_file(tmp_path):
    path = tmp_path / "vad.pt"
    pretrained.silero().save(str(path))
    report = converted(str(path), [torch.randn(1, 576), torch.randn(2, 1, 128)])
    assert set(report.plan.counts()) == {"fp32"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_speaker_encoder_of_three_lstms_runs_in_the_type_of_its_weights(dtype):
    mels = Input(min_shape=(1, 160, 40), opt_shape=(2, 160, 40), max_shape=(4, 160, 40))
    report = converted(pretrained.SpeakerEncoder().to(dtype), [mels])
    assert {n.plan.precision for n in report.nodes if n.plan.op == "LSTM"} == {FLOATS[dtype]}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_pitch_tracker_runs_in_the_type_of_its_weights(dtype):
    frames = Input(min_shape=(1, 1024), opt_shape=(4, 1024), max_shape=(8, 1024))
    report = converted(pretrained.crepe_tiny().to(dtype), [frames])
    assert set(report.plan.counts()) == {FLOATS[dtype]}


def sentences():
    ids = torch.randint(1000, 20000, (2, 24))
    mask = torch.ones(2, 24, dtype=torch.int64)
    mask[1, 10:] = 0

    def of(example):
        return Input(min_shape=(1, 8), opt_shape=(2, 24), max_shape=(4, 64), example=example, dtype="int64")

    return {"input_ids": of(ids), "attention_mask": of(mask)}


class MixedMiniLM(nn.Module):
    """MiniLM with its attention layers in fp16, the rest in fp32, and the mean of the tokens that are no padding."""

    def __init__(self):
        super().__init__()
        self.bert = pretrained.minilm()
        for layer in self.bert.encoder.layer:
            layer.attention.half()
            layer.attention.register_forward_pre_hook(self._narrow, with_kwargs=True)
            layer.attention.register_forward_hook(self._widen)

    @staticmethod
    def _narrow(_, args, kwargs):
        def half(value):
            return value.half() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

        return tuple(map(half, args)), {key: half(value) for key, value in kwargs.items()}

    @staticmethod
    def _widen(_, args, result):
        return (result[0].float(), *result[1:]) if isinstance(result, tuple) else result.float()

    def forward(self, input_ids, attention_mask):
        tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask[..., None].to(tokens.dtype)
        return {"embedding": (tokens * weight).sum(1) / weight.sum(1)}


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_minilm_runs_in_the_type_of_its_weights(attention, dtype):
    report = converted(pretrained.minilm(attention).to(dtype), sentences())
    assert set(report.plan.counts()) == {FLOATS[dtype]}


@pytest.mark.slow
def test_minilm_with_fp16_attention_and_fp32_elsewhere_runs_so():
    report = converted(MixedMiniLM(), sentences(), {"fp32", "fp16"}, strict=True)
    work = [n for n in report.nodes if n.plan.op in ("MatMul", "Softmax", "LayerNormalization")]
    inside = {n.plan.precision for n in work if ".attention" in n.plan.module}
    outside = {n.plan.precision for n in work if ".attention" not in n.plan.module}
    assert (inside, outside) == ({"fp16"}, {"fp32"})


def transformer(name):
    """A small model of one of transformers' architectures, with random weights, and inputs for it."""
    import transformers as tf

    ids = Input(
        min_shape=(1, 4), opt_shape=(2, 12), max_shape=(2, 16), dtype="int64", example=torch.randint(1, 99, (2, 12))
    )
    image = Input(min_shape=(1, 3, 32, 32), opt_shape=(2, 3, 32, 32), max_shape=(4, 3, 32, 32))
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": 100, "use_cache": False}
    makers = {
        "a decoder": (
            lambda: tf.GPT2LMHeadModel(tf.GPT2Config(n_layer=2, n_embd=32, n_head=2, **text)),
            {"input_ids": ids},
        ),
        "a decoder with grouped queries": (
            lambda: tf.LlamaForCausalLM(tf.LlamaConfig(num_key_value_heads=2, **size, **text)),
            {"input_ids": ids},
        ),
        "a vision transformer": (lambda: tf.ViTModel(tf.ViTConfig(image_size=32, patch_size=8, **size)), [image]),
        "a windowed vision transformer": (
            lambda: tf.SwinModel(
                tf.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
            ),
            [Input((1, 3, 32, 32))],
        ),
        "a convolutional network": (
            lambda: tf.ConvNextModel(tf.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1])),
            [Input((1, 3, 64, 64))],
        ),
        "a state-space model": (
            lambda: tf.MambaModel(tf.MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, **text)),
            {"input_ids": Input((1, 6), dtype="int64", example=torch.randint(0, 99, (1, 6)))},
        ),
    }
    make, inputs = makers[name]
    return make().eval(), inputs


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "name",
    [
        "a decoder",
        "a decoder with grouped queries",
        "a vision transformer",
        "a windowed vision transformer",
        "a convolutional network",
        "a state-space model",
    ],
)
def test_an_architecture_of_transformers_converts_in_each_type(name, dtype):
    model, inputs = transformer(name)
    report = converted(model.to(dtype), inputs)
    assert FLOATS[dtype] in report.plan.counts()
