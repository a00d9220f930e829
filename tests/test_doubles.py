"""The double of TensorRT refuses what the stubs do not declare, and behaves as TensorRT does where it matters."""

import ctypes
import functools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from doubles import recording
from doubles.model import install
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from torch2trt_onnx.backends.inspector import parse

VERSIONS = ("8.6", "10.13", "11.0")
WEAK = ("8.6", "10.13")
FOLDER = Path(__file__).parent / "doubles"
FLAG_NAMES = {"FP16": "HALF", "BF16": "BF16"}


@functools.cache
def load(version):
    module = types.ModuleType("tensorrt")
    install(version, module.__dict__)
    return module


@pytest.fixture(params=VERSIONS)
def trt(request):
    return load(request.param)


@pytest.fixture
def trt10():
    return load("10.13")


@pytest.fixture
def trt11():
    return load("11.0")


def value(name, shape, dtype=T.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def weights(name, *shape, dtype=np.float32):
    return numpy_helper.from_array((np.arange(np.prod(shape)).reshape(shape) % 5 / 4).astype(dtype), name)


def make(nodes, inputs, outputs, initializers=(), opset=17):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    return model


def node(op, inputs, outputs, name="", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=name or op.lower(), **attributes)


def chain(rows=2, dtype=T.FLOAT, kind=np.float32):
    """A matrix product, and a Relu after it."""
    nodes = [node("MatMul", "x w", "h", "product"), node("Relu", "h", "y", "act")]
    return make(nodes, [value("x", [rows, 4], dtype)], [value("y", [rows, 3], dtype)], [weights("w", 4, 3, dtype=kind)])


class Session:
    """A parser, a builder and their log."""

    def __init__(self, trt, model=None, flags=None):
        class Log(trt.ILogger):
            def __init__(self):
                trt.ILogger.__init__(self)
                self.told = []

            def log(self, severity, message):
                self.told.append((severity.name, message))

        self.trt, self.log = trt, Log()
        self.builder = trt.Builder(self.log)
        eight = trt.__version__.startswith("8")
        self.network = self.builder.create_network(int(eight) if flags is None else flags)
        self.parser = trt.OnnxParser(self.network, self.log)
        self.config = self.builder.create_builder_config()
        self.config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        self.parsed = self.parser.parse(model.SerializeToString()) if model is not None else None

    @property
    def errors(self):
        return " / ".join(text for severity, text in self.log.told if severity == "ERROR")

    def flag(self, *names):
        for name in names:
            self.config.set_flag(getattr(self.trt.BuilderFlag, name))
        return self

    def layer(self, name):
        return next(layer for layer in self.network if layer.name == name)

    def pin(self, name, dtype):
        self.layer(name).precision = getattr(self.trt.DataType, dtype)

    def ranges(self, **shapes):
        profile = self.builder.create_optimization_profile()
        for name, (low, opt, high) in shapes.items():
            profile.set_shape(name, low, opt, high)
        return self.config.add_optimization_profile(profile)

    def build(self):
        return self.builder.build_serialized_network(self.network, self.config)

    def engine(self):
        made = self.build()
        assert made is not None, self.errors
        return self.trt.Runtime(self.log).deserialize_cuda_engine(made)

    def layers(self):
        """Name -> the words of its inputs' and outputs' types."""
        read, _ = parse(information(self.trt, self.engine()))
        return {layer.name: ([t.dtype for t in layer.inputs], [t.dtype for t in layer.outputs]) for layer in read}


def information(trt, engine, context=None):
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return inspector.get_engine_information(trt.LayerInformationFormat.JSON)


def run(context, **arrays):
    for name, array in arrays.items():
        assert context.set_tensor_address(name, array.ctypes.data)
    return context.execute_async_v3(0)


# What the stubs declare, and nothing else


def test_the_folder_on_the_path_gives_the_version(tmp_path):
    for version, text in (("8_6", "8.6.1"), ("10_13", "10.13.0.35"), ("11_0", "11.0.0")):
        environment = {**os.environ, "PYTHONPATH": str(FOLDER / f"tensorrt_{version}")}
        code = "import tensorrt; print(tensorrt.__version__, tensorrt.DataType.__module__)"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [text, "tensorrt"]


@pytest.mark.parametrize("name", ["BuilderV2", "ILayer.set_precision", "BuilderFlag.FP17", "Builder.build_engine"])
def test_a_name_that_the_stubs_do_not_declare_is_refused(trt, name):
    owner, _, part = name.partition(".")
    with pytest.raises(AttributeError):
        getattr(getattr(trt, owner), part or "x")


def test_an_attribute_that_is_not_declared_can_neither_be_read_nor_set(trt):
    session = Session(trt, chain())
    with pytest.raises(AttributeError):
        session.config.max_workspace = 1
    with pytest.raises(AttributeError):
        _ = session.network.layers
    with pytest.raises(AttributeError):
        session.network.num_layers = 3


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.builder.create_network("1"),
        lambda s: s.builder.create_network(1, 2),
        lambda s: s.builder.create_network(flag=1),
        lambda s: s.parser.parse_from_file(Path("model.onnx")),
        lambda s: s.config.set_flag(0),
        lambda s: s.config.set_memory_pool_limit(s.trt.MemoryPoolType.WORKSPACE, 1.5),
        lambda s: s.trt.Runtime(None),
        lambda s: s.builder.build_serialized_network(s.network),
        lambda s: setattr(s.config, "profiling_verbosity", 2),
    ],
)
def test_a_wrong_argument_is_a_type_error(trt, call):
    with pytest.raises(TypeError):
        call(Session(trt))


def test_a_class_without_a_constructor_cannot_be_made(trt):
    with pytest.raises(TypeError, match="No constructor defined"):
        trt.INetworkDefinition()


@pytest.mark.parametrize("name", ["ILogger", "IProgressMonitor", "IOutputAllocator"])
def test_a_derived_class_must_call_the_constructor_of_its_base(trt10, name):
    class Derived(getattr(trt10, name)):
        def __init__(self):
            self.kept = 1

    with pytest.raises(TypeError, match="must be called when overriding __init__"):
        Derived()


def test_enums_are_those_of_pybind11(trt10):
    half = trt10.DataType.HALF
    assert (half.name, half.value, int(half), str(half), repr(half)) == (
        "HALF",
        1,
        1,
        "DataType.HALF",
        "<DataType.HALF: 1>",
    )
    assert half == trt10.DataType(1) == trt10.float16 and half != 1 and len({half, trt10.float16}) == 1
    assert trt10.DataType.__members__["BF16"] is trt10.bfloat16
    with pytest.raises(TypeError):
        _ = 1 << half
    with pytest.raises(TypeError):
        list(trt10.DataType)
    with pytest.raises(AttributeError):
        half.value = 2


def test_shapes_are_given_as_sequences_of_whole_numbers(trt10):
    profile = Session(trt10).builder.create_optimization_profile()
    profile.set_shape("x", (1, 2), [1, 2], trt10.Dims((3, 4)))
    assert [tuple(shape) for shape in profile.get_shape("x")] == [(1, 2), (1, 2), (3, 4)]
    with pytest.raises(TypeError):
        profile.set_shape("x", (1.0, 2), (1, 2), (1, 2))


# Versions


def test_8_6_lacks_what_came_later():
    trt = load("8.6")
    for name in ("IProgressMonitor", "IStreamWriter", "IPluginV3", "bfloat16", "int64"):
        assert not hasattr(trt, name)
    for owner, name in (
        ("DataType", "INT64"),
        ("BuilderFlag", "BF16"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("IBuilderConfig", "progress_monitor"),
        ("Builder", "build_serialized_network_to_stream"),
        ("OnnxParser", "get_layer_output_tensor"),
        ("ParserError", "node_name"),
    ):
        assert not hasattr(getattr(trt, owner), name), name
    assert int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) == 0
    flags = trt.BuilderFlag
    values = [flags.STRICT_TYPES, flags.OBEY_PRECISION_CONSTRAINTS, flags.PREFER_PRECISION_CONSTRAINTS]
    assert [*map(int, (*values, flags.DIRECT_IO, flags.VERSION_COMPATIBLE))] == [4, 10, 11, 12, 15]


def test_11_lacks_what_was_removed(trt11):
    for name in ("QuantizationFlag", "IInt8Calibrator", "IAlgorithmSelector"):
        assert not hasattr(trt11, name)
    for owner, names in {
        "BuilderFlag": "FP16 BF16 INT8 FP8 INT4 FP4 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS WEIGHTLESS",
        "ILayer": "precision precision_is_set reset_precision set_output_type output_type_is_set reset_output_type",
        "ITensor": "dynamic_range set_dynamic_range",
        "Builder": "platform_has_fast_fp16 platform_has_tf32",
        "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH",
        "INormalizationLayer": "compute_precision",
    }.items():
        for name in names.split():
            assert not hasattr(getattr(trt11, owner), name), name
    session = Session(trt11, chain())
    layer, tensor = session.layer("act"), session.network.get_input(0)
    with pytest.raises(AttributeError):
        layer.precision = trt11.float16
    with pytest.raises(AttributeError):
        tensor.dtype = trt11.float16
    assert tensor.dtype == trt11.float32 and layer.get_output_type(0) == trt11.float32
    assert int(trt11.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == 0
    assert int(trt11.BuilderFlag.VERSION_COMPATIBLE) == 12


# The parser


def test_nodes_become_layers_with_names_types_and_metadata(trt):
    session = Session(trt, chain())
    kinds = [(layer.name, layer.type.name) for layer in session.network]
    assert kinds == [
        ("(Unnamed Layer* 0) [Constant]", "CONSTANT"),
        ("product", "MATRIX_MULTIPLY"),
        ("act", "ACTIVATION"),
    ]
    metadata = "" if trt.__version__.startswith("8") else "[ONNX Layer: product]"
    assert session.layer("product").metadata == metadata
    x, y = session.network.get_input(0), session.network.get_output(0)
    assert (x.name, x.dtype, tuple(x.shape), x.is_network_input) == ("x", trt.float32, (2, 4), True)
    assert (y.name, y.is_network_output, y.is_shape_tensor) == ("y", True, False)


def test_a_layer_is_an_ilayer_until_its_class_is_set(trt10):
    model = make([node("Cast", "x", "y", to=T.FLOAT16)], [value("x", [2])], [value("y", [2], T.FLOAT16)])
    layer = Session(trt10, model).layer("cast")
    assert type(layer) is trt10.ILayer
    with pytest.raises(AttributeError):
        _ = layer.to_type
    layer.__class__ = trt10.ICastLayer
    assert layer.to_type == trt10.float16


def test_the_bias_of_a_gemm_is_a_layer_without_a_name(trt10):
    nodes = [node("Gemm", "x w b", "y", "fc")]
    model = make(nodes, [value("x", [2, 4])], [value("y", [2, 3])], [weights("w", 4, 3), weights("b", 3)])
    session = Session(trt10, model)
    assert [layer.name for layer in session.network][2:] == ["fc", "(Unnamed Layer* 3) [ElementWise]"]
    assert session.parser.get_layer_output_tensor("fc", 0).name == "y"
    assert session.parser.get_layer_output_tensor("fc", 1) is None
    assert session.parser.get_layer_output_tensor("other", 0) is None


def test_external_data_beside_the_file_is_read(trt, tmp_path):
    onnx.save(chain(), tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    session = Session(trt)
    assert session.parser.parse_from_file(str(tmp_path / "model.onnx"))
    assert session.engine().num_io_tensors == 2


def test_an_unknown_operator_is_an_error_that_names_the_node(trt):
    session = Session(trt, make([node("Gizmo", "x", "y", "g")], [value("x", [2])], [value("y", [2])]))
    assert not session.parsed and session.parser.num_errors == 1
    error = session.parser.get_error(0)
    assert "Plugin not found" in error.desc() and error.node() == 0
    if hasattr(error, "node_name"):
        assert (error.node_name(), error.node_operator()) == ("g", "Gizmo")


def test_a_file_that_is_no_model_is_an_error(trt, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    session = Session(trt)
    assert not session.parser.parse_from_file(str(tmp_path / "model.onnx"))
    assert session.parser.get_error(0).code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED


@pytest.mark.parametrize("op", ["Gelu", "ReduceMean"])
def test_operators_of_opset_20_are_unknown_to_8_6_only(trt, op):
    axes = " axes" if op == "ReduceMean" else ""
    constants = [numpy_helper.from_array(np.array([1]), "axes")] if axes else []
    model = make([node(op, f"x{axes}", "y")], [value("x", [2, 2])], [value("y", None)], constants, opset=20)
    assert Session(trt, model).parsed is not trt.__version__.startswith("8")


def test_a_network_of_8_6_with_an_implicit_batch_is_refused_by_the_parser():
    assert not Session(load("8.6"), chain(), flags=0).parsed
    assert Session(load("10.13"), chain(), flags=0).parsed


def test_8_6_makes_int64_int32_and_says_so():
    model = make([node("Add", "x x", "y")], [value("x", [2], T.INT64)], [value("y", [2], T.INT64)])
    session = Session(load("8.6"), model)
    assert session.network.get_input(0).dtype.name == session.network.get_output(0).dtype.name == "INT32"
    assert any("Attempting to cast down to INT32" in text for _, text in session.log.told)
    x, y = np.array([3, 4], np.int32), np.zeros(2, np.int32)
    assert run(session.engine().create_execution_context(), x=x, y=y) and y.tolist() == [6, 8]


def test_a_type_that_the_version_lacks_is_an_error():
    model = make([node("Relu", "x", "y")], [value("x", [2], T.BFLOAT16)], [value("y", [2], T.BFLOAT16)])
    session = Session(load("8.6"), model)
    assert not session.parsed and "BFLOAT16" in session.parser.get_error(0).desc()
    assert Session(load("10.13"), model).parsed


def shaped():
    """`y` is `x` in the shape `[first of s, -1]`; a Shape and what is made of it."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Concat", "n minus", "to", axis=0),
        node("Reshape", "x to", "y"),
    ]
    constants = [numpy_helper.from_array(np.array([0]), "zero"), numpy_helper.from_array(np.array([-1]), "minus")]
    return make(nodes, [value("x", ["N", 2, 2])], [value("y", ["N", None])], constants)


def test_shape_arithmetic_makes_shape_tensors(trt):
    session = Session(trt, shaped())
    found = {layer.name: layer.get_output(0).is_shape_tensor for layer in session.network}
    assert [found[name] for name in ("shape", "gather", "concat", "reshape")] == [True, True, True, False]


def by_input():
    """`y` is `x` in the shape that the input `s` tells."""
    nodes = [node("Reshape", "x s", "y")]
    return make(nodes, [value("x", [8]), value("s", [2], T.INT64)], [value("y", [None, None])])


def test_an_input_that_tells_a_shape_is_on_the_host_and_needs_a_range_of_values(trt10):
    session = Session(trt10, by_input())
    assert session.network.get_input(1).is_shape_tensor and session.build() is None
    profile = session.builder.create_optimization_profile()
    profile.set_shape_input("s", [1, 1], [2, 4], [8, 8])
    session.config.add_optimization_profile(profile)
    engine = session.engine()
    assert engine.is_shape_inference_io("s") and engine.get_tensor_location("s") == trt10.TensorLocation.HOST
    assert engine.get_tensor_profile_values(0, "s") == [[1, 1], [2, 4], [8, 8]]
    context = engine.create_execution_context()
    assert context.infer_shapes() == ["s"] and tuple(context.get_tensor_shape("y")) == (-1, -1)
    s, x, y = np.array([2, 4]), np.arange(8, dtype=np.float32), np.zeros((2, 4), np.float32)
    context.set_tensor_address("s", s.ctypes.data)
    assert context.infer_shapes() == [] and tuple(context.get_tensor_shape("y")) == (2, 4)
    assert run(context, x=x, y=y) and y[1, 0] == 4


# Weak typing


@pytest.mark.parametrize("version", WEAK)
@pytest.mark.parametrize("how", ["precision", "output"])
def test_an_fp16_layer_without_the_flag_fails_as_tensorrt_fails(version, how):
    session = Session(load(version), chain())
    if how == "precision":
        session.pin("act", "HALF")
    else:
        session.layer("act").set_output_type(0, session.trt.float16)
    assert session.build() is None
    assert "fp16 precision has been set for a layer or layer output, but fp16 is not configured in the builder" in (
        session.errors
    )


def test_a_cast_to_fp16_without_the_flag_fails(trt10):
    nodes = [node("Cast", "x", "h", to=T.FLOAT16), node("Cast", "h", "y", "back", to=T.FLOAT)]
    model = make(nodes, [value("x", [2])], [value("y", [2])])
    assert Session(trt10, model).build() is None
    assert Session(trt10, model).flag("FP16").build() is not None


def test_an_unpinned_layer_is_dragged_along_by_an_enabled_flag(trt10):
    assert Session(trt10, chain()).layers()["act"] == (["Float"], ["Float"])
    assert Session(trt10, chain()).flag("FP16").layers()["product"] == (["Half"], ["Half"])
    assert Session(trt10, chain()).flag("BF16").layers()["product"] == (["BFloat16"], ["BFloat16"])
    assert Session(trt10, chain()).flag("FP16", "BF16").layers()["product"] == (["Half"], ["Half"])


@pytest.mark.parametrize("version", WEAK)
@pytest.mark.parametrize("constraints", ["OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"])
def test_a_pin_counts_under_a_constraint_only(version, constraints):
    session = Session(load(version), chain()).flag("FP16")
    session.pin("product", "FLOAT")
    assert session.layers()["product"][1] == ["Half"]
    assert session.flag(constraints).layers()["product"][1] == ["Float"]
    assert "Reformatting CopyNode for Input Tensor 0 to act" in session.layers()


def test_obey_and_prefer_at_once_are_an_error(trt10):
    session = Session(trt10, chain()).flag("OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS")
    assert session.build() is None and "cannot both be set" in session.errors


def counted():
    return make(
        [node("CumSum", "x axis", "y")],
        [value("x", [3])],
        [value("y", [3])],
        [helper.make_tensor("axis", T.INT64, [], [0])],
    )


def test_a_precision_without_a_kernel_fails_under_obey_and_falls_back_under_prefer(trt10):
    obeyed = Session(trt10, counted()).flag("FP16", "OBEY_PRECISION_CONSTRAINTS")
    obeyed.pin("cumsum", "HALF")
    assert obeyed.build() is None and "Could not find any implementation for node cumsum" in obeyed.errors
    preferred = Session(trt10, counted()).flag("FP16", "PREFER_PRECISION_CONSTRAINTS")
    preferred.pin("cumsum", "HALF")
    assert preferred.layers()["cumsum"][1] == ["Float"]


def test_the_second_output_of_topk_and_shape_layers_cannot_be_constrained(trt10):
    nodes = [node("TopK", "x k", "v i", axis=1), node("Shape", "x", "s")]
    outputs = [value("v", [2, 2]), value("i", [2, 2], T.INT64), value("s", [2], T.INT64)]
    model = make(nodes, [value("x", [2, 4])], outputs, [numpy_helper.from_array(np.array([2]), "k")])

    def session():
        made = Session(trt10, model).flag("FP16")
        made.layer("topk").set_output_type(1, trt10.float32)
        made.layer("shape").precision = trt10.float32
        return made

    ignored = session()
    assert ignored.build() is not None
    assert "second output of a TopK" in ignored.errors and "shape operations" in ignored.errors
    assert session().flag("OBEY_PRECISION_CONSTRAINTS").build() is None


def test_an_output_type_leaves_the_type_of_the_tensor(trt10):
    session = Session(trt10, chain()).flag("FP16", "OBEY_PRECISION_CONSTRAINTS")
    layer, y = session.layer("act"), session.network.get_output(0)
    layer.set_output_type(0, trt10.float16)
    assert layer.output_type_is_set(0) and layer.get_output_type(0) == trt10.float16 and y.dtype == trt10.float32
    assert session.engine().get_tensor_dtype("y") == trt10.float32
    y.dtype = trt10.float16
    assert session.engine().get_tensor_dtype("y") == trt10.float16
    layer.reset_output_type(0)
    assert not layer.output_type_is_set(0)


def test_the_type_of_an_inner_tensor_cannot_be_set(trt10):
    session = Session(trt10, chain())
    inner = session.layer("product").get_output(0)
    inner.dtype = trt10.float16
    assert inner.dtype == trt10.float32


def test_a_layer_that_a_fusion_overrides_ignores_its_pin(trt10, monkeypatch):
    monkeypatch.setenv("TENSORRT_DOUBLE_IGNORES", "other,product")
    session = Session(trt10, chain()).flag("FP16", "OBEY_PRECISION_CONSTRAINTS")
    session.pin("product", "HALF")
    session.pin("act", "HALF")
    assert (session.layers()["product"][1], session.layers()["act"][1][:1]) == (["Float"], ["Half"])


def test_int8_is_taken_between_quantize_and_dequantize_only(trt10):
    nodes = [
        node("QuantizeLinear", "x scale zero", "q"),
        node("DequantizeLinear", "q scale zero", "d"),
        node("MatMul", "d w", "y", "product"),
    ]
    constants = [
        weights("w", 4, 3),
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]
    model = make(nodes, [value("x", [2, 4])], [value("y", [2, 3])], constants)
    assert Session(trt10, model).build() is None
    assert Session(trt10, model).flag("INT8").layers()["product"] == (["Int8"], ["Float"])
    assert Session(trt10, chain()).flag("INT8").layers()["product"] == (["Float"], ["Float"])


# Strong typing


def strong(trt, model):
    return Session(trt, model, flags=0 if trt.__version__.startswith("11") else 1 << 1)


@pytest.mark.parametrize("version", ["10.13", "11.0"])
def test_a_strongly_typed_network_has_the_types_of_the_graph(version):
    assert strong(load(version), chain()).layers()["product"] == (["Float"], ["Float"])
    assert strong(load(version), chain(dtype=T.FLOAT16, kind=np.float16)).layers()["act"] == (["Half"], ["Half"])


@pytest.mark.parametrize("version", ["10.13", "11.0"])
@pytest.mark.parametrize("op", ["Add", "MatMul"])
def test_operands_of_two_types_are_refused_under_strong_typing(version, op):
    model = make([node(op, "a b", "y", "n")], [value("a", [2, 2], T.FLOAT16), value("b", [2, 2])], [value("y", [2, 2])])
    session = strong(load(version), model)
    assert not session.parsed
    assert "Input 0's element type (half) differs from input 1's (float)" in session.parser.get_error(0).desc()


def test_pins_and_precision_flags_are_errors_under_strong_typing_of_10(trt10):
    session = strong(trt10, chain())
    session.pin("act", "HALF")
    assert "not supported when network is strongly typed" in session.errors
    assert not session.layer("act").precision_is_set and session.build() is not None
    session.network.get_output(0).dtype = trt10.float16
    assert session.network.get_output(0).dtype == trt10.float32
    assert session.flag("FP16").build() is None


# Profiles and formats


@pytest.mark.parametrize("shapes", [((2,), (1,), (3,)), ((1,), (4,), (3,)), ((1,), (1, 1), (3,)), ((-1,), (1,), (3,))])
def test_a_range_that_is_none_is_a_value_error(trt, shapes):
    with pytest.raises(ValueError, match="inconsistent"):
        Session(trt).builder.create_optimization_profile().set_shape("x", *shapes)


def test_a_dynamic_input_needs_a_profile_that_has_it(trt):
    session = Session(trt, chain("N"))
    assert session.build() is None
    assert "Network has dynamic or shape inputs, but no optimization profile has been defined" in session.errors
    assert session.ranges() == 0
    assert session.build() is None and "x: dynamic input is missing dimensions in profile 0" in session.errors


def test_a_profile_against_static_dimensions_fails_the_build(trt):
    session = Session(trt, chain("N"))
    session.ranges(x=((1, 5), (2, 5), (3, 5)))
    assert session.build() is None and "static dimensions" in session.errors


def test_several_profiles_are_chosen_at_run_time(trt):
    session = Session(trt, chain("N"))
    assert session.ranges(x=((1, 4), (2, 4), (3, 4))) == 0
    assert session.ranges(x=((5, 4), (6, 4), (7, 4))) == 1
    engine = session.engine()
    assert engine.num_optimization_profiles == 2
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("x", 1)] == [(5, 4), (6, 4), (7, 4)]
    context = engine.create_execution_context()
    assert not context.set_input_shape("x", (6, 4)) and "Valid range for profile 0" in session.errors
    assert context.set_optimization_profile_async(1, 0) and context.set_input_shape("x", (6, 4))
    assert context.active_optimization_profile == 1 and tuple(context.get_tensor_shape("y")) == (6, 3)
    assert not context.set_optimization_profile_async(2, 0)


def pictures(channels=3, dtype=T.FLOAT):
    return make(
        [node("Relu", "x", "y")], [value("x", [1, channels, 2, 2], dtype)], [value("y", [1, channels, 2, 2], dtype)]
    )


def test_the_first_allowed_format_is_kept(trt):
    session = Session(trt, pictures())
    tensor = session.network.get_input(0)
    tensor.allowed_formats = 1 << int(trt.TensorFormat.CHW32) | 1 << int(trt.TensorFormat.HWC)
    engine = session.engine()
    assert engine.get_tensor_format("x") == trt.TensorFormat.CHW32
    assert engine.get_tensor_format("y") == trt.TensorFormat.LINEAR
    assert (engine.get_tensor_vectorized_dim("x"), engine.get_tensor_components_per_element("x")) == (1, 32)
    assert (engine.get_tensor_vectorized_dim("y"), engine.get_tensor_components_per_element("y")) == (-1, -1)
    assert "FP32" in engine.get_tensor_format_desc("y")


def test_a_format_that_a_type_does_not_have_fails_the_build(trt):
    session = Session(trt, pictures())
    session.network.get_input(0).allowed_formats = 1 << int(trt.TensorFormat.HWC8)
    assert session.build() is None
    assert "x: has dataType Float unsupported by tensor's allowed TensorFormats" in session.errors


@pytest.mark.parametrize(("layout", "stored"), [("HWC8", (1, 2, 2, 8)), ("CHW32", (1, 1, 2, 2, 32))])
def test_formats_are_read_and_written_in_their_layout(trt, layout, stored):
    session = Session(trt, pictures(dtype=T.FLOAT16))
    for tensor in (session.network.get_input(0), session.network.get_output(0)):
        tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, layout))
    x, y = np.full(stored, -9, np.float16), np.full(stored, 7, np.float16)
    values = np.arange(12, dtype=np.float16).reshape(1, 2, 2, 3)
    lie = (slice(None), slice(None), slice(None), slice(3))
    if layout == "HWC8":
        x[lie] = values
    else:
        x[0][lie] = values
    assert run(session.engine().create_execution_context(), x=x, y=y)
    found = y[lie] if layout == "HWC8" else y[0][lie]
    assert np.array_equal(found.reshape(values.shape), values) and y[..., 3:].max() == 0


# Engines


def test_an_engine_is_bytes_that_only_its_version_reads(trt):
    session = Session(trt, chain())
    made = session.build()
    assert len(bytes(memoryview(made))) == made.nbytes == len(bytes(made))
    for name in ("len", "__len__", "tolist"):
        with pytest.raises((AttributeError, TypeError)):
            getattr(made, name)()
    runtime = trt.Runtime(session.log)
    assert runtime.deserialize_cuda_engine(b"foreign") is None and "magicTag" in session.errors
    other = next(load(version) for version in VERSIONS if load(version) is not trt)
    foreign = Session(other)
    assert other.Runtime(foreign.log).deserialize_cuda_engine(bytes(made)) is None
    assert "not compatible with this version" in foreign.errors


def test_an_engine_tells_its_inputs_and_outputs(trt):
    session = Session(trt, chain())
    engine = session.engine()
    assert [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)] == ["x", "y"]
    assert [engine.get_tensor_mode(name).name for name in ("x", "y", "z")] == ["INPUT", "OUTPUT", "NONE"]
    assert "invalid tensor name: z" in session.errors
    assert tuple(engine.get_tensor_shape("x")) == (2, 4) and engine.get_tensor_dtype("x") == trt.float32


@pytest.mark.parametrize("version", VERSIONS)
def test_the_inspector_prints_the_json_of_its_version(version):
    trt = load(version)
    text = information(trt, Session(trt, chain()).engine())
    told = json.loads(text)
    layers, bindings = parse(text)
    assert ("I/O Tensors" in told, "Bindings" in told) == ((True, False) if version == "11.0" else (False, True))
    assert [(layer.name, layer.nodes) for layer in layers] == [("product", ("product",)), ("act", ("act",))]
    assert [(b.name, b.mode, b.dtype, b.dims) for b in bindings] == [
        ("x", "Input", "Float", (2, 4)),
        ("y", "Output", "Float", (2, 3)),
    ]
    assert ("Metadata" in told["Layers"][0]) == (version != "8.6")


def test_a_dynamic_engine_tells_types_only_with_a_context_that_has_the_shapes(trt):
    session = Session(trt, chain("N"))
    session.ranges(x=((1, 4), (2, 4), (3, 4)))
    engine = session.engine()
    context = engine.create_execution_context()
    dark = parse(information(trt, engine, context))[0]
    assert {tensor.dtype for layer in dark for tensor in layer.outputs} == {"N/A due to dynamic shapes"}
    assert context.set_input_shape("x", (3, 4))
    lit = parse(information(trt, engine, context))[0]
    assert [(tensor.dtype, tensor.dims) for layer in lit for tensor in layer.outputs] == [("Float", (3, 3))] * 2


def test_without_details_the_inspector_tells_names_only(trt):
    session = Session(trt, chain())
    session.config.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    assert json.loads(information(trt, session.engine()))["Layers"] == ["product", "act"]


def test_a_progress_monitor_is_told_and_may_cancel(trt10):
    class Monitor(trt10.IProgressMonitor):
        def __init__(self, goes_on):
            trt10.IProgressMonitor.__init__(self)
            self.goes_on, self.told = goes_on, []

        def phase_start(self, phase_name, parent_phase, num_steps):
            self.told.append((phase_name, parent_phase))

        def step_complete(self, phase_name, step):
            return self.goes_on

        def phase_finish(self, phase_name):
            self.told.append(phase_name)

    session = Session(trt10, chain())
    session.config.progress_monitor = Monitor(True)
    assert session.build() is not None
    assert session.config.progress_monitor.told[0] == ("Building Engine", None)
    assert session.config.progress_monitor.told[-1] == "Building Engine"
    session.config.progress_monitor = Monitor(False)
    assert session.build() is None and session.errors == ""


def test_a_timing_cache_remembers_layers_for_its_version_only(trt):
    session = Session(trt, chain())
    cache = session.config.create_timing_cache(b"")
    assert session.config.set_timing_cache(cache, False)
    session.build()
    data = bytes(cache.serialize())
    assert b"product" in data
    assert session.config.create_timing_cache(data) is not None
    assert session.config.create_timing_cache(b"foreign") is None


def test_options_are_kept_and_checked(trt):
    config = Session(trt).config
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 20)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20
    config.builder_optimization_level = 5
    config.builder_optimization_level = 9
    assert config.builder_optimization_level == 5 and config.get_flag(trt.BuilderFlag.TF32)


# Running


def test_a_run_computes_the_model_in_host_memory(trt):
    context = Session(trt, chain()).engine().create_execution_context()
    x, y = np.ones((2, 4), np.float32), np.zeros((2, 3), np.float32)
    assert run(context, x=x, y=y)
    assert np.allclose(y, x @ numpy_helper.to_array(weights("w", 4, 3)))
    assert context.get_tensor_address("x") == x.ctypes.data


def test_bf16_is_computed_and_rounded(trt10):
    model = chain(dtype=T.BFLOAT16, kind=ml_dtypes.bfloat16)
    context = strong(trt10, model).engine().create_execution_context()
    x, y = np.full((2, 4), 1.015625, ml_dtypes.bfloat16), np.zeros((2, 3), ml_dtypes.bfloat16)
    assert run(context, x=x, y=y)
    expected = x.astype(np.float32) @ numpy_helper.to_array(weights("w", 4, 3))
    assert np.array_equal(y, expected.astype(ml_dtypes.bfloat16))


def test_a_binding_of_another_type_than_the_graph_is_converted(trt10):
    session = Session(trt10, chain())
    session.network.get_input(0).dtype = trt10.float16
    context = session.engine().create_execution_context()
    x, y = np.ones((2, 4), np.float16), np.zeros((2, 3), np.float32)
    assert run(context, x=x, y=y) and y[0, 0] > 0


def test_a_run_without_an_address_or_a_shape_is_false_with_an_error(trt):
    session = Session(trt, chain("N"))
    session.ranges(x=((1, 4), (2, 4), (3, 4)))
    context = session.engine().create_execution_context()
    x, y = np.ones((2, 4), np.float32), np.zeros((2, 3), np.float32)
    assert context.infer_shapes() == ["x"] and not context.all_binding_shapes_specified
    assert not run(context, x=x, y=y) and "shape of input tensor x is not set" in session.errors
    assert context.set_input_shape("x", (2, 4)) and context.infer_shapes() == []
    context.set_tensor_address("y", 0)
    assert (
        not context.execute_async_v3(0) and "Neither address or allocator is set for output tensor y" in session.errors
    )
    assert context.get_max_output_size("y") == y.nbytes and run(context, x=x, y=y)
    assert not context.set_input_shape("x", (9, 4)) and not context.set_input_shape("x", (4,))


@pytest.mark.parametrize("method", ["reallocate_output", "reallocate_output_async"])
def test_an_output_whose_shape_depends_on_data_is_allocated_while_it_runs(trt10, method):
    class Allocator(trt10.IOutputAllocator):
        def __init__(self):
            trt10.IOutputAllocator.__init__(self)
            self.shape = None

        def notify_shape(self, tensor_name, shape):
            self.shape = tuple(shape)

    def allocate(self, tensor_name, memory, size, alignment, *stream):
        self.room = ctypes.create_string_buffer(size)
        return ctypes.addressof(self.room)

    setattr(Allocator, method, allocate)
    model = make([node("NonZero", "x", "y")], [value("x", [4])], [value("y", [1, None], T.INT64)])
    session = Session(trt10, model)
    context = session.engine().create_execution_context()
    x = np.array([0, 5, 0, 6], np.float32)
    context.set_tensor_address("x", x.ctypes.data)
    assert tuple(context.get_tensor_shape("y")) == (1, -1) and context.get_max_output_size("y") == 32
    assert not context.execute_async_v3(0)
    allocator = Allocator()
    assert context.set_output_allocator("y", allocator) and context.execute_async_v3(0)
    assert allocator.shape == (1, 2) and np.frombuffer(allocator.room, np.int64).tolist() == [1, 3]
    assert context.set_output_allocator("y", None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_run_on_a_device_is_enqueued_on_the_stream(trt10, monkeypatch):
    monkeypatch.setenv("TENSORRT_DOUBLE_DEVICE", "cuda")
    context = Session(trt10, chain()).engine().create_execution_context()
    x, y = torch.ones(2, 4, device="cuda"), torch.zeros(2, 3, device="cuda")
    torch.cuda.synchronize()
    for name, tensor in (("x", x), ("y", y)):
        context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.Stream()
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    assert torch.allclose(y.cpu(), torch.ones(2, 4) @ torch.tensor(numpy_helper.to_array(weights("w", 4, 3))))


# The recording


def test_calls_and_sets_are_recorded_and_reads_are_not(trt10, tmp_path, monkeypatch):
    path = tmp_path / "calls"
    monkeypatch.setenv("TENSORRT_DOUBLE_RECORD", str(path))
    session = Session(trt10, chain()).flag("FP16")
    session.pin("act", "HALF")
    session.layer("act").set_output_type(0, trt10.float16)
    _ = session.layer("act").precision
    calls = recording.read(path)
    told = [call for call in calls if call.name == "act"]
    assert told == [
        recording.Call("ILayer act", "ILayer", set="precision", value="DataType.HALF"),
        recording.Call("ILayer act", "ILayer", call="set_output_type", args=[0, "DataType.HALF"]),
    ]
    assert ("IBuilderConfig", "set_flag", ["BuilderFlag.FP16"]) in [(c.cls, c.call, c.args) for c in calls]
    assert recording.read(tmp_path / "none") == []
