"""The accuracy budget: what is kept in fp32, and what that takes."""

import io
import json
import math

import numpy as np
import onnx
import pytest
import torch
from graphs import Scene, outputs

from torch2trt_onnx import budget, pipeline, planning
from torch2trt_onnx.budget import Trade
from torch2trt_onnx.compare import OnnxRunner
from torch2trt_onnx.errors import ComparisonError, InputError, PrecisionError
from torch2trt_onnx.graph import PREFIX
from torch2trt_onnx.limits import ErrorLimit, Limits
from torch2trt_onnx.plan import Asked
from torch2trt_onnx.precision import parse_precisions
from torch2trt_onnx.rules import parse_rules
from torch2trt_onnx.search import Trial

RANDOM = np.random.default_rng(0)
FAR = RANDOM.normal(size=(4, 8)).astype(np.float32) + 1000
NEAR = {"x": FAR, "near": FAR - RANDOM.random((4, 8), np.float32) / 4}
SMALL = {"x": RANDOM.normal(size=(4, 8)).astype(np.float32)}
ARRAYS = {
    "w": RANDOM.normal(scale=8**-0.5, size=(8, 8)).astype(np.float32),
    "v": RANDOM.normal(scale=8**-0.5, size=(8, 8)).astype(np.float32),
    "k": np.full(1, 30000, np.float32),
}

# The difference of numbers near each other is lost in fp16; what follows is harmless.
DIFFERENCE = """g (float[4,8] x, float[4,8] near) => (float[4,8] y) {
    d = Sub(x, near)  a = MatMul(d, w)  b = Relu(a)  c = Tanh(b)  y = MatMul(c, v) }"""
# The second output is beyond 65504, the first is not.
OVERFLOW = "g (float[4,8] x) => (float[4,8] y, float[4,8] z) { a = MatMul(x, w)  y = Sin(a)  z = Mul(a, k) }"


def planned(text, precisions="fp16", rules=None, opset=22):
    """A graph that is planned in a reduced precision wherever it can be."""
    scene = Scene(text, ARRAYS, opset)
    scene.run(*pipeline.repairs({}))
    planning.decide(scene.graph, Asked(parse_precisions(precisions), rules=parse_rules(rules)), {}, ["8.9"])
    return scene


def hold(scene, samples, limit, movable=None):
    names = {node.name for node in scene.graph.nodes()}
    return budget.hold(scene.graph, samples, Limits.of(limit), {}, names if movable is None else movable)


def lowered(scene, sample):
    """What the graph that comes of a plan computes."""
    scene.run(*pipeline.lowering())
    path = scene.graph.write(scene.weights.directory / "lowered.onnx")
    tensors = {name: torch.from_numpy(array) for name, array in sample.items()}
    return [array for array, _ in OnnxRunner(path, scene.graph)(tensors)]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_difference_of_numbers_near_each_other_is_kept_and_nothing_else(precision):
    scene = planned(DIFFERENCE, precision)
    before = scene.graph.to_proto(), scene.weights.path.stat().st_size
    trade = hold(scene, [NEAR], 0.05)
    assert list(trade.kept) == ["Sub_d"]
    assert f"alone in {precision} it gives 'y' a relative error of" in trade.kept["Sub_d"]
    assert "of 0.05 allowed" in trade.kept["Sub_d"]
    assert not trade.trials[0].ok and trade.trials[-1].ok
    assert (trade.trials[0].kept, trade.trials[-1].kept) == (0, 1)
    assert (trade.movable, trade.reduced) == (5, precision)
    assert (scene.graph.to_proto(), scene.weights.path.stat().st_size) == before


def test_an_overflow_is_kept_and_nothing_else():
    trade = hold(planned(OVERFLOW), [SMALL], 1e-2)
    assert list(trade.kept) == ["Mul_z"]
    assert trade.trials[0].errors["z"] == math.inf
    assert trade.trials[0].errors["y"] < 1e-2


def test_what_holds_at_once_is_run_once():
    trade = hold(planned(DIFFERENCE), [NEAR], 10)
    assert (trade.kept, trade.runs, len(trade.trials)) == ({}, 1, 1)
    assert trade.trials[0].share == 1
    assert 0 < trade.trials[0].errors["y"] < 10


def test_an_output_without_a_limit_costs_nothing():
    assert hold(planned(OVERFLOW), [SMALL], {"y": 1e-2}).kept == {}
    assert list(hold(planned(OVERFLOW), [SMALL], {"z": 1e-2}).kept) == ["Mul_z"]


def test_each_output_has_its_own_limit():
    trade = hold(planned(OVERFLOW), [SMALL], {"y": 1e-6, "z": ErrorLimit(1e9)})
    assert set(trade.kept) == {"MatMul_a", "Sin_y", "Mul_z"}  # an infinite error is beyond any limit
    assert trade.trials[-1].errors == {"y": 0, "z": 0}
    assert trade.limits == {"y": ErrorLimit(1e-6), "z": ErrorLimit(1e9)}


def test_the_cosine_hears_directions_and_not_lengths():
    text = "g (float[4,8] x) => (float[4,8] y) <float[1] k = {1.0004}> { a = Mul(x, k)  y = Tanh(a) }"
    sample = {"x": np.full((4, 8), 0.25, np.float32)}  # all of it is rounded alike
    assert "Mul_a" in hold(planned(text), [sample], 1e-4).kept
    assert hold(planned(text), [sample], ErrorLimit(1e-12, "cosine")).kept == {}
    assert list(hold(planned(DIFFERENCE), [NEAR], ErrorLimit(1e-3, "cosine")).kept) == ["Sub_d"]


def test_a_function_measures_what_the_user_means():
    def signs(found, expected):
        return np.mean(np.sign(found) != np.sign(expected))

    trade = hold(planned(DIFFERENCE), [NEAR], ErrorLimit(0.01, signs))
    assert list(trade.kept) == ["Sub_d"]
    assert "signs error of" in trade.kept["Sub_d"]
    assert trade.trials[-1].errors == {"y": 0}


def test_the_worst_sample_counts():
    tamed, large = {"x": SMALL["x"] / 30}, {"x": SMALL["x"] * 30}
    scene = planned("g (float[4,8] x) => (float[4,8] y) { a = Sin(x)  y = Mul(x, k) }")
    assert hold(scene, [tamed, tamed], 1e-2).kept == {}
    assert list(hold(scene, [tamed, large, tamed], 1e-2).kept) == ["Mul_y"]


def test_samples_are_read_once_so_that_a_loader_may_shuffle():
    expected = hold(planned(OVERFLOW), [SMALL, {"x": SMALL["x"] / 2}], 1e-3)
    assert hold(planned(OVERFLOW), iter([SMALL, {"x": SMALL["x"] / 2}]), 1e-3) == expected


BODIES = """g (bool c, float[4,8] x, float[4,8] near) => (float[4,8] y) <int64 n = {2}> {
    d = If(c) <then_branch = t() => (float[4,8] p) { p = Sub(x, near) }, else_branch = e() => (float[4,8] q) { q = Mul(x, x) }>
    e = Loop(n, "", d) <body = l(int64 i, bool k, float[4,8] s) => (bool g, float[4,8] r) {
        g = Identity(k)  m = MatMul(s, w)  f = Sub(x, near)  r = Add(m, f) }>
    y = Tanh(e) }"""


def test_nodes_of_bodies_are_kept_too():
    trade = hold(planned(BODIES), [{"c": np.array(True), **NEAR}], 0.05)
    assert set(trade.kept) == {"Sub_p", "Sub_f"}
    other = {"c": np.array(False), "x": SMALL["x"], "near": SMALL["x"] / 2}
    assert hold(planned(BODIES), [other], 0.05).kept == {}


def test_what_the_source_rounds_is_no_error():
    text = """g (float[4,8] x, float[4,8] near) => (float[4,8] y) {
        a = Cast<to=10>(x)  b = Cast<to=10>(near)  c = Sub(a, b)  d = Cast<to=1>(c)  y = Exp(d) }"""
    scene = planned(text, None, [{"op": "Exp", "precision": "fp16"}])
    assert hold(scene, [NEAR], 2e-3).trials[0].errors["y"] < 2e-3


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_hands_values_on_is_kept_between_nodes_in_fp32(precision):
    text = """g (float[4,8] x, float[4,8] near) => (float[4,8] y) {
        a = Transpose<perm=[1,0]>(x)  b = Transpose<perm=[1,0]>(near)  c = Sub(a, b)  d = Transpose<perm=[1,0]>(c)  y = Tanh(d) }"""
    scene = planned(text, None)
    for node in scene.graph.nodes():
        if node.op != "Sub":  # as a plan may be in which moving half the bytes is worth two Casts
            node.metadata |= {f"{PREFIX}precision": precision, f"{PREFIX}origin": "auto"}
    trade = hold(scene, [NEAR], 0.05)
    assert list(trade.kept) == ["Transpose_a", "Transpose_b"]
    assert set(trade.kept.values()) == {"it hands on in fp32 what comes in fp32 and is read so"}
    assert [(t.kept, t.ok) for t in trade.trials] == [(0, False), (2, True)]
    assert (hold(scene, [NEAR], 10).kept, hold(scene, [NEAR], 10).runs) == ({}, 1)
    assert trade.trials[0].errors == {
        "y": ErrorLimit(1).error("y", *lowered(scene, NEAR), *outputs(scene.source, NEAR))
    }


def test_a_plan_that_keeps_those_nodes_holds_when_it_is_lowered():
    rules = [{"name": name, "precision": "fp32"} for name in hold(planned(DIFFERENCE), [NEAR], 0.05).kept]
    scene = planned(DIFFERENCE, "fp32,fp16", [{"op": "*", "precision": "fp16"}, *rules])
    error = ErrorLimit(1).error("y", *lowered(scene, NEAR), *outputs(scene.source, NEAR))
    assert 0 < error < 0.05


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_first_trial_is_the_plan_as_it_stands_what_hands_values_on_included(precision):
    everything = [{"op": "*", "precision": precision}]
    wide = [{"op": "Exp", "precision": "fp32"}]
    text = "g (float[4,8] x) => (float[4,8] y) { a = Sin(x)  b = Exp(a)  c = Relu(b)  d = Exp(c)  y = MatMul(d, w) }"
    for rules in (everything, [*everything, *wide]):  # here the Relu rounds between two nodes that do not
        scene = planned(text, None, rules)
        (found,) = hold(scene, [SMALL], 1e-2).trials
        error = ErrorLimit(1).error("y", *lowered(planned(text, None, rules), SMALL), *outputs(scene.source, SMALL))
        assert found.errors == {"y": error} and error > 0
    assert found.share == pytest.approx((4 * 8 * 8 + 4 * 8 + 4 * 8) / (4 * 8 * 8 + 4 * 4 * 8))


def test_bindings_in_bf16_are_fed_and_measured_as_fp32():
    text = """g (bfloat16[4,8] x) => (bfloat16[4,8] y) {
        a = Cast<to=1>(x)  b = Mul(a, k)  c = Mul(b, k)  d = Log(c)  y = Cast<to=16>(d) }"""
    trade = hold(planned(text, None, [{"op": "*", "precision": "fp16"}]), [{"x": np.abs(SMALL["x"])}], 0.05)
    assert (
        {"Mul_b", "Mul_c", "Log_d"} >= set(trade.kept) >= {"Mul_c", "Log_d"}
    )  # 9e8 is beyond fp16, as is what is read


def test_a_second_round_on_the_plan_of_the_first_is_told_with_it():
    def trial(kept, ok):
        return Trial(kept, 1 - kept / 10, {"y": 0.0 if ok else 9.0}, ok)

    limits = {"y": ErrorLimit(1)}
    first = Trade(limits, "fp16", 10, 20, {"a": "far", "b": "far"}, [trial(0, False), trial(2, True)])
    second = Trade(limits, "fp16", 8, 30, {"c": "near"}, [trial(0, False), trial(1, True)])
    both = Trade(limits, "fp16", 10, 50, {"a": "far", "b": "far", "c": "near"}, [])
    trade = first.then(second)
    assert Trade.from_json({**trade.to_json(), "trials": []}) == both
    assert [(t.kept, t.ok) for t in trade.trials] == [(0, False), (2, False), (3, True)]


def test_the_share_of_work_has_what_the_source_does_in_fp16_and_nothing_that_moves_values():
    text = """g (float[4,8] x) => (float[4,8] y) {
        a = Cast<to=10>(x)  b = Exp(a)  c = Cast<to=1>(b)  d = Transpose(c)  e = Transpose(d)  f = Sin(e)  y = MatMul(f, w) }"""
    scene = planned(text, None, [{"op": "Sin", "precision": "fp16"}])
    assert hold(scene, [SMALL], 1).trials[0].share == pytest.approx((4 * 8 + 4 * 8) / (4 * 8 + 4 * 8 + 4 * 8 * 8))


def test_one_harmful_node_of_a_thousand_is_found_in_few_runs():
    steps = " ".join(f"a{i} = Sin(b{i})  b{i + 1} = Cos(a{i})" for i in range(499))
    text = f"{{ d = Sub(x, near)  b0 = Exp(d)  {steps}  y = Add(d, b499) }}"
    trade = hold(planned(f"g (float[4,8] x, float[4,8] near) => (float[4,8] y) {text}"), [NEAR], 1e-2)
    assert (trade.movable, list(trade.kept)) == (1001, ["Sub_d"])
    assert trade.kept["Sub_d"].startswith(
        "alone in fp16 it gives 'y' a relative error of 0."
    )  # on its own, not its group
    assert trade.runs <= 2 + 4 + 2 * 6 + 64 + 16  # the second round tells the 16 nodes of one group apart
    assert 8 <= len(trade.trials) <= 14
    assert {round(5 * trial.share) for trial in trade.trials} == set(range(6))  # all along the curve
    (others, taken) = trade.trials[:-1], trade.trials[-1]
    assert taken.share == pytest.approx(1000 / 1001) and taken.share > max(t.share for t in others if t.ok)


def test_where_more_are_kept_than_can_be_tried_one_by_one_their_reason_is_the_groups():
    steps = " ".join(f"b{i + 1} = Sin(b{i})" for i in range(200))
    trade = hold(
        planned(f"g (float[4,8] b0) => (float[4,8] y) {{ {steps}  y = Exp(b200) }}"), [{"b0": SMALL["x"]}], 1e-9
    )
    assert len(trade.kept) == 201
    assert trade.kept["Exp_y"].startswith("alone in fp16, with 2 nodes beside it, it gives 'y' a relative error of")
    assert trade.runs <= 2 + 4 + 2 * (64 + 6) + 16


class Block(torch.nn.Module):
    """Attention and a perceptron, each beside a residual."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.LayerNorm(32), torch.nn.LayerNorm(32)
        self.mixed, self.out = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 32))

    def forward(self, x):
        q, k, v = self.mixed(self.first(x)).chunk(3, -1)
        x = x + self.out((q @ k.transpose(1, 2) / 32**0.5).softmax(-1) @ v)
        return x + self.mlp(self.second(x))


def test_a_transformer_gives_back_little_of_its_work_for_half_its_error():
    file, x = io.BytesIO(), torch.randn(1, 16, 32)
    torch.onnx.export(Block().eval(), (x,), file, dynamo=False, opset_version=20, input_names=["x"], output_names=["y"])
    scene = planned(onnx.load_from_string(file.getvalue()))
    samples = [{"x": x.numpy()}, {"x": np.flip(x.numpy(), 1).copy()}]
    error = hold(scene, samples, 1).trials[0].errors["y"]
    trade = hold(scene, samples, error / 2)
    assert 0 < len(trade.kept) < trade.movable
    assert trade.trials[-1].errors["y"] <= error / 2
    assert 0.5 < trade.trials[-1].share < 1


def test_a_trade_survives_json():
    trade = hold(planned(OVERFLOW), [SMALL], {"y": 1e-6, "z": ErrorLimit(1, "cosine")})
    assert trade.kept
    data = json.loads(json.dumps(trade.to_json()))
    assert Trade.from_json(data) == trade
    assert Trade.from_json(data).to_json() == data


# --- What goes wrong


def test_limits_that_cannot_be_held_name_the_outputs_their_errors_and_the_nodes_that_may_not_be_kept():
    rules = [{"op": "Sub", "precision": "fp16"}, {"op": "Tanh", "precision": "fp16"}]
    scene = planned(DIFFERENCE, None, rules)
    with pytest.raises(PrecisionError, match="cannot be held, even with all nodes in fp32 that may be") as raised:
        hold(scene, [NEAR], 0.05, {"Tanh_c"})
    text = str(raised.value)
    assert "not kept in fp32 whatever the error: fp16 Sub 'Sub_d'\n" in text
    assert "'y' has a relative error of 1." in text and "and may have 0.05" in text
    assert "change the rules" in text


def test_a_random_model_is_told_apart():
    text = "g (float[4,8] x) => (float[4,8] y) { r = RandomNormalLike(x)  a = Mul(x, r)  y = Sin(a) }"
    scene = planned(text, opset=20)
    with pytest.raises(PrecisionError, match="is the model random"):
        hold(scene, [SMALL], 1e-3)


WRONG = {
    "no samples": (OVERFLOW, [], 1, InputError, "no sample"),
    "a sample without an input": (
        DIFFERENCE,
        [NEAR, {"x": FAR, "y": FAR}],
        1,
        InputError,
        "no array for the inputs 'near'",
        "sample 2",
        "the inputs are x, near, and this sample has x, y",
    ),
    "an output that is not there": (OVERFLOW, [SMALL], {"q": 1}, InputError, "no output 'q'", "y, z"),
    "an output that is no tensor": (
        "g (float[4,8] x) => (seq(float[4,8]) y) { a = Sin(x)  y = SequenceConstruct(a) }",
        [SMALL],
        1,
        InputError,
        "limits 'y'",
        "no tensor",
    ),
    "an operator that ONNX Runtime lacks": (
        "g (float[4,8] x) => (float[4,8] y) { a = Sin(x)  y = com.example.Foo(a) }",
        [SMALL],
        1,
        ComparisonError,
        "cannot load",
        "Foo",
    ),
    "a sample of another shape": (OVERFLOW, [SMALL, {"x": FAR[:2]}], 1, ComparisonError, "fails on sample 2", "x"),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=sentence) for sentence, case in WRONG.items()])
def test_what_is_wrong_is_said(case):
    text, samples, limit, error, *words = case
    scene = planned(text)
    with pytest.raises(error) as raised:
        hold(scene, samples, limit)
    assert all(word in str(raised.value) for word in words), str(raised.value)
