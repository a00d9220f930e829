"""What is measured of each tensor, against NumPy."""

import math
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import OPSET, Scene, outputs
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper
from random_graphs import models, random_feeds

from torch2trt_onnx import pipeline, sessions
from torch2trt_onnx.errors import CalibrationError, InputError
from torch2trt_onnx.precision import FLOATS
from torch2trt_onnx.ranges import Range, measure
from torch2trt_onnx.typecheck import onnx_type

X = np.array([[1.5, -2.0, 0.25], [4.0, 3.0, -7.0]], np.float32)


def measured(text, *samples, arrays=None, opset=OPSET):
    """The ranges of a graph on some samples, each the array of `x` or a mapping."""
    scene = Scene(text, arrays, opset)
    scene.graph.infer_types(strict=False)
    before = scene.graph.to_proto().SerializeToString(deterministic=True)
    found = measure(scene.graph, [s if isinstance(s, dict) else {"x": s} for s in samples])
    assert scene.graph.to_proto().SerializeToString(deterministic=True) == before, "the graph is changed"
    return found


def of(*arrays):
    """The range of what some arrays hold together."""
    values = np.concatenate([np.asarray(a, np.float32).reshape(-1) for a in arrays])
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return Range(low, high, values.size - finite.size, values.size)


# --- one graph


def test_inputs_and_what_nodes_make_are_measured_over_all_samples():
    found = measured("g (float[2,3] x) => (float[2,3] y) { a = Neg(x)  y = Exp(a) }", X, 2 * X)
    assert found.keys() == {"x", "a", "y"}
    assert found["x"] == of(X, 2 * X)
    assert found["a"] == of(-X, -2 * X)
    assert found["y"].low == pytest.approx(math.exp(-8), rel=1e-5)
    assert found["y"].high == pytest.approx(math.exp(14), rel=1e-5)
    assert (found["y"].nonfinite, found["y"].elements, found["y"].largest) == (0, 12, found["y"].high)


def test_initializers_and_integers_are_not_measured():
    text = (
        "g (float[2,3] x) => (float[2,3] y) <float[3] w = {1, 2, 3}> { s = Shape(x)  f = Reshape(x, s)  y = Mul(f, w) }"
    )
    assert measured(text, X).keys() == {"x", "f", "y"}


def test_a_mask_of_minus_infinity_does_not_hide_the_finite_range():
    mask = np.where(X > 0, 0, -np.inf).astype(np.float32)
    found = measured(
        "g (float[2,3] x, float[2,3] m) => (float[2,3] y) { a = Add(x, m)  y = Softmax<axis=-1>(a) }",
        {"x": X, "m": mask},
        {"x": X, "m": np.zeros_like(mask)},
    )
    assert found["m"] == of(mask, np.zeros_like(mask)) == Range(0.0, 0.0, 2, 12)
    assert found["a"] == of(X + mask, X) == Range(-7.0, 4.0, 2, 12)
    assert found["y"].nonfinite == 0


def test_an_infinite_initializer_is_counted_from_the_first_sample_on():
    arrays = {"m": np.array([0, -np.inf, 0], np.float32)}
    found = measured("g (float[2,3] x) => (float[2,3] y) { y = Add(x, m) }", X, arrays=arrays)
    assert found["y"] == of(X[:, [0, 2]], [-np.inf, -np.inf]) == Range(-7.0, 4.0, 2, 6)


def test_values_at_the_end_of_fp32_are_finite_even_where_their_sum_is_not():
    largest = float(np.finfo(np.float32).max)
    x = np.full((2, 3), -largest, np.float32)
    assert measured("g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }", x)["y"] == Range(largest, largest, 0, 6)


def test_nan_is_counted_wherever_it_stands():
    for place in range(6):
        x = X.copy()
        x.flat[place] = np.nan
        found = measured("g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }", X, x)
        assert found["y"] == of(-X, -x)
        assert found["y"].nonfinite == 1


def test_where_nothing_is_finite_the_range_is_0_to_0():
    x = np.array([[np.inf, -np.inf, np.nan]] * 2, np.float32)
    assert measured("g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }", x)["y"] == Range(0.0, 0.0, 6, 6)


def test_what_only_moves_elements_has_the_range_of_what_it_moves():
    text = """g (float[2,3] x) => (float[3,2] y) {
        e = Exp(x)  t = Transpose<perm=[1, 0]>(e)  i = Identity(t)  k = Constant<value_ints=[3, 2]>()  r = Reshape(i, k)  y = Neg(r)
    }"""
    found = measured(text, X)
    assert found["e"] == found["t"] == found["i"] == found["r"]
    assert found["y"] == Range(-found["e"].high, -found["e"].low, 0, 6)


def test_what_takes_a_part_is_measured_itself():
    text = "g (float[2,3] x) => (float[1,3] y) <int64[1] i = {0}> { y = Gather<axis=0>(x, i) }"
    assert measured(text, X)["y"] == of(X[:1])


def test_a_scalar_and_a_tensor_of_unknown_rank_are_measured():
    text = """g (float[2,3] x, int64[K] s) => (float y, float z) {
        y = ReduceMax<keepdims=0>(x)  r = Reshape(x, s)  n = Neg(r)  z = ReduceSum<keepdims=0>(n)
    }"""
    found = measured(text, {"x": X, "s": np.array([3, 1, 2])}, {"x": X, "s": np.array([6])})
    assert found["y"] == Range(4.0, 4.0, 0, 2)
    assert found["n"] == of(-X, -X)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 22])
def test_an_empty_tensor_has_no_range_and_does_no_harm(opset):
    text = """g (float[N,3] x) => (float[M,3] y) {
        a = Abs(x)  s = ReduceSum<axes=[1], keepdims=0>(a)  z = Constant<value = float {5}>()  b = Greater(s, z)  y = Compress<axis=0>(x, b)
        n = Neg(y)
    }"""
    text = text if opset < 13 else text.replace("<axes=[1], keepdims=0>(a)", "<keepdims=0>(a, k)")
    text = text.replace("a = Abs", "k = Constant<value = int64[1] {1}>()  a = Abs").replace("n = Neg(y)\n", "")
    found = measured(text, X / 100, opset=opset)
    assert "y" not in found
    assert found["x"] == of(X / np.float32(100))
    assert measured(text, X / 100, X, opset=opset)["y"] == of(X[1:])


def test_samples_may_have_several_shapes():
    found = measured("g (float[N,3] x) => (float[N,3] y) { y = Neg(x) }", X, X[:1])
    assert found["y"] == of(-X, -X[:1])
    assert found["y"].elements == 9


@pytest.mark.parametrize("opset", [9, 13, 22])
def test_the_opset_does_not_matter(opset):
    x = np.array([[1, np.inf, -3]], np.float32)
    assert measured("g (float[N,3] x) => (float[N,3] y) { y = Neg(x) }", x, X, opset=opset)["y"] == of(-x, -X)


def test_in_opset_8_finite_tensors_are_measured_and_others_are_an_error_that_says_what_to_do():
    text = "g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }"
    assert measured(text, X, opset=8)["y"] == of(-X)
    with pytest.raises(
        CalibrationError, match=r"2 tensors cannot be told from what is not\n  where: x, y[\s\S]*opset 9 or later"
    ):
        measured(text, X * np.float32(np.inf), opset=8)


# --- reduced precisions


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_reduced_nodes_round_and_their_tensors_are_measured_as_they_are(kind, dtype):
    to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    text = f"""g (float[2,3] x) => (float[2,3] y) {{
        a = Cast<to={to}>(x)  b = Mul(a, a)  c = Exp(b)  y = Cast<to=1>(c)
    }}"""
    found = measured(text, X / 3, opset=22)
    a = (X / np.float32(3)).astype(dtype)
    b = (a.astype(np.float32) ** 2).astype(dtype)
    assert found.keys() == {"x", "a", "b", "c", "y"}
    assert found["a"] == of(a.astype(np.float32))
    assert found["b"] == of(b.astype(np.float32))
    assert found["c"] == found["y"]


def test_what_overflows_in_fp16_is_counted():
    text = "g (float16[3] x) => (float16[3] y) { y = Mul(x, x) }"
    found = measured(text, np.array([300, 100, -300], np.float16))
    assert found["y"] == Range(10000.0, 10000.0, 2, 3)


def test_a_bf16_input_is_fed_as_fp32():
    text = "g (bfloat16[3] x) => (bfloat16[3] y) { y = Mul(x, x) }"
    found = measured(text, np.array([1.5, -2, 3], np.float32), opset=22)
    assert (found["x"], found["y"]) == (Range(-2.0, 3.0, 0, 3), Range(2.25, 9.0, 0, 3))


# --- bodies


BRANCHES = """g (bool c, float[2,3] x) => (float[2,3] y) {
    y = If(c) <then_branch = t() => (float[2,3] a) { n = Neg(x)  a = Exp(n) },
               else_branch = e() => (float[2,3] b) { m = Abs(x)  b = Mul(m, m) }>
}"""


def test_the_branch_that_does_not_run_has_no_range():
    yes, no = ({"c": np.array(value), "x": X} for value in (True, False))
    assert measured(BRANCHES, yes).keys() == {"x", "y", "n", "a"}
    assert measured(BRANCHES, no).keys() == {"x", "y", "m", "b"}
    both = measured(BRANCHES, yes, no, no)
    assert both["n"] == of(-X)
    assert both["b"] == of(X * X, X * X)
    assert both["y"].elements == 18


def test_an_if_with_one_branch_of_no_floats():
    text = """g (bool c, float[2,3] x) => (int64[2] y) {
        y = If(c) <then_branch = t() => (int64[2] a) { n = Neg(x)  a = Shape(n) },
                   else_branch = e() => (int64[2] b) { b = Constant<value_ints=[1, 2]>() }>
    }"""
    assert measured(text, {"c": np.array(True), "x": X})["n"] == of(-X)
    assert measured(text, {"c": np.array(False), "x": X}).keys() == {"x"}


LOOP = """g (int64 n, float[2,3] x) => (float[2,3] y, float[N,2,3] z) {
    t = Constant<value = bool {1}>()
    y, z = Loop(n, t, x) <body = b(int64 i, bool k, float[2,3] s) => (bool l, float[2,3] d, float[2,3] e) {
        l = Identity(k)  d = Add(s, s)  e = Neg(s)
    }>
}"""


def test_a_loop_is_measured_over_all_its_rounds():
    found = measured(LOOP, {"n": np.array(3), "x": X})
    assert found["s"] == of(X, 2 * X, 4 * X)
    assert found["d"] == of(2 * X, 4 * X, 8 * X)
    assert found["e"] == of(-X, -2 * X, -4 * X)
    assert found["y"] == of(8 * X)
    assert found["z"] == found["e"]


def test_a_loop_of_no_rounds_has_no_range_inside():
    assert measured(LOOP, {"n": np.array(0), "x": X}).keys() == {"x", "y"}


def test_what_becomes_infinite_in_one_round_is_counted_and_the_others_are_not_hidden():
    x = X * np.float32(1e37)
    found = measured(LOOP, {"n": np.array(3), "x": x})
    with np.errstate(over="ignore"):
        assert found["s"] == of(x, 2 * x, 4 * x)
        assert found["d"] == of(2 * x, 4 * x, 8 * x)
    assert (found["s"].nonfinite, found["d"].nonfinite) == (0, 1)  # 2.8e38 is finite, and 5.6e38 is not


@pytest.mark.parametrize("opset", [9, 16, 22])
def test_a_scan_is_measured_over_all_its_steps(opset):
    text = """g (float[3] x0, float[2,3] x) => (float[3] y, float[2,3] z) {
        y, z = Scan<num_scan_inputs=1, body = b(float[3] s, float[3] v) => (float[3] t, float[3] w) { t = Add(s, v)  w = Neg(t) }>(x0, x)
    }"""
    x0 = np.array([1, 2, 3], np.float32)
    found = measured(text, {"x0": x0, "x": X}, opset=opset)
    first, second = x0 + X[0], x0 + X[0] + X[1]
    assert (found["s"], found["v"]) == (of(x0, first), of(X))
    assert (found["t"], found["w"], found["y"]) == (of(first, second), of(-first, -second), of(second))


def test_bodies_inside_bodies_hand_their_numbers_on():
    text = """g (int64 n, float[2,3] x) => (float[2,3] y) {
        t = Constant<value = bool {1}>()  one = Constant<value = int64 {1}>()
        y = Loop(n, t, x) <body = b(int64 i, bool k, float[2,3] s) => (bool l, float[2,3] d) {
            l = Identity(k)  c = Less(i, one)
            d = If(c) <then_branch = p() => (float[2,3] a) { u = Neg(s)  a = Add(u, u) },
                       else_branch = q() => (float[2,3] e) { v = Abs(s)
                           e = Loop(i, k, v) <body = r(int64 j, bool m, float[2,3] w) => (bool o, float[2,3] f) {
                               o = Identity(m)  f = Add(w, w)
                           }>
                       }>
        }>
    }"""
    found = measured(text, {"n": np.array(3), "x": X})
    first = -X - X  # i = 0
    second = np.abs(first) * 2  # i = 1: one round inside
    assert (found["u"], found["a"]) == (of(-X), of(first))
    assert found["v"] == of(np.abs(first), second)
    assert found["w"] == of(np.abs(first), second, 2 * second)
    assert found["f"] == of(second, 2 * second, 4 * second)
    assert found["y"] == of(4 * second)


@settings(derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(models())
def test_ranges_of_random_graphs_are_those_of_their_tensors(model):
    scene = Scene(model)
    pipeline.run(scene.graph, [])
    feeds = [random_feeds(model, seed) for seed in range(2)]
    found = measure(scene.graph, feeds)
    copy = sessions.emulated(scene.graph)
    names = [t.name for n in scene.graph.ir.nodes for t in n.outputs if onnx_type(t) in FLOATS]
    made = {t.name: t for n in copy.ir.nodes for t in n.outputs}
    copy.ir.outputs = [made[name] for name in names]
    if names:
        proto = copy.to_proto()
        copy.weights.inline(proto)
        runs = [outputs(proto, feed) for feed in feeds]
        for name, *arrays in zip(names, *runs, strict=True):
            assert found[name] == of(*arrays), name


# --- what fails


def test_a_node_that_fails_is_named_with_its_sample_and_what_would_help():
    text = (
        "g (int64[2] x) => (float[2,1] y) <float[3,1] w = {1, 2, 3}> { [lookup] a = Gather<axis=0>(w, x)  y = Neg(a) }"
    )
    scene = Scene(text)
    scene.graph.infer_types(strict=False)
    next(iter(scene.graph.nodes())).metadata["torch2trt_onnx.module"] = "model.embeddings"
    with pytest.raises(CalibrationError) as caught:
        measure(scene.graph, [{"x": np.array([0, 1])}, {"x": np.array([0, 7])}])
    error = caught.value
    assert error.what == "the model does not run on sample 2 of the calibration data"
    assert error.where == "Gather 'lookup', model.embeddings"
    assert "idx=7" in error.why
    assert "give samples of the data that it is for as calibration" in error.fix


def test_the_innermost_node_that_fails_is_named():
    text = """g (bool c, int64[2] x) => (float[2] y) <float[3] w = {1, 2, 3}> {
        [choice] y = If(c) <then_branch = t() => (float[2] a) { [lookup] a = Gather<axis=0>(w, x) },
                   else_branch = e() => (float[2] b) { b = Constant<value_floats=[1.0, 2.0]>() }>
    }"""
    with pytest.raises(CalibrationError, match="where: Gather 'lookup'"):
        measured(text, {"c": np.array(True), "x": np.array([0, 7])})


def test_a_model_that_onnx_runtime_cannot_load_is_an_error():
    with pytest.raises(CalibrationError, match="ONNX Runtime cannot load the model"):
        measured("g (float[2,3] x) => (float[2,3] y) { y = com.example.Magic(x) }", X)


def test_what_the_samples_raise_comes_through():
    def samples():
        yield {"x": X}
        raise InputError("no more")

    scene = Scene("g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }")
    scene.graph.infer_types(strict=False)
    with pytest.raises(InputError, match="no more"):
        measure(scene.graph, samples())


# --- how much it costs


CHAIN = """
    import sys, tempfile
    from pathlib import Path
    import numpy as np
    import onnxruntime  # not to be counted
    from onnx import helper
    from torch2trt_onnx.graph import Graph
    from torch2trt_onnx.ranges import measure
    from torch2trt_onnx.weights import WeightStore

    def peak():
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

    blocks, dims = int(sys.argv[1]), [2048, 2048]
    nodes, x = [], "x"
    for i in range(blocks):
        nodes += [helper.make_node("Sin", [x], [f"a{i}"]), helper.make_node("Add", [x, f"a{i}"], [f"b{i}"])]
        x = f"b{i}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, dims)], [value(x, 1, dims)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        graph = Graph(model, WeightStore(Path(folder)))
        graph.infer_types(strict=False)
        x = np.ones(dims, np.float32)
        x[0, 0] = float(sys.argv[2])
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak, which a child has from its parent
        before = peak()
        measure(graph, [{"x": x}] * 2)
        print((peak() - before) / x.nbytes)
"""


@pytest.mark.parametrize("first", ["1", "inf"])
def test_tensors_are_let_go_as_the_run_goes_on(first):
    """Of 80 tensors of 16 MiB, a handful is held at once."""
    words = [sys.executable, "-c", textwrap.dedent(CHAIN), "40", first]
    peak = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert 0 < peak < 20


def test_a_graph_of_n_tensors_gets_few_nodes_and_four_outputs():
    from torch2trt_onnx.passes import MeasureRanges

    count = 100
    nodes = " ".join(f"t{i + 1} = Neg(t{i})" for i in range(count))
    scene = Scene(f"g (float[2,3] t0) => (float[2,3] t{count}) {{ {nodes} }}")
    scene.graph.infer_types(strict=False)
    changes = list(MeasureRanges({f"t{i}" for i in range(count + 1)}).apply(scene.graph))
    scene.graph.tidy()
    assert [c.node for c in changes] == [f"t{i}" for i in range(count + 1)]
    assert len(scene.graph.ir.outputs) == 4
    assert len(scene.graph.ir.nodes) < 4.5 * count
    onnx.checker.check_model(scene.proto(), full_check=True)


def test_types_that_are_no_precision_are_passed_over():
    scene = Scene("g (double[2] x, float[2] z) => (double[2] y) { y = Neg(x)  w = Neg(z) }")
    scene.graph.infer_types(strict=False)
    assert onnx_type(scene.graph.ir.outputs[0]) == TensorProto.DOUBLE
    assert measure(scene.graph, [{"x": np.ones(2), "z": np.ones(2, np.float32)}]).keys() == {"z", "w"}
