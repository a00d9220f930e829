"""How the time of our conversion from fp32 to mixed fp16 grows with the number of nodes.

    .venv/bin/python tools/bench/growth.py [--sizes 500 1000 ...] [--peer]

Converts chains of blocks with inputs to calibrate with, with random numbers and measuring nothing, each in a process of its own, and prints
CPU seconds, without imports, and the exponent k of time ~ nodes^k: the slope of a least-squares line through log(seconds) over log(nodes),
above what a single block costs. --peer does the same with ModelOpt's AutoCast, up to 4,000 nodes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import running
from environments import python_of
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import linregress

WIDTH = 32
SHAPE = [4, WIDTH]
SIZES = [500, 1000, 2000, 4000, 8000, 16000, 32000]
BLOCK = 7
PEER = "autocast"
WORKER = Path(__file__).with_name("convert_worker.py")


def model_of(nodes: int) -> onnx.ModelProto:
    """A chain of blocks of 7 nodes, all fp32: a layer, an activation, a shared scalar, a residual, LayerNorm."""
    random = np.random.default_rng(0)
    made, weights = [], [numpy_helper.from_array(np.array(0.5, np.float32), "half")]
    x = "x"
    for i in range(max(1, nodes // BLOCK)):
        for name, value in (
            (f"w{i}", random.normal(0, 0.2, (WIDTH, WIDTH))),
            (f"b{i}", random.normal(0, 0.1, WIDTH)),
            (f"s{i}", random.normal(1, 0.1, WIDTH)),
            (f"t{i}", random.normal(0, 0.1, WIDTH)),
        ):
            weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        made += [
            helper.make_node("MatMul", [x, f"w{i}"], [f"m{i}"], f"matmul{i}"),
            helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"], f"add{i}"),
            helper.make_node("Relu" if i % 2 else "Tanh", [f"a{i}"], [f"r{i}"], f"activation{i}"),
            helper.make_node("Mul", [f"r{i}", "half"], [f"h{i}"], f"scale{i}"),
            helper.make_node("Add", [f"h{i}", x], [f"y{i}"], f"residual{i}"),
            helper.make_node("LayerNormalization", [f"y{i}", f"s{i}", f"t{i}"], [f"n{i}"], f"norm{i}"),
            helper.make_node("Identity", [f"n{i}"], [f"x{i}"], f"identity{i}"),
        ]
        x = f"x{i}"
    graph = helper.make_graph(
        made,
        "growth",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, SHAPE)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def seconds_of(tool: str, nodes: int) -> float:
    """CPU seconds of one conversion.

    Raises:
        SystemExit: it failed.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        onnx.save(model_of(nodes), folder / "model.onnx")
        (folder / "meta.json").write_text(json.dumps({"ranges": {"x": [SHAPE] * 3}}))
        (folder / "calibration").mkdir()
        for index in range(4):
            numbers = np.random.default_rng(index).normal(size=SHAPE).astype(np.float32)
            np.savez(folder / "calibration" / f"{index}.npz", x=numbers)
        told = running.told([python_of(tool), WORKER, tool, folder, folder / "out.onnx"], 3600)
    if "error" in told:
        raise SystemExit(f"{tool}, {nodes} nodes: {told['error']}")
    return float(told["cpu"])


def show(tool: str, sizes: Sequence[int]) -> None:
    """Measure a tool, and print; of ours the best of three runs counts, up to 4,000 nodes."""
    constant = min(seconds_of(tool, BLOCK) for _ in range(3))
    taken = []
    for size in sizes:
        taken.append(min(seconds_of(tool, size) for _ in range(3 if size <= 4000 and tool != PEER else 1)))
        print(
            f"{tool:<16} {size:>6} nodes {taken[-1]:>8.2f} CPU s, {taken[-1] / size * 1e6:>6.0f} us a node", flush=True
        )
    above = [max(seconds - constant, 1e-3) for seconds in taken]
    print(
        f"{tool:<16} exponent {linregress(np.log(sizes), np.log(above)).slope:.2f}, above {constant:.2f} s", flush=True
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--peer", action="store_true", help="AutoCast too, up to 4,000 nodes")
    given = parser.parse_args()
    for tool in ("ours", "ours_random", "ours_unmeasured"):
        show(tool, given.sizes)
    if given.peer:
        show(PEER, [size for size in given.sizes if size <= 4000])


if __name__ == "__main__":
    main()
