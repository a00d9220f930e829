"""The command line: what it prints, where, and with which exit code."""

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from torch2trt_onnx.cli import main


def run(*words):
    """The command in this process; an exception that is not an exit fails the test."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


SHAPES = "image:1x3x8x8..2x3x8x8..4x3x16x16"


def test_convert_writes_four_files_and_prints_a_row_for_each_float_node(script_file, tmp_path):
    done = run("convert", script_file, "-i", SHAPES, "-p", "fp32,fp16", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model.onnx",
        "model.engine",
        "report.json",
        "manifest.json",
    }
    rows = [line.split() for line in done.stdout.splitlines()]
    convolutions = [row[2:4] for row in rows if len(row) > 3 and row[1] == "Conv"]
    assert convolutions == [["fp32", "fp32"], ["fp16", "fp16"]]  # planned, network


def test_progress_is_plain_lines_on_standard_error(script_file, tmp_path):
    done = run("convert", script_file, "-i", SHAPES, "--backend", "none", "-o", tmp_path / "out")
    assert done.stderr.split() == ["load", "export", "repairs", "plan", "lowering", "write", "compare"]


def test_convert_prints_the_report_as_json(script_file, tmp_path):
    done = run("convert", script_file, "-i", SHAPES, "--backend", "none", "--json", "-o", tmp_path / "out")
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "report.json").read_text())


def test_inspect_reads_a_folder_and_a_file_alike(script_file, tmp_path):
    run("convert", script_file, "-i", SHAPES, "--backend", "none", "-o", tmp_path / "out")
    folder = json.loads(run("inspect", tmp_path / "out", "--json").stdout)
    file = json.loads(run("inspect", tmp_path / "out" / "model.onnx", "--json").stdout)
    scaled = ("work", "bytes")  # at the opt shapes, which a file does not tell
    assert [{k: v for k, v in node.items() if k not in scaled} for node in folder["nodes"]] == [
        {k: v for k, v in node.items() if k not in scaled} for node in file["nodes"]
    ]
    assert folder["bindings"] == file["bindings"]
    assert folder["weights"] == file["weights"]
    text = run("inspect", tmp_path / "out").stdout
    assert "Cast from fp32 to fp16" in text
    assert "second.weight" in text
    assert "?x3x?x?" in text


def test_inspect_annotates_the_file_of_another_tool(tmp_path):
    torch.onnx.export(
        torch.nn.Linear(4, 4).half(), (torch.ones(1, 4).half(),), str(tmp_path / "other.onnx"), dynamo=False
    )
    nodes = json.loads(run("inspect", tmp_path / "other.onnx", "--json").stdout)["nodes"]
    assert [(n["precision"], n["origin"]) for n in nodes] == [("fp16", "weights")]


def test_doctor_tells_whether_an_engine_can_be_built():
    assert run("doctor").exit_code == 0
    found = json.loads(run("doctor", "--json").stdout)
    assert "strong typing, builds with or without a GPU; has bf16, fp8, int4, int64" in found["backend rtx"]
    assert found["backend tensorrt-weak"] == "cannot be used: the module tensorrt is not installed"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    {
        "a missing file": (["convert", "no.pt", "-o", "out"], 1, "there is no such file"),
        "a text file": (["convert", "text.pt", "-o", "out"], 1, "neither TorchScript nor ONNX"),
        "a wrong rank": (["convert", "net.pt", "-i", "image:3x8x8", "-o", "out"], 1, "does not run on these inputs"),
        "a missing input": (["convert", "net.pt", "-o", "out"], 1, "inputs"),
        "a wrong precision": (
            ["convert", "net.pt", "-i", SHAPES, "-p", "fp32", "--strict", "-o", "out"],
            1,
            "second.weight",
        ),
        "a folder in the way": (
            ["convert", "net.pt", "-i", SHAPES, "--backend", "none", "-o", "text.pt/x"],
            1,
            "could not be written",
        ),
        "a shape that is none": (["convert", "net.pt", "-i", "image:1xtwo", "-o", "out"], 2, "is not NAME:SHAPE"),
        "an unknown option": (["convert", "net.pt", "--fast", "-o", "out"], 2, "--fast"),
        "no output": (["convert", "net.pt"], 2, "--output"),
        "inspecting a text file": (["inspect", "text.pt"], 1, "neither"),
        "inspecting an empty folder": (["inspect", "empty"], 1, "no report"),
    }.values(),
    ids=lambda value: None,
)
def test_bad_input_is_one_error_without_a_traceback_and_leaves_nothing_behind(
    words, code, text, script_file, monkeypatch
):
    folder = script_file.parent
    monkeypatch.chdir(folder)
    (folder / "text.pt").write_text("not a model")
    (folder / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    done = run(*words)
    assert done.exit_code == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_numbers_beyond_the_tolerance_are_exit_code_4_and_the_files_are_written(script_file, tmp_path):
    done = run(
        "convert", script_file, "-i", SHAPES, "--backend", "none", "--tolerance", "1e-12", "-o", tmp_path / "out"
    )
    assert done.exit_code == 4
    assert "warning: output 'output' differs" in done.stdout
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_the_installed_command_answers():
    done = subprocess.run(
        [sys.executable, "-m", "torch2trt_onnx.cli", "--help"], check=True, capture_output=True, text=True, timeout=60
    )
    assert "convert" in done.stdout
    assert "Exit codes" in done.stdout


RULES = """[[rule]]
op = "Conv"
precision = "fp16"
[[rule]]
module = "first"
precision = "fp32"
[[rule]]
op = "LSTM"
precision = "fp16"
"""


@pytest.fixture
def rules_file(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return path


def test_plan_lists_whom_each_rule_matches_and_writes_nothing(script_file, rules_file, tmp_path):
    before = sorted(tmp_path.iterdir())
    done = run("plan", script_file, "-i", SHAPES, "--rules", rules_file, "--dry-run")
    text = done.stdout
    assert "rule 1 (op='Conv' -> fp16)\n  /first/Conv  (a later rule wins)\n  /second/Conv\n" in text
    assert "rule 2 (module='first' -> fp32)\n  /first/Conv\n" in text
    assert "rule 3 (op='LSTM' -> fp16): matches no node" in text
    assert "/head/Gemm" not in text
    assert sorted(tmp_path.iterdir()) == before


def test_plan_shows_what_each_node_would_run_in_as_json_too(script_file, rules_file):
    assert "/head/Gemm" in run("plan", script_file, "-i", SHAPES, "--rules", rules_file).stdout
    told = json.loads(run("plan", script_file, "-i", SHAPES, "-p", "fp16,fp32", "--rules", rules_file, "--json").stdout)
    assert {n["name"]: n["precision"] for n in told["nodes"] if n["op"] == "Conv"} == {
        "/first/Conv": "fp32", "/second/Conv": "fp16",
    }  # fmt: skip
    assert [r["winning"] for r in told["rules"]] == [["/second/Conv"], ["/first/Conv"], []]
    assert told["warnings"] == ["rule 3 (op='LSTM' -> fp16) matches no node"]


def test_plan_tells_whom_rules_match_even_where_nothing_can_be_planned(script_file, rules_file):
    done = run("plan", script_file, "-i", SHAPES, "-p", "fp32", "--strict", "--rules", rules_file, "--dry-run")
    assert done.exit_code == 1
    assert "/second/Conv" in done.stdout
    assert "rules ask for precisions that are not asked for" in done.stderr


def test_the_precisions_of_a_plan_are_those_of_the_conversion(script_file, rules_file, tmp_path):
    words = (script_file, "-i", SHAPES, "--rules", rules_file)
    planned = json.loads(run("plan", *words, "--json").stdout)["nodes"]
    run("convert", *words, "--backend", "none", "-o", tmp_path / "out")
    made = {n["name"]: n["precision"] for n in json.loads((tmp_path / "out" / "report.json").read_text())["nodes"]}
    assert {n["name"]: made[n["name"]] for n in planned if n["name"] in made and n["op"] != "Cast"} == {
        n["name"]: n["precision"] for n in planned if n["name"] in made and n["op"] != "Cast"
    }


class TestFlagsOfOtherTools:
    """A plan goes out as the command line of another tool, and a command line of that comes in."""

    def saved(self, script_file, tmp_path):
        words = ["convert", str(script_file), "-i", "image:1x3x8x8", "-p", "fp32,fp16", "--backend", "none"]
        assert run(*words, "-o", str(tmp_path / "out")).exit_code == 0
        return tmp_path / "out"

    def test_a_saved_folder_is_written_as_flags_of_trtexec(self, script_file, tmp_path):
        result = run("flags", str(self.saved(script_file, tmp_path)), "--for", "trtexec", "--tensorrt-version", "8.6")
        assert result.exit_code == 0, result.output
        assert "--fp16 " in result.stdout and "--precisionConstraints=prefer" in result.stdout
        assert "/second/Conv:fp16" in result.stdout and "/first/Conv:fp32" in result.stdout

    def test_and_comes_back_from_them_as_the_same_plan(self, script_file, tmp_path):
        folder = self.saved(script_file, tmp_path)
        line = tmp_path / "flags.txt"
        line.write_text(run("flags", str(folder), "--for", "trtexec").stdout)
        result = run("plan", str(folder / "model.onnx"), "--flags", str(line), "--json")
        assert result.exit_code == 0, result.output
        told = {node["name"]: node["precision"] for node in json.loads(result.stdout)["nodes"] if node["op"] != "Cast"}
        report = json.loads((folder / "report.json").read_text())
        planned = {n["name"]: n["precision"] for n in report["nodes"] if n["precision"] and n["op"] != "Cast"}
        assert told == planned

    def test_a_script_for_polygraphy_is_python(self, script_file, tmp_path):
        result = run("flags", str(self.saved(script_file, tmp_path)), "--for", "polygraphy-script")
        compile(result.stdout, "script.py", "exec")
        assert "'/second/Conv'" in result.stdout or '"/second/Conv"' in result.stdout

    def test_flags_that_trtexec_refuses_are_one_error(self, script_file):
        result = run("plan", str(script_file), "-i", "image:1x3x8x8", "--flags", "trtexec --layerPrecisions=a")
        assert result.exit_code == 1
        assert "error: " in result.stderr and "layerPrecisions" in result.stderr


def test_flags_that_are_passed_over_are_told(script_file, tmp_path):
    words = ["plan", str(script_file), "-i", "image:1x3x8x8", "--flags", "trtexec --fp16 --FP16 --workspace=9"]
    result = CliRunner().invoke(main, words)
    assert "note: these flags are passed over: --FP16 --workspace=9" in result.output
