"""Which node a reduced precision breaks first, why, how to mend it, and when precision is not to blame."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import SmallNet
from graphs import outputs as onnx_outputs
from graphs import parse
from torch import nn

from torch2trt_onnx import Input, convert
from torch2trt_onnx.diagnosis import ELSEWHERE, NOTHING, PRECISION, debug
from torch2trt_onnx.errors import CalibrationError, InputError, PrecisionError

SQUARE = "g (float[3] x) => (float[3] y) { a = Neg(x)  [square] b = Mul(a, a)  [root] y = Sqrt(b) }"
HOT = [{"x": np.array([1, 2, 300], np.float32)}]


def sample(**arrays):
    return [{name: np.asarray(values, np.float32) for name, values in arrays.items()}]


# --- what breaks


def test_an_overflow_is_named_with_the_value_that_fp16_cannot_hold():
    found = debug(parse(SQUARE), calibration=HOT)
    assert found.verdict == PRECISION
    assert (found.culprit.name, found.culprit.op) == ("square", "Mul")
    assert found.culprit.reason == "the largest value of its output is 90000 in fp32, and fp16 holds 65504 at most"
    (read,) = found.culprit.inputs
    assert (read.name, read.low, read.high, read.error, read.is_initializer) == ("a", -300, -1, 0, False)
    assert (found.culprit.low, found.culprit.high, found.culprit.error) == (1, 90000, float("inf"))
    assert found.outputs == {"y": float("inf")}
    assert found.drifting is None
    assert found.words == f"Mul 'square': {found.culprit.reason}"


def test_bf16_holds_it():
    found = debug(parse(SQUARE, opset=22), precision="bf16", calibration=HOT)
    assert (found.verdict, found.precision) == (NOTHING, "bf16")


def test_the_nodes_that_make_or_read_what_is_too_large_are_to_be_kept_in_fp32_and_that_mends_it():
    found = debug(parse(SQUARE), calibration=HOT)
    assert [rule.to_json() for rule in found.rules] == [
        {"name": "square", "precision": "fp32"},
        {"name": "root", "precision": "fp32"},
    ]
    assert found.mended


def test_convert_takes_these_rules():
    text = (
        SQUARE.replace("y)", "z)")
        .replace(" }", "  z = MatMul(y, w) }")
        .replace(" {", " <float[3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {")
    )
    rules = debug(parse(text), calibration=HOT).rules
    done = convert(parse(text), None, {"fp16", "fp32"}, rules=rules, calibration=False, backend="none")
    assert [(n.op, n.precision) for n in done.plan.nodes if n.op != "Cast"][1:3] == [("Mul", "fp32"), ("Sqrt", "fp32")]
    (y,) = onnx_outputs(done.onnx, HOT[0])
    assert np.isfinite(y).all()


def test_an_input_that_is_too_large_is_named():
    model = parse("g (float[2] x) => (float[2] y) { [half] y = Mul(x, w)  w = Constant<value = float {0.5}>() }")
    found = debug(model, calibration=sample(x=[1, 1e5]))
    assert found.culprit.name == "half"
    assert found.culprit.reason == "it reads 'x', whose largest value is 100000 in fp32, and fp16 holds 65504 at most"


def test_an_initializer_that_becomes_infinite_is_named():
    model = parse("g (float[2] x) => (float[2] y) <float[2] big = {1e6, 1}> { a = Abs(x)  [scale] y = Mul(a, big) }")
    found = debug(model, calibration=sample(x=[1e-4, 1e-4]))
    assert found.culprit.name == "scale"
    assert found.culprit.reason == "its initializer 'big': 1 of 2 values become infinite (the largest is 1e+06)"
    weight = found.culprit.inputs[1]
    assert (weight.name, weight.low, weight.high, weight.error, weight.is_initializer) == (
        "big",
        1,
        1e6,
        float("inf"),
        True,
    )


def test_a_division_by_what_rounding_made_zero_is_told():
    model = parse("g (float[1] x) => (float[1] y) { a = Mul(x, x)  [ratio] y = Div(x, a) }")
    found = debug(model, calibration=sample(x=[1e-4]))
    assert found.broken.name == "ratio"
    assert found.broken.reason == "the smallest value of 'a' is 1e-08 in fp32, and 0 in fp16, and it divides by it"


def test_a_node_in_the_body_of_an_if_is_found():
    model = parse(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] p) { [hot] h = Mul(x, x)  p = Sqrt(h) },
                        else_branch = e () => (float[2] q) { q = Neg(x) }>
        }"""
    )
    data = [{"c": np.array(True), "x": np.array([300, 1], np.float32)}]
    found = debug(model, calibration=data)
    assert (found.culprit.name, found.culprit.op) == ("hot", "Mul")
    assert "is 90000 in fp32, and fp16 holds 65504" in found.culprit.reason
    assert found.mended
    assert debug(model, calibration=[{**data[0], "c": np.array(False)}]).verdict == NOTHING


def test_a_node_in_a_loop_inside_a_branch_is_found():
    model = parse(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] p) {
                    n = Constant<value = int64 {4}>()
                    p = Loop(n, c, x) <body = b(int64 i, bool k, float[2] s) => (bool l, float[2] d) {
                        l = Identity(k)  [hot] d = Mul(s, s)
                    }>
                }, else_branch = e () => (float[2] q) { q = Neg(x) }>
        }"""
    )
    found = debug(model, calibration=[{"c": np.array(True), "x": np.array([3, 1], np.float32)}])
    assert found.culprit.name == "hot"
    assert f"is {3**16} in fp32" in found.culprit.reason.replace("4.30467e+07", str(3**16))


def test_the_infinities_of_a_mask_are_no_alarm():
    text = "g (float[2, 3] x, bool[2, 3] m) => (float[2, 3] y) <float floor = {%s}> { s = Where(m, x, floor)  y = Softmax(s) }"
    data = [{"x": np.ones((2, 3), np.float32), "m": np.array([[1, 0, 1], [1, 1, 0]], bool)}]
    for floor in ("-inf", "-3.4e38"):  # the second becomes infinite in fp16, and no output knows
        assert debug(parse(text % floor), calibration=data).verdict == NOTHING


def test_what_goes_wrong_and_reaches_no_output_is_not_the_culprit():
    """The mean of numbers around zero has a large relative error, and the infinities of the mask are meant."""
    model = parse(
        """g (float[4] x) => (float[4] y) <float[4] mask = {0, -1e9, 0, 0}> {
            [mean] m = ReduceMean<keepdims=1>(x)  c = Sub(x, m)  [mask] s = Add(c, mask)  p = Softmax(s)
            q = Add(p, c)  [square] b = Mul(q, q)  [again] y = Mul(b, b)
        }"""
    )
    found = debug(model, calibration=sample(x=[40.0, -40.1, 20.03, -19.93]))
    assert found.culprit.name == "again"


def test_the_module_and_the_line_are_named_for_a_model_of_pytorch():
    class Square(nn.Module):
        def forward(self, x):
            return x * x

    net = nn.Sequential(nn.Identity(), Square(), nn.Sigmoid())
    found = debug(net, [torch.ones(3)], calibration=[[torch.tensor([1.0, 2.0, 300.0])]])
    assert found.verdict == NOTHING, "the sigmoid of infinity is 1"
    found = debug(
        nn.Sequential(nn.Identity(), Square()), [torch.ones(3)], calibration=[[torch.tensor([1.0, 2.0, 300.0])]]
    )
    assert (found.culprit.op, found.culprit.module) == ("Mul", "1")
    assert "test_debug.py:" in found.culprit.source
    assert f"Mul {found.culprit.name!r} (module 1, " in found.words


# --- what drifts


def test_a_cancellation_is_named_and_the_addition_before_it_is_in_the_chain():
    model = parse(
        "g (float[4] x) => (float[4] y) <float big = {1000}> { [shift] a = Add(x, big)  [cancel] y = Sub(a, big) }"
    )
    found = debug(model, calibration=sample(x=[0.1, 0.2, 0.3, 0.4]))
    assert found.verdict == PRECISION and found.broken is None
    assert found.drifting.name == "cancel"
    exact = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    rounded = (exact.astype(np.float16) + np.float16(1000)).astype(np.float16) - np.float16(1000)
    error = float(np.abs(rounded - exact).max() / 0.4)
    assert found.outputs["y"] == pytest.approx(error, rel=0.02)
    assert found.drifting.reason.endswith(f"to {error:.2g}: numbers that are nearly equal, up to 1e+03, cancel to 0.4")
    assert [step.name for step in found.chain] == ["shift", "cancel"]
    assert [rule.name for rule in found.rules] == ["cancel", "shift"] and found.mended


def test_a_large_angle_is_named():
    found = debug(
        parse("g (float[2] x) => (float[2] y) { a = Mul(x, x)  [wave] y = Sin(a) }"), calibration=sample(x=[70.1, 70.3])
    )
    assert found.drifting.name == "wave"
    assert "it reads angles up to 4.94e+03, which fp16 rounds by up to 2.4" in found.drifting.reason


def test_a_loss_of_an_initializer_is_named():
    model = parse("g (float[2] x) => (float[2] y) <float[2] w = {3e-8, 4e-8}> { a = Abs(x)  [small] y = Mul(a, w) }")
    found = debug(model, calibration=sample(x=[1e4, 1e4]))
    assert found.drifting.name == "small"
    assert "its initializer 'w': fp16 changes it by" in found.drifting.reason


def test_a_result_that_is_too_small_is_named():
    found = debug(parse("g (float[2] x) => (float[2] y) { [tiny] y = Mul(x, x) }"), calibration=sample(x=[3e-4, 2e-4]))
    assert found.drifting.name == "tiny"
    assert found.drifting.reason.endswith("its largest value is 9e-08, where fp16 has few bits")


def test_an_index_that_comes_out_otherwise_is_told_as_a_share():
    found = debug(parse("g (float[1,2] x) => (int64[1] y) { a = Exp(x)  [pick] y = ArgMax<axis=1, keepdims=0>(a) }"),
                  calibration=sample(x=[[1.0001, 1.0002]]))  # fmt: skip
    assert found.outputs == {"y": 1.0}
    assert found.culprit.name == "pick"
    assert "it takes a step where numbers are nearer to each other than they are rounded" in found.culprit.reason


def test_within_the_tolerance_nothing_is_wrong_and_the_error_is_told():
    model, data = parse("g (float[4] x) => (float[4] y) { y = Tanh(x) }"), sample(x=[0.1, 0.2, 0.3, 1])
    found = debug(model, calibration=data)
    assert found.verdict == NOTHING and found.culprit is None and not found.rules
    assert 0 < found.outputs["y"] < 1e-3
    assert found.words == f"on 1 given sample the largest relative error of an output is {found.outputs['y']:.2g}"
    assert debug(model, calibration=data, tolerance=1e-6).verdict == PRECISION


def test_on_random_numbers_it_says_that_real_ones_may_tell_more():
    found = debug(
        parse("g (float[n] x) => (float[n] y) { y = Exp(x) }"), [Input(min_shape=(1,), opt_shape=(4,), max_shape=(8,))]
    )
    assert found.data == "1 random sample"
    assert found.words.endswith("; give data that the model goes wrong on as calibration")


# --- models with precisions of their own


TYPED = "g (float[2] x) => (float[2] y) { h = Cast<to = 10>(x)  [hot] s = Mul(h, h)  [back] y = Cast<to = 1>(s) }"


def test_a_model_that_has_its_own_precisions_is_judged_as_it_is():
    found = debug(parse(TYPED), calibration=sample(x=[1, 300]))
    assert (found.precision, found.culprit.name) == ("as it is", "hot")
    assert "fp16 holds 65504 at most" in found.culprit.reason
    assert debug(parse(TYPED), calibration=sample(x=[1, 3])).verdict == NOTHING


def test_a_mixed_model_of_pytorch_is_no_departure():
    found = debug(SmallNet(), [torch.ones(1, 3, 8, 8)], calibration=[[torch.randn(1, 3, 8, 8)]])
    assert (found.verdict, found.precision) == (NOTHING, "as it is")


def test_a_saved_folder_is_judged_by_its_graph(tmp_path):
    convert(parse(SQUARE), None, "fp16", strict=True, backend="none", calibration=False).save(tmp_path)
    found = debug(tmp_path, calibration=HOT)
    assert (found.precision, found.culprit.op) == ("as it is", "Mul")
    assert "fp16 holds 65504 at most" in found.culprit.reason


# --- when precision is not to blame


def test_what_is_nan_in_fp32_too_is_told_with_the_node_that_makes_it_first():
    found = debug(
        parse("g (float[2] x) => (float[2] y) { a = Abs(x)  [root] b = Sqrt(x)  y = Add(a, b) }"),
        calibration=sample(x=[-1, 4]),
    )
    assert found.verdict == ELSEWHERE
    assert (
        found.words
        == "precision is not to blame: output 'y' holds infinities or NaN in fp32 as well, first made by Sqrt 'root'"
    )


def test_a_graph_that_differs_from_pytorch_in_fp32_is_told():
    class Branch(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x * 3

    found = debug(Branch(), [torch.ones(3)], calibration=[[-torch.ones(3)]])
    assert found.verdict == ELSEWHERE
    assert found.words.startswith(
        "precision is not to blame: the ONNX graph in fp32 differs from PyTorch: 'output' by "
    )


# --- what cannot be debugged


def test_a_model_without_floats_is_refused():
    with pytest.raises(PrecisionError, match="no node of the model can run in fp16"):
        debug(parse("g (int64[2] x) => (int64[2] y) { y = Add(x, x) }"))


def test_data_that_the_model_does_not_run_on_is_an_error():
    model = parse("g (float[2, 3] x, int64[1] i) => (float[1, 3] y) { a = Neg(x)  [pick] y = Gather(a, i) }")
    with pytest.raises(
        CalibrationError, match="does not run on sample 1 of the calibration data\n  where: Gather 'pick'"
    ):
        debug(model, calibration=[{"x": np.zeros((2, 3), np.float32), "i": np.array([7])}])


def test_data_that_does_not_fit_is_an_error():
    with pytest.raises(InputError, match=r"has the shape \(2,\)"):
        debug(parse(SQUARE), calibration=sample(x=[1, 2]))


# --- the command


@pytest.fixture
def folder(tmp_path):
    onnx.save(parse(SQUARE), tmp_path / "net.onnx")
    np.savez(tmp_path / "hot.npz", **HOT[0])
    np.savez(tmp_path / "cold.npz", x=np.array([1.1, 2, 3], np.float32))
    return tmp_path


def run(folder, *words):
    program = Path(sys.executable).with_name("torch2trt-onnx")
    return subprocess.run(
        [program, "debug", "net.onnx", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_command_names_the_node_and_the_rules_and_exits_with_4(folder):
    done = run(folder, "--calibration", "hot.npz")
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.startswith("precision: Mul 'square': the largest value of its output is 90000 in fp32")
    assert '[[rule]]\nname = "square"\nprecision = "fp32"' in done.stdout
    assert "all outputs are within the tolerance then" in done.stdout
    assert "policy='auto'" in done.stdout


def test_the_command_exits_with_0_where_nothing_is_wrong(folder):
    done = run(folder, "--calibration", "cold.npz")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing wrong: on 1 sample of cold.npz the largest relative error")


def test_the_command_tells_all_as_json(folder):
    done = run(folder, "--calibration", "hot.npz", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 4
    assert (found["verdict"], found["broken"]["name"]) == ("precision", "square")
    assert found["rules"][0] == {"name": "square", "precision": "fp32"}


def test_the_command_exits_with_1_where_a_file_is_not_there(folder):
    done = run(folder, "--calibration", "none.npz")
    assert done.returncode == 1
    assert "none.npz" in done.stderr


def test_the_command_takes_a_precision_and_a_tolerance(folder):
    assert run(folder, "--calibration", "hot.npz", "-p", "bf16").returncode == 0
    assert run(folder, "--calibration", "cold.npz", "--tolerance", "1e-9").returncode == 4
