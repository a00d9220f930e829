"""What TensorRT-RTX computes each operator in, inside its kernels: read from the CUDA source that it writes into its plans.

    .venv/bin/python tools/bench/inside.py [OPERATOR ...]

Builds a graph of one operator a time, in fp16 and bf16, without Casts and with those of `MatchPyTorch`, and prints the functions
that the generated kernels call, each with the type that it computes in. It is the evidence for the table in `passes/match_pytorch.py`.
The format is documented nowhere: measured with TensorRT-RTX 1.7.1.116. Kernels that come with TensorRT (convolutions, pools,
matrix products, InstanceNormalization) have no source in the plan, and show nothing.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from torch2trt_onnx import Options, building, pipeline
from torch2trt_onnx.backends import BACKENDS
from torch2trt_onnx.errors import BackendError
from torch2trt_onnx.graph import PREFIX, Graph
from torch2trt_onnx.passes import MatchPyTorch
from torch2trt_onnx.weights import WeightStore

UNARY = (
    "Exp Log Sqrt Reciprocal Sin Cos Tan Sinh Cosh Atan Erf Tanh Sigmoid Elu Selu Softplus Softsign Mish Gelu HardSigmoid "
    "HardSwish LeakyRelu"
)
ROWS = "[64,512]"
IMAGE = "[2,8,16,16]"
CASES: dict[str, tuple[str, str]] = {name: (ROWS, f"y = {name}(x)") for name in UNARY.split()} | {
    "Gelu tanh": (ROWS, 'y = Gelu<approximate="tanh">(x)'),
    "silu": (ROWS, "s = Sigmoid(x)  y = Mul(x, s)"),
    "rsqrt": (ROWS, "s = Sqrt(x)  y = Div(one, s)"),
    "Add": (ROWS, "y = Add(x, w)"),
    "Mul": (ROWS, "y = Mul(x, w)"),
    "Div": (ROWS, "y = Div(x, w)"),
    "Pow": (ROWS, "y = Pow(x, w)"),
    "Mod": (ROWS, "y = Mod<fmod=1>(x, w)"),
    "Softmax": (ROWS, "y = Softmax(x)"),
    "LogSoftmax": (ROWS, "y = LogSoftmax(x)"),
    "LayerNormalization": (ROWS, "y = LayerNormalization(x, w, w)"),
    "RMSNormalization": (ROWS, "y = RMSNormalization(x, w)"),
    "ReduceSum": (ROWS, "y = ReduceSum(x)"),
    "ReduceMean": (ROWS, "y = ReduceMean(x)"),
    "ReduceL1": (ROWS, "y = ReduceL1(x)"),
    "ReduceL2": (ROWS, "y = ReduceL2(x)"),
    "ReduceLogSumExp": (ROWS, "y = ReduceLogSumExp(x)"),
    "BatchNormalization": (IMAGE, "y = BatchNormalization(x, c, c, c, c)"),
    "InstanceNormalization": (IMAGE, "y = InstanceNormalization(x, c, c)"),
    "GroupNormalization": (IMAGE, "y = GroupNormalization<num_groups=2>(x, c, c)"),
    "GlobalAveragePool": (IMAGE, "y = GlobalAveragePool(x)"),
    "Resize": (IMAGE, 'y = Resize<mode="linear">(x, , scales)'),
    "Resize cubic": (IMAGE, 'y = Resize<mode="cubic">(x, , scales)'),
    "Swish": (ROWS, "y = Swish(x)"),
}  # fmt: skip
OPSETS = {"RMSNormalization": 23, "Swish": 24}
TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

_CALL = re.compile(rb"(?<!\w)__myln_(\w+?)___myln_(\w+?)(?:___myln_\w+)?\(")
_REDUCTION = re.compile(rb"(Add|Max|Min|Mul)Op<__myln_(\w+)>")
_COPIES = frozenset({"move", "select", "cast", "and", "or"})


def generated_calls(plan: bytes) -> set[tuple[str, str]]:
    """`(function, type)` of what the generated kernels of a plan compute: ("exp", "half"), ("add", "float"), ("sum", "float")."""
    found: set[tuple[str, str]] = set()
    for line in plan.split(b"\n"):
        if line.startswith(b"__forceinline__"):  # a definition of the library, which is there whether or not it is used
            continue
        found.update((name.decode(), kind.decode()) for name, kind in _CALL.findall(line))
        if b"_reduce<" in line:
            found.update((_REDUCED[name.decode()], kind.decode()) for name, kind in _REDUCTION.findall(line))
    return {(name, kind) for name, kind in found if name not in _COPIES}


_REDUCED = {"Add": "sum", "Max": "maximum", "Min": "minimum", "Mul": "product"}


def model_of(case: str, kind: str) -> onnx.ModelProto:
    """The graph of a case in one type."""
    shape, body = CASES[case]
    text = (
        f'<ir_version: 10, opset_import: ["": {OPSETS.get(case, 22)}]> g ({kind}{shape} x) => ({kind} y) {{ {body} }}'
    )
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.metadata_props.add(
            key=f"{PREFIX}call", value=case
        )  # as the exporters mark what comes from one call of PyTorch's
    random = np.random.default_rng(0)
    held = {"w": random.random(512) + 0.5, "c": random.random(8) + 0.5, "one": np.ones(())}
    for name, values in held.items():
        if re.search(rf"[(,] *{name}\b", body):
            model.graph.initializer.append(numpy_helper.from_array(values.astype(TYPES[kind]), name))
    if "scales" in body:
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    return model


def built(model: onnx.ModelProto, *passes: pipeline.Step) -> bytes:
    """The plan of a model, behind passes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = WeightStore(folder)
        graph = Graph(store.adopt(model, None), store)
        pipeline.run(graph, passes)
        path = graph.write(folder / "model.onnx")
        options = Options(compute_capabilities=("8.9",))
        rtx = BACKENDS["rtx"]
        job = rtx.job(building.request_as_is(graph, path, rtx), options, folder)
        return rtx.build(job, options, folder, None).engine.read_bytes()


def main() -> None:
    """Build, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="OPERATOR", help=", ".join(CASES))
    for case in parser.parse_args().cases or CASES:
        for kind in TYPES:
            for what, passes in (("as it is", ()), ("with Casts", (MatchPyTorch(),))):
                try:
                    calls = sorted(generated_calls(built(model_of(case, kind), *passes)))
                    words = ", ".join(f"{name} {kind}" for name, kind in calls) or "no source"
                except BackendError as error:
                    words = f"refused: {str(error.why)[-120:]}"
                print(f"{case:22} {kind:9} {what:11} {words}", flush=True)


if __name__ == "__main__":
    main()
