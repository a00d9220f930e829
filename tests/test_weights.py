"""The store of the weights: what goes in comes out, and what is written can be read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import parse
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from torch2trt_onnx.errors import SourceError
from torch2trt_onnx.precision import TYPES
from torch2trt_onnx.weights import ALIGNMENT, WeightStore

MORE = [(TensorProto.UINT4, ml_dtypes.uint4), (TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2), (TensorProto.UINT16, np.uint16)]  # fmt: skip
KINDS = [(row.name, row.onnx, row.numpy) for row in TYPES] + [(np.dtype(t).name, o, np.dtype(t)) for o, t in MORE]
SHAPES = [
    (),
    (0,),
    (3,),
    (5, 5),
    (4000,),
    (3, 1001),
]  # inside the graph, and outside; odd sizes for types of half a byte


@pytest.fixture
def store(tmp_path):
    return WeightStore(tmp_path)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "numpy"), [pytest.param(k, n, id=name) for name, k, n in KINDS])
def test_each_type_comes_back_as_it_went_in(store, kind, numpy, shape):
    values = np.arange(int(np.prod(shape))).reshape(shape) % 7
    values = values.astype(numpy)
    tensor = store.put_array("w", values, kind)
    back = store.array(tensor)
    assert back.dtype == values.dtype
    assert back.shape == shape
    assert np.array_equal(back, values)
    assert tensor.data_type == kind


def test_large_tensors_lie_in_the_file_aligned_and_small_ones_in_the_graph(store):
    small = store.put_array("a", np.zeros(256, np.float32), TensorProto.FLOAT)
    big = [store.put_array(n, np.zeros(257, np.float32), TensorProto.FLOAT) for n in "bc"]
    assert small.data_location == TensorProto.DEFAULT
    offsets = [int(e.value) for t in big for e in t.external_data if e.key == "offset"]
    assert offsets == [0, 1088]
    assert all(offset % ALIGNMENT == 0 for offset in offsets)


def test_what_is_mapped_is_read_only(store):
    array = store.array(store.put_array("w", np.zeros(1000, np.float32), TensorProto.FLOAT))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def weighty(count=1000):
    """`y = x + w + v`, where only the then branch of an If reads v."""
    return parse(
        f"""g (bool c, float[{count}] x) => (float[{count}] y) {{ p = Add(x, w)
            y = If(c) <then_branch = t() => (float[{count}] a) {{ a = Add(p, v) }},
                       else_branch = e() => (float[{count}] b) {{ k = Constant<value_float = 2.0>()  b = Mul(p, k) }}>
        }}""",
        {"w": np.arange(count, dtype=np.float32), "v": np.ones(count, np.float32)},
    )


def body_weight():
    model = weighty()
    then = model.graph.node[1].attribute[0].g
    then.initializer.append(model.graph.initializer.pop())
    constant = model.graph.node.add(op_type="Constant", output=["unused"])
    constant.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.ones(900, np.float32))))
    return model


def run(path):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"c": np.array(True), "x": np.ones(1000, np.float32)})[0]


@pytest.mark.parametrize("make", [weighty, body_weight])
def test_adopt_moves_weights_out_and_leaves_the_given_model_as_it_was(store, make):
    model = make()
    before = model.SerializeToString(deterministic=True)
    skeleton = store.adopt(model, None)
    assert model.SerializeToString(deterministic=True) == before
    assert skeleton.ByteSize() < 2000
    assert store.nbytes(skeleton) >= 2 * 4000
    store.inline(skeleton)
    assert np.array_equal(numpy_helper.to_array(skeleton.graph.initializer[0]), np.arange(1000, dtype=np.float32))


def test_adopt_takes_float_data_as_well_as_raw_data(store):
    model = weighty()
    del model.graph.initializer[:]
    for name in "wv":
        model.graph.initializer.append(onnx.helper.make_tensor(name, TensorProto.FLOAT, [1000], np.arange(1000.0)))
    skeleton = store.adopt(model, None)
    assert np.array_equal(store.array(skeleton.graph.initializer[0]), np.arange(1000, dtype=np.float32))


@pytest.mark.parametrize("indices", [[0, 5], [[0, 0], [1, 2]]], ids=["positions", "coordinates"])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64])
def test_sparse_tensors_become_dense_ones(store, indices, kind):
    sparse = onnx.helper.make_sparse_tensor(
        onnx.helper.make_tensor("w", kind, [2], [1, 2]), numpy_helper.from_array(np.array(indices)), [2, 3]
    )
    model = parse("g () => (float[2,3] y, float[2,3] z) { y = Cast<to=1>(w)  z = Cast<to=1>(v) }", opset=19)
    model.graph.sparse_initializer.append(sparse)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["v"], sparse_value=sparse))
    given = model.SerializeToString()
    skeleton = store.adopt(model, None)
    assert model.SerializeToString() == given
    assert not skeleton.graph.sparse_initializer
    for tensor in (skeleton.graph.initializer[0], skeleton.graph.node[0].attribute[0].t):
        assert (tensor.name, tensor.data_type) == ("w", kind)
        assert store.array(tensor).tolist() == [[1, 0, 0], [0, 0, 2]]
    session = ort.InferenceSession(skeleton.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [found.tolist() for found in session.run(None, {})] == [[[1, 0, 0], [0, 0, 2]]] * 2


@pytest.mark.parametrize("make", [weighty, body_weight])
@pytest.mark.parametrize(("limit", "files"), [(10**6, {"model.onnx"}), (1, {"model.onnx", "model.onnx.data"})])
def test_save_writes_what_the_checker_and_onnx_runtime_load(store, tmp_path, make, limit, files):
    out = tmp_path / "out"
    out.mkdir()
    skeleton = store.adopt(make(), None)
    before = skeleton.SerializeToString(deterministic=True)
    store.save(skeleton, out / "model.onnx", inline_below=limit)
    assert skeleton.SerializeToString(deterministic=True) == before
    assert {p.name for p in out.iterdir()} == files
    onnx.checker.check_model(str(out / "model.onnx"), full_check=True)
    assert np.array_equal(run(out / "model.onnx"), np.arange(1000, dtype=np.float32) + 2)


def test_a_store_can_be_opened_again_and_its_model_saved(store, tmp_path):
    skeleton, second = store.adopt(weighty(), None), tmp_path / "second.onnx"
    WeightStore.opened(store.directory).save(skeleton, second, inline_below=10**6)
    assert not (tmp_path / "second.onnx.data").exists()
    assert np.array_equal(run(second), np.arange(1000, dtype=np.float32) + 2)


def test_a_tensor_that_a_graph_and_its_bodies_share_is_written_once(store, tmp_path):
    model = weighty()
    model.graph.node[1].attribute[0].g.initializer.append(model.graph.initializer[1])
    skeleton = store.adopt(model, None)
    skeleton.graph.node[1].attribute[0].g.initializer[0].CopyFrom(skeleton.graph.initializer[1])
    store.save(skeleton, tmp_path / "model.onnx", inline_below=0)
    assert (tmp_path / "model.onnx.data").stat().st_size < 2 * 4000 + ALIGNMENT
    assert np.array_equal(run(tmp_path / "model.onnx"), np.arange(1000, dtype=np.float32) + 2)


@pytest.fixture
def external(tmp_path):
    """A model whose weights lie in files beside it."""
    folder = tmp_path / "given"
    folder.mkdir()
    onnx.save(weighty(), folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    return onnx.load(folder / "m.onnx", load_external_data=False), folder


def test_external_weights_are_read_from_their_folder(store, external):
    model, folder = external
    skeleton = store.adopt(model, folder)
    assert np.array_equal(store.array(skeleton.graph.initializer[0]), np.arange(1000, dtype=np.float32))
    assert {e.value for e in skeleton.graph.initializer[0].external_data if e.key == "location"} == {store.path.name}


def test_external_weights_without_a_length_are_as_long_as_their_shape(store, external):
    model, folder = external
    for tensor in model.graph.initializer:
        entries = [e for e in tensor.external_data if e.key != "length"]
        del tensor.external_data[:]
        tensor.external_data.extend(entries)
    skeleton = store.adopt(model, folder)
    assert np.array_equal(store.array(skeleton.graph.initializer[0]), np.arange(1000, dtype=np.float32))


def edited(model, key, value):
    entry = next(e for e in model.graph.initializer[0].external_data if e.key == key)
    entry.value = value
    return model


def test_a_missing_file_is_an_error_that_names_it(store, external):
    model, folder = external
    (folder / "m.bin").unlink()
    with pytest.raises(SourceError, match=r"tensor 'w', file 'm.bin'"):
        store.adopt(model, folder)


def test_a_short_file_is_an_error(store, external):
    model, folder = external
    (folder / "m.bin").write_bytes(b"\0" * 100)
    with pytest.raises(SourceError, match="too short"):
        store.adopt(model, folder)


def test_an_empty_file_is_an_error(store, external):
    model, folder = external
    (folder / "m.bin").write_bytes(b"")
    with pytest.raises(SourceError, match="cannot be read"):
        store.adopt(model, folder)


def test_a_length_that_contradicts_the_shape_is_an_error(store, external):
    model, folder = external
    with pytest.raises(SourceError, match="says 8 bytes, and its shape and type need 4000"):
        store.adopt(edited(model, "length", "8"), folder)


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname"])
def test_a_file_outside_the_folder_is_an_error(store, external, location):
    model, folder = external
    (folder.parent / "outside.bin").write_bytes(b"\0" * 4000)
    with pytest.raises(SourceError, match="outside its folder"):
        store.adopt(edited(model, "location", location), folder)


def test_external_weights_of_a_model_without_a_folder_are_an_error(store, external):
    with pytest.raises(SourceError, match="we cannot know in which folder"):
        store.adopt(external[0], None)


@given(lengths=st.lists(st.sampled_from([0, 1, 4, 300, 5000]), max_size=5), inner=st.sampled_from([4, 2000]))
def test_a_model_with_its_weights_inside_is_written_as_protobuf_writes_it(lengths, inner):
    """`WeightStore.save` streams them between the fields around, so that they never lie in memory together."""
    arrays = [np.random.default_rng(n).normal(size=n).astype(np.float32) for n in lengths]
    constant = make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(inner, np.float32)))
    body = make_graph([constant], "body", [], [make_tensor_value_info("c", 1, None)])
    nodes = [make_node("If", ["go"], ["y"], then_branch=body, else_branch=body)]
    graph = make_graph(
        nodes,
        "graph",
        [make_tensor_value_info("go", TensorProto.BOOL, [])],
        [make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(array, f"w{n}") for n, array in enumerate(arrays)],
        doc_string="behind the initializers",
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 20)], producer_name="before")
    onnx.helper.set_model_props(model, {"behind": "the graph"})
    for tensor in model.graph.initializer:
        tensor.metadata_props.add(key="behind", value="the values")
    with tempfile.TemporaryDirectory() as folder:
        store = WeightStore(Path(folder))
        adopted = store.adopt(model, None)
        store.save(adopted, Path(folder) / "model.onnx", inline_below=2**31)
        store.inline(adopted)
        assert (Path(folder) / "model.onnx").read_bytes() == adopted.SerializeToString()
