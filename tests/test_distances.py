"""Two versions of a graph in one session, against each of them alone and NumPy."""

import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import onnx
import pytest
from graphs import OPSET, Scene, outputs
from hypothesis import HealthCheck, given, settings
from random_graphs import models, random_feeds

from torch2trt_onnx import pipeline, sessions
from torch2trt_onnx.distances import distances
from torch2trt_onnx.graph import PREFIX
from torch2trt_onnx.passes import CompareTwin, Retype
from torch2trt_onnx.precision import label
from torch2trt_onnx.ranges import Range
from torch2trt_onnx.typecheck import compute_type, onnx_type, retyping

FP32, FP16, BF16 = 1, 10, 16
X = np.array([[1.1, -2.3, 0.25], [4.7, 300.0, -7.9]], np.float32)


def narrowed(scene, to):
    """A copy of a graph with every node in a type that can run in it."""
    copy = sessions.emulated(scene.graph)
    for node in copy.nodes():
        if node.op != "Cast" and compute_type(node) == FP32 and not isinstance(retyping(node, to, copy.opset), str):
            node.metadata[f"{PREFIX}precision"] = label(to)
    pipeline.run(copy, [Retype()])
    return copy


def compared(text, *samples, to=FP16, arrays=None, opset=OPSET):
    """The distances of a graph in fp32 and in another type, on samples that are each the array of `x` or a mapping."""
    scene = Scene(text, arrays, opset)
    pipeline.run(scene.graph, [])
    return distances(scene.graph, narrowed(scene, to), [s if isinstance(s, dict) else {"x": s} for s in samples])


def half(array):
    return np.asarray(array, np.float32).astype(np.float16).astype(np.float32)


def test_the_error_of_a_tensor_is_what_rounding_its_inputs_and_it_makes():
    found = compared("g (float[2,3] x) => (float[2,3] y) { a = Neg(x)  b = Mul(a, a)  y = Sqrt(b) }", X / 10, X / 30)
    errors = []
    for x in (X / 10, X / 30):
        a = half(-x)
        b = half(a * a)
        errors.append([np.abs(a + x).max(), np.abs(b - x * x).max(), np.abs(half(np.sqrt(b)) - np.sqrt(x * x)).max()])
    expected = np.max(errors, 0)
    assert [found[name].error for name in "aby"] == pytest.approx(expected, rel=1e-4)
    assert found["b"].relative == pytest.approx(expected[1] / np.square(X / 10).max(), rel=1e-4)
    assert found["x"].error == 0.0


def test_what_overflows_breaks_and_the_finite_rest_is_compared():
    found = compared("g (float[2,3] x) => (float[2,3] y) { y = Mul(x, x) }", X)
    assert found["y"].breaks
    assert (found["y"].first.nonfinite, found["y"].second.nonfinite) == (0, 1)
    finite = np.delete(X.reshape(-1), 4)
    assert found["y"].error == pytest.approx(np.abs(half(half(finite) ** 2) - finite**2).max(), rel=1e-4)


def test_equal_infinities_are_no_difference():
    arrays = {"m": np.array([0, -np.inf, 0], np.float32)}
    found = compared("g (float[2,3] x) => (float[2,3] y) { y = Add(x, m) }", X, arrays=arrays)
    assert not found["y"].breaks
    assert (found["y"].first.nonfinite, found["y"].second.nonfinite) == (2, 2)
    assert found["y"].error < 1e-2


def test_bf16_rounds_to_its_own_numbers():
    found = compared("g (float[2,3] x) => (float[2,3] y) { y = Mul(x, x) }", X, to=BF16, opset=22)
    x = X.astype(ml_dtypes.bfloat16).astype(np.float32)
    expected = np.abs((x * x).astype(ml_dtypes.bfloat16).astype(np.float32) - X * X).max()
    assert found["y"].error == pytest.approx(expected, rel=1e-4)


def test_both_versions_take_the_same_branch_and_find_the_same_indices():
    """300.1 and 300 are one number in fp16, so that alone it would choose otherwise, and find no element."""
    text = """g (float[2] x) => (float[K,2] y, float z) <float[1] edge = {300.05}> {
        b = Greater(x, edge)  n = NonZero(b)  i = Transpose<perm=[1, 0]>(n)  f = Cast<to=1>(i)  y = Expand(f, s)
        s = Constant<value = int64[2] {1, 2}>()  k = Constant<value = int64 {0}>()  c = Gather(b, k)
        z = If(c) <then_branch = t() => (float p) { p = Constant<value = float {1.0}>() },
                   else_branch = e() => (float q) { q = Constant<value = float {2.0}>() }>
    }"""
    found = compared(text, np.array([300.1, 1], np.float32))
    assert found["f"].first == found["f"].second == Range(0.0, 0.0, 0, 1)
    assert found["z"].first == found["z"].second == Range(1.0, 1.0, 0, 1)


def test_of_integer_outputs_the_share_of_elements_that_differ_is_told():
    text = "g (float[2,2] x) => (int64[2] y, bool[2,2] z) <float e = {300.05}> { y = ArgMax<axis=1, keepdims=0>(x)  z = Greater(x, e) }"
    found = compared(text, np.array([[300.0, 300.1], [1, 2]], np.float32))
    assert (found["y"].error, found["y"].relative) == (0.5, 0.5)
    assert found["z"].relative == 0.25


def test_integer_outputs_whose_shape_depends_on_the_data_are_passed_over():
    assert "y" not in compared("g (float[3] x) => (int64[1,K] y) { a = Neg(x)  y = NonZero(a) }", X[0])


def test_random_numbers_are_the_same_in_both():
    found = compared("g (float[2,3] x) => (float[2,3] y) { r = RandomNormalLike(x)  y = Add(x, r) }", X / 10)
    assert 0 < found["y"].relative < 2e-3


def test_in_bodies_both_ranges_are_told_and_no_errors():
    text = """g (int64 n, float[2,3] x) => (float[2,3] y) {
        t = Constant<value = bool {1}>()
        y = Loop(n, t, x) <body = b(int64 i, bool k, float[2,3] s) => (bool l, float[2,3] d) { l = Identity(k)  d = Mul(s, s) }>
    }"""
    found = compared(text, {"n": np.array(2), "x": X / 10})
    assert found["d"].error is None
    assert found["d"].first.high == pytest.approx(30.0**4, rel=1e-4)
    assert (found["d"].first.nonfinite, found["d"].second.nonfinite) == (0, 1)
    assert found["y"].breaks


def test_a_graph_with_types_of_its_own_is_compared_with_it_in_fp32():
    scene = Scene("g (float[2,3] x) => (float[2,3] y) { h = Cast<to=10>(x)  s = Mul(h, h)  y = Cast<to=1>(s) }")
    pipeline.run(scene.graph, [])
    exact = sessions.emulated(scene.graph)
    for node in exact.nodes():
        node.metadata[f"{PREFIX}precision"] = "fp32"
    pipeline.run(exact, [Retype()])
    found = distances(exact, scene.graph, [{"x": X / 10}])
    assert found["s"].error == pytest.approx(np.abs(half(half(X / 10) ** 2) - (X / 10) ** 2).max(), rel=1e-4)


@pytest.mark.parametrize("opset", [9, 13, 22])
def test_the_opset_does_not_matter(opset):
    found = compared("g (float[N,3] x) => (float[N,3] y) { y = Mul(x, x) }", X, X[:1], opset=opset)
    assert found["y"].second.nonfinite == 1
    assert found["y"].first.elements == 9


@settings(derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(models())
def test_distances_of_random_graphs_are_those_of_both_versions_apart(model):
    scene = Scene(model)
    pipeline.run(scene.graph, [])
    exact = sessions.emulated(scene.graph)
    for node in exact.nodes():
        if compute_type(node):
            node.metadata[f"{PREFIX}precision"] = "fp32"
    pipeline.run(exact, [Retype()])
    feeds = [random_feeds(model, seed) for seed in range(2)]
    found = distances(exact, scene.graph, feeds)
    names = [t.name for n in exact.ir.nodes for t in n.outputs if onnx_type(t) == FP32]
    kept = [name for name in names if name in found]
    firsts = values(exact, kept, feeds)
    seconds = values(scene.graph, kept, feeds)
    for place, name in enumerate(kept):
        pairs = zip(firsts, seconds, strict=True)
        errors = [np.abs(a[place].astype(np.float32) - b[place].astype(np.float32)).max() for a, b in pairs]
        assert found[name].error == pytest.approx(max(errors), abs=1e-6), name


def values(graph, names, feeds):
    """What some tensors of a graph are for each of some feeds, as it computes alone; integers decide nothing of them here."""
    copy = sessions.emulated(graph)
    made = {t.name: t for n in copy.ir.nodes for t in n.outputs}
    copy.ir.outputs = [made[name] for name in names]
    proto = copy.to_proto()
    copy.weights.inline(proto)
    return [outputs(proto, feed) if names else [] for feed in feeds]


def test_what_is_compared_stands_together_and_the_result_is_a_valid_graph():
    nodes = " ".join(f"t{i + 1} = Sin(t{i})" for i in range(50))
    scene = Scene(f"g (float[2,3] t0) => (float[2,3] t50) {{ {nodes} }}")
    pipeline.run(scene.graph, [])
    twin = sessions.emulated(narrowed(scene, FP16))
    changes = list(CompareTwin(twin).apply(scene.graph))
    assert [c.node for c in changes] == [f"t{i + 1}" for i in range(50)]
    order = [node.op for node in scene.graph.ir.nodes]
    assert all("Sub" in order[start : start + 15] for start in range(0, len(order) - 15, 5))
    onnx.checker.check_model(scene.proto(), full_check=True)


CHAIN = """
    import sys, tempfile
    from pathlib import Path
    import numpy as np
    import onnxruntime  # not to be counted
    from onnx import helper
    from torch2trt_onnx.diagnosis import debug

    def peak():
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

    dims, nodes, x = [2048, 2048], [], "x"
    for i in range(int(sys.argv[1])):
        nodes += [helper.make_node("Sin", [x], [f"a{i}"]), helper.make_node("Add", [x, f"a{i}"], [f"b{i}"])]
        x = f"b{i}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, dims)], [value(x, 1, dims)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = np.ones(dims, np.float32)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak, which a child has from its parent
    before = peak()
    debug(model, calibration=[{"x": x}])
    print((peak() - before) / x.nbytes)
"""


def test_tensors_are_let_go_as_the_run_goes_on():
    """Of 40 tensors of 16 MiB and as many twins, a handful is held at once."""
    words = [sys.executable, "-c", textwrap.dedent(CHAIN), "20"]
    peak = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert 0 < peak < 20
