"""The engine inspector's JSON: recordings of TensorRT 8, 10 and 11, and what must not be guessed."""

import json
from pathlib import Path

import pytest

from torch2trt_onnx.backends.inspector import nodes_of_name, parse, type_of
from torch2trt_onnx.backends.layers import Binding, EngineTensor
from torch2trt_onnx.errors import BackendError, InspectionError
from torch2trt_onnx.precision import TYPES

RECORDED = Path(__file__).parent / "fixtures" / "inspector"  # their README tells whence they are
DUMPS = {row.dump for row in TYPES if row.dump}


def recorded(name):
    return (RECORDED / f"{name}.json").read_text()


def nodes(layers):
    return {layer.name: layer.nodes for layer in layers if layer.nodes}


def an_engine(tensor=None, **fields):
    """An engine of one layer, whose only input is told in the given words."""
    known = {"Name": "x", "Dimensions": [1, -1], "Format/Datatype": "Half"}
    layer = {"Name": "relu", "Inputs": [{**known, **(tensor or {})}], "Outputs": [{**known, "Name": "y"}], **fields}
    return json.dumps({"Layers": [layer], "Bindings": ["x", "y"]})


@pytest.mark.parametrize(
    ("name", "unknown"), [("tensorrt_8", set()), ("tensorrt_10_14", set()), ("tensorrt_11_0", {"UInt64"})]
)
def test_each_recording_is_read_wholly_with_every_tensor_typed(name, unknown):
    layers, bindings = parse(recorded(name))
    rows = json.loads(recorded(name))["Layers"]
    assert [layer.name for layer in layers] == [row["Name"] for row in rows]
    assert [layer.type for layer in layers] == [row["LayerType"] for row in rows]
    assert [layer.tactic for layer in layers] == [row.get("TacticName", "") for row in rows]
    assert [len(layer.inputs) + len(layer.outputs) for layer in layers] == [
        len(row["Inputs"]) + len(row["Outputs"]) for row in rows
    ]
    words = {t.dtype for layer in layers for t in (*layer.inputs, *layer.constants, *layer.outputs)}
    assert words - DUMPS == unknown
    assert {binding.dtype for binding in bindings} <= DUMPS


def test_tensorrt_8_tells_nodes_in_the_names_of_layers():
    layers, bindings = parse(recorded("tensorrt_8"))
    assert nodes(layers) == {
        "Conv_0 + Relu_1": ("Conv_0", "Relu_1"),
        "MaxPool_2": ("MaxPool_2",),
        "Conv_5 + Add_6 + Relu_7": ("Conv_5", "Add_6", "Relu_7"),
        "GlobalAveragePool_46": ("GlobalAveragePool_46",),
        "Gemm_48": ("Gemm_48",),
        "reshape_after_Gemm_48": ("reshape_after_Gemm_48",),
    }
    assert bindings == [
        Binding("input.1", "Input", "Float", (32, 3, 224, 224), "Row major linear FP32"),
        Binding("191", "Output", "Float", (32, 1000), "Row major linear FP32"),
    ]


def test_types_of_weights_that_are_only_counted_are_kept():
    layers, _ = parse(recorded("tensorrt_8"))
    convolution = next(layer for layer in layers if layer.name == "Conv_0 + Relu_1")
    assert convolution.constants == (EngineTensor("Weights", "Half", (9408,)), EngineTensor("Bias", "Half", (64,)))
    without_bias, _ = parse(an_engine(Weights={"Type": "Int8", "Count": 9}, Bias={"Type": "Float", "Count": 0}))
    assert without_bias[0].constants == (EngineTensor("Weights", "Int8", (9,)),)


def test_tensorrt_10_tells_nodes_in_metadata_with_either_separator():
    layers, bindings = parse(recorded("tensorrt_10_14"))
    assert nodes(layers) == {
        "node_conv2d + node_relu": ("node_conv2d", "node_relu"),
        "node_max_pool2d": ("node_max_pool2d",),
        "node_linear_myl4_0": ("node_linear", "node_relu_2"),
        "__myl_AddMaxrSubExpSum_myl4_2": ("node_linear_1", "node_softmax"),
        "__myl_DivMulTopk_myl4_3": ("node_softmax", "node_argmax"),
    }
    assert bindings == [
        Binding("x", "Input", "Float", (1, 1, 28, 28), ""),
        Binding("y", "Output", "Float", (1, 10), ""),
        Binding("z", "Output", "Int64", (1,), ""),
    ]


def test_tensorrt_11_tells_constants_and_io_tensors():
    layers, bindings = parse(recorded("tensorrt_11_0"))
    assert nodes(layers) == {
        "node_conv2d_myl0_2": ("node_conv2d", "node_relu"),
        "__myl_Resh_myl0_6": ("node_view",),
        "node_linear_myl0_7": ("node_linear", "node_relu_2"),
        "__myl_AddMaxrSubExpSum_myl0_9": ("node_linear_1", "node_softmax"),
    }
    gemm = next(layer for layer in layers if layer.type == "gemm")
    assert gemm.constants[0] == EngineTensor("gemm1.weight_constantFloat_myl0", "Float", (3136, 1024))
    assert len(gemm.constants) == 4
    assert bindings == [
        Binding("x", "Input", "Float", (1, 1, 28, 28), "Row major linear FP32 format (kLINEAR)"),
        Binding("y", "Output", "Float", (1, 10), "Row major linear FP32 format (kLINEAR)"),
        Binding("z", "Output", "Int64", (1,), "Row major linear INT64 format (kLINEAR)"),
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Row major linear FP32", "Float"),
        ("Row major linear FP16 format", "Half"),
        ("Channel major FP16 format where channel % 8 == 0", "Half"),
        ("Channel major BFloat16 format where channel % 8 == 0 with 3 spatial dimensions", "BFloat16"),
        ("Row major linear FP8 format", "FP8"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "Int8"),
        ("Channel major INT8 format where channel == 4 and column stride % 32 == 0", "Int8"),
        ("Row major linear Int32", "Int32"),
        ("Row major linear Int64 format", "Int64"),
        ("Row major linear BOOL", "Bool"),
        ("Row major linear UInt8 format", "UInt8"),
    ],
)
def test_a_format_tells_its_type(text, word):
    assert type_of(text) == word


@pytest.mark.parametrize("word", sorted(DUMPS))
def test_each_word_of_the_table_of_types_stands_for_itself(word):
    assert type_of(word) == word


@pytest.mark.parametrize("text", ["N/A due to dynamic shapes", "Unknown format", "FP4E2M1", "Double", "None", ""])
def test_an_unknown_type_is_kept_as_it_is(text):
    layers, bindings = parse(an_engine({"Format/Datatype": text}))
    assert layers[0].inputs == (EngineTensor("x", text, (1, -1)),)
    assert bindings[0] == Binding("x", "Input", text, (1, -1), "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1 + relu1", ("conv1", "relu1")),
        ("q || k || v", ("q", "k", "v")),
        ("PWN(PWN(relu_1), add_1)", ("relu_1", "add_1")),
        ("PWN(c + (Unnamed Layer* 1122) [Shuffle], /act/Div)", ("c", "/act/Div")),
        ("conv + PWN(PWN(/act/Sigmoid), /act/Mul)", ("conv", "/act/Sigmoid", "/act/Mul")),
        ("PWN(scale(2), shift(3))", ("scale(2)", "shift(3)")),
        ("{ForeignNode[/a/Mul + /a/Add.../b/Softmax]}", ("/a/Mul", "/a/Add", "/b/Softmax")),
        ("Reformatting CopyNode for Input Tensor 0 to conv1 + relu1", ()),
        ("(Unnamed Layer* 52) [Shuffle]", ()),
        ("conv1 + relu1 [profile 1]", ("conv1", "relu1")),
        ("conv1 + conv1", ("conv1",)),
    ],
)
def test_the_name_of_a_layer_tells_its_nodes(name, expected):
    assert nodes_of_name(name) == expected


@pytest.mark.parametrize(
    "metadata",
    [
        "[ONNX Layer: a[0]]\x1e[ONNX Layer: b | Block_1 (pkg.Block)]",
        "[ONNX Layer: a[0]]\x1f[ONNX Layer: b]\x1f[ONNX Layer: b]",
        "[ONNX Layer: a[0]][ONNX Layer: b]",
    ],
)
def test_metadata_tells_each_node_once_without_the_functions_around_it(metadata):
    layers, _ = parse(an_engine(Metadata=metadata))
    assert layers[0].nodes == ("a[0]", "b")


def test_separators_that_stand_unescaped_are_read():
    text = an_engine(Metadata="[ONNX Layer: a]@[ONNX Layer: b]").replace("@", "\x1f")
    assert parse(text)[0][0].nodes == ("a", "b")


def test_a_layer_without_metadata_has_no_nodes_where_other_layers_have_metadata():
    told = json.loads(recorded("tensorrt_10_14"))
    told["Layers"][1]["Metadata"] = ""
    assert parse(json.dumps(told))[0][1].nodes == ()


def test_bindings_are_told_apart_even_if_unread_or_repeated_for_a_profile():
    told = json.loads(an_engine())
    told["Bindings"] = ["x", "unread", "y", "x [profile 1]", "y [profile 1]"]
    assert parse(json.dumps(told))[1] == [
        Binding("x", "Input", "Half", (1, -1), ""),
        Binding("unread", "Input", "", (), ""),
        Binding("y", "Output", "Half", (1, -1), ""),
    ]


def test_an_engine_that_tells_only_names_says_how_to_build_one_that_tells_more():
    with pytest.raises(InspectionError, match=r"build with ProfilingVerbosity\.DETAILED") as caught:
        parse(recorded("names_only"))
    assert caught.value.where == "layer 0: 'Conv__25 + Relu'"
    assert isinstance(caught.value, BackendError)


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("", "is not JSON", "line 1, column 1"),
        ('{"Layers": [', "is not JSON", "line 1"),
        ("[]", "of type list, not an object", None),
        ("{}", "no 'Layers'", "the engine"),
        ('{"Layers": {}}', "'Layers' is of type dict, not list", "the engine"),
        ('{"Layers": [7]}', "'Layers' holds a value of type int", "the engine, entry 0"),
        ('{"Layers": [{}]}', "no 'Name'", "layer 0 (without a name)"),
        ('{"Layers": [], "Bindings": "x"}', "'Bindings' is of type str, not list", "the engine"),
        ('{"Layers": [], "I/O Tensors": ["x"]}', "'I/O Tensors' holds a value of type str", "the engine, entry 0"),
        ('{"Layers": [], "I/O Tensors": [{"Name": "x"}]}', "no 'IOMode'", "I/O tensor 0 (x)"),
        (an_engine({"Dimensions": ["N"]}), r"'Dimensions' are \['N'\]", "layer 0 (relu), Inputs 0 (x)"),
        (an_engine({"Format/Datatype": None}), "'Format/Datatype' is of type NoneType", "layer 0 (relu), Inputs 0 (x)"),
        (an_engine(TacticName=7), "'TacticName' is of type int, not str", "layer 0 (relu)"),
    ],
)
def test_foreign_json_is_refused_with_what_and_where(text, what, where):
    with pytest.raises(InspectionError, match=what) as caught:
        parse(text)
    assert (caught.value.where or "").startswith(where or "")
