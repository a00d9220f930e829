"""The verdicts of the proof, on engines that TensorRT-RTX built, and on what TensorRT 10's inspector tells of others."""

import json
from collections import Counter
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from graphs import Scene, build

from torch2trt_onnx import convert
from torch2trt_onnx.backends import BuildResult, inspector
from torch2trt_onnx.passes import AnnotatePrecision
from torch2trt_onnx.plan import PrecisionPlan
from torch2trt_onnx.proof import FOLDED, FUSED, HONOURED, OVERRIDDEN, UNVERIFIABLE, prove
from torch2trt_onnx.report import Report
from torch2trt_onnx.tables import console, summary

KINDS = {"fp32": ("float", np.float32), "fp16": ("float16", np.float16), "bf16": ("bfloat16", ml_dtypes.bfloat16)}
POOLS = {"MaxPool", "AveragePool"}
"""What TensorRT-RTX 1.7 runs in fp32 where it is bf16."""

PARTLY = {"LRN"}
"""What it runs as several layers where it is fp16 or bf16, one of them in fp32 throughout."""


def planned(text, arrays=None, opset=22):
    """A graph from ONNX text, and its plan."""
    scene = Scene(text, arrays, opset)
    scene.run(AnnotatePrecision())
    return scene, PrecisionPlan.read(scene.graph)


def engine(text, arrays=None, opset=22, **options):
    """A graph, its plan, and the engine that is built for it: what `prove` takes."""
    scene, plan = planned(text, arrays, opset)
    return scene.graph.to_proto(), plan, build(scene, **options)


def proven(text, arrays=None, opset=22, **options):
    """Operator and output of each node that has a verdict -> the verdict, from an engine that is built for it."""
    return prove(*engine(text, arrays, opset, **options))


def told(text, layers, arrays=None):
    """The same, from layers as the engine inspector of TensorRT 10 tells them."""
    scene, plan = planned(text, arrays)
    found, bindings = inspector.parse(json.dumps({"Layers": layers, "Bindings": []}))
    built = BuildResult("TensorRT 10", scene.weights.path, {}, found, bindings)
    return prove(scene.graph.to_proto(), plan, built)


def layer(name, inputs, outputs, *names):
    """A layer as TensorRT 10 tells it; tensors as "name:Half"."""

    def tensors(words):
        pairs = (word.split(":") for word in words.split())
        told = {"untold": "N/A due to dynamic shapes"}
        return [{"Name": n, "Dimensions": [1, 8, 8, 8], "Format/Datatype": told.get(kind, kind)} for n, kind in pairs]

    metadata = "\x1e".join(f"[ONNX Layer: {n}]" for n in names)
    return {
        "Name": name, "LayerType": "", "Inputs": tensors(inputs), "Outputs": tensors(outputs), "Metadata": metadata,
    }  # fmt: skip


def words(verdicts):
    return {name: verdict.word for name, verdict in verdicts.items()}


MAP, TABLE = "[1,8,8,8]", "[4,8]"
OPERATORS = {
    "Conv": (MAP, "Conv<kernel_shape=[3,3],pads=[1,1,1,1]>({x},kernel)", MAP),
    "ConvTranspose": (MAP, "ConvTranspose<kernel_shape=[3,3],pads=[1,1,1,1]>({x},kernel)", MAP),
    "MatMul": (TABLE, "MatMul({x},matrix)", TABLE),
    "Gemm": (TABLE, "Gemm({x},matrix,vector)", TABLE),
    "Einsum": (TABLE, 'Einsum<equation="ij,jk->ik">({x},matrix)', TABLE),
    "MaxPool": (MAP, "MaxPool<kernel_shape=[2,2],strides=[2,2]>({x})", "[1,8,4,4]"),
    "AveragePool": (MAP, "AveragePool<kernel_shape=[2,2],strides=[2,2]>({x})", "[1,8,4,4]"),
    "GlobalAveragePool": (MAP, "GlobalAveragePool({x})", "[1,8,1,1]"),
    "GlobalMaxPool": (MAP, "GlobalMaxPool({x})", "[1,8,1,1]"),
    "BatchNormalization": (MAP, "BatchNormalization({x},vector,vector,vector,vector)", MAP),
    "InstanceNormalization": (MAP, "InstanceNormalization({x},vector,vector)", MAP),
    "GroupNormalization": (MAP, "GroupNormalization<num_groups=2>({x},vector,vector)", MAP),
    "LayerNormalization": (TABLE, "LayerNormalization({x},vector,vector)", TABLE),
    "LRN": (MAP, "LRN<size=3>({x})", MAP),
    "Resize": (MAP, 'Resize<mode="linear">({x},,,sizes)', "[1,8,16,16]"),
    "GridSample": (MAP, "GridSample({x},grid)", "[1,8,4,4]"),
    "DepthToSpace": (MAP, "DepthToSpace<blocksize=2>({x})", "[1,2,16,16]"),
    "Softmax": (TABLE, "Softmax({x})", TABLE),
    "LogSoftmax": (TABLE, "LogSoftmax({x})", TABLE),
    "ReduceSum": (TABLE, "ReduceSum({x},one)", "[4,1]"),
    "ReduceMean": (TABLE, "ReduceMean({x},one)", "[4,1]"),
    "ReduceMax": (TABLE, "ReduceMax({x},one)", "[4,1]"),
    "ReduceL2": (TABLE, "ReduceL2({x},one)", "[4,1]"),
    "CumSum": (TABLE, "CumSum({x},axis)", TABLE),
    "Gelu": (TABLE, "Gelu({x})", TABLE),
    "Erf": (TABLE, "Erf({x})", TABLE),
    "Elu": (TABLE, "Elu({x})", TABLE),
    "LeakyRelu": (TABLE, "LeakyRelu({x})", TABLE),
    "PRelu": (TABLE, "PRelu({x},vector)", TABLE),
    "HardSigmoid": (TABLE, "HardSigmoid({x})", TABLE),
    "HardSwish": (TABLE, "HardSwish({x})", TABLE),
    "Softplus": (TABLE, "Softplus({x})", TABLE),
    "Sin": (TABLE, "Sin({x})", TABLE),
    "Pow": (TABLE, "Pow({x},vector)", TABLE),
    "Clip": (TABLE, "Clip({x},low,high)", TABLE),
    "Sqrt": (TABLE, "Sqrt({x})", TABLE),
    "Round": (TABLE, "Round({x})", TABLE),
    "Max": (TABLE, "Max({x},vector)", TABLE),
    "Where": (TABLE, "Where(condition,{x},vector)", TABLE),
    "Gather": (TABLE, "Gather({x},places)", "[2,8]"),
    "ScatterElements": (TABLE, "ScatterElements({x},row,update)", TABLE),
    "Transpose": (TABLE, "Transpose({x})", "[8,4]"),
    "Concat": (TABLE, "Concat<axis=0>({x},{x})", "[8,8]"),
    "Pad": (TABLE, "Pad({x},pads)", "[5,8]"),
    "Slice": (TABLE, "Slice({x},start,end,one)", "[4,4]"),
    "Expand": (TABLE, "Expand({x},shape)", "[2,4,8]"),
    "Tile": (TABLE, "Tile({x},repeats)", "[8,8]"),
    "Trilu": (TABLE, "Trilu({x})", TABLE),
}
NOT_IN_BF16 = {"ConvTranspose", "Einsum", "HardSwish"}
"""What cannot be built there: the first fails in TensorRT's builder, ONNX has not the second, its parser refuses the third."""


def matrix(kind, surrounded):
    """A graph in which all operators stand side by side: alone, or each between two Exp."""
    word, dtype = KINDS[kind]
    inputs, outputs, body = [f"{word}[1,4,4,2] grid", "bool[4,8] condition"], [], []
    for name, (taken, call, made) in OPERATORS.items():
        if kind == "bf16" and name in NOT_IN_BF16:
            continue
        inputs.append(f"{word}{taken} x_{name}")
        outputs.append(f"{word}{made} y_{name}")
        before, after = (f"a_{name}", f"b_{name}") if surrounded else (f"x_{name}", f"y_{name}")
        if surrounded:
            body += [f"{before} = Exp(x_{name})", f"y_{name} = Exp({after})"]
        body.append(f"{after} = {call.format(x=before)}")
    text = f"matrix ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {chr(10).join(body)} }}"
    random = np.random.default_rng(0)

    def weight(*shape):
        return (np.abs(random.normal(size=shape)) + 0.5).astype(dtype)

    whole = {
        "sizes": [1, 8, 16, 16], "one": [1], "axis": 0, "places": [0, 2], "row": np.zeros((1, 8), int), "pads": [0, 0, 1, 0],
        "start": [0], "end": [4], "shape": [2, 4, 8], "repeats": [2, 1],
    }  # fmt: skip
    arrays = {"kernel": weight(8, 8, 3, 3), "matrix": weight(8, 8), "vector": weight(8), "update": weight(1, 8)}
    arrays |= {"low": np.array(0.1, dtype), "high": np.array(2, dtype)}
    return text, arrays | {name: np.array(value, np.int64) for name, value in whole.items()}


def by_operator(verdicts):
    """Word -> the operators of the matrix that have it."""
    found = {}
    for name, verdict in verdicts.items():
        found.setdefault(verdict.word, set()).add(name.split("_")[0])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_alone_is_honoured_but_for_what_tensorrt_widens(kind):
    found = by_operator(proven(*matrix(kind, surrounded=False)))
    assert found.pop(OVERRIDDEN, set()) == (POOLS if kind == "bf16" else set())
    assert found.pop(UNVERIFIABLE, set()) == (PARTLY if kind != "fp32" else set())
    assert set(found) == {HONOURED}, found


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_between_others_is_proven_but_beside_what_tensorrt_widens(kind):
    verdicts = proven(*matrix(kind, surrounded=True))
    pools = POOLS if kind == "bf16" else set()
    for name, verdict in verdicts.items():
        operator, _, place = name.partition("_")
        if operator in pools:
            assert verdict.word == OVERRIDDEN
        elif place[2:] in pools:
            assert verdict.word == UNVERIFIABLE, (name, verdict)
            assert "on which side of the conversion" in verdict.evidence
        elif operator in PARTLY and kind != "fp32":
            assert verdict.word == UNVERIFIABLE
        else:
            assert verdict.word in (HONOURED, FUSED, FOLDED), (name, verdict)


@pytest.mark.parametrize(("kind", "other"), [("fp32", "Half"), ("fp16", "Float")])
def test_no_node_of_a_layer_that_runs_in_another_type_passes_as_proven(kind, other):
    model, plan, built = engine(*matrix(kind, surrounded=True))
    floats = {"Float", "Half"}
    for index, held in enumerate(built.layers):
        sides = {
            side: tuple(replace(t, dtype=other) if t.dtype in floats else t for t in getattr(held, side))
            for side in ("inputs", "constants", "outputs")
        }
        layers = [*built.layers[:index], replace(held, **sides), *built.layers[index + 1 :]]
        verdicts = prove(model, plan, replace(built, layers=layers))
        for name in held.nodes:
            assert verdicts[name].word in (OVERRIDDEN, UNVERIFIABLE), (held.name, name, verdicts[name])


def test_a_rounding_cast_inside_a_kernel_is_fused_and_its_borders_are_said():
    verdicts = proven("g (float[4,8] x) => (float[4,8] y) { a = Cast<to=10>(x) b = Cast<to=1>(a) y = Exp(b) }")
    assert words(verdicts) == {"Cast_a": FUSED, "Cast_b": FUSED, "Exp_y": FUSED}
    assert "borders is fp32, as planned" in verdicts["Cast_a"].evidence


def test_a_cast_with_a_kernel_of_its_own_is_honoured_in_both_of_its_types():
    verdict = proven("g (float[4,8] x) => (bfloat16[4,8] y) { y = Cast<to=16>(x) }")["Cast_y"]
    assert verdict.word == HONOURED
    assert "reads fp32 and writes bf16" in verdict.evidence


def test_a_node_whose_name_tensorrt_loses_is_found_by_its_neighbours():
    alone = proven("g (float16[4,8] x) => (float16[4,8] y) { y = Elu(x) }")["Elu_y"]
    assert alone.word == HONOURED
    assert "no others on its way" in alone.evidence
    inside = proven("g (float16[4,8] x) => (float16[4,8] y) { a = Elu(x) y = Exp(a) }")["Elu_a"]
    assert inside.word == FUSED
    assert "no layer names it" in inside.evidence


def test_nodes_that_one_kernel_computes_are_fused():
    kernel = {"k": np.ones((8, 8, 3, 3), np.float16)}
    text = "g (float16[1,8,8,8] x) => (float16[1,8,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, k) y = Relu(a) }"
    assert words(proven(text, kernel)) == {"Conv_a": FUSED, "Relu_y": FUSED}


def test_a_move_between_two_kernels_that_needs_none_is_folded():
    verdicts = proven(
        "g (float[4,8] x) => (float[4,4] y) <int64[2] s={8,4}> { a = Softmax(x) b = Reshape(a,s) y = MatMul(c,b) c = Transpose(b) }"
    )
    assert verdicts["Reshape_b"].word == FOLDED
    assert "moves fp32" in verdicts["Reshape_b"].evidence


def test_what_depends_on_shapes_only_is_folded():
    text = """g (float[1,2,4,8] x) => (float[1,2,8,16] y) {
        s = Shape(x) f = Cast<to=1>(s) t = Mul(f, twice) u = Cast<to=7>(t) y = Resize<mode="nearest">(x, , , u)
    }"""
    verdicts = proven(text, {"twice": np.array([1, 1, 2, 2], np.float32)})
    assert {verdicts[name].word for name in ("Cast_f", "Mul_t", "Cast_u")} == {FOLDED}
    assert "Shape_s" not in verdicts, "it computes with no float"


def test_what_is_computed_once_for_two_nodes_is_proven_for_both():
    text = "g (float[4,8] x) => (float[4,8] y, float[4,8] z) { a = Exp(x) b = Exp(x) y = MatMul(a,w) z = Softmax(b) }"
    verdicts = proven(text, {"w": np.ones((8, 8), np.float32)})
    assert words(verdicts) == {"Exp_a": FOLDED, "Exp_b": FUSED, "MatMul_y": HONOURED, "Softmax_z": FUSED}
    assert "the same as 'Exp_b'" in verdicts["Exp_a"].evidence


def test_the_branches_of_an_if_are_proven_each_in_its_types():
    verdicts = proven(
        """g (float16[4,8] x, float[1] c) => (float16[4,8] y) <float[1] half={0.5}> {
            d = Greater(c, half)
            y = If (d) <
                then_branch = t () => (float16[4,8] a) { a = Softmax(x) },
                else_branch = e () => (float16[4,8] b) { q = Cast<to=1>(x) r = Softmax(q) b = Cast<to=10>(r) }
            >
        }"""
    )
    assert verdicts["Softmax_a"].word == HONOURED
    assert "reads fp16 and writes fp16" in verdicts["Softmax_a"].evidence
    assert {verdicts[name].word for name in ("Cast_q", "Softmax_r", "Cast_b")} <= {HONOURED, FUSED}
    assert verdicts["Greater_d"].word in (HONOURED, FUSED)


def test_the_body_of_a_loop_and_its_condition_are_proven():
    verdicts = proven(
        """g (float[4,8] x, int64 n) => (float[4,8] y) <bool c={1}, float limit={100}> {
            y = Loop (n, c, x) < body = b (int64 i, bool ci, float[4,8] s) => (bool co, float[4,8] o) {
                o = Exp(s) m = ReduceMax<keepdims=0>(o) co = Less(m, limit)
            } >
        }"""
    )
    assert words(verdicts) == {"Exp_o": FUSED, "ReduceMax_m": FUSED, "Less_co": HONOURED}


def test_the_body_of_a_scan_is_proven():
    verdicts = proven(
        """g (float16[4,8] x, float16[8] h) => (float16[8] last, float16[4,8] y) {
            last, y = Scan <num_scan_inputs=1, body = b (float16[8] s, float16[8] e) => (float16[8] o, float16[8] p) {
                q = Add(s, e) o = Tanh(q) p = Exp(o)
            }>(h, x)
        }"""
    )
    assert {verdicts[name].word for name in ("Add_q", "Tanh_o", "Exp_p")} <= {HONOURED, FUSED}


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_a_recurrent_layer_is_honoured_by_all_kernels_of_its_time_steps(operator, gates, kind):
    word, dtype = KINDS[kind]
    random = np.random.default_rng(0)
    shapes = {"w": (1, 8 * gates, 8), "r": (1, 8 * gates, 8), "b": (1, 16 * gates)}
    arrays = {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    text = f"g ({word}[5,2,8] x) => ({word}[5,1,2,8] y) {{ y = {operator}<hidden_size=8>(x,w,r,b) }}"
    (verdict,) = proven(text, arrays).values()
    assert verdict.word == HONOURED
    assert kind in verdict.evidence


def test_a_pool_in_bf16_is_overridden_and_so_is_said_what_it_reads():
    text = "g (bfloat16[1,8,8,8] x) => (bfloat16[1,8,4,4] y) { y = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) }"
    verdict = proven(text)["MaxPool_y"]
    assert verdict.word == OVERRIDDEN
    assert "reads 'x' as fp32, planned bf16" in verdict.evidence


QUANTISED = """g (float[2,8,8,8] x) => (float[2,8,8,8] y) <float s={0.1}, int8 z={0}> {
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
    p = QuantizeLinear<axis=%d>(w, scales, zeros) e = DequantizeLinear<axis=%d>(p, scales, zeros)
    c = Conv<pads=[1,1,1,1]>(d, e) y = Relu(c)
}"""
WEIGHTS = {
    "w": np.random.default_rng(0).normal(size=(8, 8, 3, 3)).astype(np.float32),
    "scales": np.full(8, 0.01, np.float32),
    "zeros": np.zeros(8, np.int8),
}


def test_a_quantised_convolution_that_reads_int8_is_honoured():
    verdicts = proven(QUANTISED % (0, 0), WEIGHTS)
    assert verdicts["Conv_c"].word == HONOURED
    assert "reads int8, as quantised" in verdicts["Conv_c"].evidence
    assert OVERRIDDEN not in words(verdicts).values()


def test_a_convolution_whose_weights_are_quantised_along_the_wrong_axis_is_overridden():
    verdicts = proven(QUANTISED % (1, 1), WEIGHTS)
    assert "reads fp32, though its inputs are quantised" in verdicts["Conv_c"].evidence
    wrong = {name for name, word in words(verdicts).items() if word == OVERRIDDEN}
    assert wrong == {
        "Conv_c", "QuantizeLinear_q", "QuantizeLinear_p", "DequantizeLinear_d", "DequantizeLinear_e",
    }  # fmt: skip


def test_a_product_in_fp8_is_honoured():
    text = """g (float16[16,64] x) => (float16[16,64] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        p = QuantizeLinear(w, t, z) e = DequantizeLinear(p, t, z) y = MatMul(d, e)
    }"""
    arrays = {"w": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float16), "s": np.float16(0.1)}
    arrays |= {"t": np.float16(0.01), "z": np.zeros((), ml_dtypes.float8_e4m3fn)}
    verdict = proven(text, arrays, compute_capabilities=("8.9",))["MatMul_y"]
    assert verdict.word == HONOURED
    assert "reads fp8" in verdict.evidence


def test_a_product_with_int4_weights_is_proven_in_the_type_of_its_tensors():
    text = "g (float16[16,64] x) => (float16[16,64] y) { e = DequantizeLinear<axis=0,block_size=32>(w, s) y = MatMul(x, e) }"
    arrays = {"w": np.ones((64, 64), ml_dtypes.int4), "s": np.full((2, 64), 0.01, np.float16)}
    assert words(proven(text, arrays))["MatMul_y"] == HONOURED


CHAIN = "g (float16[1,8,8,8] x) => (float16[1,8,8,8] y) { a = Exp(x) b = Softmax(a) y = Sin(b) }"


def test_under_weak_typing_a_layer_that_tensorrt_runs_wider_is_overridden():
    move = "Reformatting CopyNode for Input Tensor 0 to Softmax_b"
    verdicts = told(
        CHAIN,
        [
            layer("Exp_a", "x:Half", "a:Half", "Exp_a"),
            layer(move, "a:Half", "a2:Float"),
            layer("Softmax_b", "a2:Float", "b:Float", "Softmax_b"),
            layer("Reformatting CopyNode for Input Tensor 0 to Sin_y", "b:Float", "b2:Half"),
            layer("Sin_y", "b2:Half", "y:Half", "Sin_y"),
        ],
    )
    assert words(verdicts) == {"Exp_a": HONOURED, "Softmax_b": OVERRIDDEN, "Sin_y": HONOURED}


def test_a_node_inside_a_region_that_is_named_by_its_ends_is_fused():
    verdicts = told(CHAIN, [layer("{ForeignNode[Exp_a...Sin_y]}", "x:Half", "y:Half", "Exp_a", "Sin_y")])
    assert words(verdicts) == {"Exp_a": FUSED, "Softmax_b": FUSED, "Sin_y": FUSED}


def test_a_region_in_another_type_is_overridden_and_what_it_does_not_name_is_open():
    verdicts = told(CHAIN, [layer("{ForeignNode[Exp_a...Sin_y]}", "x:Float", "y:Float", "Exp_a", "Sin_y")])
    assert words(verdicts) == {"Exp_a": OVERRIDDEN, "Softmax_b": UNVERIFIABLE, "Sin_y": OVERRIDDEN}


def test_a_type_that_the_engine_does_not_tell_proves_nothing():
    verdicts = told(
        CHAIN,
        [
            layer("Exp_a", "x:Half", "a:Half", "Exp_a"),
            layer("Softmax_b", "a:Half", "b:untold", "Softmax_b"),
            layer("Sin_y", "b:untold", "y:Half", "Sin_y"),
        ],
    )
    assert words(verdicts) == {"Exp_a": HONOURED, "Softmax_b": UNVERIFIABLE, "Sin_y": UNVERIFIABLE}
    assert "tells no type" in verdicts["Sin_y"].evidence


def test_a_node_that_no_layer_leads_past_is_unverifiable():
    verdicts = told(CHAIN, [layer("Exp_a", "x:Half", "p:Half", "Exp_a"), layer("Sin_y", "q:Half", "y:Half", "Sin_y")])
    assert verdicts["Softmax_b"].word == UNVERIFIABLE


def test_half_weights_that_the_engine_keeps_as_float_are_seen():
    text = "g (float16[1,8,8,8] x) => (float16[1,8,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, k) }"
    held = layer("Conv_y", "x:Half", "y:Half", "Conv_y") | {"Weights": {"Type": "Float", "Count": 576}}
    verdict = told(text, [held], {"k": np.ones((8, 8, 3, 3), np.float16)})["Conv_y"]
    assert verdict.word == UNVERIFIABLE
    assert "reads 'k' as fp32, planned fp16" in verdict.evidence


def test_the_report_tells_each_verdict_and_keeps_it_as_json(net):
    report = convert(net, [torch.randn(2, 3, 16, 16)], {"fp32", "fp16"}, backend="rtx").report
    proof = {n.plan.name: n.verdict for n in report.nodes}
    assert {n.verdict for n in report.nodes if n.plan.precision} <= {HONOURED, FUSED, FOLDED}
    again = Report.from_json(json.loads(json.dumps(report.to_json())))
    assert {n.plan.name: n.verdict for n in again.nodes} == proof
    assert all(n.evidence for n in again.nodes if n.verdict)
    output = console()
    with output.capture() as text:
        output.print(summary(again))
    counts = Counter(proof.values())
    assert f"{counts[HONOURED]} honoured, {counts[FUSED]} fused" in text.get()
    assert "0 overridden, 0 unverifiable" in text.get()
