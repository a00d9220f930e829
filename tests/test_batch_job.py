"""One job in one process: whatever it does is its result, and nothing of it is left."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import onnx
import psutil
import pytest
from batching import ended, maker, onnx_job, wait_for, write_onnx

from torch2trt_onnx import Conversion
from torch2trt_onnx.batch import keys, running, sources
from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.batch.result import Result
from torch2trt_onnx.errors import SourceError


@pytest.fixture
def run(tmp_path):
    def run(job, **how):
        (place := tmp_path / f"place {job.name}").mkdir()
        run.events, run.place = [], place
        return running.run(job, place, run.events.append, **how)

    return run


class TestRunning:
    def test_a_good_model_is_converted_and_tells_its_phases(self, run, tmp_path):
        found = run(maker(tmp_path, "module", precisions=("fp32",)))
        assert (found.status, found.ok, found.reason) == ("done", True, "")
        phases = [event.phase for event in run.events]
        assert phases[:3] == ["start", "load", "export"] and phases[-1] == found.stage == "save"
        assert found.seconds > 0 and found.peak > 50 << 20
        assert set(found.phases) >= {"load", "export", "compare"}
        assert found.numbers["agrees"] is True
        assert Conversion.load(run.place).plan.nodes

    def test_an_onnx_file_is_converted_and_compared_without_pytorch(self, run, tmp_path):
        found = run(onnx_job(write_onnx(tmp_path / "a.onnx"), options={}))
        assert (found.status, found.numbers["agrees"]) == ("done", True)
        assert found.peak < 200 << 20  # PyTorch alone takes that

    def test_a_conversion_is_the_same_to_the_bit_each_time(self, tmp_path):
        found = []
        for name in ("one", "two"):
            (place := tmp_path / name).mkdir()
            job = onnx_job(write_onnx(tmp_path / "a.onnx"), precisions=("fp32", "fp16"), backend="rtx")
            assert running.run(job, place, lambda _: None).ok
            found.append({p.name: p.read_bytes() for p in place.iterdir() if p.is_file() and p.name != "result.json"})
        assert found[0] == found[1]
        assert {"model.onnx", "model.engine", "report.json", "report.html", "manifest.json"} <= set(found[0])

    def test_an_error_of_the_function_is_told_in_one_line(self, run, tmp_path):
        found = run(maker(tmp_path, "wrong"))
        assert (found.status, found.is_final) == ("failed", True)
        assert (
            found.reason == "the function that makes the model failed | makers:wrong | ValueError: there are no weights"
        )
        assert "Traceback" not in found.detail and "Traceback" in (run.place / "log.txt").read_text()

    def test_no_zombie_is_left(self, tmp_path):
        """Of the worker or its guard; other tests have theirs at the same time."""
        (place := tmp_path / "place").mkdir()
        started = set()
        running.run(
            onnx_job(write_onnx(tmp_path / "a.onnx")),
            place,
            lambda _: started.update(psutil.Process().children(recursive=True)),
        )
        assert len(started) >= 2
        assert not [process for process in started if process.is_running()]

    def test_tensorrt_ended_by_somebody_may_try_again(self, run, tmp_path):
        job = onnx_job(write_onnx(tmp_path / "a.onnx"), backend="rtx")
        (place := tmp_path / "place").mkdir()

        def tell(event):
            if event.phase == "build":
                me = psutil.Process()
                until = time.monotonic() + 20
                while time.monotonic() < until:
                    for child in me.children(recursive=True):
                        with contextlib.suppress(psutil.Error):
                            if "torch2trt_onnx.backends.build_worker" in child.cmdline():
                                child.kill()
                                return

        found = running.run(job, place, tell)
        assert (found.status, found.is_final, found.can_pass) == ("crashed", False, True)
        assert "SIGKILL" in found.reason

    def test_a_crash_is_told_by_its_signal_and_what_it_last_printed(self, run, tmp_path):
        found = run(maker(tmp_path, "crashes"))
        assert (found.status, found.is_final, found.stage) == ("crashed", True, "start")
        assert found.reason == "it was ended by SIGSEGV; it last printed: about to crash"

    def test_an_exit_without_a_result_is_a_crash(self, run, tmp_path):
        found = run(maker(tmp_path, "leaves"))
        assert (found.status, found.is_final) == ("crashed", True)
        assert found.reason.startswith("it ended with exit code 3 and without a result")

    def test_who_is_killed_from_outside_may_try_again(self, run, tmp_path):
        found = run(maker(tmp_path, "killed_always"))
        assert (found.status, found.is_final) == ("crashed", False)
        assert "SIGKILL" in found.reason

    def test_a_hang_is_ended_with_its_child_after_the_time_of_the_job(self, run, tmp_path):
        found = run(maker(tmp_path, "hangs_with_a_child", timeout=4.0))
        assert (found.status, found.is_final, found.reason) == ("timeout", True, "it ran longer than 4 s")
        assert 4 <= found.seconds < 12
        assert ended(int((tmp_path / "pid").read_text()), int((tmp_path / "child").read_text()))

    @pytest.mark.parametrize("name", ["eats", "eats_in_a_child"])
    def test_memory_is_limited_that_of_children_counts(self, run, tmp_path, name):
        found = run(maker(tmp_path, name, memory=1 << 30))
        assert (found.status, found.is_final, found.reason) == ("memory", True, "it held more than 1.00 GiB")
        assert found.peak > 1 << 30 and found.seconds < 20

    def test_over_a_share_that_the_user_did_not_set_it_may_try_again(self, run, tmp_path):
        found = run(maker(tmp_path, "eats"), limit=200 << 20)
        assert (found.status, found.is_final) == ("memory", False)

    def test_it_is_ended_when_somebody_asks_for_it(self, run, tmp_path):
        found = run(maker(tmp_path, "hangs"), cancelled=(tmp_path / "pid").exists)
        assert (found.status, found.is_final) == ("cancelled", False)
        assert ended(int((tmp_path / "pid").read_text()))

    def test_it_ends_with_its_child_when_who_watches_is_killed_though_it_hangs(self, tmp_path):
        job = maker(tmp_path, "hangs_with_a_child")
        (place := tmp_path / "place").mkdir()
        code = "import json, sys; from pathlib import Path; from torch2trt_onnx.batch import running, job\n"
        code += "running.run(job.Job.from_json(json.loads(sys.argv[1])), Path(sys.argv[2]), lambda _: None)"
        watcher = subprocess.Popen([sys.executable, "-c", code, json.dumps(job.to_json()), str(place)])
        pids = [int(wait_for(tmp_path / name)) for name in ("child", "pid")]
        watcher.send_signal(signal.SIGKILL)
        watcher.wait()
        assert ended(*pids)

    def test_temporary_files_lie_with_the_job(self, run, tmp_path, monkeypatch):
        (elsewhere := tmp_path / "elsewhere").mkdir()
        monkeypatch.setenv("TMPDIR", str(elsewhere))
        stop = threading.Event()
        write_onnx(tmp_path / "a.onnx")

        def tell(event):
            if event.phase == "repairs":
                stop.set()

        (place := tmp_path / "place").mkdir()
        found = running.run(onnx_job(tmp_path / "a.onnx", options={}), place, tell, cancelled=stop.is_set)
        assert found.status == "cancelled"
        assert not list(elsewhere.iterdir()) and list((place / "tmp").iterdir())


class TestKey:
    def test_limits_names_and_places_do_not_count(self, tmp_path):
        job = onnx_job(write_onnx(tmp_path / "a.onnx"))
        others = [
            replace(job, timeout=9.0),
            replace(job, memory=1),
            replace(job, retries=9),
            replace(job, resources={"GPU": 1}),
            replace(job, name="other"),
            replace(job, home="/elsewhere"),
            replace(job, model=str(write_onnx(tmp_path / "same.onnx"))),
            Job.from_json(json.loads(json.dumps(job.to_json()))),
        ]
        assert {keys.key(other) for other in others} == {keys.key(job)}

    def test_all_else_counts(self, tmp_path):
        job = onnx_job(write_onnx(tmp_path / "a.onnx"))
        (tmp_path / "rules.toml").write_text('[[rule]]\nop = "MatMul"\nprecision = "fp16"\n')
        (tmp_path / "data").write_text("1")
        others = [
            replace(job, model=str(write_onnx(tmp_path / "b.onnx", seed=1))),
            replace(job, inputs=("x:2x8",)),
            replace(job, outputs=("y:float16",)),
            replace(job, precisions=("fp32",)),
            replace(job, policy="source"),
            replace(job, rules=str(tmp_path / "rules.toml")),
            replace(job, calibration=False),
            replace(job, max_error=("1e-2",)),
            replace(job, compute_capabilities=("8.9",)),
            replace(job, options={}),
            replace(job, options={"strict": True}),
            replace(job, backend="rtx"),
            replace(job, files=(str(tmp_path / "data"),)),
        ]
        assert len({keys.key(other) for other in [job, *others]}) == len(others) + 1

    def test_external_weights_count(self, tmp_path):
        (folder := tmp_path / "net").mkdir()
        model = onnx.load(write_onnx(tmp_path / "a.onnx"))
        onnx.save(model, folder / "a.onnx", save_as_external_data=True, size_threshold=0, location="weights")
        job = onnx_job(folder / "a.onnx")
        before = keys.key(job)
        (folder / "weights").write_bytes(bytes((folder / "weights").stat().st_size))
        other = keys.key(job)
        (folder / "weights").unlink()
        assert len({before, other, keys.key(job)}) == 3

    def test_the_bytes_of_rules_and_of_calibration_count(self, tmp_path):
        rules, data = tmp_path / "rules.toml", tmp_path / "data.npz"
        rules.write_text('[[rule]]\nop = "MatMul"\nprecision = "fp16"\n')
        data.write_bytes(b"1")
        job = replace(onnx_job(write_onnx(tmp_path / "a.onnx")), rules=str(rules), calibration=str(data))
        found = [keys.key(job)]
        rules.write_text('[[rule]]\nop = "MatMul"\nprecision = "fp32"\n')
        found.append(keys.key(job))
        data.write_bytes(b"2")
        found.append(keys.key(job))
        assert len(set(found)) == 3

    def test_of_a_function_the_code_beside_it_counts_and_nothing_is_imported(self, tmp_path):
        job = maker(tmp_path, "small")
        before = keys.key(job)
        assert "makers" not in sys.modules
        assert keys.key(maker(tmp_path, "slow")) != before
        (tmp_path / "helpers.py").write_text("x = 1")
        assert keys.key(job) != before

    def test_of_an_installed_function_its_file_counts(self, tmp_path):
        job = Job("a", "onnx.helper:make_graph", home=str(tmp_path))
        assert [path.name for path in sources.code(job)] == ["helper.py"]

    def test_what_is_missing_or_damaged_has_a_key_that_changes_once_it_is_mended(self, tmp_path):
        path = tmp_path / "a.onnx"
        job = onnx_job(path)
        found = [keys.key(job)]
        path.write_bytes(b"no model")
        found.append(keys.key(job))
        path.write_bytes(b"no model either")
        found.append(keys.key(job))
        write_onnx(path)
        found.append(keys.key(job))
        assert len(set(found)) == 4

    def test_a_module_that_is_not_there_is_an_error(self, tmp_path):
        with pytest.raises(SourceError, match="there is no module 'nowhere'"):
            sources.code(Job("a", "nowhere:f", home=str(tmp_path)))


def test_jobs_and_results_are_plain_data():
    job = Job("a", "m:f", inputs=("x:1",), rules=({"op": "Conv", "precision": "fp16"},), options={"tf32": True})
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
    result = Result("a", "0" * 64, "failed", "why", numbers={"nodes": 1})
    assert Result.from_json(json.loads(json.dumps({**result.to_json(), "of a later version": 1}))) == result


def test_what_is_a_function_and_what_is_a_path():
    assert Job("", "a.b:c").is_function
    assert not any(Job("", word).is_function for word in ("net.pt", "a/b:c", "s3://bucket/net.onnx", "a:b.pt", "C:/x"))
