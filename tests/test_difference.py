"""What `diff` finds between two graphs, in which direction, and whose reason it gives."""

import json
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from conftest import Layers
from graphs import parse
from hypothesis import HealthCheck, assume, given, settings
from onnx import TensorProto, numpy_helper
from random_graphs import models

from torch2trt_onnx import Input, Options, convert, stages
from torch2trt_onnx.cli import main
from torch2trt_onnx.difference import KINDS, Move, compare
from torch2trt_onnx.errors import SourceError
from torch2trt_onnx.reasons import difference
from torch2trt_onnx.states import State

HEAD = "g (float[2,2] x) => (float[2,2] y)"
ONES = np.ones((2, 2), np.float32)

CASES = {
    "the same graph": (f"{HEAD} {{ y = Relu(x) }}", f"{HEAD} {{ y = Relu(x) }}", []),
    "a node more": (
        f"{HEAD} {{ [r] y = Relu(x) }}",
        f"{HEAD} {{ [n] v = Neg(x)  [r] y = Relu(v) }}",
        [("nodes added", "n", "Neg", "", "fp32"), ("nodes edited", "r", "Relu", "reads x", "reads v")],
    ),
    "a Cast less, and what it did to the type": (
        f"{HEAD} {{ [c] v = Cast<to=10>(x)  [r] w = Relu(v)  [d] y = Cast<to=1>(w) }}",
        f"{HEAD} {{ [r] w = Relu(x)  [d] y = Cast<to=1>(w) }}",
        [
            ("casts removed", "c", "Cast", "fp16", ""),
            ("types changed", "r", "Relu", "fp16", "fp32"),
            ("nodes edited", "r", "Relu", "reads v", "reads x"),
        ],
    ),
    "a node under another name that makes the same is the same node": (
        f"{HEAD} {{ [a] y = Relu(x) }}",
        f"{HEAD} {{ [b] y = Relu(x) }}",
        [("nodes renamed", "b", "Relu", "a", "b")],
    ),
    "another operator under one name is another node": (
        f"{HEAD} {{ [a] y = Relu(x) }}",
        f"{HEAD} {{ [a] y = Neg(x) }}",
        [("nodes added", "a", "Neg", "", "fp32"), ("nodes removed", "a", "Relu", "fp32", "")],
    ),
    "an attribute": (
        f"{HEAD} {{ [a] y = Softmax<axis=0>(x) }}",
        f"{HEAD} {{ [a] y = Softmax<axis=1>(x) }}",
        [("nodes edited", "a", "Softmax", "axis 0", "axis 1")],
    ),
    "an attribute that is not there, and one that is a number with a point": (
        f"{HEAD} {{ [a] y = LeakyRelu<alpha=0.5>(x) }}",
        f"{HEAD} {{ [a] y = LeakyRelu(x) }}",
        [("nodes edited", "a", "LeakyRelu", "alpha 0.5", "alpha not set")],
    ),
    "the type of an input": (
        f"{HEAD} {{ [c] y = Cast<to=1>(x) }}",
        "g (float16[2,2] x) => (float[2,2] y) { [c] y = Cast<to=1>(x) }",
        [("bindings changed", "input x", "", "fp32 2x2", "fp16 2x2")],
    ),
    "a dimension that becomes dynamic": (
        f"{HEAD} {{ [c] y = Relu(x) }}",
        "g (float[N,2] x) => (float[N,2] y) { [c] y = Relu(x) }",
        [("bindings changed", "input x", "", "fp32 2x2", "fp32 Nx2"), ("bindings changed", "output y", "", "fp32 2x2", "fp32 Nx2")],
    ),
    "a node inside a branch": (
        """g (bool c, float[2,2] x) => (float[2,2] y) { [i] y = If(c) <then_branch = t() => (float[2,2] a) { [p] a = Neg(x) },
            else_branch = e() => (float[2,2] b) { [q] b = Relu(x) }> }""",
        """g (bool c, float[2,2] x) => (float[2,2] y) { [i] y = If(c) <then_branch = t() => (float[2,2] a) { [p] a = Neg(x) },
            else_branch = e() => (float[2,2] b) { [n] v = Neg(x)  [q] b = Relu(v) }> }""",
        [("nodes added", "n", "Neg", "", "fp32"), ("nodes edited", "q", "Relu", "reads x", "reads v")],
    ),
    "nodes without names, by what they make": (
        f"{HEAD} {{ v = Neg(x)  y = Relu(v) }}",
        f"{HEAD} {{ y = Relu(x) }}",
        [("nodes removed", "Neg of v", "Neg", "fp32", ""), ("nodes edited", "Relu of y", "Relu", "reads v", "reads x")],
    ),
    "an input that is left out": (
        f"{HEAD} {{ [c] y = Clip(x, , x) }}",
        f"{HEAD} {{ [c] y = Clip(x) }}",
        [("nodes edited", "c", "Clip", "reads x", "reads nothing")],
    ),
}  # fmt: skip


def write(model, path):
    onnx.save(model, path)
    return path


def lines(before, after):
    return [(line.kind, line.name, line.op, line.before, line.after) for line in difference(before, after).lines]


@pytest.mark.parametrize(("before", "after", "expected"), CASES.values(), ids=CASES)
def test_it_finds(before, after, expected, tmp_path):
    paths = [write(parse(text), tmp_path / f"{name}.onnx") for name, text in (("a", before), ("b", after))]
    assert lines(*paths) == expected


READS = f"{HEAD} {{ [m] y = MatMul(x, w) }}"
WEIGHTS = {
    "weights of the same numbers, in the file or beside it": (READS, {"w": ONES}, READS, {"w": ONES}, []),
    "other numbers": (READS, {"w": ONES}, READS, {"w": 2 * ONES}, [("weights changed", "w", "fp32 2x2", "other numbers")]),
    "another shape": (
        "g (float[2,2] x) => (float[2,N] y) { [m] y = MatMul(x, w) }", {"w": ONES},
        "g (float[2,2] x) => (float[2,N] y) { [m] y = MatMul(x, w) }", {"w": np.ones((2, 3), np.float32)},
        [("weights changed", "w", "fp32 2x2", "fp32 2x3")],
    ),
    "another type under its name": (
        f"{HEAD} {{ [m] y = Cast<to=1>(w) }}", {"w": ONES},
        f"{HEAD} {{ [m] y = Cast<to=1>(w) }}", {"w": ONES.astype(np.float16)},
        [("weights retyped", "w", "fp32", "fp16")],
    ),
    "another type under another name, where a Cast was": (
        "g (float16[2,2] x) => (float16[2,2] y) { [c] v = Cast<to=10>(w)  [m] y = MatMul(x, v) }", {"w": ONES},
        "g (float16[2,2] x) => (float16[2,2] y) { [m] y = MatMul(x, u) }", {"u": ONES.astype(np.float16)},
        [("weights retyped", "u", "fp32 w", "fp16")],
    ),
    "one more and one less": (
        f"{HEAD} {{ [m] y = MatMul(x, w) }}", {"w": ONES}, f"{HEAD} {{ [m] y = MatMul(x, v) }}", {"v": ONES},
        [("weights added", "v", "", "fp32 2x2"), ("weights removed", "w", "fp32 2x2", "")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("external", [False, True], ids=["inside", "beside"])
@pytest.mark.parametrize(("before", "given", "after", "found", "expected"), WEIGHTS.values(), ids=WEIGHTS)
def test_of_weights_it_finds(before, given, after, found, expected, external, tmp_path):
    a = write(parse(before, given), tmp_path / "a.onnx")
    b = tmp_path / "b.onnx"
    onnx.save(parse(after, found), b, save_as_external_data=external, location="b.data", size_threshold=0)
    told = [line for line in lines(a, b) if line[0].startswith("weights")]
    assert [(kind, name, old, new) for kind, name, _, old, new in told] == expected


def test_large_weights_are_compared_to_the_last_byte(tmp_path):
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    other = values.copy()
    other[-1, -1] += 1
    text = "g (float[2,64] x) => (float[2,64] y) { [m] y = MatMul(x, w) }"
    a, b, c = (
        write(parse(text, {"w": w}), tmp_path / f"{n}.onnx") for n, w in (("a", values), ("b", values), ("c", other))
    )
    assert lines(a, b) == []
    assert [line[:2] for line in lines(a, c)] == [("weights changed", "w")]


def test_it_sums_up_what_moved(tmp_path):
    values = np.ones((8, 8), np.float32)
    text = "g ({0}[3,8] x) => ({0}[3,8] y) {{ [m] v = MatMul(x, w)  [r] y = Relu(v) }}"
    a = write(parse(text.format("float"), {"w": values}), tmp_path / "a.onnx")
    b = write(parse(text.format("float16"), {"w": values.astype(np.float16)}), tmp_path / "b.onnx")
    found = difference(a, b)
    sizes = [2 * 3 * 8 * 4, 2 * 3 * 8 * 2]
    assert found.moves == (Move("fp32", "fp16", 2, sizes, [8 * 8 * 4, 8 * 8 * 2]),)
    assert found.counts == ((2, 0), (2, 0))


def test_stale_types_in_a_file_are_not_believed_but_for_what_operators_of_others_make(tmp_path):
    model = parse(f"{HEAD} {{ [a] v = Relu(x)  [f] w = com.example.Mine(v)  [b] y = Cast<to=1>(w) }}")
    a = write(model, tmp_path / "a.onnx")
    for name in ("v", "w"):
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT16, (2, 2)))
    told = [line for line in lines(a, write(model, tmp_path / "b.onnx")) if line[0] == "types changed"]
    assert told == [("types changed", "f", "Mine", "?", "fp16")]


def test_a_dynamic_dimension_counts_one(tmp_path):
    text = "g ({0}[N,8] x) => ({0}[N,8] y) {{ [r] y = Relu(x) }}"
    a, b = (write(parse(text.format(kind)), tmp_path / f"{kind}.onnx") for kind in ("float", "float16"))
    assert difference(a, b).moves == (Move("fp32", "fp16", 1, [32, 16], [0, 0]),)


def _nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


RULE = [{"module": "a", "precision": "fp16"}]


@pytest.fixture
def saved(tmp_path):
    """A conversion with stages: module `a` goes to fp16 by a rule, `b` is fp16 by its author."""
    conversion = convert(Layers(b=torch.float16), [Input((2, 64))], rules=RULE, backend="none", keep_stages=True)
    return conversion.save(tmp_path / "saved")


def test_between_two_stages_each_line_tells_the_pass_that_did_it_and_its_reason(saved):
    found = difference(saved / "stages" / "00", saved)
    rule = "narrowed from fp32 to fp16: rule 1: module='a' -> fp16"
    expected = [
        ("casts added", "/Cast_output_0/Cast", "Retype", "two precisions of the plan meet"),
        ("casts added", "/a/Gemm_output_0/Cast", "Retype", "two precisions of the plan meet"),
        ("casts removed", "/Cast", "MergeCasts", "reads what '/Cast' reads: fp32 to fp32 is exact"),
        ("types changed", "/a/Gemm", "Retype", rule),
        ("nodes edited", "/a/Gemm", "FoldWeightCasts", "stored "),
        ("nodes edited", "/Sigmoid", "Retype", "narrowed "),
        ("weights retyped", "a.weight_fp16", "FoldWeightCasts", "stored 'a.weight' as fp16"),
        ("weights retyped", "a.bias_fp16", "FoldWeightCasts", "stored 'a.bias' as fp16"),
    ]
    assert [(line.kind, line.name, line.step) for line in found.lines] == [row[:3] for row in expected]
    for line, row in zip(found.lines, expected, strict=True):
        assert line.why.startswith(row[3])
    assert found.moves == (Move("fp32", "fp16", 1, [512, 256], [64 * 65 * 4, 64 * 65 * 2]),)
    backwards = difference(saved, saved / "stages" / "00")
    reasons = {(line.name, line.step, line.why) for line in backwards.lines if not line.kind.startswith("weights")}
    assert reasons == {(line.name, line.step, line.why) for line in found.lines if not line.kind.startswith("weights")}


def test_what_is_planned_and_not_done_yet_is_told_as_a_plan(saved):
    (line,) = difference(saved / "stages" / "AnnotatePrecision", saved / "stages" / "plan").lines
    assert (line.kind, line.name, line.before, line.after) == ("plans changed", "/a/Gemm", "fp32", "fp16")
    assert line.step == "plan" and line.why.startswith("planned fp16, from fp32: rule 1: module='a' -> fp16")


def test_the_last_stage_is_the_saved_graph(saved):
    assert difference(saved / "stages" / "GuardRecurrentCasts", saved).lines == ()


def test_each_step_alone_explains_what_it_did(saved):
    index = stages.read(saved / "stages")
    for before, after in pairwise(index):
        found = difference(saved / "stages" / before.file, saved / "stages" / after.file)
        assert bool(found.lines) <= bool(after.changes)
        assert {line.step for line in found.lines} <= {after.name}
        assert all(line.why for line in found.lines)


def test_stages_of_two_conversions_are_compared_without_reasons(saved, tmp_path):
    other = convert(Layers(b=torch.float16), [Input((2, 64))], backend="none", keep_stages=tmp_path / "other")
    assert other.report.stages
    found = difference(tmp_path / "other" / "00", saved)
    assert found.lines and not any(line.step or line.why for line in found.lines)


@settings(derandomize=True, database=None, deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(models())
def test_of_random_conversions_every_line_has_a_step_and_a_reason_and_the_way_back_is_its_mirror(
    tmp_path_factory, model
):
    folder = tmp_path_factory.mktemp("stages")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert(
            model,
            [Input((2, 2)) for _ in model.graph.input],
            backend="none",
            keep_stages=folder,
            options=Options(compare=False),
        )
    last = folder / stages.read(folder)[-1].file
    there, back = difference(folder / "00", last), difference(last, folder / "00")
    assert all(line.step and line.why for line in (*there.lines, *back.lines))
    names = {
        stage.file: {node.name for node in _nodes(onnx.load(folder / stage.file).graph)}
        for stage in stages.read(folder)
    }
    did = {name: set() for name in set().union(*names.values())}  # node -> the steps that added or removed it
    for earlier, later in pairwise(stages.read(folder)):
        for name in names[earlier.file] ^ names[later.file]:
            did[name].add(later.name)
    assert all(line.step in did[line.name] for kind in KINDS[1:5] for line in (*there.of(kind), *back.of(kind)))
    swap = {"added": "removed", "removed": "added"}

    def mirrored(kind):
        noun, verb = kind.split()
        return f"{noun} {swap.get(verb, verb)}"

    for kind in KINDS:
        if kind not in ("nodes renamed", "weights retyped"):  # of two names they tell the later
            assert sorted((x.name, x.before, x.after) for x in there.of(kind)) == sorted(
                (x.name, x.after, x.before) for x in back.of(mirrored(kind)) if "other numbers" not in (x.before, x.after)
            )  # fmt: skip
    assert {(m.before, m.after, m.nodes, tuple(m.activations)) for m in there.moves} == {
        (m.after, m.before, m.nodes, tuple(m.activations[::-1])) for m in back.moves
    }


@settings(derandomize=True, database=None, deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
@given(models(), models())
def test_a_graph_does_not_differ_from_itself_and_one_with_another_number_of_nodes_does(tmp_path_factory, a, b):
    folder = tmp_path_factory.mktemp("graphs")
    first, second = (State.read(write(model, folder / f"{name}.onnx")) for name, model in (("a", a), ("b", b)))
    assert compare(first, first).lines == ()
    assume(len(first.nodes) != len(second.nodes))
    assert compare(first, second).lines != ()


class TestBadInput:
    def test_a_stage_whose_weights_are_gone_or_cut(self, saved):
        stage, weights = stages.find(saved / "stages" / "Retype"), saved / "stages" / "stages.weights"
        weights.write_bytes(weights.read_bytes()[:-64])
        with pytest.raises(SourceError, match=r"too short(.|\n)*stages\.weights"):
            difference(saved / "stages" / "FoldWeightCasts", saved)
        weights.unlink()
        with pytest.raises(
            SourceError, match=r"cannot be read(.|\n)*Retype.onnx, tensor '[ab].weight', file 'stages.weights'"
        ):
            difference(stage, saved)

    def test_a_stage_in_between_that_is_gone_or_cut(self, saved):
        middle = stages.find(saved / "stages" / "Retype")
        middle.write_bytes(middle.read_bytes()[:-100])
        with pytest.raises(SourceError, match=r"stage in between cannot be read(.|\n)*Retype"):
            difference(saved / "stages" / "00", saved)
        middle.unlink()
        with pytest.raises(SourceError, match="stage in between cannot be read"):
            difference(saved / "stages" / "00", saved)
        assert difference(next(saved.glob("stages/*-FoldWeightCasts.onnx")), saved).lines

    def test_an_index_that_is_damaged(self, saved):
        (saved / "stages" / "stages.json").write_text("{}")
        with pytest.raises(SourceError, match="the index of the stages cannot be read"):
            difference(saved / "stages" / "00-export.onnx", saved)

    def test_weights_outside_the_folder(self, tmp_path):
        (tmp_path / "in").mkdir()
        model = parse(READS)
        tensor = TensorProto(name="w", data_type=1, dims=[2, 2], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../w.bin")
        model.graph.initializer.append(tensor)
        (tmp_path / "w.bin").write_bytes(ONES.tobytes())
        path = write(model, tmp_path / "in" / "m.onnx")
        with pytest.raises(SourceError, match="outside its folder"):
            difference(path, path)

    @pytest.mark.parametrize(
        ("name", "content", "text"),
        [
            ("cut.onnx", None, "not an ONNX model"),
            ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "neither TorchScript nor ONNX"),
            ("empty.onnx", b"", "no nodes"),
            ("text.onnx", b"hello, this is a text", "not an ONNX model"),
            ("report.json", b'{"nodes": []}', "neither TorchScript nor ONNX"),
        ],
    )
    def test_what_is_no_onnx_file(self, name, content, text, saved):
        whole = (saved / "model.onnx").read_bytes()
        (saved / name).write_bytes(content if content is not None else whole[: len(whole) // 2])
        for words in ((saved / name, saved), (saved, saved / name)):
            done = CliRunner().invoke(main, ["diff", *map(str, words)])
            assert (done.exit_code, done.stdout) == (1, "")
            assert text in done.stderr and "Traceback" not in done.stderr

    def test_what_is_torchscript_not_there_or_an_empty_folder(self, script_file, saved, tmp_path):
        (tmp_path / "empty").mkdir()
        for word, text in (
            (script_file, "is TorchScript"),
            (tmp_path / "no.onnx", "no such file"),
            (tmp_path / "empty", "no model.onnx"),
        ):
            done = CliRunner().invoke(main, ["diff", str(word), str(saved)])
            assert done.exit_code == 1 and text in done.stderr


class TestCommand:
    def run(self, *words):
        done = CliRunner().invoke(main, ["diff", *map(str, words)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def test_it_prints_one_line_a_thing_with_its_reason(self, saved):
        done = self.run(saved / "stages" / "00", saved)
        rows = [line.split() for line in done.stdout.splitlines()]
        assert done.exit_code == 0
        assert ["Casts", "removed:", "1"] in rows
        assert [
            "/Cast",
            "Cast",
            "fp32",
            "MergeCasts",
            "reads",
            "what",
            "'/Cast'",
            "reads:",
            "fp32",
            "to",
            "fp32",
            "is",
            "exact",
        ] in rows
        assert ["fp32", "fp16", "1", "512", "->", "256", "16,640", "->", "8,320"] in rows

    def test_as_json_it_has_every_kind(self, saved):
        told = json.loads(self.run(saved / "stages" / "00", saved, "--json").stdout)
        assert set(KINDS) <= set(told) and told["same"] is False
        assert [row["name"] for row in told["casts removed"]] == ["/Cast"]
        assert told["casts removed"][0]["step"] == "MergeCasts"
        assert told["moves"][0] == {
            "before": "fp32", "after": "fp16", "nodes": 1, "activations": [512, 256], "weights": [16640, 8320]
        }  # fmt: skip

    def test_a_difference_is_no_error_unless_it_is_asked_for(self, saved):
        words = (saved / "stages" / "00", saved)
        assert [self.run(*words).exit_code, self.run(*words, "--exit-code").exit_code] == [0, 4]
        same = self.run(saved, saved / "model.onnx", "--exit-code")
        assert same.exit_code == 0 and same.stdout.startswith("no difference between ")

    def test_a_file_with_unprintable_names_does_not_reach_the_terminal(self, tmp_path):
        model = parse(f"{HEAD} {{ [a] y = Relu(x) }}")
        a = write(model, tmp_path / "a.onnx")
        model.graph.node[0].name = "evil\x1b[2J"
        done = self.run(a, write(model, tmp_path / "b.onnx"))
        assert "\x1b" not in done.stdout and "evil?[2J" in done.stdout


def chain(nodes, kind):
    """A chain of matrix products with a weight each; every node computes in `kind`."""
    weight = np.eye(16, dtype=kind)
    onnx_kind = numpy_helper.from_array(weight).data_type
    made = [onnx.helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"t{i + 1}"], f"n{i}") for i in range(nodes)]
    ends = [onnx.helper.make_tensor_value_info(name, onnx_kind, (4, 16)) for name in ("t0", f"t{nodes}")]
    weights = [numpy_helper.from_array(weight, f"w{i}") for i in range(nodes)]
    return onnx.helper.make_model(
        onnx.helper.make_graph(made, "g", ends[:1], ends[1:], weights),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )


def test_ten_thousand_nodes_of_which_each_differs_take_no_long_time(tmp_path):
    paths = [write(chain(10_000, kind), tmp_path / f"{kind.__name__}.onnx") for kind in (np.float32, np.float16)]
    command = [Path(sys.executable).with_name("torch2trt-onnx"), "diff", *paths, "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    took = time.perf_counter() - start
    told = json.loads(done.stdout)
    assert told["moves"][0]["nodes"] == len(told["types changed"]) == len(told["weights retyped"]) == 10_000
    assert took < 10, f"{took:.1f} s; 3 on a machine that has nothing else to do"
