"""The hash of a model is that of what it says, wherever its weights lie."""

import random
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from random_graphs import models

from torch2trt_onnx import wire
from torch2trt_onnx.errors import SourceError
from torch2trt_onnx.exporters.source import fingerprint
from torch2trt_onnx.hashing import hash_file, hash_json, hash_model

PROPERTY = settings(
    derandomize=True, database=None, deadline=None, max_examples=120, suppress_health_check=list(HealthCheck)
)


def copied(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def tensors(model):
    """Every tensor of a model, those in nodes and in bodies of control flow as well."""
    return list(onnx.external_data_helper._get_all_tensors(model))


def moved(model, folder, order, alignment, *, says_length=True):
    """The model with the bytes of all tensors in two files, in some order."""
    copy = copied(model)
    folder.mkdir(exist_ok=True)
    found = tensors(copy)
    order.shuffle(found)
    files = [bytearray(), bytearray()]
    for index, tensor in enumerate(found):
        raw = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
        file = files[index % 2]
        file += b"\xff" * (-len(file) % alignment)
        words = {"location": f"w{index % 2}.bin", "offset": len(file), "checksum": "unread"}
        if says_length:
            words["length"] = len(raw)
        file += raw
        for name in ("raw_data", "float_data", "int32_data", "int64_data"):
            tensor.ClearField(name)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in words.items():
            tensor.external_data.add(key=key, value=str(value))
    for index, file in enumerate(files):
        (folder / f"w{index}.bin").write_bytes(bytes(file) + b"\0")
    return copy


@PROPERTY
@given(models(), st.randoms(use_true_random=False), st.sampled_from([1, 16, 4096]), st.booleans())
def test_the_hash_is_the_same_wherever_the_weights_lie(tmp_path_factory, model, order, alignment, says_length):
    folder = tmp_path_factory.mktemp("weights")
    apart = moved(model, folder, order, alignment, says_length=says_length)
    assert hash_model(apart, folder) == hash_model(model)
    onnx.save(model, folder / "inline.onnx")
    assert hash_model(wire.read(folder / "inline.onnx"), folder) == hash_model(model)


@PROPERTY
@given(models(), st.data())
def test_any_change_gives_another_hash(model, data):
    changed = copied(model)
    what = data.draw(st.sampled_from(["byte", "name", "attribute", "type", "shape", "operator", "metadata", "opset"]))
    node = data.draw(st.sampled_from(list(changed.graph.node)))
    found = [t for t in tensors(changed) if numpy_helper.to_array(t).size]
    if what in ("byte", "shape", "type") and not found:
        what = "name"
    if what == "byte":
        tensor = data.draw(st.sampled_from(found))
        array = numpy_helper.to_array(tensor)
        raw = bytearray(array.tobytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1
        tensor.CopyFrom(
            numpy_helper.from_array(np.frombuffer(bytes(raw), array.dtype).reshape(array.shape), tensor.name)
        )
    elif what == "shape":
        data.draw(st.sampled_from(found)).dims.append(1)
    elif what == "type":
        tensor = data.draw(st.sampled_from(found))
        raw = numpy_helper.to_array(tensor).tobytes()
        for name in ("float_data", "int32_data", "int64_data"):
            tensor.ClearField(name)
        tensor.raw_data, tensor.data_type = raw, TensorProto.UINT8 if tensor.data_type != 2 else TensorProto.INT8
    elif what == "name":
        node.output[0] += "_"
    elif what == "attribute":
        node.attribute.append(helper.make_attribute("odd", data.draw(st.sampled_from([1, 0.5, "s", [1, 2]]))))
    elif what == "operator":
        node.op_type += "2"
    elif what == "metadata":
        node.metadata_props.add(key="k", value="v")
    else:
        changed.opset_import[0].version += 1
    assert hash_model(changed) != hash_model(model)


def test_every_bit_of_every_weight_counts():
    model = helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [TensorProto()])
    )
    seen = set()
    for bit in range(64):
        raw = (1 << bit).to_bytes(8, "little")
        model.graph.initializer[0].CopyFrom(TensorProto(name="w", data_type=1, dims=[2], raw_data=raw))
        seen.add(hash_model(model))
    assert len(seen) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.functions[0].node[0].attribute[0].t.__setattr__("raw_data", b"\1\0\0\0"),
        lambda m: m.graph.sparse_initializer[0].values.__setattr__("raw_data", b"\1\0\0\0"),
        lambda m: m.graph.sparse_initializer[0].dims.append(3),
        lambda m: m.graph.node[0].attribute[0].tensors[1].__setattr__("raw_data", b"\1\0\0\0"),
        lambda m: m.graph.node[0].attribute[0].tensors.add(),
        lambda m: m.graph.initializer[0].string_data.__setitem__(0, b"other"),
        lambda m: m.graph.initializer[0].string_data.__setitem__(slice(0, 2), [b"a", b"bc"]),
        lambda m: m.graph.node[1].attribute[0].g.node[0].output.__setitem__(0, "q"),
    ],
    ids=["function", "sparse values", "sparse shape", "list", "longer list", "text", "texts joined", "body"],
)
def test_tensors_count_in_functions_in_bodies_in_lists_and_where_they_are_sparse_or_text(change):
    tensor = TensorProto(name="t", data_type=1, dims=[1], raw_data=b"\0\0\0\0")
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    many = helper.make_node("Odd", [], ["z"])
    many.attribute.add(name="list", type=onnx.AttributeProto.TENSORS).tensors.extend([tensor, tensor])
    body = helper.make_graph([constant], "body", [], [helper.make_tensor_value_info("y", 1, [1])])
    branch = helper.make_node("If", ["c"], ["i"], then_branch=body, else_branch=body)
    text = TensorProto(name="s", data_type=TensorProto.STRING, dims=[2], string_data=[b"ab", b"c"])
    graph = helper.make_graph([many, branch], "g", [], [], [text])
    graph.sparse_initializer.add(values=tensor, indices=tensor, dims=[4])
    model = helper.make_model(graph)
    model.functions.append(helper.make_function("d", "f", [], ["y"], [constant], [helper.make_opsetid("", 20)]))
    other = copied(model)
    change(other)
    assert hash_model(other) != hash_model(model)


def test_typed_fields_and_raw_bytes_are_the_same_weights_also_of_less_than_a_byte():
    for kind, values in ((TensorProto.FLOAT16, [0.5, -2.0, 3.0]), (TensorProto.INT4, [1, -2, 7]), (9, [True, False])):
        typed = helper.make_tensor("w", kind, [len(values)], values)
        raw = numpy_helper.from_array(numpy_helper.to_array(typed), "w")
        assert raw.raw_data and not typed.raw_data
        models = [helper.make_model(helper.make_graph([], "g", [], [], [t])) for t in (typed, raw)]
        assert hash_model(models[0]) == hash_model(models[1])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"location": "../secret"}, "outside"),
        ({"location": "/etc/passwd"}, "outside"),
        ({"location": "none"}, "no such file"),
        ({"location": "w", "length": 99}, "ends"),
        ({"location": "w", "offset": 1 << 70}, ""),
        ({"location": "w", "offset": -1}, ""),
        ({"location": "w", "length": -4}, "-4"),
        ({"location": "w\0"}, "null"),
        ({"location": "w", "offset": "x"}, "x"),
        ({}, "no such file"),
    ],
)
def test_weights_that_cannot_be_read_are_an_error_that_names_the_tensor(tmp_path, words, why):
    (tmp_path / "w").write_bytes(b"1234")
    tensor = TensorProto(name="the weight", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in words.items():
        tensor.external_data.add(key=key, value=str(value))
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    with pytest.raises(SourceError, match="'the weight'") as error:
        hash_model(model, tmp_path)
    assert why in str(error.value)
    with pytest.raises(SourceError, match="which folder"):
        hash_model(model)


def test_the_hash_of_a_file_is_what_other_programs_compute(tmp_path):
    (tmp_path / "f").write_bytes(random.Random(0).randbytes(3_000_001))
    code = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
    command = [sys.executable, "-c", code, str(tmp_path / "f")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert hash_file(tmp_path / "f") == told.strip()


def test_plain_data_has_one_hash_whatever_the_order_of_its_keys():
    assert hash_json({"a": (1, 2), "b": None}) == hash_json({"b": None, "a": [1, 2]})
    assert hash_json({"a": 1}) != hash_json({"a": 1.0})
    with pytest.raises(TypeError):
        hash_json({"a": {1}})


class TestFingerprint:
    def test_a_torchscript_file_is_its_bytes(self, script_file):
        assert fingerprint(str(script_file)).sha256 == hash_file(script_file)

    def test_an_onnx_file_is_the_same_with_its_weights_beside_it_and_in_memory(self, tmp_path):
        weight = numpy_helper.from_array(np.arange(4096, dtype=np.float32), "w")
        output = helper.make_tensor_value_info("y", 1, [4096])
        graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [weight])
        model = helper.make_model(graph)
        onnx.save(model, tmp_path / "a.onnx")
        found = {fingerprint(model).sha256, fingerprint(tmp_path / "a.onnx").sha256}
        onnx.save(model, tmp_path / "b.onnx", save_as_external_data=True, location="b.bin", size_threshold=0)
        beside = fingerprint(tmp_path / "b.onnx")
        assert {*found, beside.sha256} == {beside.sha256}
        assert {name for name, *_ in beside.stamps} == {str(tmp_path / "b.onnx"), str(tmp_path / "b.bin")}
        assert beside.still_holds
        (tmp_path / "b.bin").write_bytes(bytes(16384))
        assert not beside.still_holds
        assert fingerprint(tmp_path / "b.onnx").sha256 != beside.sha256

    def test_a_module_in_memory_has_none(self, net, script_file):
        assert fingerprint(net) is None
        assert fingerprint(torch.jit.load(str(script_file))) is None

    def test_what_is_no_model_is_an_error(self, tmp_path):
        (tmp_path / "x").write_bytes(b"not a model")
        for path in (tmp_path / "none.onnx", tmp_path, tmp_path / "x"):
            with pytest.raises(SourceError):
                fingerprint(path)
