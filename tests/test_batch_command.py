"""The command `batch`: what it prints, where, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from torch2trt_onnx.cli import main

ROOT = Path(__file__).parents[1]
DEFAULTS = '[defaults]\nbackend = "none"\n'
SLOW = "import time\ndef make():\n    time.sleep(600)\n"


def run(*words):
    result = CliRunner().invoke(main, ["batch", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def manifest(tmp_path):
    """Two models that are one, and one that is none."""
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[2, 8] x) => (float[2, 8] y) { y = Relu(x) }'
    for name in ("one", "two"):
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
    (tmp_path / "bad.onnx").write_text("no model")
    path = tmp_path / "jobs.toml"
    path.write_text(DEFAULTS + "".join(f'[[models]]\nmodel = "{name}.onnx"\n' for name in ("one", "two", "bad")))
    return path


@pytest.fixture
def hanging(tmp_path):
    """A model that never comes."""
    (tmp_path / "slow.py").write_text(SLOW)
    path = tmp_path / "slow.toml"
    path.write_text(DEFAULTS + '[[models]]\nmodel = "slow:make"\ninputs = ["x:2x8"]\n')
    return path


def test_progress_goes_to_standard_error_and_the_summary_to_standard_output(manifest, tmp_path):
    done = run(manifest, "-o", tmp_path / "out", "--jobs", "2")
    assert done.exit_code == 5
    assert [line.split()[1] for line in done.stderr.splitlines() if "/3" in line].count("failed") == 1
    assert done.stdout.startswith("Converted\njob ")
    assert "failed bad (" in done.stdout
    assert "log: by-name/bad/log.txt\n" in done.stdout
    assert done.stdout.splitlines()[-1] == f"overview: {tmp_path / 'out' / 'overview.html'}"
    assert (tmp_path / "out" / "by-name" / "bad" / "log.txt").is_file()
    assert (tmp_path / "out" / "by-name" / "one" / "report.html").is_file()
    assert "Traceback" not in done.output


def test_a_second_run_does_nothing_again_and_ends_as_the_first(manifest, tmp_path):
    run(manifest, "-o", tmp_path / "out")
    done = run(manifest, "-o", tmp_path / "out")
    assert done.exit_code == 5
    assert "3 jobs: 2 reused, 1 failed; 0." in done.stdout
    assert "found by an earlier run" in done.stdout
    assert "--retry-failed" in done.stderr


@pytest.mark.parametrize(("only", "code"), [("one", 0), ("bad", 1), ("*", 5)])
def test_the_exit_code_says_all_none_or_some(only, code, manifest, tmp_path):
    assert run(manifest, "-o", tmp_path / "out", "--only", only).exit_code == code


def test_json_is_a_line_an_event_and_at_last_the_summary(manifest, tmp_path):
    done = run(manifest, "-o", tmp_path / "out", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines].count("finished") == 3
    assert lines[-1]["counts"] == {"done": 1, "reused": 1, "failed": 1} or lines[-1]["counts"] == {
        "done": 2,
        "failed": 1,
    }
    assert (lines[-1]["event"], lines[-1]["code"], done.exit_code) == ("summary", 5, 5)


def test_a_dry_run_lists_the_jobs_and_writes_nothing(manifest, tmp_path):
    done = run(manifest, "--dry-run", "--only", "[ot]*")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["2", "job", "one", "two"]
    found = json.loads(run(manifest, "--dry-run", "--json").stdout)
    assert [job["name"] for job in found] == ["one", "two", "bad"]
    assert not (tmp_path / "out").exists()


def test_check_tells_what_would_go_wrong(manifest, tmp_path):
    assert run(manifest, "--check").exit_code == 0
    (tmp_path / "two.onnx").unlink()
    done = run(manifest, "--check")
    assert done.exit_code == 1
    assert "error: two: there is no " in done.stderr
    assert done.stdout.endswith("3 jobs, 1 problem\n")
    assert json.loads(run(manifest, "--check", "--json").stdout)["jobs"] == 3


def test_a_wrong_manifest_is_an_error_with_its_line(manifest, tmp_path):
    manifest.write_text(manifest.read_text() + '[[models]]\nmodel = "one.onnx"\nprecision = "fp16"\n')
    done = run(manifest, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert f"{manifest}:" in done.stderr and "precision" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "give the folder of the results"),
        (("-o", "out", "--only", "x*"), "no job is called like 'x*'"),
        (("-j", "0"), "0 is not in"),
    ],
)
def test_wrong_usage_ends_with_2(words, text, manifest):
    done = run(manifest, *words)
    assert done.exit_code == 2
    assert text in done.stderr


def test_a_folder_that_cannot_be_written_is_an_error(manifest, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run(manifest, "-o", tmp_path / "file" / "out")
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_what_runs_and_says_how_to_go_on(how, hanging, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "tools" / "convert_batch.py", hanging, "-o", out, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert any(json.loads(line)["event"] == "started" for line in process.stdout)
        process.send_signal(how)
        start = time.monotonic()
        rest, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 10
    last = json.loads(rest.splitlines()[-1])
    assert (last["interrupted"], last["counts"], last["code"], process.returncode) == (True, {"cancelled": 1}, 1, 1)
    assert "Traceback" not in errors
    assert list((out / ".state" / "runs").iterdir()) == []
    done = run(hanging, "-o", out, "--dry-run")
    assert done.exit_code == 0


def test_a_reader_that_goes_away_stops_no_job(manifest, tmp_path):
    command = (
        f"{sys.executable} {ROOT / 'tools' / 'convert_batch.py'} {manifest} -o {tmp_path / 'out'} --json | head -n 1"
    )
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=60, env={**os.environ})
    results = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert sorted(one["job"] for one in results) == ["bad", "one", "two"]
    assert sum(one["status"] in ("done", "reused") for one in results) == 2
