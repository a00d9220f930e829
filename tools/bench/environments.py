"""The environments that the converters run in: each peer has versions of its own, which do not suit each other or us."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from running import BENCH, sha256

PINS = {
    "modelopt": ("torch==2.13.0", "nvidia-modelopt[onnx]==0.47.0", "onnx==1.21.0", "onnxruntime==1.24.4"),
    "common": (
        "onnxconverter-common==1.16.0",
        "onnx==1.23.2",
        "onnxruntime==1.32.0",
        "polygraphy==0.53.6",
        "onnx-graphsurgeon==0.6.1",
    ),
}
"""Environment -> what is installed there. PyTorch first and pinned: any other release brings gigabytes of CUDA."""

PLACES = {
    "source": "",
    "autocast": "modelopt",
    "autocast_random": "modelopt",
    "ort": "common",
    "common": "common",
    "polygraphy": "common",
    "ours": "",
    "ours_random": "",
    "ours_unmeasured": "",
}
"""Tool -> its environment; "" for the one that runs this."""


def python_of(tool: str) -> Path:
    """The Python of a tool's environment, which is made where it is not there, or was made of other pins."""
    place = PLACES[tool]
    if not place:
        return Path(sys.executable)
    folder, pins = BENCH / "env" / place, PINS[place]
    python, stamp = folder / "bin" / "python", folder / "pins"
    if stamp.exists() and stamp.read_text() == state_of(tool):
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *pins], check=True)
    stamp.write_text(state_of(tool))
    return python


def state_of(tool: str) -> str:
    """The versions that a peer's results hang on, in short."""
    return sha256(*(pin.encode() for pin in PINS.get(PLACES[tool], ())))
