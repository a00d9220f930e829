"""Build every pair of a type and a memory format with TensorRT-RTX, past our own checks, as a program: it prints JSON.

Each cell is a network of one node whose input or output has the type and the format, of static or dynamic shape.
"""

import io
import itertools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from torch2trt_onnx.backends import exchange
from torch2trt_onnx.backends.build_worker import open_session
from torch2trt_onnx.backends.job import InputJob, Job, OutputJob
from torch2trt_onnx.errors import BackendError
from torch2trt_onnx.formats import TENSORRT_FORMATS
from torch2trt_onnx.precision import ElementType

TYPES = ["float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool", "float8_e4m3fn", "int4"]
CHANNELS = 32


def model_of(dtype, side, dynamic, rank):
    """A network of one node that takes, or makes, a type."""
    kind, floats = ElementType.of(dtype).onnx, onnx.TensorProto.FLOAT
    given, made, initializers = kind, kind, []
    if dtype in ("float32", "float16", "bfloat16"):
        node = helper.make_node("Relu", ["x"], ["y"])
    elif dtype in ("int32", "int64"):
        node = helper.make_node("Add", ["x", "x"], ["y"])
    elif dtype == "bool":
        node = helper.make_node("Not", ["x"], ["y"])
    else:  # types that TensorRT does not compute in: only a Cast, or Q/DQ, may touch them
        given, made = (kind, floats) if side == "input" else (floats, kind)
        initializers = [numpy_helper.from_array(np.array(0.1, np.float32), "s"), helper.make_tensor("z", kind, [], [0])]
        op = "DequantizeLinear" if side == "input" else "QuantizeLinear"
        node = helper.make_node(op, ["x", "s", "z"], ["y"])
        if dtype == "uint8":
            initializers, node = [], helper.make_node("Cast", ["x"], ["y"], to=made)
    shape = ["N" if dynamic else 2, CHANNELS, *[8] * (rank - 2)]
    values = [[helper.make_tensor_value_info(n, k, shape)] for n, k in (("x", given), ("y", made))]
    graph = helper.make_graph([node], "cell", *values, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def outcome(dtype, layout, side, dynamic, rank, folder):
    """`ok`, or why not; and what the engine says of the binding."""
    model = model_of(dtype, side, dynamic, rank)
    path = folder / "cell.onnx"
    onnx.save(model, path)
    kinds = [
        ElementType.of(v.type.tensor_type.elem_type).tensorrt for v in (model.graph.input[0], model.graph.output[0])
    ]
    formats = [layout if side == s else "LINEAR" for s in ("input", "output")]
    shapes = tuple((n, CHANNELS, *[8] * (rank - 2)) for n in ((1, 2, 4) if dynamic else (2, 2, 2)))
    job = Job(
        "rtx",
        "strong",
        str(path),
        str(folder / "engine"),
        (InputJob("x", kinds[0], formats[0], (shapes,)),),
        (OutputJob("y", kinds[1], formats[1]),),
        (),
        targets=("8.9",),
    )
    try:
        built = exchange.result(open_session(job, io.StringIO()).run(), job, "TensorRT-RTX")
    except BackendError as error:
        return f"{type(error).__name__}: {error.why}"
    binding = next(b for b in built.bindings if b.name == ("x" if side == "input" else "y"))
    return f"ok {binding.dtype} {binding.layout}"


def main(rank):
    """Print what came of each cell."""
    with tempfile.TemporaryDirectory() as name:
        cells = itertools.product(TYPES, TENSORRT_FORMATS, ("input", "output"), (False, True))
        found = [[*cell, outcome(*cell, rank, Path(name))] for cell in cells]
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
