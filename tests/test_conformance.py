"""One suite for every back end: those that are installed, for real, and each behaviour of TensorRT on the doubles that its stubs make.

What a GPU is needed for (running engines on it) is in `test_gpu.py`; the engines of doubles run here, on the CPU.
"""

import importlib.util
import warnings

import pytest
import torch
from engines import double
from torch import nn

from torch2trt_onnx import Conversion, ConversionWarning, Engine, Input, Output, convert, find_backend
from torch2trt_onnx.backends import BACKENDS
from torch2trt_onnx.errors import BackendMissingError, EngineMismatchError, PrecisionError
from torch2trt_onnx.manifest import Manifest

CASES = {
    "rtx": ("rtx", None),
    "tensorrt": ("tensorrt", None),
    "weak 8.6 (double)": ("tensorrt-weak", "8.6"),
    "weak 10.13 (double)": ("tensorrt-weak", "10.13"),
    "strong 10.13 (double)": ("tensorrt-strong", "10.13"),
    "strong 11.0 (double)": ("tensorrt-strong", "11.0"),
}


class Net(nn.Module):
    """An fp16 layer between fp32 ones; takes a dict, returns one."""

    def __init__(self, middle=torch.float16):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3).to(middle), nn.Linear(8, 4)

    def forward(self, inputs):
        features = self.second(self.first(inputs["image"]).relu().to(self.second.weight.dtype))
        return {"features": features, "logits": self.head(features.float().mean((2, 3))), "none": None}


@pytest.fixture(params=CASES.values(), ids=CASES)
def place(request, tensorrt):
    """(back end, version of the double or None)"""
    name, version = request.param
    if version is not None:
        tensorrt(version)
    elif importlib.util.find_spec({"rtx": "tensorrt_rtx"}.get(name, name)) is None:
        pytest.skip(f"{name} is not installed")
    return name, version


@pytest.fixture
def run(place):
    def call(model, inputs, precisions=None, **asked):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConversionWarning)
            return convert(model.eval(), inputs, precisions, backend=place[0], **asked)

    return call


@pytest.fixture
def engine(place, monkeypatch):
    """A conversion as a function: its engine where there is a device for it, else its graph."""

    def make(conversion):
        if place[1] is None:
            return conversion
        double(monkeypatch, place[1])
        return Engine(conversion.engine, signature=conversion.signature, device="cpu")

    return make


def images(size):
    return {"image": torch.rand(size, 8, 9, 9)}


def ranged(*ranges):
    return [{"image": Input(profiles=[tuple((n, 8, 9, 9) for n in each) for each in ranges], name="image")}]


def close(found, expected):
    assert set(found) == set(expected) and found["none"] is None
    for name in ("features", "logits"):
        assert found[name].dtype == expected[name].dtype
        torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-2)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch2trt_onnx.ConversionWarning")
def test_it_computes_what_the_model_does_at_every_shape_of_every_profile(run, engine):
    net = Net().eval()
    conversion = run(net, ranged((1, 2, 4), (4, 16, 32)), {"fp32", "fp16"})
    assert conversion.report.comparison.ok
    call = engine(conversion)
    for size in (1, 3, 4, 32, 2):
        given = images(size)
        close(call(given), net(given))


def test_each_node_is_proven_in_the_precision_of_its_weights(run):
    conversion = run(Net(), [images(2)], {"fp32", "fp16"})
    assert [n.plan.precision for n in conversion.report.nodes if n.plan.op in ("Conv", "Gemm")] == [
        "fp32",
        "fp16",
        "fp32",
    ]
    assert {n.verdict for n in conversion.report.nodes if n.plan.precision} <= {"honoured", "fused", "folded"}
    assert conversion.report.unproven() == []


def test_strictly_half_is_half_throughout(run):
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).half()
    conversion = run(model, [torch.rand(4, 64).half()], {"fp16"}, strict=True)
    assert set(conversion.plan.counts()) == {"fp16"}
    assert {b.name: b.layout or "LINEAR" for b in conversion.report.bindings} == {"input": "LINEAR", "output": "LINEAR"}


def test_bf16_is_where_the_library_has_it(run, place):
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).bfloat16()
    if not BACKENDS.get(place[0], BACKENDS["tensorrt-strong"]).capabilities.bf16:
        with pytest.raises(PrecisionError, match="has no such type"):
            run(model, [torch.rand(4, 64).bfloat16()])
        return
    assert set(run(model, [torch.rand(4, 64).bfloat16()]).plan.counts()) == {"bf16"}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch2trt_onnx.ConversionWarning")
def test_bindings_have_the_formats_and_types_that_were_asked_for(run, engine, place):
    model = nn.Conv2d(8, 16, 3).eval()
    x = torch.rand(2, 8, 9, 9).contiguous(memory_format=torch.channels_last)
    conversion = run(model, [x], outputs=[Output(format=torch.channels_last)])
    assert [b.layout for b in conversion.report.bindings] == ["HWC", "HWC"]
    found = engine(conversion)(x)
    torch.testing.assert_close(found, model(x), rtol=1e-3, atol=1e-3)
    if place[1] is not None:
        assert found.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch2trt_onnx.ConversionWarning")
def test_a_saved_conversion_knows_what_built_it_and_is_loaded_the_same(run, place, tmp_path, monkeypatch):
    net, given = Net().eval(), images(2)
    conversion = run(net, [given], {"fp32", "fp16"})
    built = Manifest.read(conversion.save(tmp_path)).engine
    assert f"{built.title} {built.version}" == conversion.report.backend
    assert built.typing == ("weak" if "weak" in place[0] else "strong")
    assert set(built.verdicts.values()) <= {"honoured", "fused", "folded"}
    if place[1] is not None:  # the double is no installed package, so that its version is not known here
        with pytest.raises(
            EngineMismatchError, match=f"the manifest says {built.title} {built.version}; here is one that"
        ):
            Conversion.load(tmp_path)
        double(monkeypatch, place[1])
        close(Engine.load(tmp_path, device="cpu")(given), net(given))
    else:
        close(Conversion.load(tmp_path)(given), net(given))


def test_what_is_not_there_is_said_of_each_back_end():
    with pytest.raises(BackendMissingError) as error:
        find_backend("tensorrt")
    assert "tensorrt-strong: the module tensorrt is not installed" in str(error.value)
    assert find_backend(None).name == "rtx"
