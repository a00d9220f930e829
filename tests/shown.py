"""A model to look at, whose names are as long as those of real ones; and what a terminal shows, as snapshots."""

import os
from pathlib import Path

import click
import numpy as np
import onnx
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from torch2trt_onnx.cli import main
from torch2trt_onnx.graph import PREFIX

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTH = 32
INPUTS = ("-i", "tokens:2x16x32", "-i", "flag:scalar:bool")


def layers_model() -> onnx.ModelProto:
    """An fp32 layer, an fp16 one between Casts, and a head that an If chooses; all with the paths of their modules."""
    random = np.random.default_rng(0)
    first, second, head = "encoder.layers.0.attention.query", "encoder.layers.1.attention.query", "classifier.head"
    kinds = {first: np.float32, second: np.float16, head: np.float32}
    weights = [
        numpy_helper.from_array(random.normal(0, 0.1, (WIDTH, WIDTH)).astype(kind), f"{name}.weight")
        for name, kind in kinds.items()
    ]
    nodes = [
        _node("MatMul", first, ["tokens", f"{first}.weight"]),
        _node("Relu", first, [f"{_path(first)}/MatMul_output"]),
        _node("Cast", "", [f"{_path(first)}/Relu_output"], to=TensorProto.FLOAT16),
        _node("MatMul", second, ["/Cast_output", f"{second}.weight"]),
        _node("Cast", second, [f"{_path(second)}/MatMul_output"], to=TensorProto.FLOAT),
        helper.make_node("If", ["flag"], ["scores"], "/classifier/If", then_branch=_branch(head), else_branch=_plain()),
    ]
    graph = helper.make_graph(
        nodes,
        "shown",
        [_value("tokens", TensorProto.FLOAT, ["batch", 16, WIDTH]), _value("flag", TensorProto.BOOL, [])],
        [_value("scores", TensorProto.FLOAT, ["batch", 16, WIDTH])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def convert_layers(place, *options):
    """Put in a folder `layers.onnx`, its conversion `layers` with stages, and `built`, that with an engine."""
    onnx.save(layers_model(), place / "layers.onnx")
    words = ("convert", place / "layers.onnx", *INPUTS, "-p", "fp32,fp16", *options)
    stages = ("--keep-stages", place / "layers" / "stages")
    assert run(*words, "--backend", "none", "-o", place / "layers", *stages).exit_code == 0
    assert run(*words, "--backend", "rtx", "-o", place / "built").exit_code == 0


def static_model() -> onnx.ModelProto:
    """The first two layers, of static shapes."""
    model = layers_model()
    del model.graph.node[-1], model.graph.input[-1]
    model.graph.output[0].name = model.graph.node[-1].output[0]
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    return model


def long_model(nodes: int) -> onnx.ModelProto:
    """A chain of fp32 layers with residuals."""
    weights = [numpy_helper.from_array(np.zeros((WIDTH, WIDTH), np.float32), f"w{i}") for i in range(nodes // 4)]
    made, x = [], "x"
    for weight in weights:
        at = weight.name[1:]
        made += [
            helper.make_node("MatMul", [x, weight.name], [f"m{at}"], f"/layers/{at}/MatMul"),
            helper.make_node("Relu", [f"m{at}"], [f"r{at}"], f"/layers/{at}/Relu"),
            helper.make_node("Add", [f"r{at}", x], [f"a{at}"], f"/layers/{at}/Add"),
            helper.make_node("Tanh", [f"a{at}"], [f"t{at}"], f"/layers/{at}/Tanh"),
        ]
        x = f"t{at}"
    ends = ([_value(name, TensorProto.FLOAT, [4, WIDTH])] for name in ("x", x))
    graph = helper.make_graph(made, "long", *ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _branch(head):
    node = _node("MatMul", head, [f"{_path('encoder.layers.1.attention.query')}/Cast_output", f"{head}.weight"])
    return helper.make_graph(
        [node], "then", [], [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)]
    )


def _plain():
    node = _node("Neg", "classifier", [f"{_path('encoder.layers.1.attention.query')}/Cast_output"])
    return helper.make_graph(
        [node], "else", [], [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)]
    )


def _path(module):
    return f"/{module.replace('.', '/')}" if module else ""


def _node(op, module, inputs, **attributes):
    node = helper.make_node(op, inputs, [f"{_path(module)}/{op}_output"], f"{_path(module)}/{op}", **attributes)
    node.metadata_props.add(key=f"{PREFIX}module", value=module)
    return node


def _value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def run(*words, width=None):
    """The command in this process, on a terminal so wide, or through a pipe; an exception that is no exit fails the test."""
    env = {"FORCE_COLOR": "1", "COLUMNS": str(width), "LINES": "50"} if width else {}
    result = CliRunner(env=env).invoke(main, [str(word) for word in words], color=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def plain(text):
    """A text without its colours."""
    return click.unstyle(text)


def assert_snapshot(name, text):
    """What is shown is what was; UPDATE_SNAPSHOTS=1 writes it anew, to be looked at in the diff."""
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"UPDATE_SNAPSHOTS=1 writes {path} anew"
