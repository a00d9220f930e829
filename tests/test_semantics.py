"""The specification of casting, row by row, on engines that TensorRT-RTX built; every precision is read from the engine's proof."""

import json
import warnings

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from conftest import Layers
from graphs import parse
from torch import nn

from torch2trt_onnx import ConversionWarning, Input, Options, convert
from torch2trt_onnx.cli import main
from torch2trt_onnx.errors import InputError, PrecisionError, ProofError
from torch2trt_onnx.report import Report

PROVEN = {"honoured", "fused", "folded"}


X = torch.randn(4, 64)
HALF = torch.float16


def run(model, precisions=None, inputs=(X,), **asked):
    """A conversion on a real engine, whose proof has nothing against the plan, and its warnings in one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        model = model.eval() if isinstance(model, nn.Module) else model
        conversion = convert(model, list(inputs) if inputs else None, precisions, backend="rtx", **asked)
    report = conversion.report
    assert {node.verdict for node in report.nodes if node.plan.precision} <= PROVEN
    assert report.comparison.ok, report.comparison
    return conversion, "\n".join(str(w.message) for w in caught if issubclass(w.category, ConversionWarning))


def runs(conversion, *words):
    """What the nodes of some operators or modules run in, in the order of the graph."""
    nodes = conversion.report.nodes
    return [n.plan.runs_in for n in nodes if n.plan.op in words or n.plan.module in words]


def ops(conversion):
    return [n.plan.op for n in conversion.report.nodes]


def casts(conversion):
    """The Casts of a conversion, as (from, to)."""
    return [tuple(n.plan.reason.split(",")[0].split()[2::2]) for n in conversion.report.nodes if n.plan.op == "Cast"]


class TestLayerCasting:
    """Section 2: the weights are the signal."""

    def test_a_fp16_weights_with_fp16_asked_run_in_fp16_and_do_not_drag_their_neighbours_along(self):
        conversion, told = run(Layers(HALF), {"fp32", "fp16"})
        assert runs(conversion, "Gemm") == ["fp16", "fp32"]
        assert told == ""

    def test_b_strictly_fp16_runs_all_of_it_in_fp16(self):
        conversion, _ = run(Layers(HALF, HALF).half(), {"fp16"}, [X.half()], strict=True)
        assert set(runs(conversion, "Gemm", "Sigmoid")) == {"fp16"}

    def test_b_strictly_fp16_fails_where_a_node_cannot_and_names_it_with_the_reason(self):
        with pytest.raises(PrecisionError) as error:
            convert(parse(NMS), None, {"fp16"}, strict=True, backend="none")
        assert "NonMaxSuppression" in str(error.value) and "takes no fp16" in str(error.value)

    def test_c_fp16_weights_without_fp16_asked_are_widened_with_a_warning_for_each_node(self):
        conversion, told = run(Layers(HALF, HALF).half(), {"fp32"}, [X.half()])
        assert set(runs(conversion, "Gemm", "Sigmoid")) == {"fp32"}
        for node in conversion.plan.nodes:
            assert node.op == "Cast" or f"'{node.name}': widened from fp16 to fp32" in told
        assert [b.dtype for b in conversion.report.bindings] == ["Half", "Float"]  # the I/O types stay

    def test_c_strictly_it_is_an_error_that_names_every_node(self):
        with pytest.raises(PrecisionError, match="When strict is True") as error:
            run(Layers(HALF, HALF).half(), {"fp32"}, [X.half()], strict=True)
        assert all(name in str(error.value) for name in ("a.weight", "b.weight", "Sigmoid"))

    def test_d_fp32_weights_with_fp16_among_the_precisions_are_no_signal_so_that_what_is_safe_is_lowered(self):
        conversion, _ = run(Layers(), {"fp32", "fp16"})
        assert set(runs(conversion, "Gemm", "Sigmoid")) == {"fp16"}
        assert {node.origin for node in conversion.plan.nodes if node.op == "Gemm"} == {"auto"}

    def test_d_with_the_policy_source_there_is_no_silent_fp32_engine(self):
        with pytest.raises(PrecisionError, match="not one node"):
            run(Layers(), {"fp32", "fp16"}, policy="source")

    def test_d_fp32_weights_with_only_fp16_asked_are_narrowed(self):
        conversion, _ = run(Layers(), {"fp16"})
        assert set(runs(conversion, "Gemm", "Sigmoid")) == {"fp16"}
        assert casts(conversion) == [("fp32", "fp16"), ("fp16", "fp32")]  # at the bindings, which keep their types

    def test_d_a_weight_that_fp16_cannot_hold_stays_in_fp32_and_is_named(self):
        model = Layers()
        model.b.weight.data[3, 5] = 1e6
        conversion, told = run(model, {"fp16"})
        assert runs(conversion, "Gemm") == ["fp16", "fp32"]
        assert "'b.weight': 1 of 4096 values become infinite (the largest is 1e+06)" in told

    def test_d_a_node_that_has_no_fp16_form_stays_in_fp32_and_is_named(self):
        with pytest.warns(ConversionWarning, match="NonMaxSuppression .* takes no fp16"):
            conversion = convert(parse(NMS), None, {"fp16"}, backend="none")
        assert runs(conversion, "NonMaxSuppression") == ["fp32"]
        assert runs(conversion, "Mul") == ["fp16"]

    def test_e_strictly_a_range_that_overflows_is_an_error_that_names_every_node(self):
        model = Layers()
        model.a.weight.data[0, 0] = model.b.bias.data[1] = -1e6
        with pytest.raises(PrecisionError) as error:
            run(model, {"fp16"}, strict=True)
        assert "'a.weight': 1 of 4096" in str(error.value) and "'b.bias': 1 of 64" in str(error.value)

    def test_e_values_lost_to_underflow_are_counted_and_named(self):
        model = Layers()
        model.a.weight.data[0, :3] = 1e-9
        conversion, _ = run(model, {"fp16"}, strict=True)
        assert any("of 4096 values 3 become zero" in why for *_, why in conversion.report.changes)

    @pytest.mark.parametrize("strict", [False, True])
    def test_bf16_is_treated_like_fp16(self, strict):
        conversion, _ = run(Layers(torch.bfloat16), {"fp32", "bf16"}, strict=strict)
        assert runs(conversion, "Gemm") == ["bf16", "fp32"]
        conversion, _ = run(Layers(), {"bf16"}, strict=strict)
        assert set(runs(conversion, "Gemm")) == {"bf16"}

    @pytest.mark.parametrize(("given", "asked"), [("float16", "bf16"), ("bfloat16", "fp16")])
    def test_fp16_and_bf16_are_no_widening_of_each_other_both_widen_to_fp32(self, given, asked):
        conversion, told = run(
            Layers(getattr(torch, given)), {"fp32", asked}, rules=[{"module": "b", "precision": asked}]
        )
        assert runs(conversion, "Gemm") == ["fp32", asked]
        assert "widened" in told

    def test_weights_of_two_types_in_one_node_are_an_error_that_names_the_node_both_tensors_and_both_types(self):
        model = parse(
            "g (float16[1,1,4,4] x, float16[1,1,2,2] w, float[1] b) => (float16[1,1,3,3] y) { y = Conv(x, w, b) }"
        )
        with pytest.raises(Exception, match="Conv 'Conv_y': 'x' is fp16 and 'b' is fp32"):
            convert(model, None, backend="rtx")

    def test_nodes_without_weights_run_in_the_type_of_the_tensor_that_reaches_them(self):
        conversion, _ = run(Layers(HALF), {"fp32", "fp16"})
        assert runs(conversion, "Sigmoid") == ["fp16"]

    def test_nodes_without_weights_can_be_pinned_to_fp32(self):
        conversion, _ = run(Layers(HALF, HALF), {"fp32", "fp16"}, weightless="fp32")
        assert runs(conversion, "Sigmoid") == ["fp32"]
        assert runs(conversion, "Gemm") == ["fp16", "fp16"]

    def test_nodes_without_weights_can_be_set_free_and_take_what_moves_the_fewest_bytes(self):
        class Pinned(Layers):
            def forward(self, x):
                return self.b(torch.sigmoid(self.a(x.half()).float()).half()).float()

        conversion, _ = run(Pinned(HALF, HALF), {"fp32", "fp16"})
        assert runs(conversion, "Sigmoid") == ["fp32"]
        conversion, _ = run(Pinned(HALF, HALF), {"fp32", "fp16"}, weightless="free")
        assert runs(conversion, "Sigmoid") == ["fp16"]


class Casting(nn.Module):
    """A sum, cast, multiplied; fp32 in and out."""

    def __init__(self, to):
        super().__init__()
        self.to_type = to
        self.linear = nn.Linear(64, 64)

    def forward(self, x):
        return self.linear((x + 1).to(self.to_type).float() * 3)


class TestTensorCasting:
    """Section 3: `aten::to` and its like."""

    @pytest.mark.parametrize(("to", "word"), [(torch.float16, "fp16"), (torch.bfloat16, "bf16")])
    def test_a_cast_to_a_precision_that_was_asked_for_is_kept_and_seen_in_the_engine(self, to, word):
        conversion, told = run(Casting(to), {"fp32", word})
        assert casts(conversion) == [("fp32", word), (word, "fp32")]
        assert told == ""

    def test_a_cast_to_one_that_was_not_is_widened_with_a_warning_that_names_it_its_line_and_the_lost_rounding(self):
        conversion, told = run(Casting(HALF), {"fp32"})
        assert casts(conversion) == []
        assert "its rounding to fp16 is gone" in told
        assert f"{__file__}:" in told

    def test_strictly_it_is_an_error(self):
        with pytest.raises(PrecisionError, match=r"Cast '.*' is fp16: Cast from fp32 to fp16"):
            run(Casting(HALF), {"fp32"}, strict=True)

    def test_a_cast_to_fp32_is_always_allowed(self):
        conversion, _ = run(Layers(HALF, HALF), {"fp16"})
        assert casts(conversion)[-1] == ("fp16", "fp32")

    def test_a_cast_to_fp32_in_a_strictly_fp16_build_is_reported_as_removed(self):
        conversion, told = run(Casting(HALF), {"fp16"}, strict=True)
        assert "leads to fp16, not fp32" in told
        assert casts(conversion) == [("fp32", "fp16"), ("fp16", "fp32")]  # at the bindings

    def test_a_plain_cast_to_int8_keeps_its_value_semantics(self):
        conversion, _ = run(Casting(torch.int8), None)
        assert casts(conversion) == [("fp32", "int8"), ("int8", "fp32")]
        assert set(runs(conversion, "Gemm", "Mul")) == {"fp32"}

    @pytest.mark.parametrize("to", [torch.int32, torch.int64, torch.bool])
    def test_casts_to_integers_and_bool_are_never_gated(self, to):
        conversion, told = run(Casting(to), {"fp32"}, strict=True)
        assert len(casts(conversion)) == 2
        assert told == ""

    def test_fp64_is_demoted_to_fp32_with_a_warning(self):
        conversion, told = run(Casting(torch.float64), {"fp32"})
        assert "TensorRT has no fp64" in told
        assert set(runs(conversion, "Mul", "Gemm")) == {"fp32"}

    def test_a_round_trip_through_a_narrower_type_rounds_and_stays(self):
        conversion, _ = run(Casting(HALF), {"fp32", "fp16"}, strict=True)
        assert casts(conversion) == [("fp32", "fp16"), ("fp16", "fp32")]

    def test_a_round_trip_through_a_wider_type_is_exact_and_goes(self):
        class Wider(nn.Module):
            def forward(self, x):
                return torch.sigmoid(x).float().half() + 1

        conversion, _ = run(Wider(), {"fp16"}, [X.half()], strict=True)
        assert casts(conversion) == []

    @pytest.mark.parametrize(("kind", "left"), [(torch.uint8, 0), (torch.int32, 2)])
    def test_integer_to_float_to_integer_goes_only_where_the_range_allows(self, kind, left):
        class There(nn.Module):
            def forward(self, x):
                return x.to(torch.float32).to(x.dtype) * 2

        conversion = convert(There(), [torch.arange(8).to(kind)], backend="none")
        assert ops(conversion).count("Cast") == left


class TestBindings:
    """Section 4: what goes in and what comes out."""

    def test_an_input_has_the_type_that_the_graph_declares_for_it(self):
        model = parse("g (float16[4,64] x) => (float[4,64] y) { v = Exp(x)  y = Cast<to=1>(v) }")
        conversion, _ = run(model, inputs=[Input((4, 64))])
        assert [(b.mode, b.dtype) for b in conversion.report.bindings] == [("Input", "Half"), ("Output", "Float")]

    def test_an_explicit_type_wins_and_a_cast_leads_to_the_type_that_the_graph_computes_in(self):
        model = parse("g (float[4,64] x) => (float[4,64] y) { v = Exp(x)  y = Sin(v) }")
        conversion, _ = run(model, inputs=[Input((4, 64), dtype="fp16")])
        assert conversion.report.bindings[0].dtype == "Half"
        assert casts(conversion) == [("fp16", "fp32")]
        assert set(runs(conversion, "Exp", "Sin")) == {"fp32"}

    @pytest.mark.parametrize("precisions", ["fp16", "fp32", "bf16"])
    def test_the_types_of_the_bindings_are_the_source_s_whatever_the_precisions(self, precisions):
        conversion, _ = run(Casting(HALF), precisions)
        assert [b.dtype for b in conversion.report.bindings] == ["Float", "Float"]

    def test_a_tensor_stands_for_an_input_with_its_shape_type_and_memory_format(self):
        image = torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)
        conversion, _ = run(Quantized(), inputs=[image])
        assert conversion.report.bindings[0].dims == (2, 16, 8, 8)
        assert "channel-last" in conversion.report.bindings[0].format

    @pytest.mark.parametrize("shapes", [{"min_shape": (1, 64)}, {"shape": (1, 64), "opt_shape": (1, 64)}, {}])
    def test_a_shape_and_a_range_or_a_part_of_a_range_are_errors(self, shapes):
        with pytest.raises(InputError):
            Input(**shapes)


class TestFreedom:
    """Section 5: rules, and no silent fp32 engine."""

    def test_the_last_rule_that_matches_wins(self):
        rules = [{"op": "Gemm", "precision": "fp16"}, {"module": "b", "precision": "fp32"}]
        conversion, _ = run(Layers(), {"fp32", "fp16"}, rules=rules)
        assert runs(conversion, "Gemm") == ["fp16", "fp32"]

    @pytest.mark.parametrize("rule", [{"name": "/a/Gemm"}, {"module": "a.*"}, {"op": "Gemm", "tensor": "/a/*"}])
    def test_a_rule_finds_a_node_by_name_module_operator_and_output(self, rule):
        conversion, _ = run(Layers(), {"fp32", "fp16"}, rules=[{**rule, "precision": "fp16"}], policy="source")
        assert runs(conversion, "Gemm") == ["fp16", "fp32"]

    def test_a_rule_widens_what_the_author_narrowed(self):
        conversion, _ = run(Layers(HALF, HALF), {"fp32", "fp16"}, rules=[{"op": "Sigmoid", "precision": "fp32"}])
        assert runs(conversion, "Sigmoid") == ["fp32"]

    def test_a_rule_that_matches_nothing_is_reported(self):
        _, told = run(Layers(HALF), rules=[{"op": "Conv", "precision": "fp16"}])
        assert "rule 1 (op='Conv' -> fp16) matches no node" in told

    def test_rules_that_ask_for_what_is_not_asked_for_are_all_named(self):
        rules = [{"op": "Gemm", "precision": "bf16"}, {"op": "Sigmoid", "precision": "bf16"}]
        with pytest.raises(PrecisionError, match=r"rule 1 .*rule 2"):
            run(Layers(HALF), {"fp32", "fp16"}, rules=rules)

    def test_a_rule_that_a_node_cannot_follow_is_an_error_when_strict_and_a_warning_otherwise(self):
        model = Layers()
        model.a.weight.data[0, 0] = 1e6
        rules = [{"op": "Gemm", "precision": "fp16"}]
        conversion, told = run(model, rules=rules)
        assert runs(conversion, "Gemm") == ["fp32", "fp16"]
        assert "a.weight" in told
        with pytest.raises(PrecisionError, match=r"a\.weight"):
            run(model, rules=rules, strict=True)


class TestDevices:
    def test_bf16_before_8_0_is_an_error_that_names_the_device_and_every_node(self):
        with pytest.raises(PrecisionError, match=r"7\.5 has no bf16") as error:
            run(Layers(torch.bfloat16, torch.bfloat16), options=Options(compute_capabilities=("7.5", "8.9")))
        assert str(error.value).count("Gemm '") == 2

    def test_fp8_before_8_9_is_an_error_that_names_the_device_and_every_node(self):
        with pytest.raises(PrecisionError, match=r"8\.6 has no fp8") as error:
            convert(in_fp8(), None, backend="rtx", options=Options(compute_capabilities=("8.6",)))
        assert "MatMul" in str(error.value)


NMS = """g (float[1,6,4] boxes, float[1,1,6] scores) => (int64[n,3] y)
<int64[1] most = {3}, float[1] overlap = {0.5}, float[1] least = {0.1}, float two = {2}>
{ v = Mul(boxes, two)  y = NonMaxSuppression(v, scores, most, overlap, least) }"""


def in_fp8():
    """A product of fp8 numbers."""
    text = """g (float16[4,32] x) => (float16[4,32] y) {
        q = QuantizeLinear(x, one, zero)  d = DequantizeLinear(q, one)
        p = QuantizeLinear(w, one, zero)  e = DequantizeLinear(p, one)  y = MatMul(d, e)
    }"""
    arrays = {
        "w": np.random.default_rng(0).normal(size=(32, 32)).astype(np.float16),
        "one": np.ones((), np.float16),
        "zero": np.zeros((), ml_dtypes.float8_e4m3fn),
    }
    return parse(text, arrays, opset=19)


def quantized_along(axis):
    """A convolution whose weights are quantised along an axis; 0 is the right one."""
    text = """g (float[1,16,8,8] x) => (float[1,16,8,8] y) <float s = {0.05}, int8 z = {0}> {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
        p = QuantizeLinear<axis = AXIS>(w, t, u)  e = DequantizeLinear<axis = AXIS>(p, t, u)  y = Conv(d, e)
    }"""
    arrays = {
        "w": np.random.default_rng(0).normal(size=(16, 16, 1, 1)).astype(np.float32),
        "t": np.full(16, 0.01, np.float32),
        "u": np.zeros(16, np.int8),
    }
    return parse(text.replace("AXIS", str(axis)), arrays)


class Quantized(nn.Module):
    """A convolution of quantised numbers, as QAT leaves it, and a linear layer; fp32 in and out."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 16)
        self.register_buffer("scales", torch.full((16,), 0.01))
        self.register_buffer("zeros", torch.zeros(16, dtype=torch.int32))

    def forward(self, x):
        x = torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127)
        weight = torch.fake_quantize_per_channel_affine(self.conv.weight, self.scales, self.zeros, 0, -128, 127)
        x = torch.relu(nn.functional.conv2d(x, weight, self.conv.bias, padding=1))
        return self.linear(x.mean((2, 3)))


IMAGE = [torch.randn(2, 16, 8, 8)]


class TestQuantized:
    """int8, fp8 and int4 are precisions through Q/DQ."""

    def test_quantised_layers_run_in_int8_and_the_others_in_their_own_precision(self):
        conversion, told = run(Quantized(), {"fp32", "int8"}, IMAGE, strict=True)
        assert runs(conversion, "Conv", "Gemm") == ["int8", "fp32"]
        assert told == ""

    def test_int8_does_not_bring_fp16_with_it(self):
        with pytest.raises(PrecisionError, match="When strict is True"):
            run(Layers(HALF), {"fp32", "int8"}, strict=True)

    def test_without_int8_asked_q_dq_stays_and_the_layer_is_named(self):
        conversion, told = run(Quantized(), {"fp32"}, IMAGE)
        assert runs(conversion, "Conv") == ["int8"]
        assert "int8 was not asked for, and stays" in told and "Conv '/Conv'" in told

    def test_strictly_without_int8_asked_it_is_an_error_that_names_the_layer(self):
        with pytest.raises(PrecisionError, match=r"int8 by Q/DQ: Conv '/Conv'"):
            run(Quantized(), {"fp32"}, IMAGE, strict=True)

    def test_int8_without_q_dq_in_the_model_is_an_error(self):
        with pytest.raises(PrecisionError, match="int8 was asked for, and not one node"):
            run(Layers(), {"fp32", "int8"})

    def test_narrowing_keeps_q_dq_and_narrows_what_is_around_it(self):
        conversion, _ = run(Quantized(), {"fp16", "int8"}, IMAGE)
        assert runs(conversion, "Conv", "Relu", "Gemm") == ["int8", "fp16", "fp16"]
        assert ops(conversion).count("QuantizeLinear") == 2

    def test_a_rule_cannot_ask_for_int8(self):
        with pytest.raises(PrecisionError, match="QuantizeLinear"):
            run(Layers(), rules=[{"op": "Gemm", "precision": "int8"}])

    def test_fp8_is_kept_where_the_device_has_it(self):
        conversion = convert(in_fp8(), None, {"fp16", "fp8"}, strict=True, backend="rtx")
        assert runs(conversion, "MatMul") == ["fp8"]
        assert {n.verdict for n in conversion.report.nodes if n.plan.precision} <= PROVEN

    @pytest.mark.parametrize(("axis", "right"), [(0, True), (1, False)])
    def test_weights_quantised_along_a_wrong_axis_which_tensorrt_ignores_are_found_by_the_proof(self, axis, right):
        model = quantized_along(axis)
        if right:
            assert runs(convert(model, None, strict=True, backend="rtx"), "Conv") == ["int8"]
            return
        with pytest.raises(ProofError, match=r"Conv '.*overridden"):
            convert(model, None, strict=True, backend="rtx")
        with pytest.warns(ConversionWarning, match="overridden"):
            report = convert(model, None, backend="rtx").report
        assert "Conv" in {node.plan.op for node in report.unproven()}


class TestProof:
    """Section 6: strict means proven, and so does --require-proof."""

    def test_strict_raises_nothing_where_each_node_is_proven(self):
        conversion, _ = run(Layers(HALF), {"fp32", "fp16"}, strict=True)
        assert conversion.report.unproven() == []
        assert all(n.evidence for n in conversion.report.nodes if n.plan.precision)

    def test_a_saved_report_keeps_the_verdicts(self, tmp_path):
        conversion, _ = run(Layers(HALF), {"fp32", "fp16"})
        again = Report.from_json(json.loads((conversion.save(tmp_path / "out") / "report.json").read_text()))
        assert [(n.verdict, n.evidence) for n in again.nodes] == [
            (n.verdict, n.evidence) for n in conversion.report.nodes
        ]

    @pytest.mark.parametrize(
        ("axis", "flags", "code"),
        [(0, [], 0), (1, [], 0), (0, ["--require-proof"], 0), (1, ["--require-proof"], 3), (1, ["--strict"], 3)],
    )
    def test_the_command_ends_with_3_where_proof_is_required_and_not_there(self, axis, flags, code, tmp_path):
        path = tmp_path / "model.onnx"
        onnx.save(quantized_along(axis), path)
        done = CliRunner().invoke(main, ["convert", str(path), "--backend", "rtx", "-o", str(tmp_path / "out"), *flags])
        assert done.exit_code == code, done.output
        assert ("overridden" in done.stderr) == (code == 3)

    def test_proof_that_is_required_needs_an_engine(self, tmp_path):
        path = tmp_path / "model.onnx"
        onnx.save(quantized_along(0), path)
        done = CliRunner().invoke(
            main, ["convert", str(path), "--backend", "none", "-o", str(tmp_path / "out"), "--require-proof"]
        )
        assert done.exit_code == 3
        assert "there is no engine" in done.stderr
