"""The weak-typing columns of the specification, on a recording double of TensorRT that its own stubs made.

The double refuses any call that TensorRT 10.13 (8.6, 11.0) does not declare, and fails where TensorRT does: an fp16 layer without the
flag, OBEY without an implementation. It shows what our code asks of TensorRT, and nothing of what TensorRT makes of it: these tests
build no engine of TensorRT itself.
"""

import json
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import Layers
from doubles.recording import Call
from graphs import parse
from torch import nn

from torch2trt_onnx import ConversionWarning, Input, Options, convert
from torch2trt_onnx.cli import main
from torch2trt_onnx.errors import (
    BackendMissingError,
    BindingError,
    BuildError,
    GraphError,
    InputError,
    ParseError,
    PrecisionError,
    ProofError,
)
from torch2trt_onnx.interop import say

HALF, BF16 = torch.float16, torch.bfloat16
X = torch.randn(4, 64)


@dataclass
class Asked:
    """What TensorRT was asked, by what it is."""

    calls: list[Call] = field(default_factory=list)

    @property
    def flags(self):
        """The builder flags that are set in the end."""
        found = set()
        for call in self.calls:
            if call.call == "set_flag":
                found.add(call.args[0].split(".")[1])
            elif call.call == "clear_flag":
                found.discard(call.args[0].split(".")[1])
        return found

    @property
    def precisions(self):
        """Layer -> the precision that it was told."""
        return {call.name: call.value.split(".")[1] for call in self.calls if call.set == "precision"}

    @property
    def types(self):
        """Layer -> the types that its outputs were told."""
        found = {}
        for call in self.calls:
            if call.call == "set_output_type":
                found.setdefault(call.name, []).append(call.args[1].split(".")[1])
        return found

    def of(self, operator):
        """The precisions of the layers of an operator, in order."""
        return [kind for name, kind in self.precisions.items() if name.endswith(operator) or name.startswith(operator)]


@pytest.fixture
def run(tensorrt):
    """Convert on a double; returns the conversion, what TensorRT was asked, and the warnings in one text."""

    def call(model, precisions=None, inputs=(X,), version="10.13", backend="tensorrt-weak", **asked):
        read = tensorrt(version)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConversionWarning)
            model = model.eval() if isinstance(model, nn.Module) else model
            conversion = convert(model, list(inputs) if inputs else None, precisions, backend=backend, **asked)
        told = "\n".join(str(w.message) for w in caught if issubclass(w.category, ConversionWarning))
        return conversion, Asked(read()), told

    return call


def verdicts(conversion, *operators):
    return [n.verdict for n in conversion.report.nodes if n.plan.op in operators]


class TestLayerCasting:
    """Section 2, column "weak typing"."""

    def test_a_the_layer_and_its_output_are_fp16_and_the_others_are_pinned_to_their_own(self, run):
        conversion, asked, _ = run(Layers(HALF), {"fp32", "fp16"})
        assert asked.flags == {"FP16", "PREFER_PRECISION_CONSTRAINTS"}
        assert asked.of("a/Gemm")[0] == "HALF"
        assert set(asked.of("b/Gemm")) == {"FLOAT"}
        assert asked.of("Sigmoid") == ["HALF"]  # PyTorch runs it in the type of what reaches it
        assert verdicts(conversion, "Gemm", "Sigmoid") == ["honoured"] * 3

    @pytest.mark.parametrize("version", ["8.6", "10.13"])
    def test_b_strictly_fp16_pins_every_layer_and_obeys(self, run, version):
        conversion, asked, _ = run(Layers(HALF, HALF).half(), {"fp16"}, [X.half()], version, strict=True)
        assert asked.flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
        assert set(asked.precisions.values()) == {"HALF"}
        assert all(set(kinds) == {"HALF"} for kinds in asked.types.values())
        assert set(verdicts(conversion, "Gemm", "Sigmoid")) == {"honoured"}

    def test_b_strictly_what_cannot_be_fp16_is_an_error_that_names_it(self, run):
        model = parse(CUMSUM)
        with pytest.raises(
            BuildError, match=r"where: node 'CumSum_y'\n.*Could not find any implementation for node CumSum_y"
        ):
            run(model, {"fp16"}, None, strict=True)

    def test_c_fp16_weights_without_fp16_asked_are_widened_and_no_flag_is_set(self, run):
        conversion, asked, told = run(Layers(HALF, HALF).half(), {"fp32"}, [X.half()])
        assert asked.flags == {"PREFER_PRECISION_CONSTRAINTS"}
        assert set(asked.precisions.values()) == {"FLOAT"}
        assert told.count("widened from fp16 to fp32") >= 1
        assert [b.dtype for b in conversion.report.bindings] == ["HALF", "FLOAT"]

    def test_c_strictly_it_is_an_error_that_names_every_node(self, run):
        with pytest.raises(PrecisionError, match="When strict is True") as error:
            run(Layers(HALF, HALF).half(), {"fp32"}, [X.half()], strict=True)
        assert all(name in str(error.value) for name in ("a.weight", "b.weight", "Sigmoid"))

    def test_d_fp32_weights_with_fp16_allowed_are_no_signal_so_that_the_compiler_is_free(self, run):
        conversion, asked, _ = run(Layers(), {"fp32", "fp16"})
        assert asked.flags == {"FP16", "PREFER_PRECISION_CONSTRAINTS"}
        assert asked.precisions == {}
        assert {n.origin for n in conversion.plan.nodes if n.op == "Gemm"} == {"compiler"}
        found = [n for n in conversion.report.nodes if n.plan.op == "Gemm"]
        assert all(n.verdict == "honoured" and "free to choose" in n.evidence for n in found)

    def test_d_a_rule_pins_its_nodes_and_leaves_the_others_free(self, run):
        rules = [{"module": "b", "precision": "fp32"}]
        _, asked, _ = run(Layers(), {"fp32", "fp16"}, rules=rules)
        assert asked.of("/b/Gemm") == ["FLOAT"]
        assert set(asked.precisions.values()) == {"FLOAT"} and "/a/Gemm" not in asked.precisions

    def test_d_the_policy_auto_pins_what_it_chooses(self, run):
        conversion, asked, _ = run(Layers(), {"fp32", "fp16"}, policy="auto")
        assert {n.origin for n in conversion.plan.nodes if n.op == "Gemm"} == {"auto"}
        assert set(asked.of("a/Gemm")) == {"HALF"}

    def test_d_a_budget_is_held_by_a_plan_and_not_by_what_the_compiler_would_choose(self, run):
        conversion, _, _ = run(Layers(), {"fp32", "fp16"}, max_error=3e-4)
        assert {n.precision for n in conversion.plan.nodes if n.op in ("Gemm", "Sigmoid")} == {"fp32", "fp16"}
        assert conversion.report.trade.kept and conversion.report.trade.trials[-1].ok
        with pytest.raises(PrecisionError, match="not one node") as error:
            run(Layers(), {"fp32", "fp16"}, max_error=1e-7)
        assert "alone in fp16 it gives 'output' a relative error of" in str(error.value)

    def test_d_the_policy_source_leaves_no_choice(self, run):
        with pytest.raises(PrecisionError, match="not one node"):
            run(Layers(), {"fp32", "fp16"}, policy="source")

    def test_d_the_policy_source_is_not_told_to_use_what_it_uses(self, run):
        with pytest.raises(PrecisionError) as error:
            run(Layers(), {"fp32", "fp16"}, policy="source")
        assert "strong typing" not in str(error.value) and "tensorrt-weak" not in str(error.value)
        assert "leave policy='source' out" in str(error.value)

    def test_d_nodes_without_weights_that_were_asked_to_be_fp32_are_not_free(self, run):
        conversion, asked, _ = run(Layers(), {"fp32", "fp16"}, weightless="fp32")
        assert asked.precisions == {"/Sigmoid": "FLOAT"}
        assert {n.op: n.origin for n in conversion.plan.nodes} == {"Gemm": "compiler", "Sigmoid": "tensors"}

    def test_d_one_explicit_signal_pins_all(self, run):
        _, asked, _ = run(Layers(b=HALF), {"fp32", "fp16"})
        assert set(asked.of("a/Gemm")) == {"FLOAT"}
        assert set(asked.of("b/Gemm")) == {"HALF"}

    def test_d_fp16_alone_narrows_and_pins_what_can_be_and_prefers(self, run):
        model = parse("g (float[4] x) => (float[4] y) <float[4] big = {1e6, 1, 1, 1}> { v = Exp(x)  y = Mul(v, big) }")
        conversion, asked, told = run(model, {"fp16"}, None)
        assert asked.flags == {"FP16", "PREFER_PRECISION_CONSTRAINTS"}
        assert [n.precision for n in conversion.plan.nodes if n.op in ("Exp", "Mul")] == ["fp16", "fp32"]
        assert asked.of("Exp") == ["HALF"]
        assert asked.of("Mul") == ["FLOAT"]
        assert "1 of 4 values become infinite" in told

    def test_e_strictly_fp16_narrows_the_weights_as_b(self, run):
        _, asked, _ = run(Layers(), {"fp16"}, strict=True)
        assert "OBEY_PRECISION_CONSTRAINTS" in asked.flags
        assert set(asked.precisions.values()) == {"HALF"}

    def test_bf16_is_treated_like_fp16(self, run):
        _, asked, _ = run(Layers(BF16), {"fp32", "bf16"})
        assert asked.flags == {"BF16", "PREFER_PRECISION_CONSTRAINTS"}
        assert set(asked.of("a/Gemm")) == {"BF16"}
        assert set(asked.of("b/Gemm")) == {"FLOAT"}

    def test_without_precisions_the_flags_are_those_that_the_model_is_typed_in(self, run):
        _, asked, _ = run(Layers(HALF))
        assert asked.flags == {"FP16", "PREFER_PRECISION_CONSTRAINTS"}

    def test_int8_does_not_bring_fp16_with_it(self, run):
        _, asked, _ = run(parse(QDQ), {"fp32", "int8"}, None)
        assert asked.flags == {"INT8", "PREFER_PRECISION_CONSTRAINTS"}


class TestTensorCasting:
    """Section 3: the Casts are in the graph, and TensorRT is never told what a Cast says itself."""

    ROUND = "g (float[4] x) => (float[4] y) { h = Cast<to=10>(x)  f = Cast<to=1>(h)  y = Exp(f) }"

    def test_a_round_trip_stays_and_its_casts_are_told_nothing(self, run):
        conversion, asked, _ = run(parse(self.ROUND), {"fp32", "fp16"}, None)
        assert [n.op for n in conversion.plan.nodes].count("Cast") == 2
        assert asked.precisions == {"Exp_y": "FLOAT"}
        assert {row["reason"] for row in conversion.report.constraints if "Cast" in row["name"]} == {
            "a Cast says its types itself"
        }

    def test_without_fp16_it_goes_with_a_warning_that_says_that_its_rounding_is_gone(self, run):
        conversion, asked, told = run(parse(self.ROUND), {"fp32"}, None)
        assert [n.op for n in conversion.plan.nodes] == ["Exp"]
        assert "its rounding to fp16 is gone" in told
        assert "FP16" not in asked.flags

    def test_integers_are_never_gated(self, run):
        model = parse("g (float[4] x) => (int32[4] y) { v = Exp(x)  y = Cast<to=6>(v) }")
        conversion, asked, _ = run(model, {"fp32"}, None, strict=True)
        assert asked.precisions == {"Exp_v": "FLOAT"}
        assert [b.dtype for b in conversion.report.bindings] == ["FLOAT", "INT32"]

    def test_fp64_is_demoted_with_a_warning(self, run):
        _, _, told = run(parse("g (double[4] x) => (double[4] y) { y = Exp(x) }"), None, None)
        assert "TensorRT has no fp64" in told


class TestWhatCannotBeConstrained:
    """The reasons stand in the report, layer by layer, and none of these layers is told anything."""

    def reasons(self, conversion):
        return {row["name"]: row["reason"] for row in conversion.report.constraints if row["reason"]}

    def test_shapes_integers_and_indices_have_their_reasons(self, run):
        model = parse(
            """g (float[N,8] x) => (float[N,4] y, int64[N,4] i, float[M] z) <int64[1] k = {4}, int64[1] minus = {-1}> {
                y, i = TopK(x, k)
                s = Shape(x)
                n = ReduceProd<keepdims=1>(s)
                z = Reshape(x, n)
            }"""
        )
        image = Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(4, 8))
        conversion, asked, _ = run(model, {"fp32"}, [image], strict=True)
        told = asked.types
        assert [kinds for name, kinds in told.items() if "TopK" in name] == [["FLOAT"]], "the indices are told no type"
        assert "computes shapes" in " ".join(self.reasons(conversion).values())

    def test_where_the_build_fails_the_error_has_the_reasons_too(self, run):
        text = CUMSUM.replace("{ y", "{ c = Cast<to=10>(x)  v = Exp(c)  y").replace("CumSum(x,", "CumSum(v,")
        with pytest.raises(BuildError, match="told no precision: Cast_c: a Cast says its types itself"):
            run(parse(text.replace("float[4] y", "float16[4] y")), {"fp16"}, None, strict=True)

    def test_quantized_layers_are_left_to_their_qdq(self, run):
        conversion, asked, _ = run(parse(QDQ), {"fp32", "int8"}, None)
        found = self.reasons(conversion)
        assert any("Q/DQ says its types" in reason for reason in found.values())
        assert any("multiplies integers" in reason for reason in found.values())
        assert not any("Conv" in name for name in asked.precisions)
        assert not any(call.set == "int8_calibrator" for call in asked.calls)


class TestProof:
    """Only the engine proves anything: the network says what was wished for."""

    def test_a_pin_that_a_fusion_overrides_is_reported_from_the_engine(self, run, monkeypatch):
        monkeypatch.setenv("TENSORRT_DOUBLE_IGNORES", "/a/Gemm")
        conversion, _, told = run(Layers(HALF), {"fp32", "fp16"})
        found = {n.plan.name: n.verdict for n in conversion.report.nodes}
        assert found["/a/Gemm"] == "overridden"
        assert "'/a/Gemm', planned fp16, is overridden" in told
        assert all(n.network == () for n in conversion.report.nodes)

    def test_strictly_that_is_an_error(self, run, monkeypatch):
        monkeypatch.setenv("TENSORRT_DOUBLE_IGNORES", "/a/Gemm")
        with pytest.raises(ProofError, match="/a/Gemm"):
            run(Layers(HALF, HALF).half(), {"fp16"}, [X.half()], strict=True)

    def test_the_command_ends_with_3(self, tensorrt, monkeypatch, tmp_path):
        tensorrt("10.13")
        monkeypatch.setenv("TENSORRT_DOUBLE_IGNORES", "/a/Gemm")
        torch.jit.script(Layers(HALF).eval()).save(str(tmp_path / "net.pt"))
        words = ["convert", str(tmp_path / "net.pt"), "-i", "x:4x64", "-p", "fp32,fp16", "--backend", "tensorrt-weak"]
        result = CliRunner().invoke(main, [*words, "--require-proof", "-o", str(tmp_path / "out")])
        assert result.exit_code == 3, result.output

    def test_a_dynamic_engine_is_read_with_its_shapes_set(self, run):
        given = Input(min_shape=(1, 64), opt_shape=(4, 64), max_shape=(8, 64))
        for version in ("8.6", "10.13"):
            conversion, _, _ = run(Layers(HALF), {"fp32", "fp16"}, [given], version)
            assert verdicts(conversion, "Gemm", "Sigmoid") == ["honoured"] * 3
            assert conversion.report.bindings[0].profiles == (((1, 64), (4, 64), (8, 64)),)

    def test_fp16_that_was_allowed_and_chosen_for_no_layer_is_told(self, run, monkeypatch):
        monkeypatch.setenv("TENSORRT_DOUBLE_LACKS", "HALF")
        _, _, told = run(Layers(), {"fp32", "fp16"})
        assert "fp16 was asked for, and TensorRT chose it for no layer" in told


class TestTensorRT86:
    """The Jetson of JetPack 5: no bf16, no int64, an explicit batch to ask for, and a parser up to opset 17."""

    def test_a_model_is_exported_in_an_opset_that_its_parser_reads(self, run):
        conversion, asked, _ = run(Layers(HALF), {"fp32", "fp16"}, version="8.6")
        assert conversion.onnx.opset_import[0].version == 17
        assert verdicts(conversion, "Gemm", "Sigmoid") == ["honoured"] * 3
        (made,) = [call for call in asked.calls if call.call == "create_network"]
        assert made.args == [1], "EXPLICIT_BATCH"

    def test_int64_bindings_are_int32_with_a_warning(self, run):
        model = parse(
            "g (int64[4] i, float[9] t) => (float[4] y, int64[4] z) { y = Gather(t, i)  z = Add(i, i) }", opset=17
        )
        conversion, _, told = run(model, None, None, "8.6")
        assert [b.dtype for b in conversion.report.bindings] == ["INT32", "FLOAT", "FLOAT", "INT32"]
        assert "'i', 'z': made an int32 binding (this TensorRT has no int64)" in told
        assert conversion.report.comparison.ok

    def test_an_int64_output_that_is_asked_for_is_refused(self, run):
        model = parse("g (float[4] x) => (int64 y) { y = ArgMax<keepdims=0>(x) }", opset=17)
        with pytest.raises(InputError, match=r"output 'y' cannot be int64.*\n.*TensorRT 8.6.1 has no int64"):
            run(model, None, None, "8.6", outputs=["int64"])

    def test_an_int64_output_that_is_asked_for_in_another_type_is_not_said_to_be_int32(self, run):
        model = parse("g (float[4] x) => (int64 y) { y = ArgMax<keepdims=0>(x) }", opset=17)
        conversion, _, told = run(model, None, None, "8.6", outputs=["fp32"])
        assert conversion.report.bindings[1].dtype == "FLOAT"
        assert "int32 binding" not in told

    def test_numbers_that_int32_cannot_hold_are_an_error(self, run):
        model = parse("g (int64[1] i) => (int64[1] y) <int64[1] big = {1099511627776}> { y = Add(i, big) }", opset=17)
        with pytest.raises(GraphError, match="1099511627776"):
            run(model, None, None, "8.6")

    def test_bf16_is_refused_before_the_build_and_names_the_nodes(self, run):
        with pytest.raises(PrecisionError, match=r"Requested bf16, but TensorRT 8.6.1 has no such type") as error:
            run(Layers(BF16), {"fp32", "bf16"}, version="8.6")
        assert "/a/Gemm" in str(error.value) and "/b/Gemm" not in str(error.value)

    def test_bf16_that_the_compiler_would_be_free_to_use_is_refused_before_the_build_too(self, run):
        with pytest.raises(PrecisionError, match=r"Requested bf16, but TensorRT 8.6.1 has no such type"):
            run(Layers(), {"fp32", "bf16"}, version="8.6")

    def test_strong_typing_is_refused_because_it_came_later(self, run):
        with pytest.raises(BackendMissingError, match=r"TensorRT 8.6.1 has no strong typing"):
            run(Layers(), version="8.6", backend="tensorrt-strong")

    def test_tensorrt_alone_takes_the_typing_that_there_is(self, run):
        conversion, asked, _ = run(Layers(HALF), {"fp32", "fp16"}, version="8.6", backend="tensorrt")
        assert "FP16" in asked.flags
        assert conversion.report.backend == "TensorRT 8.6.1"

    def test_a_node_that_its_parser_lacks_is_named(self, run):
        with pytest.raises(ParseError, match="parser refuses the node 'Gelu_y'"):
            run(parse("g (float[4] x) => (float[4] y) { y = Gelu(x) }"), None, None, "8.6")


class TestStrongTyping:
    """TensorRT 10 with its flag, and 11, which removed every name of weak typing: the double of 11 does not have them."""

    @pytest.mark.parametrize(("version", "flags"), [("10.13", [2]), ("11.0", [0])])
    def test_the_types_of_the_graph_are_those_of_the_network_and_no_layer_is_told_anything(self, run, version, flags):
        conversion, asked, _ = run(Layers(HALF), {"fp32", "fp16"}, version=version, backend="tensorrt")
        assert asked.flags == set()
        assert asked.precisions == asked.types == {}
        (made,) = [call for call in asked.calls if call.call == "create_network"]
        assert made.args[0] & ~1 == flags[0] & ~1 and (made.args[0] & 2 == 2) == (version == "10.13")
        assert verdicts(conversion, "Gemm", "Sigmoid") == ["honoured"] * 3
        assert all(not n.differs and n.network for n in conversion.report.nodes if n.plan.precision)

    def test_fp16_asked_of_a_plain_fp32_model_is_no_silent_fp32_engine(self, run):
        conversion, _, _ = run(Layers(), {"fp32", "fp16"}, version="11.0", backend="tensorrt")
        assert {n.precision for n in conversion.plan.nodes if n.op == "Gemm"} == {"fp16"}
        with pytest.raises(PrecisionError, match="not one node"):
            run(Layers(), {"fp32", "fp16"}, version="11.0", backend="tensorrt", policy="source")

    def test_weak_typing_is_refused_on_11(self, run):
        with pytest.raises(BackendMissingError, match=r"TensorRT 11.0.0 has no weak typing"):
            run(Layers(), version="11.0", backend="tensorrt-weak")

    @pytest.mark.parametrize("version", ["10.13", "11.0"])
    def test_formats_profiles_and_types_of_bindings_reach_the_engine(self, run, version):
        image = Input(
            profiles=[((1, 8, 8, 8), (2, 8, 8, 8), (4, 8, 8, 8)), ((8, 8, 8, 8), (8, 8, 8, 8), (8, 8, 8, 8))],
            dtype="fp16",
            format="channels_last",
        )
        model = parse("g (float[N,8,8,8] x) => (float[N,8,8,8] y) { y = Relu(x) }")
        conversion, _, _ = run(model, None, [image], version, "tensorrt", outputs=["fp16"])
        x, y = conversion.report.bindings
        assert (x.dtype, x.layout, y.dtype, y.layout) == ("HALF", "HWC8", "HALF", "LINEAR")
        assert x.profiles == image.profiles

    @pytest.mark.parametrize("version", ["8.6", "10.13", "11.0"])
    def test_a_shape_tensor_has_its_values_in_the_profile(self, run, version):
        size = Input((2,), min_values=(8, 8), opt_values=(24, 24), max_values=(64, 48))
        image = Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 16, 16), max_shape=(4, 3, 32, 32))
        conversion, asked, _ = run(parse(RESIZE, opset=17), None, [image, size], version, "tensorrt")
        assert conversion.report.bindings[1].is_shape
        (call,) = [c for c in asked.calls if c.call == "set_shape_input"]
        assert call.args == ["size", [8, 8], [24, 24], [64, 48]]
        assert conversion.report.bindings[1].profiles == (((8, 8), (24, 24), (64, 48)),)
        for tool in ("trtexec", "polygraphy"):
            assert "size:" in say(tool, conversion.plan, conversion.report.bindings)


class TestBindings:
    @pytest.mark.parametrize("version", ["8.6", "10.13"])
    def test_under_weak_typing_an_output_has_its_type_on_the_layer_and_on_the_tensor(self, run, version):
        conversion, asked, _ = run(Layers(HALF, HALF).half(), {"fp16"}, [X.half()], version, outputs=["fp16"])
        assert [b.dtype for b in conversion.report.bindings] == ["HALF", "HALF"]
        assert asked.types["/b/Gemm"] == ["HALF"]

    def test_a_reduced_output_without_its_precision_is_an_error_that_says_why(self, run):
        with pytest.raises(InputError, match="not among the precisions: 'output': fp16"):
            run(Layers(), {"fp32"}, outputs=["fp16"])

    def test_a_format_that_this_tensorrt_lacks_is_an_error(self, run):
        model = parse("g (float[1,8,4,8,8] x) => (float[1,8,4,8,8] y) { y = Relu(x) }", opset=17)
        with pytest.raises(BindingError, match="this TensorRT has no format DHWC"):
            run(model, None, [Input((1, 8, 4, 8, 8), format="DHWC")], "8.6")

    def test_channels_last_in_fp16_needs_channels_that_nobody_pads(self, run):
        model = parse("g (float16[1,3,8,8] x) => (float16[1,3,8,8] y) { y = Relu(x) }")
        with pytest.raises(InputError, match="multiple of 8, and there are 3"):
            run(model, None, [Input((1, 3, 8, 8), dtype="fp16", format="channels_last")])


def test_a_saved_report_tells_what_each_layer_was_told(run, tmp_path):
    conversion, _, _ = run(Layers(HALF), {"fp32", "fp16"})
    conversion.save(tmp_path)
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["constraints"] == conversion.report.constraints
    assert {row["precision"] for row in saved["constraints"]} >= {"HALF", "FLOAT"}


def test_tf32_is_off_and_on_as_asked(run):
    _, asked, _ = run(Layers(), options=Options(tf32=True))
    assert "TF32" in asked.flags


CUMSUM = "g (float[4] x) => (float[4] y) <int64 axis = {0}> { y = CumSum(x, axis) }"
QDQ = (
    """g (float[1,3,8,8] x, float[4,3,3,3] unused) => (float[1,4,6,6] y)
    <float sx = {0.1}, int8 zx = {0}, int8[4,3,3,3] w = {%s}, float sw = {0.01}, int8 zw = {0}> {
    q = QuantizeLinear(x, sx, zx)
    d = DequantizeLinear(q, sx, zx)
    v = DequantizeLinear(w, sw, zw)
    y = Conv(d, v)
}""".replace(", float[4,3,3,3] unused", "")
    % ", ".join(str(int(n)) for n in np.random.default_rng(0).integers(-99, 99, 108))
)
RESIZE = """g (float[N,3,H,W] x, int64[2] size) => (float[N,3,A,B] y) {
    kept = Shape<start=0, end=2>(x)
    sizes = Concat<axis=0>(kept, size)
    y = Resize<mode="nearest">(x, , , sizes)
}"""
