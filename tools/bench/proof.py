"""How the time of a proof grows with the number of nodes, on chains and made-up engines.

    .venv/bin/python tools/bench/proof.py [--sizes 2000 8000 32000]

Prints the CPU seconds of `prove` for each form of an engine (a layer for each node, names for every second one, all in one layer), and the
exponent k of time ~ nodes^k: the slope of a least-squares line through log(seconds) over log(nodes).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from scipy.stats import linregress

from torch2trt_onnx.backends import BuildResult
from torch2trt_onnx.backends.layers import EngineLayer, EngineTensor
from torch2trt_onnx.plan import NodePlan, PrecisionPlan
from torch2trt_onnx.proof import prove

SIZES = [2000, 8000, 32000]
FORMS = ("a layer each", "names for half", "one layer")


def chain(count: int) -> tuple[onnx.ModelProto, PrecisionPlan]:
    """A chain of nodes, and its plan."""
    nodes = [helper.make_node("Exp", [f"t{i}"], [f"t{i + 1}"], f"n{i}") for i in range(count)]
    values = [helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, [4]) for i in range(count + 1)]
    model = helper.make_model(helper.make_graph(nodes, "chain", values[:1], values[1:]))
    plans = (NodePlan(node.name, "Exp", "fp32", "tensors", "", ("fp32",)) for node in nodes)
    return model, PrecisionPlan(tuple(plans))


def engine(count: int, form: str) -> list[EngineLayer]:
    """The layers of an engine for such a chain."""
    tensors = [EngineTensor(f"t{i}", "Float", (4,)) for i in range(count + 1)]
    names = [f"n{i}" for i in range(count)]
    if form == "one layer":
        return [EngineLayer("all", "", (tensors[0],), (), tuple(tensors[1:]), tuple(names))]
    return [
        EngineLayer(name, "", (tensors[i],), (), (tensors[i + 1],), (name,) if form == "a layer each" or i % 2 else ())
        for i, name in enumerate(names)
    ]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    sizes = parser.parse_args().sizes
    for form in FORMS:
        seconds = []
        for size in sizes:
            model, plan = chain(size)
            built = BuildResult("", Path(), {}, engine(size, form), [])
            start = time.process_time()
            prove(model, plan, built)
            seconds.append(time.process_time() - start)
        steps = ", ".join(f"{size}: {taken:.2f}" for size, taken in zip(sizes, seconds, strict=True))
        print(f"{form:<16} exponent {linregress(np.log(sizes), np.log(seconds)).slope:.2f}; CPU seconds {steps}")


if __name__ == "__main__":
    main()
