"""Which node a reduced precision breaks first, why, and when precision is not to blame."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from graphs import parse
from torch import nn

from torch2trt_onnx import Input
from torch2trt_onnx.diagnosis import ELSEWHERE, NOTHING, PRECISION, debug
from torch2trt_onnx.errors import CalibrationError, PrecisionError


def sample(**arrays):
    return [{name: np.asarray(values, np.float32) for name, values in arrays.items()}]


class TestTheFirstNodeThatBreaks:
    def test_an_overflow_is_named_with_the_value_that_fp16_cannot_hold(self):
        model = parse("g (float[3] x) => (float[3] y) { a = Neg(x) [square] b = Mul(a, a) y = Sqrt(b) }")
        found = debug(model, calibration=sample(x=[1, 2, 300]))
        assert found.verdict == PRECISION
        assert found.culprit.name == "square" and found.culprit.op == "Mul"
        assert found.culprit.reason == "its output reaches 90000 in fp32, and fp16 ends at 65504"
        assert found.culprit.inputs["a"][0] == 300
        assert found.outputs == {"y": float("inf")}

    def test_bf16_holds_it(self):
        model = parse("g (float[3] x) => (float[3] y) { a = Neg(x) b = Mul(a, a) y = Sqrt(b) }")
        assert debug(model, precision="bf16", calibration=sample(x=[1, 2, 300])).verdict == NOTHING

    def test_an_initializer_that_becomes_infinite_is_named(self):
        model = parse("g (float[2] x) => (float[2] y) <float[2] big = {1e6, 1}> { a = Abs(x) [scale] y = Mul(a, big) }")
        found = debug(model, calibration=sample(x=[1e-4, 1e-4]))
        assert found.culprit.name == "scale"
        assert "'big': 1 of 2 values become infinite (the largest is 1e+06)" in found.culprit.reason

    def test_a_division_by_what_rounding_made_zero_is_told(self):
        model = parse("g (float[1] x) => (float[1] y) { a = Mul(x, x) [ratio] y = Div(x, a) }")
        found = debug(model, calibration=sample(x=[1e-4]))
        assert found.broken.name == "ratio"
        assert "divides by" in found.broken.reason

    def test_a_node_in_the_body_of_an_if_is_found(self):
        model = parse(
            """g (bool c, float[2] x) => (float[2] y) {
                y = If (c) <then_branch = t () => (float[2] p) { [hot] h = Mul(x, x) p = Sqrt(h) },
                            else_branch = e () => (float[2] q) { q = Neg(x) }>
            }"""
        )
        data = [{"c": np.array(True), "x": np.array([300, 1], np.float32)}]
        found = debug(model, calibration=data)
        assert found.culprit.name == "hot"
        assert "reaches 90000 in fp32, and 1 of 2 values are not finite in fp16" in found.culprit.reason
        assert debug(model, calibration=[{**data[0], "c": np.array(False)}]).verdict == NOTHING

    def test_the_infinities_of_a_mask_are_no_alarm(self):
        model = parse(
            """g (float[2, 3] x, bool[2, 3] m) => (float[2, 3] y) <float floor = {-inf}> {
                s = Where(m, x, floor)  y = Softmax(s)
            }"""
        )
        data = [{"x": np.ones((2, 3), np.float32), "m": np.array([[1, 0, 1], [1, 1, 0]], bool)}]
        assert debug(model, calibration=data).verdict == NOTHING

    def test_the_module_is_named_for_a_model_of_pytorch(self):
        class Square(nn.Module):
            def forward(self, x):
                return x * x

        class Root(nn.Module):
            def forward(self, x):
                return x.sqrt()

        net = nn.Sequential(nn.Identity(), nn.Sequential(Square()), Root())
        found = debug(net, [torch.ones(3)], calibration=[[torch.tensor([1.0, 2.0, 300.0])]])
        assert found.verdict == PRECISION
        assert found.culprit.op == "Mul" and found.culprit.module.startswith("1")


class TestTheFirstNodeOutOfTolerance:
    def test_a_cancellation_is_named(self):
        model = parse(
            """g (float[4] x) => (float[4] y) <float big = {1000}> {
                a = Add(x, big)  [cancel] y = Sub(a, big)
            }"""
        )
        found = debug(model, calibration=sample(x=[0.1, 0.2, 0.3, 0.4]))
        assert found.verdict == PRECISION and found.broken is None
        assert found.drifting.name == "cancel"
        assert "cancel to 0.4" in found.drifting.reason
        exact = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
        rounded = (exact.astype(np.float16) + np.float16(1000)).astype(np.float16) - np.float16(1000)
        assert found.outputs["y"] == pytest.approx(np.abs(rounded - exact).max() / 0.4, rel=0.02)

    def test_within_the_tolerance_nothing_is_wrong_and_the_error_is_told(self):
        model = parse("g (float[4] x) => (float[4] y) { y = Tanh(x) }")
        found = debug(model, calibration=sample(x=[0.1, 0.2, 0.3, 1]))
        assert found.verdict == NOTHING and found.culprit is None and found.rule is None
        assert 0 < found.outputs["y"] < 1e-3
        assert debug(model, calibration=sample(x=[0.1, 0.2, 0.3, 1]), tolerance=1e-6).verdict == PRECISION

    def test_a_model_that_has_its_own_precisions_is_judged_as_it_is(self):
        model = parse(
            """g (float[2] x) => (float[2] y) {
                h = Cast<to = 10>(x)  [hot] s = Mul(h, h)  y = Cast<to = 1>(s)
            }"""
        )
        found = debug(model, calibration=sample(x=[1, 300]))
        assert found.precision == "as it is" and found.culprit.name == "hot"

    def test_the_rule_keeps_the_node_in_fp32(self):
        model = parse("g (float[3] x) => (float[3] y) { a = Neg(x) [square] b = Mul(a, a) y = Sqrt(b) }")
        rule = debug(model, calibration=sample(x=[1, 2, 300])).rule
        assert rule.to_json() == {"name": "square", "precision": "fp32"}


class TestWhenPrecisionIsNotToBlame:
    def test_what_is_nan_in_fp32_too_is_told_with_the_node_that_makes_it_first(self):
        model = parse("g (float[2] x) => (float[2] y) { a = Abs(x) [root] b = Sqrt(x) y = Add(a, b) }")
        found = debug(model, calibration=sample(x=[-1, 4]))
        assert found.verdict == ELSEWHERE
        assert "output 'y' holds NaN in fp32 as well, first made by Sqrt 'root'" in found.words

    def test_a_graph_that_differs_from_pytorch_in_fp32_is_told(self):
        class Branch(nn.Module):
            def forward(self, x):
                return x * 2 if x.sum() > 0 else x * 3

        found = debug(Branch(), [torch.ones(3)], calibration=[[-torch.ones(3)]])
        assert found.verdict == ELSEWHERE
        assert "the ONNX graph in fp32 differs from PyTorch" in found.words


def test_a_model_without_floats_is_refused():
    with pytest.raises(PrecisionError, match="no node of the model can run in fp16"):
        debug(parse("g (int64[2] x) => (int64[2] y) { y = Add(x, x) }"))


def test_data_that_the_model_does_not_run_on_is_an_error():
    model = parse("g (float[2, 3] x, int64[1] i) => (float[1, 3] y) { a = Neg(x) y = Gather(a, i) }")
    with pytest.raises(CalibrationError, match="does not run on sample 1"):
        debug(model, calibration=[{"x": np.zeros((2, 3), np.float32), "i": np.array([7])}])


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path):
        model = parse("g (float[3] x) => (float[3] y) { a = Neg(x) [square] b = Mul(a, a) y = Sqrt(b) }")
        onnx.save(model, tmp_path / "net.onnx")
        np.savez(tmp_path / "hot.npz", x=np.array([1, 2, 300], np.float32))
        np.savez(tmp_path / "cold.npz", x=np.array([1, 2, 3], np.float32))
        return tmp_path

    def run(self, folder, *words):
        program = Path(sys.executable).with_name("torch2trt-onnx")
        return subprocess.run(
            [program, "debug", "net.onnx", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=120
        )

    def test_it_names_the_node_and_a_rule_and_exits_with_4(self, folder):
        done = self.run(folder, "--calibration", "hot.npz")
        assert done.returncode == 4
        assert "precision: Mul 'square': its output reaches 90000 in fp32" in done.stdout
        assert 'name = "square"\nprecision = "fp32"' in done.stdout

    def test_it_exits_with_0_where_nothing_is_wrong(self, folder):
        done = self.run(folder, "--calibration", "cold.npz")
        assert done.returncode == 0 and done.stdout.startswith("nothing wrong")

    def test_json_holds_all(self, folder):
        done = self.run(folder, "--calibration", "hot.npz", "--json")
        found = json.loads(done.stdout)
        assert found["verdict"] == "precision" and found["broken"]["name"] == "square"

    def test_a_file_that_is_not_there_is_an_error(self, folder):
        done = self.run(folder, "--calibration", "none.npz")
        assert done.returncode == 1 and "none.npz" in done.stderr


def test_inputs_may_be_given_as_ranges():
    model = parse("g (float[n] x) => (float[n] y) { y = Exp(x) }")
    found = debug(model, [Input(min_shape=(1,), opt_shape=(4,), max_shape=(8,))])
    assert found.data == "1 random sample"
