"""An ONNX file read without its weights is the same model."""

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from torch2trt_onnx import wire
from torch2trt_onnx.weights import WeightStore


@pytest.fixture
def model():
    weights = [
        numpy_helper.from_array(np.arange(4096, dtype=np.float32).reshape(64, 64), "large"),
        numpy_helper.from_array(np.arange(4, dtype=np.float32), "small"),
        helper.make_tensor("typed", TensorProto.FLOAT, [600], np.arange(600.0)),  # in float_data, not raw
        numpy_helper.from_array(np.zeros((0, 64), np.float32), "empty"),
    ]
    nodes = [helper.make_node("MatMul", ["x", "large"], ["y"]), helper.make_node("Identity", ["typed"], ["z"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "z")],
        weights,
    )
    made = helper.make_model(graph, producer_name="someone")
    helper.set_model_props(made, {"key": "value" * 500})
    return made


def test_large_raw_weights_become_references_and_the_rest_is_as_it_was(model, tmp_path):
    onnx.save(model, tmp_path / "m.onnx")
    read = wire.read(tmp_path / "m.onnx")
    assert [t.data_location == TensorProto.EXTERNAL for t in read.graph.initializer] == [True, False, False, False]
    onnx.external_data_helper.load_external_data_for_model(read, str(tmp_path))
    for tensor in read.graph.initializer:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    assert read == model


def test_a_store_adopts_the_weights_out_of_the_file(model, tmp_path):
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "store").mkdir()
    store = WeightStore(tmp_path / "store")
    adopted = store.adopt(wire.read(tmp_path / "m.onnx"), tmp_path)
    for before, after in zip(model.graph.initializer, adopted.graph.initializer, strict=True):
        np.testing.assert_array_equal(store.array(after), numpy_helper.to_array(before))


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error(model, tmp_path, cut):
    data = model.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data[: int(len(data) * cut)])
    with pytest.raises((ValueError, DecodeError)):
        wire.read(tmp_path / "m.onnx")
