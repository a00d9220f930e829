"""Pretrained models from PyPI packages, from PyTorch to a TensorRT-RTX engine; `tools/demo` sets up and calls this.

1. silero-vad's voice-activity network, a TorchScript file with an `if` inside, as its author typed it: fp32.
2. facenet-pytorch's O-Net (face landmarks), with its convolutions in fp16 and its head in fp32, as somebody with a deadline would cast it.
3. The same network in fp32, as its author left it, lowered to fp16 where that is safe, with ranges measured and an error limit.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import pretrained
import torch
from torch import nn

from torch2trt_onnx import Conversion, ConversionWarning, Input, convert, page
from torch2trt_onnx.views.show import show

WORDS = """What the engine proves of each node: honoured (it runs as planned), fused (inside a layer whose borders are as planned),
folded (it is gone: a constant, or a move that moves nothing), overridden (it runs in another precision), unverifiable (no evidence).
"""


class HalfConvolutions(nn.Module):
    """O-Net with everything up to the flattening in fp16, and its three heads in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.net = pretrained.facenet("ONet")
        for name, layer in self.net.named_children():
            if name.startswith(("conv", "prelu1", "prelu2", "prelu3", "prelu4", "pool")):
                layer.half()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes `[N, 4]`, landmarks `[N, 10]` and probabilities `[N, 2]` of faces in images `[N, 3, 48, 48]`."""
        net: Any = self.net
        x = image.half()
        for stage in (
            net.conv1,
            net.prelu1,
            net.pool1,
            net.conv2,
            net.prelu2,
            net.pool2,
            net.conv3,
            net.prelu3,
            net.pool3,
        ):
            x = stage(x)
        x = net.prelu4(net.conv4(x)).float()
        x = net.prelu5(net.dense5(x.permute(0, 3, 2, 1).reshape(x.shape[0], -1)))
        return net.dense6_2(x), net.dense6_3(x), net.softmax6_1(net.dense6_1(x))


def main() -> None:
    """Convert them, print their tables, and keep the last, with its report as a page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)  # the report shows them
        print(WORDS)
        print("silero-vad: a TorchScript file -> ONNX -> passes -> TensorRT-RTX\n")
        audio, state = torch.randn(1, 576), torch.zeros(2, 1, 128)
        show(convert(pretrained.silero(), [audio, state]).report, ("bindings",))
        print("\nO-Net: convolutions in fp16, heads in fp32, traced to TorchScript -> ONNX -> passes -> TensorRT-RTX\n")
        traced = torch.jit.trace(HalfConvolutions().eval(), torch.randn(4, 3, 48, 48))
        images = Input(min_shape=(1, 3, 48, 48), opt_shape=(4, 3, 48, 48), max_shape=(8, 3, 48, 48))
        conversion: Conversion = convert(traced, [images], {"fp32", "fp16"}, strict=True)
        show(conversion.report, ("layers",))
        print("\nO-Net as it comes, fp32 -> fp16 where it is safe, with an error limit\n")
        torch.manual_seed(0)
        photos = [[torch.rand(4, 3, 48, 48) * 2 - 1] for _ in range(4)]  # real ones say more
        lowered: Conversion = convert(
            pretrained.facenet("ONet").eval(), [images], {"fp32", "fp16"}, calibration=photos, max_error=8e-4
        )
        show(lowered.report, ("layers",))
    folder = lowered.save(Path(tempfile.gettempdir()) / "torch2trt_onnx-demo")
    page.write(folder / "report.html", page.render(lowered.report))
    print(f"The last is saved in {folder}; look at it with a browser: {folder / 'report.html'}")
    print(f"or on the terminal: .venv/bin/torch2trt-onnx inspect {folder}")


if __name__ == "__main__":
    main()
