"""Inputs such as models meet: photographs, pages of text, speech, sentences. The same index gives the same input.

Photographs and scans are scikit-image's, whose wheel ships them; pages are drawn; speech is a pulse train through formants; sentences
are Python's own documentation.
"""

from __future__ import annotations

import functools
import pydoc_data.topics
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.signal import lfilter

Array = npt.NDArray[Any]

DATA = Path(__file__).resolve().parents[2] / ".bench" / "data"
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "motorcycle_left", "ihc", "hubble_deep_field", "retina")
SCANS = ("page", "text")
RATE = 16000
IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
HALVES = (np.full(3, 0.5), np.full(3, 0.5))


def photograph(index: int, height: int, width: int) -> Array:
    """A crop of a photograph, `[height, width, 3]` in 0 to 1."""
    random = np.random.default_rng(index)
    with Image.open(_picture(PHOTOGRAPHS[index % len(PHOTOGRAPHS)])) as opened:
        image = opened.convert("RGB")
    scale = random.uniform(0.7, 1.0)
    across, down = int(image.width * scale), int(image.height * scale)
    left, top = (
        int(random.integers(0, full - part + 1)) for full, part in ((image.width, across), (image.height, down))
    )
    cropped = image.crop((left, top, left + across, top + down)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(cropped, np.float32) / 255


def batch(index: int, count: int, size: int, scale: tuple[Array, Array] = IMAGENET) -> Array:
    """Photographs as networks take them: `[count, 3, size, size]`, normalised."""
    return np.stack([planes(photograph(index + 8 * i, size, size), scale) for i in range(count)])


def planes(image: Array, scale: tuple[Array, Array]) -> Array:
    """An image `[H, W, 3]` as `[3, H, W]`, less the mean, over the standard deviation."""
    return ((image - scale[0]) / scale[1]).transpose(2, 0, 1).astype(np.float32)


def page(index: int, height: int, width: int) -> Array:
    """A page of text, `[height, width, 3]` in 0 to 1: drawn, or of every third index a scan."""
    if index % 3 == 2:
        with Image.open(_picture(SCANS[index // 3 % len(SCANS)])) as opened:
            return np.asarray(opened.convert("RGB").resize((width, height)), np.float32) / 255
    random = np.random.default_rng(index)
    image = Image.new("RGB", (width, height), tuple(int(c) for c in random.integers(225, 256, 3)))
    pen, top = ImageDraw.Draw(image), 10
    while top < height:
        size = int(random.choice([14, 18, 24, 40]))
        pen.text(
            (int(random.integers(5, 60)), top),
            words(int(random.integers(1 << 30)), 12),
            "black",
            ImageFont.load_default(size),
        )
        top += int(size * random.uniform(1.2, 2.2))
    return np.asarray(image, np.float32) / 255


def line(index: int, height: int, width: int) -> Array:
    """One line of text, `[height, width, 3]` in 0 to 1."""
    shade = int(np.random.default_rng(index).integers(200, 256))
    image = Image.new("RGB", (width, height), (shade, shade, shade))
    ImageDraw.Draw(image).text((4, 4), words(index, 6), (20, 20, 60), ImageFont.load_default(height * 0.7))
    return np.asarray(image, np.float32) / 255


def speech(index: int, seconds: float) -> Array:
    """Something like speech at 16 kHz: pulses of a gliding pitch through formants, in syllables, with breath; at most 0.5."""
    random = np.random.default_rng(index)
    count = int(seconds * RATE)
    time = np.arange(count) / RATE
    pitch = random.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(0.5, 2) * time))
    sound = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0.0) + 0.02 * random.normal(size=count)
    for centre, width in ((random.uniform(300, 800), 80), (random.uniform(900, 2300), 120), (2800, 160)):
        radius = np.exp(-np.pi * width / RATE)
        sound = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2], sound)
    syllables = np.clip(np.sin(2 * np.pi * random.uniform(3, 5) * time + random.uniform(0, 6)) + 0.5, 0, 1)
    sound = sound * syllables + 1e-3 * random.normal(size=count)
    return np.asarray(0.5 * sound / np.abs(sound).max(), np.float32)


def mels(sound: Array, bands: int, *, logarithmic: bool) -> Array:
    """The power spectrum of a sound in mel bands, `[bands, frames]` of 10 ms; as Whisper takes its logarithm, or as it is."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(201, bands, 0, 8000, RATE, norm="slaney", mel_scale="slaney")
    power = spectrogram(sound, window_function(400, "hann"), 400, 160, power=2.0, mel_filters=filters)
    if not logarithmic:
        return np.asarray(power, np.float32)
    log = np.log10(np.maximum(power, 1e-10))
    return np.asarray((np.maximum(log, log.max() - 8) + 4) / 4, np.float32)


def words(index: int, count: int) -> str:
    """So many words out of Python's documentation."""
    found = _documentation()
    start = int(np.random.default_rng(index).integers(0, len(found) - count))
    return " ".join(found[start : start + count])


def sentences(index: int, rows: int, length: int, tokenizer: Path) -> tuple[Array, Array]:
    """Token ids and the mask of what is no padding, each int64 `[rows, length]`; the first row is full."""
    from tokenizers import Tokenizer  # type: ignore[import-not-found,import-untyped,unused-ignore]

    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.no_padding()
    encoder.enable_truncation(length)
    ids, mask = np.zeros((rows, length), np.int64), np.zeros((rows, length), np.int64)
    for row in range(rows):
        kept = encoder.encode(words(index * 31 + row, length // (1 + row))).ids
        ids[row, : len(kept)], mask[row, : len(kept)] = kept, 1
    return ids, mask


def tokens(index: int, rows: int, length: int, vocabulary: int) -> Array:
    """Token ids as often as words are in a language, int64 `[rows, length]`."""
    drawn = np.random.default_rng(index).zipf(1.2, (rows, length))
    return np.asarray(drawn % vocabulary, np.int64)


@functools.cache
def _documentation() -> list[str]:
    return " ".join(str(text) for text in pydoc_data.topics.topics.values()).split()


def _picture(name: str) -> Path:
    folder = DATA / "skimage" / "skimage" / "data"
    return next(folder.glob(f"{name}.*"))
