"""Plans from and to command lines of trtexec."""

import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torch2trt_onnx import convert
from torch2trt_onnx.backends.layers import Binding
from torch2trt_onnx.errors import ConversionError, ConversionWarning, InputError, PrecisionError
from torch2trt_onnx.inputs import Input, Output
from torch2trt_onnx.interop import FlagError, Port, read, read_polygraphy, read_trtexec, say, trtexec
from torch2trt_onnx.interop.commandline import MAX_ARGUMENT
from torch2trt_onnx.plan import COMPILER, Asked, NodePlan, PrecisionPlan
from torch2trt_onnx.precision import ElementType, Precision

FP32, FP16, BF16, INT8, FP8, INT4 = (
    Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.FP8, Precision.INT4,
)  # fmt: skip
F32, F16 = ElementType.of("fp32"), ElementType.of("fp16")


def node(name, precision="fp16", *, op="Conv", origin="weights", outputs=None, quantized=""):
    return NodePlan(name, op, precision, origin, "", outputs or (precision,), quantized=quantized)


def planned(*nodes, **asked):
    return PrecisionPlan(nodes, Asked(**asked))


def told(imported, name, op="Conv"):
    """The precision that the rules give a node; the last that matches wins."""
    found = [rule.precision for rule in imported.rules if rule.matches(name, "", op, [])]
    return found[-1].value if found else None


# --- in


def test_without_flags_trtexec_computes_in_fp32_and_tf32():
    found = read("trtexec --onnx=model.onnx")
    assert (found.precisions, found.tf32, found.typing, found.model) == ({FP32}, True, None, "model.onnx")
    assert any("TensorRT 10" in note for note in found.notes)


def test_a_command_line_as_people_write_it():
    found = read(
        "/usr/src/tensorrt/bin/trtexec --onnx=yolov5s.onnx --saveEngine=yolov5s.engine --fp16 --workspace=4096 \\\n"
        "   --minShapes=images:1x3x640x640 --optShapes=images:4x3x640x640 --maxShapes=images:16x3x640x640 "
        "--verbose --iterations=100 > build.log 2>&1"
    )
    assert found.precisions == {FP32, FP16} and found.typing == "weak" and not found.strict
    assert found.inputs == (Port("images", profiles=(((1, 3, 640, 640), (4, 3, 640, 640), (16, 3, 640, 640)),)),)
    assert found.ignored == ("--saveEngine=yolov5s.engine", "--workspace=4096", "--verbose", "--iterations=100")
    assert found.as_inputs()[0].max_shape == (16, 3, 640, 640)


def test_layers_in_fp32_of_an_fp16_network():
    found = read(
        "trtexec --onnx=m.onnx --fp16 --precisionConstraints=obey --layerPrecisions=*:fp16,/norm/Pow:fp32,/norm/Sqrt:fp32"
    )
    assert found.strict and found.precisions == {FP32, FP16}
    assert (told(found, "/norm/Pow"), told(found, "/other")) == ("fp32", "fp16")
    assert any("wildcard" in note for note in found.notes)


def test_an_exact_name_wins_over_a_wildcard_wherever_it_stands():
    found = read("--fp16 --precisionConstraints=prefer --layerPrecisions=conv1:fp32,conv*:fp16")
    assert (told(found, "conv1"), told(found, "conv2"), told(found, "fc")) == ("fp32", "fp16", None)


def test_only_the_first_star_of_a_name_is_a_wildcard():
    found = read("--fp16 --precisionConstraints=prefer --layerPrecisions=a*b*:fp16")
    assert (told(found, "a-b*"), told(found, "a-b-")) == ("fp16", None)


def test_names_are_no_globs_and_no_regular_expressions():
    found = read(["--fp16", "--precisionConstraints=obey", "--layerPrecisions=a[0]:fp16,b?:fp16,re:.:fp16"])
    assert [told(found, name) for name in ("a[0]", "a0", "b?", "bc", "re:.", "x")] == [
        "fp16", None, "fp16", None, "fp16", None,
    ]  # fmt: skip


def test_colons_and_single_quotation_marks_in_names():
    found = read(["--fp16", "--precisionConstraints=obey", "--layerPrecisions=a::b:fp16,'c:d':fp32"])
    assert (told(found, "a::b"), told(found, "c:d")) == ("fp16", "fp32")


def test_precisions_of_layers_have_no_effect_without_constraints():
    for flags in ("--fp16 --layerPrecisions=a:fp16", "--fp16 --precisionConstraints=none --layerPrecisions=a:fp16"):
        found = read(flags)
        assert found.rules == () and any("no effect" in note for note in found.notes)


def test_a_layer_in_int8_is_left_out_because_that_takes_q_dq():
    found = read("--int8 --fp16 --precisionConstraints=obey --layerPrecisions=a:int8,b:fp16,c:int32")
    assert [rule.name for rule in found.rules] == ["b"] and INT8 in found.precisions
    assert sum("'a'" in note and "Q/DQ" in note for note in found.notes) == 1
    assert any("'c'" in note for note in found.notes)


def test_best_is_all_that_trtexec_means_by_it():
    assert read("--onnx=m.onnx --best").precisions == {FP32, FP16, BF16, INT8}
    with pytest.raises(PrecisionError, match="exclude each other"):
        read("--best --stronglyTyped")


def test_fp8_and_int8_exclude_each_other_as_in_trtexec():
    with pytest.raises(PrecisionError, match="exclude each other"):
        read("--fp8 --int8")


def test_strong_typing_takes_the_types_of_the_file_and_ignores_precisions():
    found = read("--onnx=m.onnx --stronglyTyped --fp16 --precisionConstraints=obey --layerPrecisions=a:fp32")
    assert (found.typing, found.precisions, found.rules) == ("strong", None, ())
    assert any("--fp16" in note for note in found.notes) and any("takes none" in note for note in found.notes)


def test_a_precision_that_only_a_layer_is_told_is_allowed_and_told_of():
    found = read("--precisionConstraints=obey --layerPrecisions=a:fp16")
    assert found.precisions == {FP32, FP16} and any("refuses" in note for note in found.notes)


def test_output_types_of_layers_are_said_by_their_precision_or_told_of():
    flags = "--fp16 --precisionConstraints=obey --layerPrecisions=a:fp16,b:fp16 --layerOutputTypes=a:fp16,b:fp32+fp16"
    (note,) = read(flags).notes
    assert "'b'" in note and "fp32+fp16" in note


def test_a_wildcard_of_output_types_is_left_out_because_trtexec_sets_another_type():
    found = read("--fp16 --precisionConstraints=obey --layerOutputTypes=conv*:fp16")
    assert found.rules == () and "whatever stands there" in found.notes[-1]


def test_formats_go_by_position_and_are_bound_to_the_names_of_the_network():
    found = read("--fp16 --inputIOFormats=fp16:hwc8,fp32:chw --outputIOFormats=fp16:chw --shapes=b:1x8,a:1x8x4x4")
    a, b = found.bound_inputs(["a", "b"])
    assert (a.name, a.dtype, a.format, b.dtype, b.format) == ("a", F16, "HWC8", F32, "LINEAR")
    assert a.profiles == (((1, 8, 4, 4),) * 3,)
    assert [p.dtype for p in found.bound_outputs(["x", "y"])] == [F16, F16], "one is meant for all"
    with pytest.raises(InputError, match="2 formats of inputs, and the network has 3"):
        found.bound_inputs(["a", "b", "c"])
    with pytest.raises(InputError, match="there is no such input"):
        found.bound_inputs(["a", "c"])
    with pytest.raises(InputError, match="by the position"):
        found.as_inputs()


def test_one_format_is_meant_for_all_inputs():
    (image,) = read("--inputIOFormats=fp16:hwc8 --shapes=image:1x8x4x4").as_inputs()
    assert (image.dtype, image.format, image.name) == (F16, "HWC8", "image")


def test_each_word_for_a_format_is_a_format_of_tensorrt():
    words = [
        "chw",
        "chw2",
        "hwc8",
        "chw4",
        "chw16",
        "chw32",
        "dhwc8",
        "cdhw32",
        "hwc",
        "dla_linear",
        "dla_hwc4",
        "hwc16",
        "dhwc",
    ]
    names = [
        "LINEAR",
        "CHW2",
        "HWC8",
        "CHW4",
        "CHW16",
        "CHW32",
        "DHWC8",
        "CDHW32",
        "HWC",
        "DLA_LINEAR",
        "DLA_HWC4",
        "HWC16",
        "DHWC",
    ]
    found = read(f"--inputIOFormats={','.join(f'fp16:{word}' for word in words)}")
    assert [port.format for port in found.positions] == names


def test_of_several_formats_the_first_is_taken_and_that_is_told():
    found = read("--outputIOFormats=fp16:chw+hwc8")
    assert found.outputs == (Port("", F16, "LINEAR"),) and any("may choose" in n for n in found.notes)


def test_shapes_that_are_not_told_are_those_that_trtexec_takes():
    low, opt, high = (1, 3), (2, 3), (4, 3)
    cases = {
        "--optShapes=x:2x3": (opt, opt, opt),
        "--minShapes=x:1x3 --maxShapes=x:4x3": (low, high, high),
        "--minShapes=x:1x3 --optShapes=x:2x3": (low, opt, opt),
        "--shapes=x:2x3": (opt, opt, opt),
        "--optShapes=x:2x3 --maxShapes=x:4x3 --shapes=x:3x3": (opt, opt, high),
    }
    for flags, expected in cases.items():
        assert read(flags).inputs == (Port("x", profiles=(expected,)),), flags


def test_profiles_by_number_have_the_shapes_right_behind_them():
    found = read(
        "--profile=1 --minShapes=x:5 --optShapes=x:6 --maxShapes=x:7 --profile=0 --optShapes=x:2 --minShapes=x:1 --maxShapes=x:3 --fp16"
    )
    assert found.inputs == (Port("x", profiles=(((1,), (2,), (3,)), ((5,), (6,), (7,)))),)
    assert found.as_inputs()[0].profiles == (((1,), (2,), (3,)), ((5,), (6,), (7,)))
    with pytest.raises(FlagError, match="one by one"):
        read("--profile=0 --minShapes=x:1 --fp16 --optShapes=x:2")
    with pytest.raises(FlagError, match="one by one"):
        read("--profile=1 --optShapes=x:2")


def test_what_is_not_carried_over_is_told():
    found = read("--int8 --calib=cache.bin --useDLACore=0 --fp16=false")
    assert {"--calib=cache.bin", "--useDLACore=0"} == set(found.ignored) and FP16 in found.precisions
    assert any("calibration" in note for note in found.notes) and any("DLA" in note for note in found.notes)
    assert any("whatever the value" in note for note in found.notes)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--onnx model.onnx", "--key=value"),
        ("--fp16 --fp16", "2 times"),
        ("--precisionConstraints=always", "precisionConstraints"),
        ("--precisionConstraints=obey --layerPrecisions=a:half", "no type"),
        ("--precisionConstraints=obey --layerPrecisions=a", "NAME:VALUE"),
        ("--precisionConstraints=obey --layerPrecisions=a:fp16,", "NAME:VALUE"),
        ("--precisionConstraints=obey --layerOutputTypes=a:fp16+half", "no type"),
        ("--inputIOFormats=fp16", "TYPE:FORMAT"),
        ("--inputIOFormats=fp16:nchw", "TYPE:FORMAT"),
        ("--shapes=x:1,3,4", "NAME:VALUE"),
        ("--shapes=x:1xN", "no shape"),
        ("--minShapes=x:1 --optShapes=y:1 --maxShapes=x:1", "tells no shape of"),
        ("--onnx='model.onnx", "taken apart"),
    ],
)
def test_what_trtexec_refuses_is_refused(flags, words):
    with pytest.raises(ConversionError, match=words):
        read_trtexec(flags)


def test_a_file_holds_a_command_line(tmp_path):
    file = tmp_path / "build.sh"
    file.write_text("trtexec --onnx=m.onnx \\\n  --bf16\n")
    assert read(file).precisions == {FP32, BF16}
    with pytest.raises(FlagError, match="cannot be read"):
        read(tmp_path / "none")


# --- out


def test_each_tied_layer_is_told_by_its_exact_name_and_free_ones_are_not():
    plan = planned(
        node("a"),
        node("b", "fp32", op="Relu", origin="tensors"),
        node("free", "fp32", origin=COMPILER),
        node("cast", op="Cast"),
        node("q", "fp32", op="QuantizeLinear", outputs=("int8",)),
        node("shape", "", op="Shape", outputs=("int64",)),
        node("matmul", "fp32", op="MatMul", quantized="int8"),
    )
    assert trtexec.write(plan) == [
        "--fp16",
        "--int8",
        "--precisionConstraints=prefer",
        "--layerPrecisions=a:fp16,b:fp32",
        "--layerOutputTypes=a:fp16,b:fp32",
        "--noTF32",
    ]


def test_strict_is_obey_and_what_was_asked_for_is_allowed():
    plan = planned(node("a", "fp32", origin=COMPILER), precisions=frozenset({FP32, BF16}), strict=True)
    assert trtexec.write(plan, tf32=True) == ["--bf16", "--precisionConstraints=obey"]


def test_types_of_outputs_are_one_for_all_or_one_for_each_and_none_where_one_is_an_integer():
    plan = planned(
        node("split", outputs=("fp16", "fp16", "fp16")),
        node("norm", outputs=("fp16", "fp32", "fp32")),
        node("topk", outputs=("fp16", "int64")),
    )
    assert "--layerOutputTypes=split:fp16,norm:fp16+fp32+fp32" in trtexec.write(plan)


def test_int8_without_q_dq_is_left_out_with_a_warning():
    with pytest.warns(ConversionWarning, match="int8 is left out"):
        flags = trtexec.write(planned(node("a"), precisions=frozenset({FP32, FP16, INT8})))
    assert flags[0] == "--fp16" and "--int8" not in flags


@pytest.mark.parametrize(
    ("version", "typing", "nodes", "words"),
    [
        ("8.6", "weak", [node("a", "bf16")], "no bf16"),
        ("8.6", "strong", [], "no strong typing"),
        ("11", "weak", [], "no weak typing"),
        ("9.1", "weak", [node("a", quantized="int4")], "no int4"),
        ("10", "weak", [node("a", quantized="int8"), node("b", quantized="fp8")], "fp8 and int8"),
        ("ten", "weak", [], "no version"),
        ("10", "both", [], "typing is"),
    ],
)
def test_what_a_version_does_not_have_is_an_error(version, typing, nodes, words):
    with pytest.raises(ConversionError, match=words):
        trtexec.write(planned(*nodes), version=version, typing=typing)


def test_strong_typing_needs_a_flag_up_to_10_and_tells_no_layer_anything():
    plan = planned(node("a, b"), node("c", "fp32"))
    assert trtexec.write(plan, typing="strong", version="10.13") == ["--stronglyTyped", "--noTF32"]
    assert trtexec.write(plan, typing="strong", version="11") == ["--noTF32"]


def test_names_that_trtexec_cannot_be_told_are_named_or_left_out():
    plan = planned(node("fine"), node("a,b"), node("it's"), node("every*"), node("x=y:z +w"))
    with pytest.raises(FlagError, match="3 layers") as error:
        trtexec.write(plan)
    assert all(repr(name) in str(error.value) for name in ("a,b", "it's", "every*"))
    assert "Polygraphy" in str(error.value.fix)
    with pytest.warns(ConversionWarning, match=r"'a,b', \"it's\", 'every\*'"):
        flags = trtexec.write(plan, skip=True)
    assert "--layerPrecisions=fine:fp16,x=y:z +w:fp16" in flags


def test_a_flag_that_linux_would_not_pass_on_is_an_error_with_the_way_out():
    plan = planned(*(node(f"/layer.{i}/attention/self/MatMul") for i in range(4000)))
    with pytest.raises(FlagError, match="bytes long") as error:
        trtexec.write(plan)
    assert "Polygraphy" in str(error.value.fix)
    short = planned(node("a" * (MAX_ARGUMENT - len("--layerOutputTypes=:fp16"))), node("b", ""))
    longest = max(trtexec.write(short), key=len)
    assert len(longest) == MAX_ARGUMENT
    if sys.platform == "linux":
        subprocess.run(["/bin/true", longest], check=True)
        with pytest.raises(OSError, match="too long"):
            subprocess.run(["/bin/true", f"{longest}x"], check=True)


def test_types_and_formats_stand_for_all_or_for_none():
    image = Input((1, 8, 4, 4), name="image", dtype="fp16", format="HWC8")
    mask = Input((1, 8), name="mask")
    plan = planned(node("a"))
    with pytest.raises(InputError, match="'mask' is not known"):
        trtexec.write(plan, inputs=[image, mask])
    flags = trtexec.write(
        plan,
        inputs=[image, Port.of(mask).with_type(Port(dtype=ElementType.of("int64")))],
        outputs=[Output("y", dtype="fp32")],
    )
    assert {"--inputIOFormats=fp16:hwc8,int64:chw", "--outputIOFormats=fp32:chw"} <= set(flags)
    assert not [flag for flag in trtexec.write(plan, inputs=[mask]) if "IOFormats" in flag]


def test_channels_last_is_the_format_that_tensorrt_has_for_the_type():
    image = Input((1, 8, 4, 4), name="x", dtype="fp16", format="channels_last")
    assert "--inputIOFormats=fp16:hwc8" in trtexec.write(planned(node("a")), inputs=[image])


def test_trtexec_8_6_reads_int64_as_int32_and_has_no_word_for_bool():
    ids, mask = Input((1, 8), name="ids", dtype="int64"), Input((1, 8), name="mask", dtype="bool")
    plan = planned(node("a"))
    assert "--inputIOFormats=int32:chw" in trtexec.write(plan, inputs=[ids], version="8.6")
    assert not [f for f in trtexec.write(plan, inputs=[ids, mask], version="8.6") if "IOFormats" in f]


def test_shapes_of_dynamic_inputs_stand_profile_by_profile():
    first, second = ((1, 3), (2, 3), (4, 3)), ((5, 3), (6, 3), (8, 3))
    x = Input(profiles=[first, second], name="x")
    static = Input((7,), name="static")
    size = Input((2,), name="size", dtype="int64", min_values=(8, 8), opt_values=(16, 16), max_values=(32, 32))
    flags = trtexec.write(planned(node("a")), inputs=[x, static, size])
    assert flags[-9:-1] == [
        "--profile=0", "--minShapes=x:1x3,size:8x8", "--optShapes=x:2x3,size:16x16", "--maxShapes=x:4x3,size:32x32",
        "--profile=1", "--minShapes=x:5x3,size:8x8", "--optShapes=x:6x3,size:16x16", "--maxShapes=x:8x3,size:32x32",
    ]  # fmt: skip
    assert read(flags).inputs[0].profiles == (first, second)
    with pytest.raises(InputError, match="one optimization profile"):
        trtexec.write(planned(node("a")), inputs=[x], version="8.6")
    assert not [f for f in trtexec.write(planned(node("a")), inputs=[static]) if "Shapes" in f]


def test_the_text_is_quoted_for_a_shell():
    flags = trtexec.write(planned(node("a b")), model="my model.onnx", engine="m.engine")
    assert shlex.split(trtexec.text(flags)) == ["trtexec", *flags]
    assert read(trtexec.text(flags)).model == "my model.onnx"


# --- there and back


def pieces(text, separator, *, old):
    """How trtexec splits: up to 8.x a piece behind the last separator is no piece where it is empty."""
    parts = text.split(separator)
    return parts[:-1] if old and parts[-1] == "" else parts


def as_trtexec_reads(flag, *, old):
    """Layer -> what it is told, as sampleOptions.cpp takes a flag apart."""
    value = flag.partition("=")[2]
    found = {}
    for item in pieces(value, ",", old=old):
        assert len(pieces(item, "'", old=old)) == 1, "it would take the name for a quoted one"
        *names, word = pieces(item, ":", old=old)
        found[":".join(names)] = word
    return found


NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12)
TRICKY = st.text(":/.[]?!\\ =+-_re:x1'*,", min_size=1, max_size=10)
PLANS = st.dictionaries(
    NAMES | TRICKY,
    st.tuples(
        st.sampled_from(["fp32", "fp16", "bf16"]),
        st.sampled_from(["weights", COMPILER]),
        st.sampled_from(["Conv", "Cast"]),
    ),
    min_size=1,
    max_size=6,
)


def made(names, strict):
    return planned(
        *(node(name, precision, origin=origin, op=op) for name, (precision, origin, op) in names.items()), strict=strict
    )


@given(PLANS, st.booleans(), st.booleans())
def test_trtexec_itself_finds_exactly_the_planned_layers(names, strict, old):
    plan = made({name: row for name, row in names.items() if trtexec.can_say(name)}, strict)
    tied = {n.name: n.precision for n in plan.nodes if not n.is_free and n.op != "Cast"}
    flags = trtexec.write(plan)
    for key in ("--layerPrecisions", "--layerOutputTypes"):
        found = [as_trtexec_reads(flag, old=old) for flag in flags if flag.startswith(f"{key}=")]
        assert found == ([tied] if tied else [])


@given(PLANS, st.booleans())
def test_what_is_written_is_read_as_the_same_plan(names, strict):
    plan = made({name: row for name, row in names.items() if trtexec.can_say(name)}, strict)
    for given_flags in (trtexec.write(plan), trtexec.text(trtexec.write(plan))):
        found = read_trtexec(given_flags)
        assert found.strict == strict and not found.tf32
        assert found.precisions == {FP32, *(Precision(n.precision) for n in plan.nodes)}
        for n in plan.nodes:
            assert told(found, n.name) == (n.precision if not n.is_free and n.op != "Cast" else None)
        assert all(sum(r.matches(n.name, "", "", []) for n in plan.nodes) == 1 for r in found.rules)


def test_the_words_of_the_other_tool_are_known_by_its_name():
    assert read("polygraphy convert m.onnx -o m.engine --fp16").tool == "polygraphy"
    assert read("convert m.onnx -o m.engine --fp16").tool == "polygraphy"
    assert read("--fp16").tool == "trtexec"
    assert read_polygraphy("m.onnx --fp16").precisions == {FP32, FP16}


def test_a_report_is_said_with_the_shapes_that_it_does_not_tell():
    plan = planned(node("a,b"), node("c"))
    bindings = [Binding("x", "Input", "fp16", (-1, 8), ""), Binding("y", "Output", "fp32", (-1, 8), "")]
    x = Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(4, 8), name="x")
    with pytest.raises(InputError, match="range of the shape") as error:
        say("polygraphy", plan, bindings)
    assert "--input x:" in str(error.value.fix)
    with pytest.raises(InputError, match="no input 'z'"):
        say("trtexec", plan, bindings, [Input((1,), name="z")])
    with pytest.raises(FlagError, match="no tool"):
        say("onnx2trt", plan, bindings)
    with pytest.warns(ConversionWarning, match="'a,b'"):
        words = shlex.split(say("trtexec", plan, bindings, [x], skip=True))
    assert words[:3] == ["trtexec", "--onnx=model.onnx", "--saveEngine=model.engine"]
    assert {"--inputIOFormats=fp16:chw", "--outputIOFormats=fp32:chw", "--optShapes=x:2x8"} <= set(words)
    assert "plan.py:postprocess" in say("polygraphy", plan, bindings, [x])
    assert "OUTPUTS: dict[str, str] = {\n    'y': 'fp32',\n}" in say("polygraphy-script", plan, bindings)


def test_a_plan_that_went_through_a_command_line_is_planned_again(net, tmp_path):
    image = Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 16, 16), max_shape=(4, 3, 32, 32), name="image")
    first = convert(net, [image], backend="none")
    model = first.save(tmp_path) / "model.onnx"
    line = say("trtexec", first.plan, first.report.bindings, [image], model=str(model))
    found = read(line)
    again = convert(found.model, **found.arguments({"image": None}, ["output"]), backend="none")
    assert [(n.name, n.precision, n.outputs) for n in again.plan.nodes] == [
        (n.name, n.precision, n.outputs) for n in first.plan.nodes
    ]
    assert {n.origin for n in again.plan.nodes if n.op != "Cast"} == {"rule"}
    assert say("trtexec", again.plan, again.report.bindings, [image], model=str(model)) == line


def test_a_command_line_gives_the_arguments_of_convert():
    line = "--fp16 --inputIOFormats=fp16:chw,fp32:chw --outputIOFormats=fp16:chw --shapes=b:1x8,a:1x4"
    said = read(line).arguments({"a": None, "b": None}, ["y"])
    assert said["precisions"] == {FP32, FP16} and not said["strict"] and said["rules"] == ()
    assert [(i.name, i.dtype, i.opt_shape) for i in said["inputs"]] == [("a", F16, (1, 4)), ("b", F32, (1, 8))]
    assert [(o.name, o.dtype) for o in said["outputs"]] == [("y", F16)]
    assert read("--fp16").arguments({"a": None}, ["y"]) == {
        "precisions": {FP32, FP16}, "strict": False, "rules": (), "inputs": None, "outputs": None,
    }  # fmt: skip
    (x,) = read("--shapes=x:1x3").arguments()["inputs"]
    assert (x.name, x.opt_shape) == ("x", (1, 3))
    with pytest.raises(InputError, match="no shape"):
        read("--inputIOFormats=fp16:chw").arguments({"a": None})


@pytest.mark.filterwarnings("ignore::torch2trt_onnx.ConversionWarning")
def test_a_command_line_that_a_person_wrote_comes_back_from_the_plan_word_for_word(net, tmp_path, tensorrt):
    """On a weakly typed TensorRT, where layers that the line does not name are free, as trtexec leaves them."""
    image = Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 16, 16), max_shape=(4, 3, 32, 32), name="image")
    net.second.float()
    net.forward = lambda image: net.head(net.second(net.first(image).relu()).mean((2, 3)))
    model = convert(net, [image], backend="none").save(tmp_path) / "model.onnx"
    tensorrt("10.13")
    words = [
        f"--onnx={model}", "--fp16", "--precisionConstraints=prefer", "--layerPrecisions=/first/Conv:fp32,/second/Conv:fp16",
        "--layerOutputTypes=/first/Conv:fp32,/second/Conv:fp16", "--minShapes=image:1x3x8x8", "--optShapes=image:2x3x16x16",
        "--maxShapes=image:4x3x32x32", "--noTF32",
    ]  # fmt: skip
    found = read(words)
    conversion = convert(found.model, **found.arguments({"image": None}, ["output"]), backend="tensorrt-weak")
    written = trtexec.write(conversion.plan, model=str(model), inputs=found.as_inputs())
    assert sorted(written) == sorted(words)
    assert read(written).rules == found.rules


@pytest.mark.parametrize(
    "line",
    [
        "trtexec --onnx=/m/net.onnx --fp16; echo done",
        "cd /m && trtexec --onnx=/m/net.onnx --fp16;",
        "--onnx=/m/net.onnx --fp16",
        "trtexec --onnx=/m/net.onnx --fp16  # half",
        "#!/bin/sh\nset -e  # stop; at errors\n# build\ntrtexec --onnx=/m/net.onnx \\\n  --fp16\n",
        "[I] &&&& RUNNING TensorRT.trtexec [TensorRT v8601] # /usr/bin/trtexec --onnx=/m/net.onnx --fp16",
    ],
)
@pytest.mark.parametrize("name", ["net", "trtexec", "polygraphy"])
def test_lines_as_people_have_them_in_scripts_and_logs(line, name):
    found = read(line.replace("/m/net", f"/m/{name}"))
    assert (found.tool, found.precisions, found.model, found.ignored) == (
        "trtexec",
        {FP32, FP16},
        f"/m/{name}.onnx",
        (),
    )
