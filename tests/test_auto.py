"""`policy="auto"` from end to end: which nodes of a model are lowered, why the others are not, and what that does to the numbers."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
from click.testing import CliRunner
from conftest import Layers
from graphs import Scene, outputs, parse
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from random_graphs import SHAPE, models, random_feeds
from test_semantics import IMAGE, PROVEN, Quantized, casts, runs
from torch import nn
from torch.nn import functional

from torch2trt_onnx import Conversion, ConversionWarning, ErrorLimit, Input, convert, deciding, pipeline
from torch2trt_onnx.cli import main
from torch2trt_onnx.errors import CalibrationError, InputError, PrecisionError
from torch2trt_onnx.graph import PREFIX, new_node, producer, set_input, subgraphs
from torch2trt_onnx.limits import Limits
from torch2trt_onnx.passes import EmulateReduced
from torch2trt_onnx.placement import FP16, FP32, MONOTONE, MOVING
from torch2trt_onnx.plan import Asked, PrecisionPlan
from torch2trt_onnx.precision import FLOATS, Precision
from torch2trt_onnx.safety import MATRIX
from torch2trt_onnx.typecheck import compute_type, onnx_type

BOTH = {"fp32", "fp16"}
HALF = torch.float16
X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
ARRAYS = {
    "w": np.random.default_rng(0).normal(scale=0.5, size=(4, 4)).astype(np.float32),
    "large": np.array([1e6, 1, 1, 1], np.float32),
    "thousand": np.array(1000, np.float32),
    "lowest": np.array(np.finfo(np.float32).min, np.float32),
    "row": np.ones((1, 4), np.float32),
}


def run(model, precisions=BOTH, inputs=None, *, backend="none", **asked):
    """A conversion, and its warnings in one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        model = model.eval() if isinstance(model, nn.Module) else model
        conversion = convert(model, inputs, precisions, backend=backend, **asked)
    assert all(issubclass(w.category, ConversionWarning) for w in caught), [str(w.message) for w in caught]
    return conversion, "\n".join(str(w.message) for w in caught)


def computed(conversion, *tensors):
    """What a conversion computes, as arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)  # it runs on the CPU
        found = conversion(*tensors)
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


def kept(conversion):
    return {rule: [node.name for node in nodes] for rule, nodes in conversion.report.kept().items()}


def planned(conversion):
    """What each node but Casts is to run in."""
    return {node.name: node.precision for node in conversion.plan.floats() if node.op != "Cast"}


def error_of(found, expected):
    """The largest difference, by the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


class TestWhoDecides:
    def test_a_plain_fp32_model_is_lowered_without_being_asked_for_a_policy(self):
        conversion, told = run(Layers(), inputs=[X])
        assert {n.op: (n.precision, n.origin) for n in conversion.plan.floats() if n.op != "Cast"} == {
            "Gemm": ("fp16", "auto"),
            "Sigmoid": ("fp16", "auto"),
        }
        assert all(
            n.reason.startswith("nothing is against fp16; ") for n in conversion.plan.nodes if n.origin == "auto"
        )
        assert (told, conversion.report.kept()) == ("", {})
        assert conversion.report.comparison.ok and conversion.report.comparison.outputs[0].relative > 0

    def test_where_the_author_has_chosen_his_choice_is_all_there_is(self):
        conversion, _ = run(Layers(HALF), inputs=[X])
        assert runs(conversion, "Gemm") == ["fp16", "fp32"]
        assert not {n.origin for n in conversion.plan.nodes} & {"auto", "kept"}
        assert conversion.report.data == ""  # nothing was measured

    def test_asked_for_all_the_same_it_lowers_what_he_did_not_type_and_leaves_what_he_did(self):
        class Typed(Layers):
            def forward(self, x):
                scores = self.a(x.half()).float()
                return self.b(torch.softmax(scores, -1)) + scores

        conversion, _ = run(Typed(HALF), inputs=[X], policy="auto")
        origins = {
            n.op: (n.precision, n.origin) for n in conversion.plan.floats() if n.module != "a" and n.op != "Cast"
        }
        assert origins == {
            "Softmax": ("fp32", "kept"),  # he cast what it reads
            "Gemm": ("fp16", "auto"),
            "Add": ("fp32", "kept"),
        }
        assert runs(conversion, "a") == ["fp16"]
        assert kept(conversion) == {"AuthorsChoice": ["/Softmax", "/Add"]}

    def test_asked_for_source_it_lowers_nothing(self):
        with pytest.raises(PrecisionError, match="leave policy='source' out"):
            run(Layers(), inputs=[X], policy="source")

    @pytest.mark.parametrize("precisions", [None, {"fp32"}, {"fp32", "int8"}])
    def test_without_a_reduced_precision_there_is_nothing_to_choose(self, precisions):
        with pytest.raises(PrecisionError, match="chooses nodes for a reduced precision, and none was asked for"):
            run(Layers(), precisions, [X], policy="auto")

    @pytest.mark.parametrize(
        ("asked", "limits", "policy"),
        [
            ({}, None, "compiler"),
            ({"strict": True}, None, "auto"),
            ({"policy": "auto"}, None, "auto"),
            ({}, Limits.of(1e-2), "auto"),
        ],
        ids=["left alone", "strict", "asked for", "held to a budget"],
    )
    def test_a_weakly_typed_tensorrt_chooses_by_itself_where_nothing_holds_it(self, asked, limits, policy, tmp_path):
        scene = Scene(squared())
        scene.run(*pipeline.repairs({}))
        wanted = Asked(frozenset({Precision.FP32, Precision.FP16}), **asked)
        request = deciding.Request(
            wanted, [Input((2, 4), name="x", dtype="float32")], ["8.9"], tmp_path, weak=True, limits=limits
        )
        assert deciding.decide(scene.graph, request).policy == policy
        assert {told(n, "origin") for n in scene.graph.nodes() if n.op == "MatMul"} == {policy}

    def test_strictly_without_fp32_there_is_nothing_to_choose_either(self):
        with pytest.raises(PrecisionError, match="needs fp32 for what is not safe"):
            run(Layers(), {"fp16"}, [X], policy="auto", strict=True)

    @pytest.mark.parametrize(
        ("precisions", "word"),
        [(BOTH, "fp16"), ({"fp32", "bf16"}, "bf16"), ({"fp32", "bf16", "fp16"}, "fp16"), ({"bf16"}, "bf16")],
    )
    def test_fp16_comes_before_bf16(self, precisions, word):
        conversion, _ = run(Layers(), precisions, [X], policy="auto")
        assert set(planned(conversion).values()) == {word}
        assert {n.origin for n in conversion.plan.nodes if n.op == "Gemm"} == {"auto"}

    def test_what_fp16_cannot_hold_bf16_can(self):
        model = parse("g (float[2,4] x) => (float[2,4] y) { a = Mul(x, large)  y = MatMul(a, w) }", ARRAYS)
        with pytest.raises(PrecisionError, match="not one node"):
            run(model)
        assert set(planned(run(model, {"fp32", "bf16"})[0]).values()) == {"bf16"}

    def test_rules_win_over_all_of_it(self):
        rules = [
            {"op": "Softmax", "precision": "fp32"},
            {"op": "Exp", "precision": "fp16"},
            {"module": "a", "precision": "fp32"},
        ]

        class Soft(Layers):
            def forward(self, x):
                return torch.exp(-self.b(torch.softmax(self.a(x), -1)).square())

        conversion, _ = run(Soft(), inputs=[X], rules=rules)
        assert [(n.op, n.precision, n.origin) for n in conversion.plan.nodes if n.op in ("Gemm", "Softmax", "Exp")] == [
            ("Gemm", "fp32", "rule"),
            ("Softmax", "fp32", "rule"),
            ("Gemm", "fp16", "auto"),
            ("Exp", "fp16", "rule"),
        ]
        free, _ = run(Soft(), inputs=[X])
        assert {n.op: n.precision for n in free.plan.nodes if n.op in ("Softmax", "Exp")} == {
            "Softmax": "fp16",
            "Exp": "fp32",
        }

    def test_over_what_was_measured_too(self):
        data = [{"x": np.full((2, 4), 200, np.float32)}]  # squared 40000, which fp16 holds
        conversion, told = run(squared(), calibration=data, rules=[{"op": "Mul", "precision": "fp16"}])
        assert (runs(conversion, "Mul"), told) == (["fp16"], "")

    @pytest.mark.parametrize(("weightless", "word"), [("inherit", "fp16"), ("fp32", "fp32"), ("free", "fp16")])
    def test_nodes_without_weights_are_as_the_user_wants_them(self, weightless, word):
        conversion, _ = run(Layers(), inputs=[X], weightless=weightless)
        assert (runs(conversion, "Gemm"), runs(conversion, "Sigmoid")) == (["fp16", "fp16"], [word])

    def test_an_input_that_the_user_binds_in_fp16_is_no_word_of_the_author(self):
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        conversion, _ = run(model, inputs=[Input((4, 64), dtype="fp16")])
        assert runs(conversion, "Gemm") == ["fp16", "fp16"]

    def test_and_what_reads_it_is_lowered(self):
        model = nn.Sequential(nn.Sigmoid(), nn.Linear(64, 64))
        conversion, _ = run(model, inputs=[Input((4, 64), dtype="fp16")], policy="auto")
        assert runs(conversion, "Sigmoid", "Gemm") == ["fp16", "fp16"]


class Block(nn.Module):
    """Attention with a mask and a perceptron, each behind a norm and beside a residual."""

    def __init__(self, width=32):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x, mask):
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(self.first(x)).chunk(3, -1))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, image):
        x = functional.max_pool2d(functional.silu(self.norm(self.stem(image))), 2)
        return torch.softmax(self.head((self.last(x).relu() + x).mean((2, 3))), -1)


ROWS, SCORES = torch.randn(2, 16, 32), torch.zeros(2, 1, 16, 16)
PHOTO = torch.randn(2, 3, 16, 16)


class TestProof:
    """Strict, on engines that TensorRT-RTX built: each node runs as planned, or it is an error."""

    CASES = (
        ("attention", Block, [ROWS, SCORES]),
        ("convolutions", Convolutions, [PHOTO]),
        ("quantized", Quantized, IMAGE),
    )

    @pytest.mark.parametrize("word", ["fp16", "bf16"])
    @pytest.mark.parametrize(("make", "inputs"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
    def test_the_engine_proves_the_plan(self, make, inputs, word):
        asked = {"fp32", word} | ({"int8"} if make is Quantized else set())
        conversion, told = run(make(), asked, inputs, backend="rtx", strict=True)
        report = conversion.report
        assert report.unproven() == []
        assert {node.verdict for node in report.nodes if node.plan.precision} <= PROVEN
        assert report.comparison.ok and told == ""
        work = {node.plan.runs_in for node in report.nodes if node.plan.op in MATRIX}
        assert work == ({word, "int8"} if make is Quantized else {word})

    def test_the_scores_of_a_masked_attention_are_kept_for_one_shape_and_lowered_for_many(self):
        fixed, _ = run(Block(), inputs=[ROWS, SCORES], backend="rtx", strict=True)
        sizes = [(1, 16, 32), (2, 16, 32), (4, 16, 32)], [(1, 1, 16, 16), (2, 1, 16, 16), (4, 1, 16, 16)]
        names = ("min_shape", "opt_shape", "max_shape")
        ranged = [Input(**dict(zip(names, shapes, strict=True))) for shapes in sizes]
        dynamic, _ = run(Block(), inputs=ranged, backend="rtx", strict=True)
        assert (runs(fixed, "Softmax"), runs(dynamic, "Softmax")) == (["fp32"], ["fp16"])
        norms = {"LayerNormalization": 2}
        assert [sum(op in name for name in kept(fixed)["OperatorRisk"]) for op in norms] == [2]
        assert len(kept(dynamic)["OperatorRisk"]) == 2


SQUARED = """g (float[2,4] x) => (float[2,4] y) {
    s = Mul(x, x)  a = MatMul(x, w)  b = Sigmoid(a)  c = Div(s, thousand)  y = Add(b, c) }"""
REAL = np.full((2, 4), 400, np.float32)  # its squares are beyond 65504


def squared():
    return parse(SQUARED, ARRAYS)


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


class TestNothingToLower:
    def test_it_is_an_error_that_names_each_reason_once_with_how_many_nodes_have_it(self):
        model = parse(
            "g (float[2,4] x) => (float[2,4] y) { a = Mul(x, large)  b = Add(a, large)  y = Relu(b) }", ARRAYS
        )
        with pytest.raises(
            PrecisionError, match="fp16 was asked for, and not one node of the model runs in it"
        ) as error:
            run(model)
        assert "'Mul_a' and 1 more: 'large': 1 of 4 values become infinite (the largest is 1e+06)" in str(error.value)
        assert "'Relu_y': it reads 'b', which reaches" in str(error.value)

    def test_so_it_is_where_nothing_computes_with_floats(self):
        with pytest.raises(PrecisionError, match="it has no node that computes with floats"):
            run(parse("g (int64[4] x) => (int64[4] y) { y = Add(x, x) }"))

    def test_and_where_rules_leave_nothing(self):
        with pytest.raises(PrecisionError, match=r"'/a/Gemm' and \d more: rule 1: op='\*' -> fp32"):
            run(Layers(), inputs=[X], rules=[{"op": "*", "precision": "fp32"}, {"op": "Cast", "precision": "fp32"}])


BRANCHES = """g (bool c, float[4,4] x) => (float[4,4] y) {
    y = If(c) <then_branch = t() => (float[4,4] p) { a = MatMul(x, w)  b = Sigmoid(a)  p = MatMul(b, w) },
               else_branch = e() => (float[4,4] q) { d = MatMul(w, x)  q = Tanh(d) }> }"""
LOOP = """g (float[4,4] x) => (float[4,4] y) <int64 n = {3}> {
    y = Loop(n, "", x) <body = l(int64 i, bool k, float[4,4] s) => (bool o, float[4,4] m) {
        o = Identity(k)  a = MatMul(s, w)  b = Sigmoid(a)  m = Add(b, s) }> }"""


class TestBodies:
    @pytest.mark.parametrize("backend", ["none", "rtx"])
    def test_all_nodes_of_an_if_are_lowered_though_there_is_no_other(self, backend):
        conversion, told = run(parse(BRANCHES, ARRAYS), backend=backend, strict=True)
        assert planned(conversion) == dict.fromkeys(["MatMul_a", "Sigmoid_b", "MatMul_p", "MatMul_d", "Tanh_q"], "fp16")
        assert told == "" and conversion.report.comparison.ok

    def test_and_those_of_a_loop(self):
        conversion, told = run(parse(LOOP, ARRAYS))
        assert planned(conversion) == {"MatMul_a": "fp16", "Sigmoid_b": "fp16", "Add_m": "fp16"}
        assert told == "" and conversion.report.comparison.ok

    def test_a_range_that_only_one_branch_has_is_measured_there(self):
        text = BRANCHES.replace("q = Tanh(d)", "f = Mul(d, d)  q = Mul(f, d)")
        sample = {"c": np.array(False), "x": np.full((4, 4), 300, np.float32)}
        conversion, _ = run(parse(text, ARRAYS), calibration=[sample])
        assert kept(conversion) == {"CalibratedRange": ["Mul_f", "Mul_q"]}  # which makes it, and which reads it
        other, _ = run(parse(text, ARRAYS), calibration=[sample | {"c": np.array(True)}])
        assert kept(other) == {}  # it never ran


class Difference(nn.Module):
    """A difference of numbers near each other, which fp16 loses, in the first of two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x, near):
        return self.b(torch.tanh(self.a(x - near))), self.a(x / 1000)


FAR = torch.rand(4, 16, generator=torch.Generator().manual_seed(1)) + 100
NEAR = FAR - torch.rand(4, 16, generator=torch.Generator().manual_seed(2)) / 4


class TestBudget:
    @pytest.fixture
    def model(self):
        return Difference().eval()

    @pytest.fixture
    def expected(self, model):
        with torch.no_grad():
            return [t.numpy() for t in model(FAR, NEAR)]

    def test_without_one_the_difference_is_lost(self, model, expected):
        conversion, _ = run(model, inputs=[FAR, NEAR])
        assert runs(conversion, "Sub") == ["fp16"] and conversion.report.trade is None
        errors = list(map(error_of, computed(conversion, FAR, NEAR), expected))
        assert errors[0] > 0.02 and errors[1] < 1e-3

    @pytest.mark.parametrize("calibration", [None, [{"x": FAR, "near": NEAR}]], ids=["the example", "real data"])
    def test_it_holds_against_pytorch_and_says_what_it_cost(self, model, expected, calibration):
        inputs = [Input((4, 16), name="x", example=FAR), Input((4, 16), name="near", example=NEAR)]
        conversion, _ = run(model, inputs=inputs, max_error=1e-3, calibration=calibration)
        assert runs(conversion, "Sub", "Gemm") == ["fp32", "fp16", "fp16", "fp16"]
        assert kept(conversion) == {"OverBudget": ["/Sub"]}
        trade = conversion.report.trade
        assert list(trade.kept) == ["/Sub"]
        assert trade.kept["/Sub"].startswith("alone in fp16 it gives 'output_0' a relative error of 0.0")
        (node,) = (n for n in conversion.plan.nodes if n.op == "Sub")
        assert node.reason.startswith(trade.kept["/Sub"])
        first, taken = trade.trials[0], trade.trials[-1]
        assert (first.kept, first.ok, first.share) == (0, False, 1.0)
        assert (taken.kept, taken.ok) == (1, True) and 0.9 < taken.share < 1
        errors = list(map(error_of, computed(conversion, FAR, NEAR), expected))
        assert max(errors) <= 1e-3
        assert list(taken.errors.values()) == pytest.approx(errors, rel=1e-2)
        assert first.errors["output_0"] > 0.02
        assert first.errors["output_1"] < 1e-3

    def test_each_output_may_have_its_own_and_one_without_costs_nothing(self, model):
        free, _ = run(model, inputs=[FAR, NEAR], max_error={"output_1": 1e-3})
        assert (free.report.trade.kept, runs(free, "Sub")) == ({}, ["fp16"])
        assert list(free.report.trade.limits) == ["output_1"]
        bound, _ = run(model, inputs=[FAR, NEAR], max_error={"output_0": 1e-3, "output_1": 1})
        assert list(bound.report.trade.kept) == ["/Sub"]

    def test_by_the_cosine(self, model):
        conversion, _ = run(model, inputs=[FAR, NEAR], max_error=ErrorLimit(1e-4, "cosine"))
        assert list(conversion.report.trade.kept) == ["/Sub"]
        assert "a cosine error of 0.00" in conversion.report.trade.kept["/Sub"]
        loose, _ = run(model, inputs=[FAR, NEAR], max_error=ErrorLimit(0.1, "cosine"))
        assert loose.report.trade.kept == {}

    def test_by_a_function_of_the_user_s(self, model, tmp_path):
        def wrong(found, wanted):
            return np.mean(np.abs(found - wanted) > 0.01)

        conversion, _ = run(model, inputs=[FAR, NEAR], max_error=ErrorLimit(0.1, wrong))
        trade = conversion.report.trade
        assert list(trade.kept) == ["/Sub"] and "wrong error of 0." in trade.kept["/Sub"]
        assert trade.trials[0].errors["output_0"] > 0.1
        assert trade.trials[-1].errors == {"output_0": 0, "output_1": 0}
        loaded = Conversion.load(conversion.save(tmp_path / "out")).report.trade
        assert loaded.to_json() == trade.to_json()
        assert loaded.limits["output_0"].measure.endswith("wrong")

    def test_narrowing_has_one_too(self, model, expected):
        conversion, told = run(model, {"fp16"}, [FAR, NEAR], max_error=1e-3)
        assert runs(conversion, "Sub") == ["fp32"]
        assert "Sub '/Sub' is fp32 (not fp16: alone in fp16 it gives 'output_0' a relative error of" in told
        assert max(map(error_of, computed(conversion, FAR, NEAR), expected)) <= 1e-3

    def test_rules_are_not_overruled_by_it(self, model):
        with pytest.raises(PrecisionError, match="cannot be held, even with all nodes in fp32 that may be") as error:
            run(model, inputs=[FAR, NEAR], max_error=1e-3, rules=[{"op": "Sub", "precision": "fp16"}])
        assert "not kept in fp32 whatever the error: fp16 Sub '/Sub'" in str(error.value)

    def test_one_that_leaves_nothing_in_fp16_is_an_error_that_names_each_node(self, model):
        with pytest.raises(PrecisionError, match="not one node") as error:
            run(model, inputs=[FAR, NEAR], max_error=1e-7)
        assert all(f"'{name}': alone in fp16 it gives" in str(error.value) for name in ("/Sub", "/Tanh", "/b/Gemm"))

    def test_strictly_fp16_alone_leaves_nothing_to_keep(self, model):
        with pytest.raises(PrecisionError, match="strict"):
            run(model, {"fp16"}, [FAR, NEAR], max_error=1e-3, strict=True)

    def test_there_is_none_without_data(self, model):
        with pytest.raises(PrecisionError, match="max_error needs data"):
            run(model, inputs=[FAR, NEAR], max_error=1e-3, calibration=False)


class Rounding(nn.Module):
    """What fp16 loses of a layer's result."""

    def __init__(self, between):
        super().__init__()
        self.layer, self.between = nn.Linear(16, 16), between

    def forward(self, x):
        h = self.between(self.layer(x))
        return h - h.half().float()


class TestNumbers:
    def test_what_a_rounding_loses_does_not_become_nothing(self):
        torch.manual_seed(0)
        model = Rounding(nn.Identity())
        conversion, _ = run(model, inputs=[FAR], policy="auto")
        (found,) = computed(conversion, FAR)
        assert set(planned(conversion).values()) == {"fp32"} and casts(conversion) == [
            ("fp32", "fp16"),
            ("fp16", "fp32"),
        ]
        np.testing.assert_allclose(found, model(FAR).detach().numpy(), atol=2e-5)
        assert np.abs(found).max() > 1e-3

    @pytest.mark.parametrize("between", [nn.ReLU(), nn.Flatten(0)], ids=["relu", "flatten"])
    def test_nor_where_what_is_rounded_was_handed_on(self, between):
        conversion, _ = run(Rounding(between), inputs=[FAR], policy="auto")
        assert np.abs(computed(conversion, FAR)[0]).max() > 0

    def test_sizes_that_are_computed_in_floats_are_not_rounded(self):
        text = """g (float[4,N] x) => (float[4,M] y)
        <int64 one = {1}, int64[1] first = {0}, int64[1] axis = {1}, float half = {0.5}> {
            s = Shape(x)  n = Gather(s, one)  f = Cast<to=1>(n)  h = Mul(f, half)  k = Floor(h)  i = Cast<to=7>(k)
            e = Unsqueeze(i, first)  b = Slice(x, first, e, axis)  y = MatMul(w, b) }"""
        wide = Input(min_shape=(4, 2), opt_shape=(4, 4102), max_shape=(4, 5000))
        conversion, _ = run(parse(text, ARRAYS), inputs=[wide], calibration=False)
        assert conversion.report.comparison.outputs[0].shape == (4, 2051)

    @pytest.mark.parametrize("precisions", [BOTH, {"fp32", "bf16"}])
    def test_a_transformer_and_a_classifier_stay_near_fp32(self, precisions):
        for model, inputs in ((Block(), [ROWS, SCORES]), (Convolutions(), [PHOTO])):
            conversion, told = run(model, precisions, inputs)
            with torch.no_grad():
                expected = model.eval()(*inputs).numpy()
            limit = 2e-3 if "fp16" in precisions else 2e-2
            assert 0 < error_of(computed(conversion, *inputs)[0], expected) < limit
            assert told == "" and conversion.report.comparison.ok
            assert conversion.report.comparison.tolerance == 0.05


class TestWhatIsKept:
    def test_a_saved_report_has_the_data_the_trade_and_the_rule_of_each_node(self, tmp_path):
        text = """g (float[2,4] x) => (float[2,4] y, float[2,4] z) {
            s = Mul(x, x)  a = MatMul(x, w)  b = Sin(a)  c = Div(s, thousand)  y = Add(b, c)  z = Tanh(a) }"""
        samples = [{"x": REAL / 100}, {"x": REAL}]
        conversion, _ = run(parse(text, ARRAYS), calibration=samples, max_error={"y": 1e-5})
        report = conversion.report
        loaded = Conversion.load(conversion.save(tmp_path / "out")).report
        assert set(report.kept()) == {"CalibratedRange", "OperatorRisk", "OverBudget"}
        assert (loaded.data, loaded.trade, loaded.kept()) == (report.data, report.trade, report.kept())
        assert loaded.data == "2 given samples" and loaded.trade.kept
        assert [n.kept_by for n in loaded.plan.nodes] == [n.kept_by for n in report.plan.nodes]
        metadata = {
            p.key: p.value for node in conversion.onnx.graph.node for p in node.metadata_props if node.name == "Sin_b"
        }
        assert metadata[f"{PREFIX}kept_by"] == "OperatorRisk"

    def test_what_no_operator_exists_for_is_kept_by_that(self):
        model = parse(
            """g (float[2,1,4,4] x) => (float[2,1,2,2] y) { a = Sigmoid(x)
            b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)  c = Exp(b)  y = Tanh(c) }""",
            opset=22,
        )
        conversion, _ = run(model, {"fp32", "bf16"})
        assert kept(conversion) == {"operator": ["MaxPool_b"], "OperatorRisk": ["Exp_c"]}
        (node,) = (n for n in conversion.plan.nodes if n.op == "MaxPool")
        assert node.reason.startswith("TensorRT runs a bf16 MaxPool in fp32; ")


class TestCache:
    @pytest.fixture
    def folder(self, tmp_path):
        onnx.save(squared(), tmp_path / "model.onnx")
        np.savez(tmp_path / "calib.npz", x=REAL)
        return tmp_path

    def entries(self, folder, **asked):
        """How many there are once this is converted."""
        convert(folder / "model.onnx", None, BOTH, backend="none", cache=folder / "cache", **asked)
        return len([path for path in (folder / "cache").iterdir() if not path.name.startswith(".")])

    def test_all_that_says_what_is_measured_is_part_of_the_key(self, folder):
        file = folder / "calib.npz"
        ones = np.ones((2, 4), np.float32)
        asked = [
            {},
            {"calibration": False},
            {"calibration": file},
            {"calibration": [{"x": ones}]},
            {"calibration": [{"x": ones * 2}]},
            {"calibration": [{"x": ones}, {"x": ones}]},
            {"calibration": [torch.ones(2, 4)]},
            {"max_error": 1e-2},
            {"max_error": 1e-3},
            {"max_error": {"y": 1e-3}},
            {"max_error": ErrorLimit(1e-3, "cosine")},
            {"max_error": 1e-3, "calibration": file},
            {"policy": "auto"},
        ]
        assert [self.entries(folder, **each) for each in asked] == list(range(1, len(asked) + 1))
        assert {self.entries(folder, **each) for each in asked} == {len(asked)}

    def test_a_file_counts_by_what_is_in_it(self, folder):
        file = folder / "calib.npz"
        assert self.entries(folder, calibration=file) == 1
        before = convert(folder / "model.onnx", None, BOTH, backend="none", cache=folder / "cache", calibration=file)
        np.savez(file, x=REAL / 400)
        assert self.entries(folder, calibration=file) == 2
        after = convert(folder / "model.onnx", None, BOTH, backend="none", cache=folder / "cache", calibration=file)
        assert (set(kept(before)), set(kept(after))) == ({"CalibratedRange"}, set())
        (folder / "several").mkdir()
        np.savez(folder / "several" / "a.npz", x=REAL / 400)
        assert self.entries(folder, calibration=folder / "several") == 3
        np.savez(folder / "several" / "b.npz", x=REAL)
        assert self.entries(folder, calibration=folder / "several") == 4

    @pytest.mark.parametrize(
        ("given", "kind"),
        [
            ({"calibration": iter([{"x": REAL}])}, "list_iterator"),
            ({"calibration": ({"x": REAL} for _ in range(2))}, "generator"),
            ({"max_error": ErrorLimit(1e-3, lambda a, b: 0)}, "function"),
            ({"max_error": {"y": ErrorLimit(1e-3, lambda a, b: 0)}}, "function"),
        ],
        ids=["an iterator", "a generator", "a function", "a function for one output"],
    )
    def test_what_can_do_something_else_tomorrow_is_an_error(self, folder, given, kind):
        with pytest.raises(InputError, match=f"a cache cannot tell one {kind} from another"):
            self.entries(folder, **given)

    def test_bf16_numbers_count_by_their_values(self, folder):
        data = np.ones((2, 4), np.float32).astype(ml_dtypes.bfloat16)
        assert self.entries(folder, calibration=[{"x": data}]) == 1


class TestCommand:
    @pytest.fixture
    def model(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        onnx.save(squared(), "model.onnx")
        np.savez("calib.npz", x=REAL)
        Path("data").mkdir()
        np.savez("data/a.npz", x=REAL)
        return "model.onnx"

    def command(self, *words):
        result = CliRunner().invoke(main, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def planned(self, *words):
        return json.loads(self.command("plan", *words, "-p", "fp32,fp16", "--json").stdout)

    def converted(self, *words):
        done = self.command("convert", *words, "-p", "fp32,fp16", "--backend", "none", "-o", "out")
        return done, json.loads(Path("out/report.json").read_text()) if done.exit_code in (0, 4) else {}

    def test_plan_and_convert_decide_alike(self, model):
        asked = {
            "by default": ([], {}, "1 random sample"),
            "on a file": (["--calibration", "calib.npz"], {"CalibratedRange": 2}, "1 sample of calib.npz"),
            "on a folder": (["--calibration", "data"], {"CalibratedRange": 2}, "1 sample of data"),
            "on nothing": (["--no-calibration"], {}, ""),
        }
        for flags, rules, data in asked.values():
            plan = self.planned(model, *flags)
            done, report = self.converted(model, *flags)
            assert done.exit_code == 0, done.output
            for found in (plan, report):
                by = [node["kept_by"] for node in found["nodes"] if node["kept_by"]]
                assert ({rule: by.count(rule) for rule in by}, found["data"]) == (rules, data)
            precisions = {node["name"]: node["precision"] for node in report["nodes"]}
            assert {n["name"]: n["precision"] for n in plan["nodes"]}.items() <= precisions.items()

    def test_the_tables_name_what_was_kept_and_what_it_was_measured_on(self, model):
        done, _ = self.converted(model, "--calibration", "calib.npz")
        lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
        assert "measured on 1 sample of calib.npz" in lines
        assert "kept in fp32 2 by CalibratedRange: Mul 'Mul_s', Div 'Div_c'" in lines
        assert any("Mul_s Mul fp32 it makes 's', which reaches 160000" in line for line in lines)
        assert "kept in fp32" in self.command("inspect", "out").stdout
        table = self.command("plan", model, "-p", "fp32,fp16", "--calibration", "calib.npz").stdout
        assert "measured on 1 sample of calib.npz" in table and "which reaches 160000" in table

    def test_many_that_were_kept_are_counted(self, model):
        nodes = "  ".join(f"a{i} = Exp({f'a{i - 1}' if i else 'x'})  b{i} = Neg(a{i})" for i in range(7)).replace(
            "Exp", "Sin"
        )
        onnx.save(parse(f"g (float[4] x) => (float[4] y) {{ {nodes}  y = Sigmoid(b6) }}"), "many.onnx")
        done, _ = self.converted("many.onnx")
        assert (
            "7 by OperatorRisk: Sin 'Sin_a0', Sin 'Sin_a1', Sin 'Sin_a2', Sin 'Sin_a3', Sin 'Sin_a4', and 2 more"
            in " ".join(done.stdout.split())
        )

    def test_a_policy(self, model):
        done, _ = self.converted(model, "--policy", "source")
        assert done.exit_code == 1 and "not one node of the model runs in it" in done.stderr
        done, _ = self.converted(model, "--policy", "auto")
        assert done.exit_code == 0
        assert self.command("plan", model, "-p", "fp32", "--policy", "auto").exit_code == 1
        assert self.command("plan", model, "--policy", "fast").exit_code == 2

    def test_a_budget(self, model):
        done, report = self.converted(model, "--max-error", "1e-9", "--max-error", "y:cosine:1e-3")
        assert done.exit_code == 0, done.output
        assert report["trade"]["limits"] == {"y": {"limit": 1e-3, "metric": "cosine"}}
        assert "nodes kept in fp32 for max_error, found in" in done.stdout
        plan = self.planned(model, "--max-error", "2e-4")
        assert plan["trade"]["limits"] == {"y": {"limit": 2e-4, "metric": "relative"}}
        assert (
            plan["trade"]["kept"].keys() == {n["name"] for n in plan["nodes"] if n["kept_by"] == "OverBudget"} != set()
        )
        assert "for max_error" in self.command("plan", model, "-p", "fp32,fp16", "--max-error", "2e-4").stdout

    @pytest.mark.parametrize(
        ("flags", "code", "words"),
        [
            (["--calibration", "calib.npz", "--no-calibration"], 2, "exclude each other"),
            (["--calibration", "nowhere.npz"], 1, "there is no such file of calibration data"),
            (["--calibration", "model.onnx"], 1, "the calibration data cannot be read"),
            (["--max-error", "z:1e-3"], 1, "the model has no output 'z'"),
            (["--max-error", "small"], 1, "'small' is no limit of an error"),
            (["--max-error", "1e-3", "--max-error", "1e-2"], 1, "max_error was given twice"),
            (["--max-error", "1e-3", "--no-calibration"], 1, "max_error needs data"),
        ],
    )
    def test_what_is_wrong_is_one_error(self, model, flags, code, words):
        done, _ = self.converted(model, *flags)
        assert (done.exit_code, words in done.stderr, Path("out").exists()) == (code, True, False)
        plan = self.command("plan", model, "-p", "fp32,fp16", *flags)
        assert (plan.exit_code, words in plan.stderr) == (code, True)


# --- Random graphs

SETTINGS = settings(
    derandomize=True, database=None, deadline=None, max_examples=100, suppress_health_check=list(HealthCheck)
)
REDUCED = st.sets(st.sampled_from([Precision.FP16, Precision.BF16]), min_size=1)


def decided(model, asked, sample):
    """The scene of a model that is lowered, and of each float node of the source `(node, what it was, what it is to be)`."""
    scene = Scene(model)
    scene.run(*pipeline.repairs({}))
    inputs = [Input(SHAPE, name=t.name, dtype=onnx_type(t)) for t in scene.graph.ir.inputs]
    with tempfile.TemporaryDirectory() as folder:
        request = deciding.Request(asked, inputs, ["8.9"], Path(folder), calibration=[sample])
        decision = deciding.decide(scene.graph, request)
    assert decision.policy == "auto"
    return scene


def told(node, key):
    return node.metadata.get(f"{PREFIX}{key}", "")


def emulated(scene, sample):
    """What a graph computes where each reduced node rounds."""
    copy = Scene(scene.proto())
    copy.graph.infer_types(strict=False)
    for _ in EmulateReduced().apply(copy.graph):
        pass
    copy.graph.tidy()
    return outputs(copy.proto(), sample)


def shaken(model, sample, size, seed):
    """What a model computes where each fp32 tensor is off by a random share, up to a size."""
    random = np.random.default_rng(seed)
    scene = Scene(model)
    scene.run(*pipeline.repairs({}))
    for inner in scene.graph.graphs():
        for node in list(inner.nodes):
            for index, result in enumerate(list(node.outputs)):
                if onnx_type(result) == FP32:
                    made = gs.Variable(scene.graph.fresh_name("made"), FP32, result.shape)
                    node.outputs[index] = made
                    factor = np.array(1 + size * random.uniform(-1, 1), np.float32)
                    share = scene.graph.constant(scene.graph.fresh_name("share"), factor, FP32)
                    inner.nodes.append(new_node("Mul", scene.graph.fresh_name("shake"), {}, [made, share], [result]))
    scene.graph.tidy()
    given = {
        name: array * np.float32(1 + size * random.uniform(-1, 1)) if array.dtype == np.float32 else array
        for name, array in sample.items()
    }
    return emulated(scene, given)


def typed(model, seed):
    """A model whose author rounds to fp16 what some of its nodes read in fp32."""
    random = np.random.default_rng(seed)
    scene = Scene(model)
    scene.run()
    for inner in scene.graph.graphs():
        for node in list(inner.nodes):
            for index, tensor in enumerate(list(node.inputs)):
                if onnx_type(tensor) == FP32 and not subgraphs(node) and random.random() < 0.3:
                    half = scene.graph.insert_cast(inner, tensor, FP16, "half")
                    set_input(node, index, scene.graph.insert_cast(inner, half, FP32, "float"))
    scene.graph.tidy()
    return scene.proto()


def is_rounding(node):
    """Whether a node is a Cast between two floats."""
    kinds = {onnx_type(t) for t in (*node.inputs, *node.outputs)}
    return node.op == "Cast" and len(kinds) == 2 and kinds <= FLOATS


@SETTINGS
@given(models(10), REDUCED, st.booleans(), st.sampled_from(["inherit", "free"]))
def test_any_graph_is_valid_and_as_planned(model, reduced, wide, weightless):
    precisions = frozenset(reduced | ({Precision.FP32} if wide else set()))
    try:
        scene = decided(model, Asked(precisions, policy="auto", weightless=weightless), random_feeds(model, 0))
    except PrecisionError as error:
        event(error.what)
        return
    event(f"{min(sum(told(n, 'origin') == 'auto' for n in scene.graph.nodes()), 4)} lowered")
    scene.run(*pipeline.lowering())
    assert PrecisionPlan.read(scene.graph).departures(scene.graph) == []
    onnx.checker.check_model(scene.proto(), full_check=True)


@SETTINGS
@given(models(10), st.integers(0, 999))
def test_what_the_author_of_any_graph_typed_is_as_he_did(model, seed):
    model = typed(model, seed)
    try:
        scene = decided(
            model, Asked(frozenset({Precision.FP32, Precision.FP16}), policy="auto"), random_feeds(model, 0)
        )
    except PrecisionError as error:
        event(error.what)
        return
    held = 0
    for node in scene.graph.nodes():
        was, is_ = told(node, "authored"), told(node, "precision")
        if was == "fp16" and node.op not in MOVING | MONOTONE:
            assert is_ == "fp16", node
        if was != "fp32" or node.op == "Cast":
            continue
        makers = [producer(t) for t in node.inputs if onnx_type(t) == FP32]
        reads = node.op not in MATRIX and any(m is not None and is_rounding(m) for m in makers)
        rounds = any(0 < sum(map(is_rounding, t.outputs)) < len(t.outputs) for t in node.outputs)
        if reads or rounds:
            held += 1
            assert is_ == "fp32", node
    event(f"{min(held, 4)} nodes that he typed")
    scene.run(*pipeline.lowering())
    assert PrecisionPlan.read(scene.graph).departures(scene.graph) == []


@settings(SETTINGS, max_examples=60)
@given(models(12), st.sampled_from(["fp16", "bf16"]))
def test_any_graph_computes_about_the_same(model, word):
    sample = random_feeds(model, 1)
    reference = Scene(model)
    reference.run(*pipeline.repairs({}))
    if any(compute_type(node) == FP16 for node in reference.graph.nodes()):
        word = "fp16"  # where bf16 is asked for, it would be widened
    expected = emulated(reference, sample)
    if not all(np.isfinite(array).all() for array in expected):
        event("not finite")
        return
    try:
        scene = decided(model, Asked(frozenset({Precision.FP32, Precision.of(word)}), policy="auto"), sample)
    except PrecisionError:
        event("nothing is lowered")
        return
    event(f"something is lowered to {word}")
    scene.run(*pipeline.lowering())
    size = 2.0**-10 if word == "fp16" else 2.0**-7
    moved = [shaken(model, sample, size, seed) for seed in range(4)]
    for index, (found, wanted) in enumerate(zip(emulated(scene, sample), expected, strict=True)):
        assert np.isfinite(found).all()
        spread = max(np.abs(other[index].astype(np.float64) - wanted).max() for other in moved)
        assert np.abs(found.astype(np.float64) - wanted).max() <= 8 * spread + 1e-6
