"""What several test files share."""

import signal
from pathlib import Path

import pytest
import torch
from doubles import recording

from torch2trt_onnx import backends

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

DOUBLES = Path(__file__).parent / "doubles"


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    torch.manual_seed(0)


class SmallNet(torch.nn.Module):
    """An fp16 convolution between fp32 layers; `[N, 3, H, W]` to `[N, 4]`."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=1).half()
        self.head = torch.nn.Linear(8, 4)

    def forward(self, image):
        features = self.second(self.first(image).relu().half()).float()
        return self.head(features.mean((2, 3)))


class Layers(torch.nn.Module):
    """Two linear layers, `a` and `b`, each in a type of its own, with an activation in between; takes and returns fp32."""

    def __init__(self, a=torch.float32, b=torch.float32):
        super().__init__()
        self.a, self.b = torch.nn.Linear(64, 64).to(a), torch.nn.Linear(64, 64).to(b)

    def forward(self, x):
        x = torch.sigmoid(self.a(x.to(self.a.weight.dtype)))
        return self.b(x.to(self.b.weight.dtype)).float()


@pytest.fixture
def net():
    return SmallNet().eval()


@pytest.fixture
def script_file(net, tmp_path):
    """`SmallNet`, scripted and saved."""
    path = tmp_path / "net.pt"
    torch.jit.script(net).save(str(path))
    return path


@pytest.fixture
def tensorrt(monkeypatch, tmp_path):
    """Lets `import tensorrt` give a recording double of a version, made from TensorRT's stubs; returns what was called since.

    Builds run in a child process, which finds the double by the path, and writes down what is called.
    """
    path = tmp_path / "calls.jsonl"
    backends.probed.cache_clear()

    def install(version):
        monkeypatch.syspath_prepend(DOUBLES / f"tensorrt_{version.replace('.', '_')}")
        monkeypatch.setenv(recording.VARIABLE, str(path))
        backends.probed.cache_clear()
        return lambda: recording.read(path)

    yield install
    backends.probed.cache_clear()


@pytest.fixture
def here(folder, monkeypatch):
    """The `folder` of a test file as the current one: what is shown names files as they were given."""
    monkeypatch.chdir(folder)
    return folder
