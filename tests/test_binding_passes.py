"""The passes that give outputs their types, and int64 bindings to a TensorRT without int64: graphs before and after."""

import numpy as np
import pytest
from graphs import Scene, assert_rewrites, outputs
from onnx import TensorProto

from torch2trt_onnx.errors import ConversionError
from torch2trt_onnx.passes import BindOutputs, NarrowIntegers

CASES = {
    "an output is cast to the type that was asked for": (
        {"y": TensorProto.FLOAT16},
        "g (float[4] x) => (float[4] y) { y = Relu(x) }",
        "g (float[4] x) => (float16[4] y) { v = Relu(x)  y = Cast<to=10>(v) }",
    ),
    "an output that has the type already stays": (
        {"y": TensorProto.FLOAT},
        "g (float[4] x) => (float[4] y) { y = Relu(x) }",
        "g (float[4] x) => (float[4] y) { y = Relu(x) }",
    ),
    "what reads an output inside the graph reads it as it was": (
        {"y": TensorProto.FLOAT16},
        "g (float[4] x) => (float[4] y, float[4] z) { y = Relu(x)  z = Exp(y) }",
        "g (float[4] x) => (float16[4] y, float[4] z) { v = Relu(x)  z = Exp(v)  y = Cast<to=10>(v) }",
    ),
    "one of several outputs of a node": (
        {"values": TensorProto.FLOAT16},
        "g (float[4] x, int64[1] k) => (float[N] values, int64[N] indices) { values, indices = TopK(x, k) }",
        """g (float[4] x, int64[1] k) => (float16[N] values, int64[N] indices) {
            v, indices = TopK(x, k)  values = Cast<to=10>(v) }""",
    ),
}


@pytest.mark.parametrize(("types", "before", "after"), CASES.values(), ids=CASES)
def test_bind_outputs(types, before, after):
    assert_rewrites(before, after, [BindOutputs(types)], same_bindings=False, numbers=False)


def test_bind_outputs_rounds_the_numbers_and_does_nothing_else():
    scene = Scene(CASES["an output is cast to the type that was asked for"][1])
    given = {"x": np.array([0.1, -1, 70000, 3e-8], np.float32)}
    (before,) = outputs(scene.source, given)
    scene.run(BindOutputs({"y": TensorProto.FLOAT16}))
    (after,) = outputs(scene.proto(), given)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(after, before.astype(np.float16))


def test_narrow_integers_lets_int64_bindings_be_int32_and_keeps_the_numbers():
    before = "g (int64[4] i, float[9] t) => (float[4] y, int64[4] z) { y = Gather(t, i)  z = Add(i, i) }"
    after = """g (int32[4] i, float[9] t) => (float[4] y, int32[4] z) {
        w = Cast<to=7>(i)  y = Gather(t, w)  v = Add(w, w)  z = Cast<to=6>(v) }"""
    changes = assert_rewrites(before, after, [NarrowIntegers()], same_bindings=False, numbers=False)
    assert all(change.warn for change in changes), "the caller must pass another type than the model takes"
    scene = Scene(before)
    given = {"i": np.array([0, 3, 8, 1]), "t": np.arange(9, dtype=np.float32)}
    expected = outputs(scene.source, given)
    scene.run(NarrowIntegers())
    found = outputs(scene.proto(), {**given, "i": given["i"].astype(np.int32)})
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_narrow_integers_names_what_int32_cannot_hold_and_who_reads_it():
    scene = Scene("g (int64[1] i) => (int64[1] y) <int64[1] big = {1099511627776}> { y = Add(i, big) }")
    with pytest.raises(ConversionError, match=r"'big' has 1 such values .one is 1099511627776., read by Add"):
        scene.run(NarrowIntegers())


def test_narrow_integers_lets_slice_say_to_the_end():
    text = """g (float[4] x) => (float[N] y) <int64[1] zero = {0}, int64[1] end = {9223372036854775807}> { y = Slice(x, zero, end) }"""
    assert_rewrites(text, text, [NarrowIntegers()], same_bindings=False)
