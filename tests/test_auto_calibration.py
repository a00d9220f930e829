"""`policy="auto"` and the data that it measures on."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import outputs, parse
from lowering import ARRAYS, BOTH, REAL, computed, kept, planned, run, squared
from torch import nn

from torch2trt_onnx import Input, convert
from torch2trt_onnx.errors import CalibrationError, InputError
from torch2trt_onnx.graph import PREFIX


class TestCalibration:
    """An overflow that real data shows, and random numbers do not."""

    @pytest.fixture
    def files(self, tmp_path):
        np.savez(tmp_path / "calib.npz", x=REAL)
        (tmp_path / "folder").mkdir()
        np.savez(tmp_path / "folder" / "a.npz", x=np.ones((2, 4), np.float32))
        np.savez(tmp_path / "folder" / "b.npz", x=REAL)
        return tmp_path

    FORMS = (
        ("a list of mappings", lambda _: [{"x": REAL}], "1 given sample"),
        ("a list of sequences", lambda _: [[REAL / 400], (torch.from_numpy(REAL),)], "2 given samples"),
        ("a mapping", lambda _: {"x": REAL}, "1 given sample"),
        ("a generator", lambda _: ({"x": REAL * scale} for scale in (0, 1, 0)), "3 given samples"),
        ("a file", lambda folder: folder / "calib.npz", "1 sample of {}/calib.npz"),
        ("a path in words", lambda folder: str(folder / "calib.npz"), "1 sample of {}/calib.npz"),
        ("a folder", lambda folder: folder / "folder", "2 samples of {}/folder"),
    )

    @pytest.mark.parametrize(("give", "words"), [pytest.param(*form[1:], id=form[0]) for form in FORMS])
    def test_it_is_kept_and_named(self, give, words, files):
        conversion, told = run(squared(), calibration=give(files))
        words = words.format(files)
        assert kept(conversion) == {"CalibratedRange": ["Mul_s", "Div_c"]}
        assert planned(conversion) == {
            "Mul_s": "fp32", "Div_c": "fp32", "MatMul_a": "fp16", "Sigmoid_b": "fp16", "Add_y": "fp16",
        }  # fmt: skip
        reasons = {node.name: node.reason for node in conversion.plan.nodes}
        assert (
            reasons["Mul_s"] == f"it makes 's', which reaches 160000 (fp16 ends at 65504) on {words}; input 'x' is fp32"
        )
        assert (conversion.report.data, told) == (words, "")
        assert conversion.report.comparison.ok

    def test_the_first_real_sample_is_what_the_numbers_are_compared_on(self):
        given = [{"x": np.full((2, 4), -1.1, np.float32)}, {"x": np.ones((2, 4), np.float32)}]
        conversion, _ = run(squared(), calibration=given)
        (expected,) = outputs(squared(), given[0])
        (found,) = computed(conversion, torch.from_numpy(given[0]["x"]))
        assert conversion.report.comparison.outputs[0].absolute == np.abs(found - expected).max() > 0

    def test_random_numbers_do_not_show_it(self):
        conversion, _ = run(squared())
        assert conversion.report.data == "1 random sample"
        assert set(planned(conversion).values()) == {"fp16"}

    def test_an_example_does(self):
        conversion, _ = run(squared(), inputs=[Input((2, 4), example=torch.from_numpy(REAL))])
        assert kept(conversion) == {"CalibratedRange": ["Mul_s", "Div_c"]}
        assert conversion.report.data == "1 sample of the examples"

    def test_without_a_measurement_it_is_lowered_and_the_comparison_says_that_it_differs(self):
        example = [Input((2, 4), example=torch.from_numpy(REAL))]
        conversion, told = run(squared(), inputs=example, calibration=False)
        assert set(planned(conversion).values()) == {"fp16"}
        assert conversion.report.data == ""
        assert not conversion.report.comparison.ok
        assert "output 'y' differs from the reference: float32 for float32, by inf" in told

    def test_random_numbers_have_to_leave_four_times_more_room_than_real_ones(self):
        example = torch.full((2, 4), 100.0)  # squared 10000, between 65504 / 16 and 65504 / 4
        assert "CalibratedRange" in kept(run(squared(), inputs=[Input((2, 4), example=example)])[0])
        assert kept(run(squared(), calibration=[{"x": example.numpy()}])[0]) == {}

    def test_fp16_alone_is_a_wish_that_an_overflow_is_kept_from(self):
        conversion, told = run(squared(), {"fp16"}, calibration=[{"x": REAL}])
        assert {n.name for n in conversion.plan.nodes if n.precision == "fp32" and n.op != "Cast"} == {"Mul_s", "Div_c"}
        assert (
            "2 nodes run in another precision than was asked: Mul 'Mul_s' is fp32 (not fp16: it makes 's', which reaches"
            in told
        )
        assert conversion.report.comparison.ok
        blind, told = run(squared(), {"fp16"})
        assert (set(planned(blind).values()), told, blind.report.data) == ({"fp16"}, "", "")

    def test_strictly_fp16_alone_is_no_wish(self):
        conversion, _ = run(squared(), {"fp16"}, calibration=[{"x": REAL}], strict=True)
        assert set(planned(conversion).values()) == {"fp16"}
        assert not conversion.report.comparison.ok

    def test_random_numbers_that_the_model_does_not_run_on_are_a_warning(self):
        model = parse("g (int64[4] i) => (float[4,4] y) { e = Gather(row, i)  y = MatMul(e, w) }", ARRAYS)
        conversion, told = run(model)
        assert set(planned(conversion).values()) == {"fp16"}
        assert "no ranges were measured, and only initializers were judged: the model does not run on sample 1" in told
        assert "idx=1 must be within the inclusive range [-1,0]" in told

    def test_and_the_report_does_not_say_that_the_plan_was_measured_on_them(self):
        model = parse("g (int64[4] i) => (float[4,4] y) { e = Gather(row, i)  y = MatMul(e, w) }", ARRAYS)
        assert run(model)[0].report.data == ""

    def test_samples_in_order_may_have_what_the_graph_has_lost(self):
        class Unused(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)

            def forward(self, unused, x):
                return self.layer(x)

        model = Unused()
        conversion, _ = run(
            model, inputs=[torch.ones(3), torch.ones(2, 4)], calibration=[[torch.ones(3), torch.ones(2, 4)]]
        )
        assert conversion.report.data == "1 given sample"

    def test_real_ones_are_an_error(self):
        model = parse("g (int64[4] i) => (float[4,4] y) { e = Gather(row, i)  y = MatMul(e, w) }", ARRAYS)
        with pytest.raises(CalibrationError, match="does not run on sample 2 of the calibration data") as error:
            run(model, calibration=[{"i": np.zeros(4, int)}, {"i": np.ones(4, int)}])
        assert "Gather 'Gather_e'" in str(error.value)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ([], "the calibration data are empty"),
            ([{"z": REAL}], "the model has no input 'z'"),
            ([{"x": REAL[:1]}], "axis 0 is 1, and the input takes 2..2"),
            (7, "a int is no calibration data"),
            (Path("nowhere.npz"), "there is no such file"),
        ],
    )
    def test_what_is_no_sample_is_an_error(self, data, words):
        with pytest.raises(InputError, match=words):
            run(squared(), calibration=data)

    def test_the_mask_of_an_attention_is_kept_whether_or_not_it_was_measured(self):
        text = """g (float[2,4,4] q, float[2,4,4] k, float[1,1,4] m) => (float[2,4,4] y) {
            b = Mul(m, lowest)  d = MatMul(q, k)  s = Add(d, b)  p = Softmax(s)  y = MatMul(p, k) }"""
        mask = {
            "q": np.ones((2, 4, 4), np.float32),
            "k": np.ones((2, 4, 4), np.float32),
            "m": np.eye(1, 4, dtype=np.float32)[None],
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "overflow encountered in dot")  # see test_safety
            blind = convert(parse(text, ARRAYS), None, BOTH, calibration=False, backend="none")
            seen = convert(parse(text, ARRAYS), None, BOTH, calibration=[mask], backend="none")
        everything = {"Mul_b": "fp32", "MatMul_d": "fp16", "Add_s": "fp32", "Softmax_p": "fp32", "MatMul_y": "fp16"}
        assert planned(blind) == planned(seen) == everything
        assert kept(blind)["UnmeasuredRange"][-2:] == ["Add_s", "Softmax_p"]
        assert kept(seen)["CalibratedRange"][-2:] == ["Add_s", "Softmax_p"]
        assert blind.report.comparison.ok and seen.report.comparison.ok


def told(node, key):
    return node.metadata.get(f"{PREFIX}{key}", "")
