"""A manifest says jobs; what is wrong in it is said with its line."""

import json
import sys
from pathlib import Path

import pytest
from batching import write_onnx

from torch2trt_onnx.batch import form, request
from torch2trt_onnx.batch.request import read
from torch2trt_onnx.errors import RequestError

TOML = """\
# A night's work
[defaults]
precisions = ["fp32", "fp16"]
timeout = 600

[[models]]
model = "nets/*.onnx"
inputs = [
  "x:2x8",  # ] a bracket in a comment
]

[[models]]
model = "makers:small"
name = "made"
precisions = ["fp32"]
targets = [
  { backend = "rtx", compute_capabilities = ["8.9"] },
  { name = "graph", backend = "none", memory = 0.5, max_error = 1e-2 },
]

[[overrides]]
match = "made @ *"
retries = 0
"""
YAML = """\
defaults:
  precisions: [fp32, fp16]
  timeout: 600
models:
  - model: nets/*.onnx
    inputs: ["x:2x8"]
  - model: makers:small
    name: made
    precisions: [fp32]
    targets:
      - {backend: rtx, compute_capabilities: ["8.9"]}
      - {name: graph, backend: none, memory: 0.5, max_error: 0.01}
overrides:
  - match: "made @ *"
    retries: 0
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "nets").mkdir()
    for name in ("b", "a"):
        write_onnx(tmp_path / "nets" / f"{name}.onnx")

    def write(text, name="jobs.toml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def refused(write):
    """What is said against a manifest, without the folder."""

    def refused(text, name="jobs.toml"):
        path = write(text, name)
        with pytest.raises(RequestError) as error:
            read(path)
        return str(error.value).replace(str(path), name)

    return refused


class TestJobs:
    def test_a_glob_gives_a_job_for_each_file_and_targets_one_for_each(self, write, tmp_path):
        found = read(write(TOML))
        assert [job.name for job in found.jobs] == ["a", "b", "made @ rtx-8.9", "made @ graph"]
        first, _, rtx, graph = found.jobs
        assert first.model == str(tmp_path / "nets" / "a.onnx") and first.inputs == ("x:2x8",)
        assert (first.precisions, first.timeout, first.retries) == (("fp32", "fp16"), 600.0, 2)
        assert (rtx.model, rtx.home, rtx.backend, rtx.compute_capabilities) == (
            "makers:small",
            str(tmp_path),
            "rtx",
            ("8.9",),
        )
        assert (rtx.precisions, rtx.retries) == (("fp32",), 0)
        assert (graph.backend, graph.memory, graph.max_error) == ("none", 1 << 29, ("0.01",))

    def test_yaml_says_the_same(self, write):
        assert read(write(YAML, "jobs.yaml")).jobs == read(write(TOML)).jobs

    def test_what_a_target_says_goes_over_its_model_that_over_the_defaults_and_an_override_over_all(self, write):
        text = """
            defaults = {timeout = 1, retries = 1, opset = 17, tf32 = true}
            models = [{model = "m:f", timeout = 2, retries = 2, opset = 18, targets = [{timeout = 3, retries = 3}]}]
            overrides = [{match = "f", timeout = 4}, {match = "g", timeout = 5}]
        """
        (job,) = read(write(text)).jobs
        assert (job.timeout, job.retries, job.options) == (4.0, 3, {"opset": 18, "tf32": True})

    def test_paths_are_those_beside_the_manifest(self, write, tmp_path, monkeypatch):
        monkeypatch.chdir("/")
        text = 'models = [{model = "net.pt", rules = "r.toml", calibration = "data", files = ["w.bin"]}]'
        (job,) = read(write(text)).jobs
        told = [job.model, job.rules, job.calibration, *job.files]
        assert told == [str(tmp_path / name) for name in ("net.pt", "r.toml", "data", "w.bin")]

    @pytest.mark.parametrize(("word", "means"), [("false", False), ("true", None)])
    def test_calibration_may_be_left_to_random_numbers_or_out(self, write, word, means):
        assert read(write(f'models = [{{model = "m:f", calibration = {word}}}]')).jobs[0].calibration is means

    def test_rules_may_stand_in_it(self, write):
        text = '[[models]]\nmodel = "m:f"\n[[models.rules]]\nop = "Conv"\nprecision = "fp16"\n'
        assert read(write(text)).jobs[0].rules == ({"op": "Conv", "precision": "fp16"},)

    def test_a_model_without_a_file_is_a_job_all_the_same_and_a_problem_to_tell_before(self, write, tmp_path):
        found = read(write('models = [{model = "gone.onnx", rules = "gone.toml"}, {model = "m:f"}]'))
        assert len(found.jobs) == 2
        assert found.problems() == [f"gone: there is no {tmp_path / name}" for name in ("gone.onnx", "gone.toml")]

    def test_rules_that_cannot_be_read_are_a_problem_to_tell_before(self, write, tmp_path):
        (tmp_path / "r.toml").write_text("x = 1")
        (problem,) = read(write('models = [{model = "m:f", rules = "r.toml"}]')).problems()
        assert problem.startswith("f: the file holds no rules") and "\n" not in problem


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("[[models]]\nmodel = 1\n", "jobs.toml:2: models[0].model: 1 is not a word"),
            ("[[models]]\nmodle = 'x'\n", "jobs.toml:2: models[0].modle: there is no such key; known are model, name"),
            ("[[models]]\nname = 'x'\n", "jobs.toml:1: models[0]: it has no model"),
            ("x = 1\n", "jobs.toml:1: x: there is no such key"),
            ("", "jobs.toml:1: it has no models"),
            ("models = []", "jobs.toml:1: models: the list is empty"),
            ("\n[defaults]\n\ntimeout = 0\n[[models]]\nmodel='m:f'", "jobs.toml:4: defaults.timeout: 0 is not above 0"),
            ("[[models]]\nmodel='m:f'\nretries = true", "jobs.toml:3: models[0].retries: True is not a whole number"),
            ("[[models]]\nmodel='m:f'\nopset = 3", "jobs.toml:3: models[0].opset: 3 is not at least 7"),
            (
                "[[models]]\nmodel='m:f'\nbackend = 'cpu'",
                "jobs.toml:3: models[0].backend: 'cpu' is none of rtx, tensorrt",
            ),
            (
                "[[models]]\nmodel='m:f'\ncompute_capabilities = ['sm89']",
                "jobs.toml:3: models[0].compute_capabilities[0]: 'sm89' does not have the form",
            ),
            (
                "[[models]]\nmodel='m:f'\ninputs = ['x:a']",
                "jobs.toml:3: models[0].inputs: --input 'x:a' is not NAME:SHAPE",
            ),
            ("[[models]]\nmodel='m:f'\nmax_error = 'much'", "jobs.toml:3: models[0].max_error: "),
            (
                "[[models]]\nmodel='m:f'\nmax_error = []\nrules = [{op='Conv'}]",
                "jobs.toml:4: models[0].rules[0]: it has no",
            ),
            ("[[models]]\nmodel='*.pt'", "jobs.toml:2: models[0].model: no file matches '*.pt'"),
            ("[[models]]\nmodel='m:f'\n[[models]]\nmodel='n:f'", "jobs.toml:3: models[1]: a second job is called 'f'"),
            (
                "[[models]]\nmodel='m:f'\n[[models.targets]]\n[[models.targets]]\nname='x'\npolicy='no'",
                "jobs.toml:6: models[0].targets[1].policy: 'no' is none of source, auto",
            ),
        ],
    )
    def test_each_is_said_with_its_line_and_key(self, refused, text, line):
        assert line in refused(text)

    def test_all_of_a_kind_are_said_at_once(self, refused):
        told = refused("[[models]]\nmodel = 1\n[[models]]\nmodel = 'm:f'\ntf32 = 'yes'\n")
        assert "jobs.toml:2: " in told and "jobs.toml:5: models[1].tf32: 'yes' is not true or false" in told

    def test_what_is_wrong_in_the_defaults_is_said_there_and_once(self, refused):
        told = refused("[defaults]\ninputs = ['x']\n[[models]]\nmodel='m:f'\n[[models]]\nmodel='m:g'\n")
        assert told.count("jobs.toml:2: defaults.inputs") == 1

    def test_lines_are_right_behind_strings_and_lists_of_several_lines(self, refused):
        text = 'defaults = {files = ["""\n[[models]]\n# no comment\n"""\n, \'[\',\n]}\n\n[[models]]\nmodel = "m:f"\nopset = 1\n'
        assert "jobs.toml:10: models[0].opset" in refused(text)

    def test_yaml_has_lines_of_single_values(self, refused):
        told = refused("models:\n- model: m:f\n  precisions:\n  - fp32\n  - fp12\n", "jobs.yaml")
        assert "jobs.yaml:5: models[0].precisions[1]: 'fp12' is none of" in told

    @pytest.mark.parametrize(
        ("text", "name", "told"),
        [
            ("x = [", "jobs.toml", "the manifest is no TOML"),
            ("a: [", "jobs.yaml", "jobs.yaml:1"),
            ("- 1", "jobs.yaml", "[1] is not a table"),
            ("", "jobs.yml", "None is not a table"),
            ("x", "jobs.txt", "neither TOML nor YAML"),
        ],
    )
    def test_what_is_no_manifest_is_said(self, refused, text, name, told):
        assert told in refused(text, name)

    def test_yaml_that_is_inside_of_itself_is_said(self, refused):
        assert "inside of itself" in refused("&a models: [*a]\nx: &b [*b]", "jobs.yaml")

    def test_names_that_lead_to_one_file_are_said(self, refused):
        text = "[[models]]\nmodel='m:f'\nname='a/b'\n[[models]]\nmodel='m:f'\nname='a_b'"
        assert "jobs.toml:4: models[1]: a second job is called 'a_b'" in refused(text)

    def test_a_file_that_is_not_there_is_said(self, tmp_path):
        with pytest.raises(RequestError, match="cannot be read"):
            read(tmp_path / "gone.toml")

    def test_yaml_without_its_library_says_what_to_install(self, write, monkeypatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(RequestError, match=r"torch2trt_onnx\[batch\]"):
            read(write(YAML, "jobs.yaml"))


class TestSchema:
    def test_what_is_published_is_what_is_checked(self):
        published = Path(request.__file__).with_name("manifest.schema.json")
        assert json.loads(published.read_text()) == form.SCHEMA, "write it anew: python -m torch2trt_onnx.batch.form"

    def test_each_word_of_json_schema_in_it_is_known_to_the_reader(self):
        known = {"type", "enum", "anyOf", "items", "minItems", "properties", "additionalProperties", "required"}
        known |= {"minLength", "pattern", "minimum", "exclusiveMinimum", "description", "title", "$schema"}

        def walk(node):
            assert set(node) <= known
            inner = [*node.get("anyOf", []), *node.get("properties", {}).values()]
            for one in [*inner, *([node["items"]] if "items" in node else [])]:
                walk(one)

        walk(form.SCHEMA)
