"""How much each node computes, against numbers counted by hand."""

import numpy as np
import onnx
import pytest
from graphs import Scene, parse

from torch2trt_onnx.work import costs, work

# Each counts one operator: the graph, and its multiplications.
CASES = {
    "a convolution: each of 2x8x5x5 results needs 3x3x3 products": (
        "g (float[2,3,5,5] x, float[8,3,3,3] w) => (float[2,8,5,5] y) { y = Conv<pads=[1,1,1,1]>(x, w) }",
        2 * 8 * 5 * 5 * 3 * 3 * 3,
    ),
    "a convolution of four groups: each result needs the two channels of its own group": (
        "g (float[1,8,5,5] x, float[4,2,3,3] w) => (float[1,4,3,3] y) { y = Conv<group=4>(x, w) }",
        4 * 3 * 3 * 2 * 3 * 3,
    ),
    "a transposed convolution: each of 3x4x4 numbers goes to 6x2x2 places": (
        "g (float[1,3,4,4] x, float[3,6,2,2] w) => (float[1,6,8,8] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
        3 * 4 * 4 * 6 * 2 * 2,
    ),
    "a Gemm": ("g (float[4,5] x, float[5,6] w) => (float[4,6] y) { y = Gemm(x, w) }", 4 * 5 * 6),
    "a Gemm that transposes both": (
        "g (float[5,4] x, float[6,5] w) => (float[4,6] y) { y = Gemm<transA=1, transB=1>(x, w) }",
        4 * 5 * 6,
    ),
    "products of a batch of matrices with one": (
        "g (float[7,2,3] x, float[3,4] w) => (float[7,2,4] y) { y = MatMul(x, w) }",
        7 * 2 * 3 * 4,
    ),
    "a product of two vectors": ("g (float[9] x, float[9] w) => (float y) { y = MatMul(x, w) }", 9),
    "an Einsum: all its indices": (
        'g (float[2,3,4] x, float[2,4,5] w) => (float[2,3,5] y) { y = Einsum<equation="bij, bjk -> bik">(x, w) }',
        2 * 3 * 4 * 5,
    ),
    "an Einsum with dots, which are broadcast": (
        'g (float[6,1,3,4] x, float[7,4,5] w) => (float[6,7,3,5] y) { y = Einsum<equation="...ij,...jk">(x, w) }',
        6 * 7 * 3 * 4 * 5,
    ),
    "an Einsum of three operands multiplies twice": (
        'g (float[2,3] x, float[3,4] w, float[4,5] v) => (float[2,5] y) { y = Einsum<equation="ij,jk,kl->il">(x, w, v) }',
        2 * 3 * 4 * 5 * 2,
    ),
    "an LSTM of both directions: six steps of a batch of 2 through four gates": (
        """g (float[6,2,3] x, float[2,20,3] w, float[2,20,5] r) => (float[6,2,2,5] y) {
            y = LSTM<hidden_size=5, direction="bidirectional">(x, w, r) }""",
        6 * 2 * 2 * 4 * 5 * (3 + 5),
    ),
    "a GRU has three gates": (
        "g (float[6,2,3] x, float[1,15,3] w, float[1,15,5] r) => (float[6,1,2,5] y) { y = GRU<hidden_size=5>(x, w, r) }",
        6 * 2 * 3 * 5 * (3 + 5),
    ),
    "an RNN has one": (
        "g (float[6,2,3] x, float[1,5,3] w, float[1,5,5] r) => (float[6,1,2,5] y) { y = RNN<hidden_size=5>(x, w, r) }",
        6 * 2 * 5 * (3 + 5),
    ),
    "attention: eight queries with ten keys, and the values": (
        "g (float[2,3,8,4] q, float[2,3,10,4] k, float[2,3,10,6] v) => (float[2,3,8,6] y) { y = Attention(q, k, v) }",
        2 * 3 * 8 * 10 * (4 + 6),
    ),
    "attention with the heads in one axis, and with keys of the past": (
        """g (float[2,8,12] q, float[2,10,12] k, float[2,10,18] v, float[2,3,5,4] pk, float[2,3,5,6] pv)
            => (float[2,8,18] y, float[2,3,15,4] nk, float[2,3,15,6] nv) {
            y, nk, nv = Attention<q_num_heads=3, kv_num_heads=3>(q, k, v, "", pk, pv) }""",
        2 * 3 * 8 * 15 * (4 + 6),
    ),
}


def macs(graph, shapes):
    return {name: cost.macs for name, cost in costs(graph, shapes).items()}


@pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in CASES.items()])
def test_a_matrix_operator_counts(case):
    text, expected = case
    scene = Scene(parse(text, opset=23))
    assert list(macs(scene.graph, {}).values()) == [expected]
    assert list(work(scene.graph, {}).values()) == [expected]


def test_what_multiplies_no_matrices_counts_what_it_makes_and_has_no_products():
    scene = Scene(
        """g (float[2,3] x) => (float[2,3] y, float[2,1] a, float[3] b) <int64[1] two = {2}> {
        y = Exp(x)  a, c = Split<axis=1>(x, sizes)  b = Einsum<equation="ij->j">(x) }""",
        {"sizes": np.array([1, 2])},
    )
    assert list(macs(scene.graph, {}).values()) == [0, 0, 0]
    assert list(work(scene.graph, {}).values()) == [6, 2 + 4, 3]


def test_dynamic_dimensions_have_the_sizes_that_are_given_whatever_the_outputs_declare():
    scene = Scene("g (float[N,3,H,W] x, float[8,3,1,1] w) => (float[N,8,7,7] y) { y = Conv(x, w) }")
    before = scene.graph.to_proto()
    assert macs(scene.graph, {"x": (2, None, 5, 5)}) == {"Conv_y": 2 * 8 * 5 * 5 * 3}
    assert macs(scene.graph, {}) == {"Conv_y": 8 * 3}
    assert scene.graph.to_proto() == before


def test_a_shape_that_is_computed_is_followed():
    text = """g (float[N,6] x, float[2,4] w) => (float[A,B,4] y) {
        n = Shape<start=0, end=1>(x)  s = Concat<axis=0>(n, rest)  a = Reshape(x, s)  y = MatMul(a, w) }"""
    scene = Scene(text, {"rest": np.array([3, 2])})
    scene.run()  # with the shapes that are known without any size
    assert macs(scene.graph, {"x": (5, 6)})["MatMul_y"] == 5 * 3 * 2 * 4


def test_nodes_of_bodies_count_once_each():
    scene = Scene("""g (bool c, float[2,3] x, float[3,3] w) => (float[2,3] y, float[2,3] z) <int64 n = {9}> {
        y = If(c) <then_branch = t() => (float[2,3] a) { a = MatMul(x, w) },
                   else_branch = e() => (float[2,3] b) { b = Exp(x) }>
        z = Loop(n, "", x) <body = l(int64 i, bool k, float[2,3] s) => (bool g, float[2,3] p) {
            g = Identity(k)  p = MatMul(s, w) }> }""")
    found = macs(scene.graph, {})
    assert found["MatMul_a"] == found["MatMul_p"] == 2 * 3 * 3
    assert work(scene.graph, {})["Exp_b"] == 6


def test_large_weights_are_not_read():
    weight = onnx.numpy_helper.from_array(np.zeros((500, 400), np.float32), "w")
    model = parse("g (float[N,500] x) => (float[N,400] y) { y = MatMul(x, w) }")
    model.graph.initializer.append(weight)
    scene = Scene(model)
    scene.weights.path.unlink()
    assert macs(scene.graph, {"x": (3, 500)}) == {"MatMul_y": 3 * 500 * 400}
