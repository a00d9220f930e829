"""Running engines: on a double of TensorRT whose engines compute on the CPU, so that what is bound, checked and launched can be seen.

It shows what the runtime asks of TensorRT, and that tensors lie where and how it is told. What a GPU does is in `test_gpu.py`.
"""

import collections
import copy
import gc
import json
import pickle
import threading
import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from doubles import recording
from engines import built, double
from torch import nn

from torch2trt_onnx import ConversionWarning, Input, convert
from torch2trt_onnx.errors import BackendMissingError, EngineError, EngineMismatchError, InputError, ManifestError
from torch2trt_onnx.formats import LAYOUTS
from torch2trt_onnx.manifest import Manifest
from torch2trt_onnx.runtime import Engine, EngineModule, port
from torch2trt_onnx.runtime import engine as engine_module
from torch2trt_onnx.runtime.fallback import OnnxModel
from torch2trt_onnx.signature import Leaf, Record, Signature

CPU = torch.device("cpu")
RELU = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
ONE = {"x": [(1, 4), (2, 4), (8, 4)]}
TWO = [{"x": [(1, 4), (2, 4), (4, 4)]}, {"x": [(2, 4), (16, 4), (64, 4)]}]


@pytest.fixture
def trt(monkeypatch):
    return double(monkeypatch)


@pytest.fixture
def make(trt):
    """Builds an engine and loads it on the CPU."""
    return lambda text, profiles=(), formats=None, **given: Engine(
        built(trt, text, profiles, formats), device=CPU, **given
    )


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What was called on the double."""
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv(recording.VARIABLE, str(path))
    return lambda name: [c.args for c in recording.read(path) if c.call == name]


# What is taken and returned --------------------------------------------------------------------------------------------


def test_an_engine_takes_its_inputs_by_place_or_by_name_and_returns_its_one_output(make):
    engine = make("g (float[2] a, float[2] b) => (float[2] y) { y = Sub(a, b) }")
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0])
    assert torch.equal(engine(a, b), a - b)
    assert torch.equal(engine(b=b, a=a), a - b)
    assert torch.equal(engine.run({"a": a, "b": b})["y"], a - b)


def test_several_outputs_are_a_tuple(make):
    found = make("g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Neg(x) }")(torch.tensor([-1.0, 1]))
    assert [t.tolist() for t in found] == [[0, 1], [1, -1]]


Pair = collections.namedtuple("Pair", "sum parts")


def test_a_signature_gives_the_nested_result_of_the_model(make):
    text = "g (float[2] a, float[2] b) => (float[2] y, float[2] z) { y = Add(a, b) z = Sub(a, b) }"
    signature = Signature(
        ({"left": Leaf("a"), "right": [Leaf("b"), None]},), {"flag": True}, Pair(Leaf("y"), {"difference": Leaf("z"), "none": None})
    )  # fmt: skip
    engine = make(text, signature=signature)
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0])
    found = engine({"left": a, "right": [b, None]}, flag=True)
    assert type(found) is Pair
    assert (
        torch.equal(found.sum, a + b) and torch.equal(found.parts["difference"], a - b) and found.parts["none"] is None
    )
    with pytest.raises(InputError, match="the graph was made with True"):
        engine({"left": a, "right": [b, None]}, flag=False)
    again = make(text, signature=json.loads(json.dumps(signature.to_json())))
    assert torch.equal(again({"left": a, "right": [b, None]}, flag=True).sum, a + b)


def test_a_signature_of_another_model_is_refused(make):
    with pytest.raises(EngineError, match="the signature is of another model: 'x' is not in both"):
        make(RELU, [ONE], signature=Signature.flat(["other"], ["y"]))


def test_inputs_that_the_engine_does_not_have_are_ignored(make):
    engine = make(RELU, [ONE], signature=Signature.flat(["x", "unused"], ["y"]))
    x = torch.randn(2, 4)
    assert torch.equal(engine(x, torch.ones(3)), x.relu())


def test_the_table_of_bindings_is_the_engines_own(make):
    x, y = make(RELU, [ONE]).bindings
    assert (x.name, x.mode, x.dtype, x.dims, x.layout) == ("x", "Input", "FLOAT", (-1, 4), "LINEAR")
    assert x.profiles == (((1, 4), (2, 4), (8, 4)),)
    assert (y.name, y.mode, y.profiles) == ("y", "Output", ())


def test_a_module_stands_in_a_sequential_and_is_not_pickled(make):
    model = nn.Sequential(nn.Linear(4, 4), make(RELU, [ONE]).module(), nn.Linear(4, 1)).eval()
    x = torch.randn(2, 4)
    with torch.no_grad():
        assert torch.allclose(model(x), model[2](model[0](x).relu()))
    assert not list(model[1].parameters())
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            copied(model[1])
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(model[1].engine)


# Memory ----------------------------------------------------------------------------------------------------------------


def test_nothing_is_copied(make, calls):
    engine = make(RELU, [ONE])
    x, y = torch.randn(2, 4), torch.empty(2, 4)
    assert engine.run({"x": x}, {"y": y})["y"] is y
    assert calls("set_tensor_address") == [["x", x.data_ptr()], ["y", y.data_ptr()]]
    assert torch.equal(y, x.relu())
    made = engine(x)
    assert calls("set_tensor_address")[-1] == ["y", made.data_ptr()]


def test_each_call_returns_a_tensor_of_its_own(make):
    engine = make(RELU, [ONE])
    first, second = engine(torch.ones(2, 4)), engine(-torch.ones(2, 4))
    assert first.sum() == 8 and second.sum() == 0


def test_a_tensor_for_an_output_must_have_its_shape_type_and_layout(make):
    engine = make(RELU, [ONE])
    x = torch.randn(2, 4)
    for y, text in (
        (torch.empty(3, 4), r"the tensor for output 'y' has shape \(3, 4\), and the result has \(2, 4\)"),
        (torch.empty(2, 4).half(), "output 'y' is float16, and the engine has float32"),
        (torch.empty(4, 2).t(), "output 'y' lies in memory with strides"),
    ):
        with pytest.raises(InputError, match=text):
            engine.run({"x": x}, {"y": y})
    with pytest.raises(InputError, match="the engine has no output 'z'"):
        engine.run({"x": x}, {"z": x})


def test_scalars_and_tensors_without_elements_pass(make):
    assert make("g (float x) => (float y) { y = Neg(x) }")(torch.tensor(3.0)).item() == -3
    engine = make("g (float[N] x) => (float[N] y) { y = Relu(x) }", [{"x": [(0,), (2,), (4,)]}])
    assert engine(torch.empty(0)).shape == (0,)
    assert torch.equal(engine(torch.tensor([-1.0, 2])), torch.tensor([0.0, 2]))


def test_an_output_whose_shape_depends_on_the_data_gets_memory_when_it_is_known(make):
    engine = make(
        "g (float[N] x) => (int64[1,M] y, float[N] z) { y = NonZero(x) z = Relu(x) }", [{"x": [(1,), (4,), (8,)]}]
    )
    first = torch.tensor([0.0, 1, 0, -2])
    found, other = engine(first)
    assert found.tolist() == [[1, 3]] and found.dtype == torch.int64
    assert torch.equal(other, first.relu())
    assert engine(torch.zeros(3))[0].shape == (1, 0)
    assert engine(torch.ones(8))[0].tolist() == [list(range(8))]
    assert found.tolist() == [[1, 3]]
    with pytest.raises(InputError, match="the shape of output 'y' is known only after the launch"):
        engine.run({"x": first}, {"y": found})


def test_memory_that_cannot_be_had_is_an_error_of_ours(make, monkeypatch):
    engine = make("g (float[4] x) => (int64[1,M] y) { y = NonZero(x) }")

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(EngineError, match=r"out of memory|gave no memory"):
        engine(torch.ones(4))


def test_an_address_that_is_not_aligned_is_refused(make, monkeypatch):
    monkeypatch.setitem(port.ALIGNMENT, "cpu", 32)
    engine = make("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    whole = torch.randn(256)
    part = whole[(-whole.data_ptr() // 4) % 8 + 1 :][:4]
    with pytest.raises(InputError, match=r"begins 4 bytes off a multiple of 32.*\n.*\n  fix: x.clone\(\)"):
        engine(part)


# Shapes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_a_dynamic_shape_may_be_anything_in_its_range(make, size):
    x = torch.randn(size, 4)
    assert torch.equal(make(RELU, [ONE])(x), x.relu())


def test_the_profile_with_the_smallest_range_is_taken_and_kept_while_it_holds_the_shape(make, calls):
    engine = make(RELU, TWO)
    used = []
    for size in (1, 3, 5, 3, 1, 64):
        x = torch.randn(size, 4)
        assert torch.equal(engine(x), x.relu())
        used.append(engine.profile)
    assert used == [0, 0, 1, 1, 0, 1]
    assert [args[0] for args in calls("set_optimization_profile_async")] == [1, 0, 1]


def test_among_several_the_smallest_range_wins(make):
    engine = make(
        RELU, [{"x": [(1, 4), (1, 4), (1, 4)]}, {"x": [(1, 4), (8, 4), (64, 4)]}, {"x": [(2, 4), (4, 4), (8, 4)]}]
    )
    engine(torch.randn(3, 4))
    assert engine.profile == 2


def test_a_shape_outside_every_profile_is_refused_before_the_launch(make, calls):
    one, two = make(RELU, [ONE]), make(RELU, TWO)
    with pytest.raises(
        InputError,
        match=r"input 'x' has shape \(9, 4\), outside the range of the engine\n  why: that is \(1, 4\) to \(8, 4\)",
    ):
        one(torch.randn(9, 4))
    with pytest.raises(
        InputError,
        match=r"outside all 2 ranges of the engine\n  why: that is \(1, 4\) to \(4, 4\) and \(2, 4\) to \(64, 4\)",
    ):
        two(torch.randn(65, 4))
    assert not calls("execute_async_v3")


def test_inputs_that_fit_no_profile_together_are_refused(make):
    text = "g (float[N] a, float[M] b) => (float[K] y) { y = Concat <axis = 0> (a, b) }"
    small, large = [(1,), (1,), (2,)], [(5,), (5,), (6,)]
    engine = make(text, [{"a": small, "b": small}, {"a": large, "b": large}])
    assert engine(torch.ones(6), torch.ones(5)).shape == (11,)
    with pytest.raises(InputError, match=r"no optimization profile holds all inputs together: a \(1,\), b \(5,\)"):
        engine(torch.ones(1), torch.ones(5))


RESHAPE = "g (float[8] x, int64[2] size) => (float[A,B] y) { y = Reshape(x, size) }"
SIZES = [{"size": [[1, 1], [2, 4], [8, 8]]}]


def test_the_values_of_a_shape_tensor_are_read_on_the_host(make):
    engine, x = make(RESHAPE, SIZES), torch.arange(8.0)
    for size in ([2, 4], [8, 1], [4, 2]):
        assert torch.equal(engine(x, torch.tensor(size)), x.reshape(size))


def test_values_outside_their_range_are_refused(make):
    engine = make(RESHAPE, SIZES)
    with pytest.raises(
        InputError,
        match=r"input 'size' has values \(16, 1\), outside the range of the engine\n  why: that is \(1, 1\) to \(8, 8\)",
    ):
        engine(torch.arange(8.0), torch.tensor([16, 1]))
    with pytest.raises(InputError, match="input 'size' is on meta, and the engine reads its values on the host"):
        engine(torch.arange(8.0), torch.tensor([2, 4], device="meta"))


# What is wrong ----------------------------------------------------------------------------------------------------------


WRONG = {
    "no tensor": (lambda: [[1.0]], "a list, and a tensor is wanted"),
    "another device": (lambda: torch.empty(2, 4, device="meta"), r"input 'x' is on meta, and the engine runs on cpu\n  fix: x.to\('cpu'\)"),
    "another type": (lambda: torch.ones(2, 4).double(), r"is float64, and the engine has float32\n.*\n  fix: x.to\(torch.float32\)"),
    "another rank": (lambda: torch.ones(2, 4, 1), r"input 'x' has shape \(2, 4, 1\), and the engine has \(\*, 4\)"),
    "another static dimension": (lambda: torch.ones(2, 5), r"input 'x' has shape \(2, 5\), and the engine has \(\*, 4\)"),
    "not contiguous": (lambda: torch.ones(4, 2).t(), r"strides \(1, 2\), and the engine has the format LINEAR\n.*\n  fix: x\.cont"),
}  # fmt: skip


@pytest.mark.parametrize(("tensor", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_input_is_an_error_that_says_what_would_be_right(make, calls, tensor, text):
    engine = make(RELU, [ONE])
    with pytest.raises(InputError, match=text):
        engine.run({"x": tensor()})
    assert not calls("execute_async_v3")


def test_a_missing_or_unknown_input_is_named(make):
    engine = make(RELU, [ONE])
    with pytest.raises(InputError, match="the input 'x' is missing"):
        engine.run({})
    with pytest.raises(InputError, match="the engine has no input 'z'"):
        engine.run({"x": torch.ones(2, 4), "z": torch.ones(1)})


def test_bytes_that_are_no_engine_are_refused_in_the_words_of_tensorrt(trt):
    with pytest.raises(EngineError, match=r"TensorRT 10\.13\S* cannot load the engine\n  why: .*this is no engine"):
        Engine(b"not an engine", device=CPU)


def test_an_engine_of_another_version_is_refused_in_the_words_of_tensorrt(monkeypatch):
    with pytest.MonkeyPatch.context() as old:
        data = built(double(old, "8.6"), "g (float[4] x) => (float[4] y) { y = Relu(x) }")
    double(monkeypatch, "10.13")
    with pytest.raises(EngineError, match=r"expecting library version 10\.13\S* got 8\.6"):
        Engine(data, device=CPU)


def test_a_launch_that_fails_is_an_error_with_what_tensorrt_said(make, monkeypatch, trt):
    engine = make(RELU, [ONE])
    monkeypatch.setattr(trt.IExecutionContext, "set_tensor_address", lambda *_: True)  # so that it finds none
    with pytest.raises(
        EngineError, match=r"TensorRT did not run the engine\n  why: .*Address is not set for input tensor x"
    ):
        engine(torch.ones(2, 4))


def test_a_product_that_is_not_there_is_an_error_of_ours(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendMissingError, match="TensorRT cannot be used here"):
        Engine(b"", device=CPU)
    with pytest.raises(BackendMissingError, match="there is no product 'other'"):
        Engine(b"", product="other", device=CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_no_device_to_run_on(trt):
    with pytest.raises(EngineError, match="PyTorch sees no CUDA device"):
        Engine(b"")


def test_a_type_that_pytorch_does_not_have_is_refused_as_the_engine_is_loaded(trt, monkeypatch):
    data = built(trt, RELU, [ONE])
    monkeypatch.setattr(trt.ICudaEngine, "get_tensor_dtype", lambda *_: trt.DataType.INT4)
    with pytest.raises(EngineError, match="'x' is INT4, and PyTorch has no such tensors"):
        Engine(data, device=CPU)


# Memory formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "layout", "shape", "memory_format"),
    [
        (torch.float32, "HWC", (2, 3, 4, 5), torch.channels_last),
        (torch.float16, "HWC8", (2, 8, 4, 5), torch.channels_last),
        (torch.bfloat16, "HWC8", (1, 16, 1, 5), torch.channels_last),
        (torch.float16, "HWC16", (2, 32, 2, 2), torch.channels_last),
        (torch.float32, "DHWC", (2, 3, 2, 4, 5), torch.channels_last_3d),
        (torch.float16, "DHWC8", (2, 8, 2, 4, 5), torch.channels_last_3d),
    ],
    ids=str,
)
def test_channels_last_tensors_go_in_and_out_as_pytorch_lays_them_out(make, dtype, layout, shape, memory_format):
    engine = make(identity(dtype, shape), formats={"x": layout, "y": layout})
    x = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    y = engine(x)
    assert y.shape == x.shape and y.is_contiguous(memory_format=memory_format)
    assert torch.equal(y, x.abs())
    into = torch.empty_like(x)
    assert engine.run({"x": x}, {"y": into})["y"] is into
    assert torch.equal(into, x.abs())
    if shape[2:] != (1, 5):
        word = str(memory_format).removeprefix("torch.")
        with pytest.raises(
            InputError, match=rf"has the format {layout}\n.*\n  fix: x.contiguous\(memory_format=torch.{word}\)"
        ):
            engine(torch.randn(shape).to(dtype))


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("CHW32", (2, 40, 3, 4)),
        ("CHW4", (1, 3, 3, 4)),
        ("CHW2", (2, 4, 3, 4)),
        ("CHW16", (2, 16, 3, 4)),
        ("HWC8", (2, 3, 4, 5)),
        ("CDHW32", (1, 33, 2, 3, 4)),
    ],
)
def test_formats_that_pad_or_split_channels_take_and_give_the_shape_in_memory(make, layout, shape):
    engine = make(identity(torch.float16, shape), formats={"x": layout, "y": layout})
    plain = torch.randn(shape).half()
    packed = pack(plain, LAYOUTS[layout])
    found = engine(packed)
    assert found.shape == LAYOUTS[layout].packed(shape)
    assert torch.equal(found, packed.abs())
    with pytest.raises(InputError, match=rf"as it lies in memory in {layout}: "):
        engine(plain)


def test_a_split_format_goes_in_and_a_plain_one_out_with_the_right_numbers(make):
    plain = torch.randn(2, 40, 3, 4).half()
    engine = make(identity(torch.float16, plain.shape), formats={"x": "CHW32"})
    assert torch.equal(engine(pack(plain, LAYOUTS["CHW32"])), plain.abs())


def test_the_other_dimensions_of_a_split_format_are_read_off_the_tensor(make):
    text = "g (float16[N,40,H,4] x) => (float16[N,40,H,4] y) { y = Abs(x) }"
    engine = make(text, [{"x": [(1, 40, 1, 4), (2, 40, 3, 4), (4, 40, 9, 4)]}], {"x": "CHW32"})
    plain = torch.randn(3, 40, 5, 4).half()
    assert torch.equal(engine(pack(plain, LAYOUTS["CHW32"])), plain.abs())


def pack(tensor, layout):
    """A tensor as a format lays it out, with zeros for padding."""
    at = tensor.dim() + layout.axis
    padding = -tensor.shape[at] % layout.vector
    padded = torch.cat([tensor, tensor.new_zeros(*tensor.shape[:at], padding, *tensor.shape[at + 1 :])], at)
    if layout.minor:
        return padded.movedim(at, -1).contiguous()
    return padded.unflatten(at, (-1, layout.vector)).movedim(at + 1, -1).contiguous()


def identity(dtype, shape):
    word = {torch.float32: "float", torch.float16: "float16", torch.bfloat16: "bfloat16"}[dtype]
    dims = f"{word}[{', '.join(map(str, shape))}]"
    return f"g ({dims} x) => ({dims} y) {{ y = Abs(x) }}"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32", "int64", "bool", "int8"])
def test_each_type_goes_in_and_out_as_it_is(make, dtype):
    x = torch.tensor([0, 1, 1, 0]).to(getattr(torch, dtype))
    y = make(f"g ({dtype}[4] x) => ({dtype}[4] y) {{ y = Identity(x) }}")(x)
    assert y.dtype == x.dtype and torch.equal(y, x)


# Versions, life and threads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["8.6", "10.13", "11.0"])
def test_every_version_runs_profiles_and_data_dependent_shapes(monkeypatch, version):
    trt = double(monkeypatch, version)
    engine = Engine(built(trt, RELU, TWO), device=CPU)
    for size in (1, 40):
        x = torch.randn(size, 4)
        assert torch.equal(engine(x), x.relu())
    integer = "int32" if version == "8.6" else "int64"
    cast = f"i = NonZero(x) y = Cast <to = {6 if version == '8.6' else 7}> (i)"
    found = Engine(built(trt, f"g (float[4] x) => ({integer}[1,M] y) {{ {cast} }}"), device=CPU)
    assert found(torch.tensor([0.0, 1, 0, 1])).tolist() == [[1, 3]]


def test_an_engine_that_is_let_go_frees_its_objects(make):
    engine = make(RELU, [ONE])
    engine(torch.ones(1, 4))
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None


def test_threads_share_an_engine(make):
    engine, wrong = make(RELU, TWO), []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(10):
            x = torch.randn(1 + seed * 7, 4, generator=generator)
            if not torch.equal(engine(x), x.relu()):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_graph_needs_a_device_that_has_them(make):
    with pytest.raises(EngineError, match="cpu has no CUDA graphs"):
        make(RELU, [ONE]).graphed(torch.ones(1, 4))


def test_what_tensorrt_says_goes_to_the_log_of_python(trt, caplog):
    with caplog.at_level("ERROR", "torch2trt_onnx.tensorrt"), pytest.raises(EngineError):
        Engine(b"not an engine", device=CPU)
    assert "this is no engine" in caplog.text


# Files ------------------------------------------------------------------------------------------------------------------


def test_a_file_of_an_engine_is_loaded_where_its_product_is_told(trt, tmp_path):
    path = tmp_path / "net.engine"
    path.write_bytes(built(trt, RELU, [ONE]))
    engine = Engine.load(path, product="tensorrt", device=CPU)
    assert engine(torch.ones(1, 4)).sum() == 4
    with pytest.raises(InputError, match="a file does not tell which TensorRT built it"):
        Engine.load(path, device=CPU)
    with pytest.raises(EngineError, match="the engine cannot be read"):
        Engine.load(tmp_path / "other.engine", product="tensorrt", device=CPU)
    with pytest.raises(EngineError, match="there is no such file or folder"):
        Engine.load(tmp_path / "folder", device=CPU)


def test_a_folder_without_a_manifest_is_refused(trt, tmp_path):
    (tmp_path / "model.engine").write_bytes(built(trt, RELU, [ONE]))
    with pytest.raises(ManifestError, match="the folder has no manifest"):
        Engine.load(tmp_path, device=CPU)


class Saved:
    """A manifest; the real one is tested in test_manifest.py."""

    def __init__(self, signature, wrong=None):
        self.engine, self.signature = SimpleNamespace(product="tensorrt"), signature
        self.wrong, self.asked = wrong, None

    def check(self, folder, *, device, product_version):
        self.asked = folder, device, product_version
        if self.wrong:
            raise self.wrong

    def stamps(self, folder):
        return [folder]

    def check_still(self, folder, before):
        assert folder == self.asked[0] and before == [folder]


def test_a_folder_tells_the_product_and_the_signature_and_is_checked_first(trt, tmp_path, monkeypatch):
    (tmp_path / "model.engine").write_bytes(built(trt, RELU, [ONE]))
    saved = Saved(Signature((), {"image": Leaf("x")}, {"out": Leaf("y")}).to_json())
    monkeypatch.setattr(Manifest, "read", lambda _: saved)
    engine = Engine.load(tmp_path, device=CPU)
    assert saved.asked == (tmp_path, None, trt.__version__)
    assert engine(image=torch.ones(1, 4))["out"].sum() == 4
    saved.wrong = EngineMismatchError("the engine was built for another GPU")
    with pytest.raises(EngineMismatchError, match="for another GPU"):
        Engine.load(tmp_path, device=CPU)
    saved.engine = None
    with pytest.raises(EngineError, match="the folder has no engine"):
        Engine.load(tmp_path, device=CPU)


# Conversions on a machine without a GPU ---------------------------------------------------------------------------------

X = torch.randn(2, 3, 8, 8)


class Named(nn.Module):
    """An fp16 convolution; returns a dict, a named tuple and None."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).half()

    def forward(self, x, *, scale):
        y = self.conv((x * scale["by"]).half())
        return {"half": y, "pair": Pair(y.float().mean(), [y.bfloat16(), None])}


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def converted(model, inputs, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        return convert(model, inputs, **{"backend": "none", **options})


def test_a_conversion_runs_in_onnx_runtime_without_a_gpu_and_says_so_once(without_gpu):
    model, arguments = Named().eval(), ((X,), {"scale": {"by": torch.tensor(2.0)}})
    conversion = converted(model, arguments)
    text = "ONNX Runtime on the CPU computes the results of this conversion, not TensorRT: there is no engine"
    with pytest.warns(ConversionWarning, match=text):
        found = conversion(*arguments[0], **arguments[1])
    expected = model(*arguments[0], **arguments[1])
    assert type(found["pair"]) is Pair and found["pair"].parts[1] is None
    for a, b in (
        (found["half"], expected["half"]),
        (found["pair"].sum, expected["pair"].sum),
        (found["pair"].parts[0], expected["pair"].parts[0]),
    ):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conversion(*arguments[0], **arguments[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_conversion_computes_as_eager_pytorch_does_in_each_type(without_gpu, dtype):
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)).eval().to(dtype)
    x = torch.randn(3, 8).to(dtype)
    module = converted(model, [x]).module()
    assert isinstance(module, EngineModule)
    with pytest.warns(ConversionWarning):
        found = nn.Sequential(module, nn.Identity())(x)
    expected = model(x).detach()
    assert found.dtype == dtype
    assert torch.allclose(found.float(), expected.float(), rtol=2e-2, atol=2e-2)


def test_a_built_engine_that_cannot_run_here_is_named_as_the_reason(without_gpu):
    conversion = converted(nn.Linear(4, 4).eval(), [torch.ones(1, 4)], backend="rtx")
    assert conversion.engine
    with pytest.warns(ConversionWarning, match="not TensorRT: PyTorch sees no CUDA device"):
        conversion(torch.ones(1, 4))


def test_a_conversion_whose_engine_runs_here_runs_that(tensorrt, monkeypatch):
    told, model, arguments = tensorrt("10.13"), Named().eval(), ((X,), {"scale": {"by": torch.tensor(2.0)}})
    conversion = converted(model, arguments, backend="tensorrt")
    double(monkeypatch)
    monkeypatch.setattr(engine_module, "_device", lambda _: CPU)
    found, expected = conversion(X, scale={"by": torch.tensor(2.0)}), model(*arguments[0], **arguments[1])
    assert any(call.call == "execute_async_v3" for call in told())
    assert found["half"].dtype == torch.float16 and found["pair"].parts[1] is None
    assert torch.allclose(found["half"].float(), expected["half"].float(), rtol=1e-2, atol=1e-2)
    assert torch.allclose(found["pair"].sum, expected["pair"].sum, atol=1e-2)


def test_a_conversion_takes_any_shape_of_its_graph_and_refuses_wrong_types(without_gpu):
    model = nn.Linear(4, 4).eval()
    conversion = converted(model, [Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))])
    x = torch.randn(5, 4)
    with pytest.warns(ConversionWarning), torch.no_grad():
        assert torch.allclose(conversion(x), model(x), atol=1e-5)
    with pytest.raises(
        InputError, match=r"is float16, and the engine has float32\n.*\n  fix: input.to\(torch.float32\)"
    ):
        conversion(x.half())
    with pytest.raises(EngineError, match="ONNX Runtime cannot run the graph on these inputs"):
        conversion(torch.randn(5, 3))


class Attributes(nn.Module):
    def forward(self, x):
        return collections.OrderedDict(logits=x + 1, hidden=x * 2)


def test_the_fallback_returns_what_a_signature_says(tmp_path, without_gpu):
    conversion = converted(Attributes(), [X])
    result = Record(logits=Leaf("logits"), hidden=Leaf("hidden"))
    model = OnnxModel(conversion._onnx_path, Signature((Leaf("x"),), {}, result))
    assert torch.equal(model(X).logits, X + 1)
    flat = OnnxModel(conversion._onnx_path, None)
    assert torch.equal(flat(X)[1], X * 2)
