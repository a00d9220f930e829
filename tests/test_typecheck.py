"""What is called ill-typed, in which words, and what is not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphs import Scene

H4 = np.ones((1, 1, 1, 1), np.float16)
ARRAYS = {
    "h": np.ones(2, np.float16),
    "hh": np.ones((2, 2), np.float16),
    "hw": H4,
    "bw": H4.astype(ml_dtypes.bfloat16),
    "hs": np.array(1, np.float16),
}
IMAGE = "float16[1,1,4,4] x"


def problems(text, opset=20):
    scene = Scene(text, ARRAYS, opset)
    scene.graph.tidy()
    scene.graph.infer_types(strict=False)
    return list(map(str, scene.graph.type_problems()))


ILL = {
    "Conv with an fp16 weight and an fp32 bias": (
        f"g ({IMAGE}) => (float16[1,1,4,4] y) <float[1] b = {{0}}> {{ y = Conv(x, hw, b) }}",
        "Conv 'Conv_y': 'x' is fp16 and 'b' is fp32; both must have one type (T)",
    ),
    "Add of fp16 and fp32": (
        "g (float[2] x) => (float[2] y) { y = Add(h, x) }",
        "Add 'Add_y': 'h' is fp16 and 'x' is fp32; both must have one type (T)",
    ),
    "MatMul of fp32 and fp16": (
        "g (float[2,2] x) => (float[2,2] y) { y = MatMul(x, hh) }",
        "MatMul 'MatMul_y': 'x' is fp32 and 'hh' is fp16; both must have one type (T)",
    ),
    "Clip of fp16 with fp32 bounds": (
        "g (float16[2] x) => (float16[2] y) <float a = {0}, float b = {6}> { y = Clip(x, a, b) }",
        "Clip 'Clip_y': 'x' is fp16 and 'a' is fp32; both must have one type (T)",
    ),
    "Clip of fp16 with one fp32 bound behind an omitted one": (
        "g (float16[2] x) => (float16[2] y) <float b = {6}> { y = Clip(x, , b) }",
        "Clip 'Clip_y': 'x' is fp16 and 'b' is fp32; both must have one type (T)",
    ),
    "Pad of fp32 with an fp16 value": (
        "g (float[2] x) => (float[4] y) <int64[2] p = {1, 1}> { y = Pad(x, p, hs) }",
        "Pad 'Pad_y': 'x' is fp32 and 'hs' is fp16; both must have one type (T)",
    ),
    "Concat of fp32 and fp16": (
        "g (float[2] x) => (float[4] y) { y = Concat<axis=0>(x, h) }",
        "Concat 'Concat_y': 'x' is fp32 and 'h' is fp16; both must have one type (T)",
    ),
    "Where with branches of two types": (
        "g (bool[2] c, float[2] x) => (float[2] y) { y = Where(c, x, h) }",
        "Where 'Where_y': 'x' is fp32 and 'h' is fp16; both must have one type (T)",
    ),
    "bf16 Conv, which opset 21 does not have": (
        "g (bfloat16[1,1,4,4] x) => (bfloat16[1,1,4,4] y) { y = Conv(x, bw) }",
        "Conv 'Conv_y': 'x' is bf16, which Conv takes not in opset 21",
    ),
    "a condition that is no bool": (
        "g (float[2] c, float[2] x) => (float[2] y) { y = Where(c, x, x) }",
        "Where 'Where_y': 'c' is fp32, which Where takes not in opset 20",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ILL.values(), ids=ILL)
def test_ill_typed(case):
    text, expected = case
    assert problems(text, 21 if "opset 21" in expected else 20) == [expected]


def test_bf16_conv_of_opset_22_is_well_typed():
    assert problems("g (bfloat16[1,1,4,4] x) => (bfloat16[1,1,4,4] y) { y = Conv(x, bw) }", opset=22) == []


def test_every_ill_typed_node_is_listed_also_in_bodies():
    found = problems(
        """g (bool c, float[2] x) => (float[2] y, float[2] z) { z = Add(x, h)
            y = If(c) <then_branch = t() => (float[2] a) { a = Mul(x, h) }, else_branch = e() => (float[2] b) { b = Sub(h, x) }>
        }"""
    )
    assert sorted(line.split()[0] for line in found) == ["Add", "Mul", "Sub"]


WELL = {
    "a Loop that carries several types": """g (int64 n, float16[2] x, int32[2] i) => (float16[2] y, int32[2] j) {
        y, j = Loop(n, , x, i) <body = b(int64 k, bool c, float16[2] s, int32[2] t) => (bool d, float16[2] u, int32[2] v) {
            d = Identity(c)  u = Relu(s)  v = Add(t, t) }> }""",
    "a Scan": """g (float[2] z, float16[3,2] x) => (float[2] y, float16[3,2] w) {
        y, w = Scan(z, x) <num_scan_inputs=1, body = b(float[2] s, float16[2] t) => (float[2] u, float16[2] v) {
            u = Relu(s)  v = Neg(t) }> }""",
    "an If with outputs of several types": """g (bool c, float16[2] x, int64[2] i) => (float16[2] y, int64[2] j) {
        y, j = If(c) <then_branch = t() => (float16[2] a, int64[2] b) { a = Relu(x)  b = Identity(i) },
                      else_branch = e() => (float16[2] d, int64[2] f) { d = Neg(x)  f = Neg(i) }> }""",
    "BatchNormalization of fp16 with fp32 parameters": """g (float16[1,2,4] x) => (float16[1,2,4] y)
        <float[2] s = {1, 1}, float[2] b = {0, 0}> { y = BatchNormalization(x, s, b, b, s) }""",
    "Where, Cast, Gather, Concat": """g (bool[2] c, float16[2] x, int32[1] i) => (float[3] y) {
        w = Where(c, x, h)  g1 = Gather(w, i)  k = Concat<axis=0>(w, g1)  y = Cast<to=1>(k) }""",
    "Resize of fp16 with fp32 scales": """g (float16[1,1,4,4] x) => (float16[1,1,8,8] y) <float[4] s = {1, 1, 2, 2}> {
        y = Resize(x, , s) }""",
    "LSTM with int32 lengths": """g (float[2,1,3] x, float[1,16,3] w, float[1,16,4] r, int32[1] n) => (float[2,1,1,4] y) {
        y = LSTM<hidden_size=4>(x, w, r, , n) }""",
    "variadic Sum and Max": "g (float16[2] x) => (float16[2] y) { s = Sum(x, h, x)  y = Max(s, h, x) }",
    "Pow of fp32 by int64": "g (float[2] x) => (float[2] y) <int64 e = {2}> { y = Pow(x, e) }",
    "Q/DQ": """g (float[2] x) => (float[2] y) <float s = {0.1}, int8 z = {0}> {
        q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }""",
    "sequences": """g (float16[2] x) => (float16[2] y) <int64 i = {0}> {
        s = SequenceConstruct(x, h)  t = SequenceInsert(s, x)  y = SequenceAt(t, i) }""",
    "an operator of another domain": "g (float[2] x) => (float[2] y) { v = com.example.Odd(x, h)  y = Relu(x) }",
}  # fmt: skip


@pytest.mark.parametrize("text", WELL.values(), ids=WELL)
def test_well_typed(text):
    assert problems(text) == []
