"""The command `explain`: the whole story of a node, and the nodes that a word means."""

import json
from pathlib import Path

import onnx
import pytest
from shown import assert_snapshot, convert_layers, layers_model, plain, run, static_model

from torch2trt_onnx.explanation import Stories
from torch2trt_onnx.inspection import read

FIRST, SECOND = (f"/encoder/layers/{i}/attention/query/MatMul" for i in range(2))
RELU, HEAD = "/encoder/layers/0/attention/query/Relu", "/classifier/head/MatMul"
RULES = """[[rule]]
op = "MatMul"
precision = "fp32"
[[rule]]
module = "encoder.layers.0"
precision = "fp16"
[[rule]]
name = "*head*"
precision = "fp16"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds `layers.onnx`, its conversion `layers` by rules, with stages, and `built`, that with an engine."""
    place = tmp_path_factory.mktemp("explain")
    (place / "rules.toml").write_text(RULES)
    convert_layers(place, "--rules", place / "rules.toml")
    return place


def told(*words):
    """The stories as data."""
    done = run("explain", *words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize(("name", "node"), [("node", HEAD), ("module", "encoder.layers.0")])
def test_a_terminal_shows(here, width, name, node):
    shown = plain(run("explain", "layers", node, width=width).stdout)
    assert max(map(len, shown.splitlines())) <= width
    assert_snapshot(f"explain-{name}-{width}", shown)


def test_a_pipe_gets_each_fact_on_one_line(here):
    shown = run("explain", "layers", FIRST).stdout
    assert shown == plain(shown)
    (story,) = told("layers", FIRST)["nodes"]
    for fact in (story["reason"], *(cast["reason"] for cast in story["casts"])):
        assert any(line.endswith(fact) for line in shown.splitlines())


class TestStory:
    def test_a_weight_has_the_type_that_it_came_with(self, here):
        (story,) = told("layers", FIRST)["nodes"]
        (weight,) = story["weights"]
        assert (weight["dtype"], weight["authored"], weight["dims"]) == ("fp16", "fp32", [32, 32])
        assert story["precision"] == "fp16" and story["authored"] == "fp32"

    def test_all_rules_that_match_are_told_and_the_last_one_wins(self, here):
        (story,) = told("layers", FIRST)["nodes"]
        assert [(rule["number"], rule["wins"]) for rule in story["rules"]] == [(1, False), (2, True)]
        (story,) = told("layers", SECOND)["nodes"]
        assert [(rule["number"], rule["wins"]) for rule in story["rules"]] == [(1, True)]
        assert "rule 1" in story["reason"] and "a later one wins" not in run("explain", "layers", SECOND).stdout

    def test_casts_stand_between_a_node_and_its_neighbours_with_their_reasons(self, here):
        nodes = {node.plan.name: node.plan for node in read(Path("layers")).nodes}
        (story,) = told("layers", FIRST)["nodes"]
        (cast,) = story["casts"]
        assert (cast["side"], cast["other"]) == ("before", ["tokens"])
        assert (
            cast["reason"]
            == nodes[cast["name"]].reason
            == "Cast from fp32 to fp16, where two precisions of the plan meet"
        )
        (story,) = told("layers", HEAD)["nodes"]
        sides = {cast["side"]: cast for cast in story["casts"]}
        assert set(sides) == {"before", "after"} and "fp16 to fp32" in sides["after"]["reason"]

    def test_every_cast_of_the_graph_is_beside_the_nodes_that_it_is_between(self, here):
        report = read(Path("layers"))
        stories = Stories(report)
        beside = {(s.node.plan.name, c.side, c.name) for s in map(stories.tell, report.nodes) for c in s.casts}
        makers = {tensor: node.plan for node in report.nodes for tensor in node.plan.tensors}
        for node in report.nodes:
            for tensor in node.plan.inputs:
                if tensor in makers and makers[tensor].op == "Cast":
                    assert (node.plan.name, "before", makers[tensor].name) in beside
                if tensor in makers and node.plan.op == "Cast":
                    assert (makers[tensor].name, "after", node.plan.name) in beside

    def test_what_the_passes_did_to_the_node_and_its_weights_is_told_in_order(self, here):
        (story,) = told("layers", FIRST)["nodes"]
        done = [(change["pass"], change["action"]) for change in story["changes"]]
        assert ("Retype", "narrowed from fp32 to fp16") in done
        stored = f"stored 'encoder.layers.0.attention.query.weight' as fp16 '{story['weights'][0]['name']}'"
        assert ("FoldWeightCasts", stored) in done
        assert done.index(("Retype", "narrowed from fp32 to fp16")) < done.index(("FoldWeightCasts", stored))
        assert len(done) == 2  # and not what was done to others

    def test_the_engine_tells_its_layers_and_the_proof(self, here):
        node = next(node for node in read(Path("built")).nodes if node.plan.name == FIRST)
        (story,) = told("built", FIRST)["nodes"]
        assert [layer["name"] for layer in story["engine_layers"]] == list(node.layers) != []
        assert (story["verdict"], story["evidence"]) == (node.verdict, node.evidence)
        shown = run("explain", "built", FIRST).stdout
        assert f"{node.verdict}: {node.evidence}" in shown and node.layers[0] in shown

    def test_a_stage_tells_what_was_done_up_to_it(self, here):
        before, after = (told(f"layers/stages/{stage}", FIRST)["nodes"][0] for stage in ("00", "Retype"))
        assert not before["changes"] and before["precision"] == "fp32"
        assert "Retype" in [change["pass"] for change in after["changes"]] and after["precision"] == "fp16"

    def test_the_file_of_another_is_explained_without_a_conversion(self, here):
        (story,) = told("layers.onnx", SECOND)["nodes"]
        assert story["reason"] == "weight 'encoder.layers.1.attention.query.weight' is fp16"
        assert [cast["side"] for cast in story["casts"]] == ["before", "after"]

    def test_a_weakly_typed_network_was_told_something(self, tmp_path, tensorrt):
        tensorrt("8.6")
        onnx.save(static_model(), tmp_path / "m.onnx")
        done = run(
            "convert", tmp_path / "m.onnx", "-p", "fp32,fp16", "--backend", "tensorrt-weak", "-o", tmp_path / "out"
        )
        assert done.exit_code in (0, 4), done.stderr
        (story,) = told(tmp_path / "out", SECOND)["nodes"]
        assert story["told"] == "fp16"


class TestFinding:
    @pytest.mark.parametrize(
        ("word", "kind", "nodes"),
        [
            (FIRST, "node", {FIRST}),
            ("/encoder/layers/0/attention/query/Relu_output", "output", {RELU}),
            ("classifier.head.weight_fp16", "weight", {HEAD}),
            ("encoder.layers.0", "module", {FIRST, RELU}),
            ("encoder", "module", {FIRST, RELU, SECOND}),
            ("*/MatMul", "pattern", {FIRST, SECOND, HEAD}),
            ("encoder.*.attention*", "pattern", {FIRST, RELU, SECOND}),
            ("re:.*/(Neg|If)", "pattern", {"/classifier/Neg", "/classifier/If"}),
        ],
    )
    def test_a_word_means(self, here, word, kind, nodes):
        found = told("layers", word)
        assert (found["kind"], found["asked"]) == (kind, word)
        assert {node["name"] for node in found["nodes"]} == nodes

    def test_a_name_that_is_not_there_suggests_those_that_are_near(self, here):
        done = run("explain", "layers", "/encoder/layers/0/attention/query/MatMull")
        assert done.exit_code == 1 and f"did you mean '{FIRST}'" in done.stderr
        assert "Traceback" not in done.stderr
        assert "'classifier.head'" in run("explain", "layers", "HEAD").stderr

    def test_an_expression_that_is_none_is_an_error(self, here):
        done = run("explain", "layers", "re:[")
        assert done.exit_code == 1 and "no regular expression" in done.stderr

    def test_of_a_module_the_nodes_are_listed_and_with_all_told_in_full(self, here):
        short, full = (run("explain", "layers", "encoder.layers.0", *more).stdout for more in ((), ("--all",)))
        assert FIRST in short and RELU in short and "  plan " not in short
        assert full.startswith(short.rstrip("\n")) and f"MatMul {FIRST}" in full and full.count("  plan ") == 2


def test_the_casts_of_a_graph_that_runs_in_a_circle_end(tmp_path):
    """No graph that ONNX allows; a damaged report may tell of one."""
    onnx.save(layers_model(), tmp_path / "m.onnx")
    report = read(tmp_path / "m.onnx")
    for node in report.nodes:
        if node.plan.name == "/Cast":
            object.__setattr__(node.plan, "inputs", node.plan.tensors)
    stories = Stories(report)
    assert [story.node for story in map(stories.tell, report.nodes)] == report.nodes
