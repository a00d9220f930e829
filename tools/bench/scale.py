"""How our own share of the time grows with the number of nodes: all but PyTorch's export and TensorRT's build.

    .venv/bin/python tools/bench/scale.py [--sizes 1000 2000 ...] [--precisions fp16] [--weightless free]

Converts synthetic ONNX graphs with `backend="none"`, the comparison included, and prints the seconds of each step and the exponent k of
time ~ nodes^k: the slope of a least-squares line through log(seconds) over log(nodes), above what a graph of 8 nodes
costs. CPU seconds of the whole process count, because the machine is shared; the steps are in seconds by the clock. Up to 4,000
nodes the best of three runs counts.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import linregress

from torch2trt_onnx import ConversionWarning, convert

WIDTH = 16
SIZES = [1000, 2000, 4000, 8000, 16000, 32000, 64000]


def model_of(nodes: int) -> onnx.ModelProto:
    """A chain of blocks of 8 nodes: an fp16 layer between fp32 ones, a no-op Cast, a shared scalar, a residual."""
    random = np.random.default_rng(0)
    made, weights = [], [numpy_helper.from_array(np.array(0.5, np.float32), "half")]
    x = "x"
    for i in range(nodes // 8):
        weights.append(numpy_helper.from_array(random.normal(0, 0.1, (WIDTH, WIDTH)).astype(np.float16), f"w{i}"))
        weights.append(numpy_helper.from_array(random.normal(0, 0.1, WIDTH).astype(np.float16), f"b{i}"))
        made += [
            helper.make_node("Cast", [x], [f"a{i}"], to=TensorProto.FLOAT16),
            helper.make_node("MatMul", [f"a{i}", f"w{i}"], [f"c{i}"]),
            helper.make_node("Add", [f"c{i}", f"b{i}"], [f"d{i}"]),
            helper.make_node("Cast", [f"d{i}"], [f"e{i}"], to=TensorProto.FLOAT),
            helper.make_node("Cast", [f"e{i}"], [f"f{i}"], to=TensorProto.FLOAT),
            helper.make_node("Tanh", [f"f{i}"], [f"g{i}"]),
            helper.make_node("Mul", [f"g{i}", "half"], [f"h{i}"]),
            helper.make_node("Add", [f"h{i}", x], [f"x{i}"]),
        ]
        x = f"x{i}"
    shape = [4, WIDTH]
    graph = helper.make_graph(
        made,
        "scale",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def seconds_of(model: onnx.ModelProto, precisions: str | None, weightless: str) -> dict[str, float]:
    """The seconds of each step of one conversion, and the CPU seconds of all of it, as "cpu"."""
    gc.collect()
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        steps = convert(model, None, precisions, weightless=weightless, backend="none").report.seconds
    return {**steps, "cpu": time.process_time() - start}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--precisions", help="default: as the source is typed; fp16 retypes half of the nodes")
    parser.add_argument("--weightless", default="inherit", help="free: a minimum cut over all nodes without weights")
    given = parser.parse_args()
    asked = given.precisions, given.weightless
    constant = min(seconds_of(model_of(8), *asked)["cpu"] for _ in range(5))
    print(f"{'nodes':>8} {'CPU s':>8} {'us/node':>8}  steps")
    totals: list[float] = []
    bare: list[float] = []
    for size in given.sizes:
        model = model_of(size)
        runs = 3 if size <= 4000 else 1
        best = min((seconds_of(model, *asked) for _ in range(runs)), key=lambda steps: steps["cpu"])
        totals.append(best["cpu"] - constant)
        steps = ", ".join(f"{name} {value:.2f}" for name, value in best.items())
        print(f"{size:>8} {totals[-1]:>8.2f} {totals[-1] / size * 1e6:>8.0f}  {steps}", flush=True)
        bare.append(sum(best.values()) - best["compare"] - best["cpu"])
    for what, seconds in (
        ("of all steps", totals),
        ("without the comparison, which is ONNX Runtime's for the most part", bare),
    ):
        fit = linregress(np.log(given.sizes), np.log(seconds))
        print(f"exponent {fit.slope:.2f} {what} (at most 1.1 is the aim)")


if __name__ == "__main__":
    main()
