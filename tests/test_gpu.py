"""On a GPU. First what the runtime does with streams, memory and CUDA graphs, on a double of TensorRT that computes with PyTorch on the
stream that it is given; that needs no TensorRT. Then one conformance suite for each TensorRT that is installed.
"""

import importlib.util

import pytest
import torch
from doubles import recording
from engines import built, double
from torch import nn

from torch2trt_onnx.errors import InputError
from torch2trt_onnx.runtime import Engine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

RELU = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
TWO = [{"x": [(1, 4), (2, 4), (64, 4)]}, {"x": [(2, 4), (128, 4), (4096, 4)]}]
LONG = 1_000_000_000
"""Clock cycles that a stream sleeps: about half a second, in which the host gets through any test."""


@pytest.fixture
def trt(monkeypatch):
    monkeypatch.setenv("TENSORRT_DOUBLE_DEVICE", "cuda")
    return double(monkeypatch)


@pytest.fixture
def make(trt):
    return lambda text=RELU, profiles=TWO, formats=None: Engine(built(trt, text, profiles, formats))


@pytest.fixture
def calls(monkeypatch, tmp_path):
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv(recording.VARIABLE, str(path))
    return lambda name: [c.args for c in recording.read(path) if c.call == name]


def test_nothing_is_copied_and_the_stream_is_the_callers(make, calls):
    engine, stream = make(), torch.cuda.Stream()
    x, into = torch.randn(3, 4, device="cuda"), torch.empty(3, 4, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        engine.run({"x": x}, {"y": into})
        made = engine(x)
    stream.synchronize()
    addresses = [["x", x.data_ptr()], ["y", into.data_ptr()], ["x", x.data_ptr()], ["y", made.data_ptr()]]
    assert calls("set_tensor_address") == addresses
    assert calls("execute_async_v3") == [[stream.cuda_stream]] * 2
    assert torch.equal(into, x.relu()) and torch.equal(made, x.relu())


@pytest.mark.parametrize("side", [True, False], ids=["a stream of the caller's", "the default stream"])
def test_a_call_waits_for_what_was_queued_before_it_and_the_host_waits_for_nothing(make, side):
    engine = make()
    stream = torch.cuda.Stream() if side else torch.cuda.default_stream()
    for cycles in (1, LONG):  # a kernel is loaded when it is first used, and that waits for the device
        with torch.cuda.stream(stream):
            x = torch.zeros(3, 4, device="cuda")
            torch.cuda.synchronize()
            torch.cuda._sleep(cycles)
            x.fill_(7)  # the producer is late
            y = engine(x)
            z = y + 1  # the consumer is queued at once
            is_done = stream.query()
        stream.synchronize()
        assert torch.equal(y, torch.full_like(y, 7)) and torch.equal(z, y + 1)
    assert not is_done


def test_on_the_default_stream_the_launch_is_on_another_so_that_nothing_synchronises(make, calls):
    engine = make()
    engine(torch.ones(3, 4, device="cuda"))
    ((handle,),) = calls("execute_async_v3")
    assert handle != 0


def test_launches_on_two_streams_do_not_run_at_the_same_time(make):
    engine, first, second = make(), torch.cuda.Stream(), torch.cuda.Stream()
    x = torch.ones(3, 4, device="cuda")
    engine(-x)
    torch.cuda._sleep(1)
    torch.cuda.synchronize()
    with torch.cuda.stream(first):
        torch.cuda._sleep(LONG)
        a = engine(x)
    with torch.cuda.stream(second):
        b = engine(-x)
    assert not first.query()
    second.synchronize()
    assert first.query()  # the memory for activations is one: the second waited for it
    assert torch.equal(a, x) and b.sum() == 0


def test_memory_that_is_let_go_at_once_is_not_given_to_others_before_the_launch_has_read_it(make):
    engine, owner, reader = make(), torch.cuda.Stream(), torch.cuda.Stream()
    engine(torch.ones(4096, 4, device="cuda"))
    with torch.cuda.stream(owner):
        x = torch.full((4096, 4), 5.0, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(reader):
        torch.cuda._sleep(LONG)
        y = engine(x)
    del x
    with torch.cuda.stream(owner):
        others = [torch.full((4096, 4), 9.0, device="cuda") for _ in range(8)]
    torch.cuda.synchronize()
    assert torch.equal(y, torch.full_like(y, 5)) and len(others) == 8


def test_profiles_are_switched_on_the_callers_stream(make, calls):
    engine, stream = make(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for size in (1, 1000, 1):
            x = torch.randn(size, 4, device="cuda")
            assert torch.equal(engine(x), x.relu())
    assert calls("set_optimization_profile_async") == [[1, stream.cuda_stream], [0, stream.cuda_stream]]


def test_an_output_whose_shape_depends_on_the_data_is_allocated_on_the_device(make):
    engine = make("g (float[N] x) => (int64[1,M] y) { y = NonZero(x) }", [{"x": [(1,), (4,), (8,)]}])
    found = engine(torch.tensor([0.0, 1, 0, 1], device="cuda"))
    assert found.is_cuda and found.tolist() == [[1, 3]]
    with pytest.raises(InputError, match="the shape of output 'y' depends on the data"):
        engine.graphed(torch.ones(4, device="cuda"))


def test_channels_last_goes_in_and_out_without_a_copy(make, calls):
    engine = make("g (float[2,3,4,5] x) => (float[2,3,4,5] y) { y = Relu(x) }", [], {"x": "HWC", "y": "HWC"})
    x = torch.randn(2, 3, 4, 5, device="cuda").contiguous(memory_format=torch.channels_last)
    y = engine(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, x.relu())
    assert calls("set_tensor_address") == [["x", x.data_ptr()], ["y", y.data_ptr()]]


def test_a_wrong_device_and_an_address_off_its_alignment_are_refused(make):
    engine = make()
    with pytest.raises(
        InputError, match=r"input 'x' is on cpu, and the engine runs on cuda:0\n  fix: x.to\('cuda:0'\)"
    ):
        engine(torch.ones(2, 4))
    with pytest.raises(InputError, match=r"begins 16 bytes off a multiple of 256(.|\n)*fix: x.clone\(\)"):
        engine(torch.ones(3, 4, device="cuda")[1:])


def test_a_cuda_graph_gives_what_the_engine_gives(make):
    engine = make()
    graph = engine.graphed(torch.zeros(3, 4, device="cuda"))
    for _ in range(3):
        x = torch.randn(3, 4, device="cuda")
        assert torch.equal(graph(x), x.relu())
        assert torch.equal(engine(x), x.relu())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        y = graph(x)
        assert not stream.query()
    stream.synchronize()
    assert torch.equal(y, x.relu())
    with pytest.raises(
        InputError, match=r"input 'x' is float32 \(2, 4\) on cuda:0, and the graph was captured with float32 \(3, 4\)"
    ):
        graph(torch.zeros(2, 4, device="cuda"))


def test_a_call_can_be_captured_in_a_graph_of_the_callers(make):
    engine, x = make(), torch.ones(3, 4, device="cuda")
    engine(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = engine(x) + 1
    x.fill_(4)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, torch.full_like(y, 5))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_an_engine_runs_on_its_own_device_whatever_the_current_one_is(trt):
    engine = Engine(built(trt, RELU, TWO), device="cuda:1")
    x = torch.randn(3, 4, device="cuda:1")
    torch.cuda.synchronize(1)
    y = engine(x)
    assert torch.cuda.current_device() == 0
    assert y.device == x.device and torch.equal(y, x.relu())
    assert torch.equal(engine.graphed(x)(x), x.relu())
    with torch.cuda.stream(torch.cuda.Stream(1)):
        assert torch.equal(engine(x), x.relu())
    with pytest.raises(InputError, match="input 'x' is on cuda:0, and the engine runs on cuda:1"):
        engine(x.to("cuda:0"))


class Mixed(nn.Module):
    """An fp16 product behind an fp32 one, of the operators that the double computes on a GPU; takes a dict, returns one."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Parameter(torch.randn(64, 64)), nn.Parameter(torch.randn(64, 8).half())

    def forward(self, given):
        hidden = torch.relu(given["x"] @ self.wide + 1)
        return {"y": (hidden.half() @ self.narrow).float(), "hidden": hidden}


@torch.no_grad()
@pytest.mark.parametrize("backend", ["tensorrt-strong", "tensorrt-weak"])
def test_a_conversion_is_its_engine_where_there_is_a_gpu_saved_and_loaded_too(backend, trt, tensorrt, tmp_path):
    pytest.importorskip("onnx_graphsurgeon")
    from torch2trt_onnx import Input, convert
    from torch2trt_onnx.backends import own_capability

    tensorrt("10.13")
    net = Mixed().cuda().eval()
    given = {"x": Input(min_shape=(1, 64), opt_shape=(4, 64), max_shape=(16, 64), name="x")}
    conversion = convert(net, [given], {"fp32", "fp16"}, backend=backend)
    assert conversion.report.comparison.ok and conversion.report.targets == own_capability()
    loaded = Engine.load(conversion.save(tmp_path))
    for size in (1, 4, 16):
        x = torch.randn(size, 64, device="cuda")
        expected = net({"x": x})
        for call in (conversion, loaded):  # a warning, which is an error here, would say that ONNX Runtime computes it
            found = call({"x": x})
            assert all(found[key].is_cuda and found[key].dtype == expected[key].dtype for key in expected)
            torch.testing.assert_close(found["hidden"], expected["hidden"], rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(found["y"], expected["y"], rtol=2e-2, atol=2e-2)


# Each TensorRT that is installed ----------------------------------------------------------------------------------------


class Net(nn.Module):
    """An fp16 convolution between fp32 layers; takes a dict, returns one."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3).half(), nn.Linear(8, 4)

    def forward(self, inputs):
        features = self.second(self.first(inputs["image"]).relu().half())
        return {"features": features, "logits": self.head(features.float().mean((2, 3))), "none": None}


PRODUCTS = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}


@pytest.fixture(params=PRODUCTS)
def backend(request):
    pytest.importorskip("onnx_graphsurgeon")
    spec = importlib.util.find_spec(PRODUCTS[request.param])
    if spec is None or spec.origin is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def converted(backend):
    """Converts with the back end, for this GPU."""
    from torch2trt_onnx import ConversionError, Options, convert
    from torch2trt_onnx.backends import own_capability

    def run(model, inputs, precisions=None, **options):
        options = {"options": Options(compute_capabilities=own_capability()), **options}
        try:
            return convert(model, inputs, precisions, backend=backend, **options)
        except ConversionError as error:
            if "no compute capability" in str(error):
                pytest.skip(f"{backend} does not build for this GPU")
            raise

    return run


def images(size):
    return {"image": torch.randn(size, 3, 16, 16, device="cuda")}


def ranged(*ranges):
    from torch2trt_onnx import Input

    return [{"image": Input(profiles=[tuple((n, 3, 16, 16) for n in each) for each in ranges], name="image")}]


@pytest.fixture
def net():
    return Net().cuda().eval()


@pytest.fixture
def conversion(converted, net):
    return converted(net, ranged((1, 2, 4), (4, 16, 64)), {"fp32", "fp16"})


def close(found, expected):
    assert set(found) == set(expected) and found["none"] is None
    for name in ("features", "logits"):
        assert found[name].dtype == expected[name].dtype and found[name].is_cuda
        torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_an_engine_computes_what_the_model_does_in_every_profile(conversion, net):
    for size in (1, 3, 4, 64, 2):
        given = images(size)
        close(conversion(given), net(given))


@torch.no_grad()
def test_a_saved_engine_is_loaded_and_computes_the_same(conversion, net, tmp_path):
    engine, given = Engine.load(conversion.save(tmp_path)), images(2)
    close(engine(given), net(given))


@torch.no_grad()
def test_an_engine_runs_on_a_side_stream_and_the_host_does_not_wait(conversion, net):
    stream, given = torch.cuda.Stream(), images(2)
    conversion(given)
    expected = net(given)
    torch.cuda.synchronize()
    late = {"image": torch.zeros_like(given["image"])}
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        late["image"].copy_(given["image"])
        found = conversion(late)
        assert not stream.query()
    stream.synchronize()
    close(found, expected)


@torch.no_grad()
def test_an_engine_runs_in_a_cuda_graph(conversion, net, backend):
    engine = Engine(conversion.engine, product=backend, signature=conversion.signature)
    graph = engine.graphed(images(2))
    for _ in range(3):
        given = images(2)
        close(graph(given), net(given))


@torch.no_grad()
def test_an_engine_takes_and_gives_channels_last(converted, backend):
    from torch2trt_onnx import Input

    model = nn.Conv2d(8, 16, 3).cuda().eval()
    x = torch.randn(2, 8, 9, 9, device="cuda").contiguous(memory_format=torch.channels_last)
    conversion = converted(model, [Input(x.shape, format=torch.channels_last)])
    torch.testing.assert_close(conversion(x), model(x), rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match=r"memory_format=torch\.channels_last"):
        conversion(x.contiguous())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_engine_takes_and_gives_reduced_types(converted, dtype):
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).cuda().eval().to(dtype)
    x = torch.randn(4, 64, device="cuda", dtype=dtype)
    found = converted(model, [x])(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), model(x).float(), rtol=5e-2, atol=5e-2)


@torch.no_grad()
def test_a_shape_that_depends_on_the_data_is_known_after_the_launch(converted, backend):
    if backend == "rtx":
        pytest.skip("TensorRT-RTX has no NonZero")

    class Chosen(nn.Module):
        def forward(self, x):
            return x[x > 0]

    x = torch.randn(64, device="cuda")
    conversion = converted(Chosen().cuda().eval(), [x])
    torch.testing.assert_close(conversion(x), x[x > 0])
