"""One measurement of one ONNX file, in a process of its own: builds and runs of broken graphs crash.

    .venv/bin/python tools/bench/measure_worker.py PART ZOO_FOLDER MODEL.onnx

PART is `expected` (runs the source on the held-out inputs, and keeps what comes), `graph`, or what runs the file on them: `ort`,
`emulated`, `reference`. Prints a JSON object. Of a run: `relative`, `plain` and `rms`, the largest error of any output on each input.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import graph_facts
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from convert_worker import line

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], list[Array]]


def ort(path: Path) -> Run:
    """ONNX Runtime as it is: its CPU kernels compute fp16 in fp32, also over several nodes."""
    return _session(path, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)


def emulated(path: Path) -> Run:
    """Every fp16 node in fp32, its results rounded, by `EmulateReduced`: what a GPU makes of it, less the rounding inside its kernels."""
    from torch2trt_onnx.graph import Graph
    from torch2trt_onnx.passes import EmulateReduced
    from torch2trt_onnx.weights import WeightStore

    with tempfile.TemporaryDirectory() as folder:
        weights = WeightStore(Path(folder))
        graph = Graph(weights.adopt(onnx.load(path), None), weights)
        graph.tidy()  # some peers leave nodes before those that they read
        graph.infer_types(strict=False)
        for _ in EmulateReduced().apply(graph):
            pass
        graph.tidy()
        return _session(graph.write(Path(folder) / "model.onnx"), onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)


def reference(path: Path) -> Run:
    """ONNX's own evaluator, which computes fp16 in fp16."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return lambda feeds: list(evaluator.run(None, dict(feeds)))


def _session(path: Path, level: onnxruntime.GraphOptimizationLevel) -> Run:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    return lambda feeds: list(session.run(None, {name: value for name, value in feeds.items() if name in names}))


ERRORS = "relative", "plain", "rms"
RUNS: dict[str, Callable[[Path], Run]] = {"ort": ort, "emulated": emulated, "reference": reference}


def expect(folder: Path, path: Path) -> dict[str, Any]:
    """Run the source, and keep its outputs beside the inputs."""
    run, worst = ort(path), 0.0
    (folder / "expected").mkdir(exist_ok=True)
    for given in sorted((folder / "inputs").glob("*.npz")):
        outputs = run(np.load(given))
        np.savez(folder / "expected" / given.name, *outputs)
        worst = max(worst, *(float(np.abs(o).max(initial=0)) for o in outputs))
    return {"largest": worst}


def judge(folder: Path, path: Path, start: Callable[[Path], Run]) -> dict[str, Any]:
    """Run a file on the held-out inputs, and compare with the source."""
    run, sets = start(path), json.loads((folder / "meta.json").read_text())["sets"]
    told: dict[str, Any] = {name: [] for name in ERRORS}
    for given in sorted((folder / "inputs").glob("*.npz")):
        expected = np.load(folder / "expected" / given.name)
        pairs = list(zip(run(np.load(given)), expected.values(), strict=True))
        errors = [apart(a, b, as_set=i in sets) for i, (a, b) in enumerate(pairs)]
        for name, values in zip(ERRORS, zip(*errors, strict=True), strict=True):
            told[name].append(max(values))
    return told


def apart(found: Array, expected: Array, *, as_set: bool) -> tuple[float, ...]:
    """The errors of an output: max|a - b| / max|b|, max |a - b| / (1 + |b|), and the root of the mean squares of a - b over that of b.

    Of integers and booleans all are the share that differs. Of a set of rows (boxes, classes), which may come in another order, the share
    of rows that only one side has; rows of floats are the same where no number is apart by more than a hundredth of the largest.
    """
    if as_set:
        share = _unmatched(*(x.reshape(-1, x.shape[-1]) for x in (found, expected)))
        return share, share, share
    if found.shape != expected.shape:
        return float("inf"), float("inf"), float("inf")
    if expected.dtype.kind not in "fc":
        share = float(np.mean(found != expected)) if expected.size else 0.0
        return share, share, share
    a, b = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        gap = np.nan_to_num(gap, nan=np.inf, posinf=np.inf)
        finite = np.abs(b[np.isfinite(b)])
        largest, usual = (max(float(x), 1e-30) for x in (finite.max(initial=0.0), np.sqrt(np.mean(finite**2))))
        plain = gap / (1 + np.abs(b))
        return (
            float(gap.max(initial=0.0)) / largest,
            float(plain.max(initial=0.0)),
            float(np.sqrt(np.mean(gap**2))) / usual,
        )


def _unmatched(found: Array, expected: Array) -> float:
    slack = 0.01 * np.abs(expected).max(initial=0) if expected.dtype.kind == "f" else 0
    near = np.abs(found[None].astype(np.float64) - expected[:, None]).max(-1, initial=0) <= slack
    if found.size == 0 or expected.size == 0:
        return float(found.size != expected.size)
    return float(1 - min(near.any(1).mean(), near.any(0).mean()))


def main() -> None:
    """Measure, and tell. A library that prints, or crashes as it unloads, spoils nothing."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    part, folder, path = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    ranges = json.loads((folder / "meta.json").read_text())["ranges"]
    try:
        if part == "expected":
            told = expect(folder, path)
        elif part == "graph":
            told = graph_facts.facts(path, {name: usual for name, (_, usual, _) in ranges.items()})
        else:
            told = judge(folder, path, RUNS[part])
    except Exception as error:  # of ONNX, ONNX Runtime or its evaluator
        told = {"error": line(error)}
    channel.write(json.dumps(told))
    with contextlib.suppress(OSError):
        channel.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
