"""Our extra peak memory on a model with large weights, as a ratio to their size.

    .venv/bin/python tools/bench/memory.py [--gigabytes 1.5] [--precisions fp16]

Each case runs in a process of its own: it makes the source, notes the resident memory, converts with `backend="none"`, the
comparison included, and prints (highest resident memory - resident memory before) / (bytes of weights). The mapped pages of files
count, as the kernel counts them. The case "module" includes PyTorch's export, which is not ours.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

WIDTH = 4096
CASES = ("module", "onnx with external data", "onnx")


def main() -> None:
    """Run each case, and print its ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.5)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--file")
    parser.add_argument("--precisions", help="default: as the source is typed; fp16 stores all weights anew")
    given = parser.parse_args()
    layers = max(1, round(given.gigabytes * 2**30 / (WIDTH * WIDTH * 4)))
    if given.case:
        print(f"{measured(given.case, layers, given.file, given.precisions):.2f}")
        return
    print(f"{layers} layers of {WIDTH} x {WIDTH} fp32: {layers * WIDTH * WIDTH * 4 / 2**30:.2f} GiB of weights")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            path = Path(folder) / f"{case.replace(' ', '_')}.onnx"
            if case != "module":
                write_onnx(path, layers, external="external" in case)
            asked = ["--precisions", given.precisions] if given.precisions else []
            words = [
                sys.executable,
                __file__,
                "--gigabytes",
                str(given.gigabytes),
                "--case",
                case,
                "--file",
                str(path),
                *asked,
            ]
            ratio = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
            print(f"{case:<24} {ratio} times the weights (1.2 is the aim)", flush=True)


def measured(case: str, layers: int, file: str, precisions: str | None) -> float:
    """The ratio of one case, in this process."""
    import torch

    from torch2trt_onnx import ConversionWarning, Input, conversion

    source: Any = file
    if case == "module":
        source = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)])
    convert_once(
        lambda: conversion.convert(torch.nn.Linear(8, 8), [Input((1, 8))], backend="none")
    )  # loads the libraries
    warnings.simplefilter("ignore", ConversionWarning)
    before = psutil.Process().memory_info().rss
    highest = convert_once(
        lambda: conversion.convert(source, [Input((1, WIDTH), name="x")], precisions, backend="none")
    )
    return (highest - before) / (layers * WIDTH * WIDTH * 4)


def convert_once(action: Callable[[], Any]) -> int:
    """The highest resident memory, in bytes, while `action` runs; sampled 200 times a second."""
    process, done, highest = psutil.Process(), threading.Event(), [0]

    def sample() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], process.memory_info().rss)
            time.sleep(0.005)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        kept = action()
    finally:
        done.set()
        thread.join()
    del kept
    return highest[0]


def write_onnx(path: Path, layers: int, *, external: bool) -> None:
    """A chain of MatMuls, written one weight at a time."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    size = WIDTH * WIDTH * 4
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x" if i == 0 else f"y{i - 1}", f"w{i}"], [f"y{i}"]) for i in range(layers)],
        "memory",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])],
        [helper.make_tensor_value_info(f"y{layers - 1}", TensorProto.FLOAT, [1, WIDTH])],
    )
    random = np.random.default_rng(0)
    with path.with_suffix(".data").open("wb") as data:
        for i in range(layers):
            values = random.standard_normal((WIDTH, WIDTH), np.float32) / WIDTH**0.5
            tensor = graph.initializer.add(name=f"w{i}", data_type=TensorProto.FLOAT, dims=(WIDTH, WIDTH))
            if external:
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (
                    ("location", path.with_suffix(".data").name),
                    ("offset", i * size),
                    ("length", size),
                ):
                    tensor.external_data.add(key=key, value=str(value))
                data.write(values.data)
            else:
                tensor.raw_data = values.tobytes()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


if __name__ == "__main__":
    main()
