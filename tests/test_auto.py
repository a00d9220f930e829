"""`policy="auto"` from end to end: which nodes of a model are lowered, why the others are not, and what that does to the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Layers
from graphs import Scene, parse
from lowering import ARRAYS, BOTH, HALF, REAL, X, computed, error_of, kept, planned, run, squared
from test_semantics import IMAGE, PROVEN, Quantized, casts, runs
from torch import nn
from torch.nn import functional

from torch2trt_onnx import Conversion, Input, deciding, pipeline
from torch2trt_onnx.errors import PrecisionError
from torch2trt_onnx.graph import PREFIX
from torch2trt_onnx.limits import Limits
from torch2trt_onnx.plan import Asked
from torch2trt_onnx.precision import Precision
from torch2trt_onnx.safety import MATRIX


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


FAR = torch.rand(4, 16, generator=torch.Generator().manual_seed(1)) + 100


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


def told(node, key):
    return node.metadata.get(f"{PREFIX}{key}", "")
