"""What several test files share."""

import pytest
import torch


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


@pytest.fixture
def net():
    return SmallNet().eval()


@pytest.fixture
def script_file(net, tmp_path):
    """`SmallNet`, scripted and saved."""
    path = tmp_path / "net.pt"
    torch.jit.script(net).save(str(path))
    return path
