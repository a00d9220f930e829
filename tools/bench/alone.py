"""What ONNX Runtime alone takes to run a model of the zoo as it stands, on its calibration inputs.

    .venv/bin/python tools/bench/alone.py [light_bvlc_alexnet light_vgg19 light_zfnet512]

Prints the peak of resident memory of a process that does nothing else. Whoever measures ranges runs the model, and cannot take less.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from convert_worker import peak
from running import BENCH

MODELS = ["light_bvlc_alexnet", "light_vgg19", "light_zfnet512"]


def run(folder: Path) -> None:
    """Run a model, and print the peak in bytes."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # it would fold the weights that the model makes
    options.enable_cpu_mem_arena = options.enable_mem_pattern = options.enable_mem_reuse = False
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    for path in sorted((folder / "calibration").glob("*.npz")):
        session.run(None, dict(np.load(path)))
    print(json.dumps(peak()))


def main() -> None:
    """Measure each model in a process of its own, and print."""
    if "--child" in sys.argv:
        run(Path(sys.argv[-1]))
        return
    for model in sys.argv[1:] or MODELS:
        words = [sys.executable, __file__, "--child", str(BENCH / "zoo" / model)]
        told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        print(f"{model:<24} {int(told) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
