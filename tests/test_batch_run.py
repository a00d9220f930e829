"""A whole run: every job has its result, whatever the others do; and whoever is killed, the next run goes on."""

import contextlib
import json
import random
import shutil
import signal
import time
from dataclasses import replace

import onnx
import psutil
import pytest
from batching import contents, ended, leftovers, maker, onnx_job, start, wait_for, write_onnx

from torch2trt_onnx.batch import batch, pool
from torch2trt_onnx.batch.pool import Pool
from torch2trt_onnx.batch.request import Batch
from torch2trt_onnx.batch.result import Result, Summary
from torch2trt_onnx.batch.store import Store


@pytest.fixture
def write(tmp_path):
    """A manifest of makers by name, and of ONNX files, some of which are more than a moment's work."""

    def write(*makers, files=0, timeout=60):
        maker(tmp_path, "small")
        lines = ['[defaults]\nbackend = "none"\n', f'[[overrides]]\nmatch = "hangs*"\ntimeout = {timeout}\n']
        lines += [f'[[models]]\nmodel = "makers:{name}"\ninputs = ["x:2x8"]\n' for name in makers]
        for number in range(files):
            write_onnx(tmp_path / f"net{number}.onnx", seed=number, width=8 + number)
        if files:
            lines.append('[[models]]\nmodel = "net*.onnx"\n')
        (tmp_path / "jobs.toml").write_text("\n".join(lines))
        return tmp_path / "jobs.toml"

    return write


def statuses(summary):
    return {result.job: result.status for result in summary.results}


def lines(out):
    return [Result.from_json(json.loads(line)) for line in (out / "results.jsonl").read_text().splitlines()]


class TestBatch:
    def test_bad_jobs_have_their_results_and_good_ones_are_done(self, write, tmp_path):
        manifest = write("small", "crashes", "wrong", "hangs", files=2, timeout=4)
        events = []
        found = batch(manifest, tmp_path / "out", jobs=2, on_event=events.append)
        expected = {"small": "done", "crashes": "crashed", "wrong": "failed", "hangs": "timeout"}
        assert statuses(found) == {**expected, "net0": "done", "net1": "done"}
        assert (found.code, found.counts["done"], found.interrupted) == (5, 3, False)
        for job in statuses(found):
            kinds = [event.kind for event in events if event.job == job]
            assert (kinds[0], kinds[1], kinds[-1]) == ("queued", "started", "finished")
            assert (tmp_path / "out" / "by-name" / job / "log.txt").exists()
        assert [result.job for result in lines(tmp_path / "out")] == list(statuses(found))
        assert not leftovers(tmp_path / "out")
        again = batch(manifest, tmp_path / "out", jobs=2)
        assert statuses(again) == {**expected, "small": "reused", "net0": "reused", "net1": "reused"}
        assert again.seconds < 10

    def test_only_what_changed_is_made_again(self, write, tmp_path):
        manifest = write(files=3)
        batch(manifest, tmp_path / "out")
        write_onnx(tmp_path / "net1.onnx", seed=99)
        assert statuses(batch(manifest, tmp_path / "out")) == {"net0": "reused", "net1": "done", "net2": "reused"}

    def test_a_model_that_changes_while_it_is_converted_is_not_kept_under_its_old_hash(self, write, tmp_path):
        manifest, late = write("small", files=1), []

        def change(event):
            if event.job == "net0" and event.kind == "phase" and not late:
                late.append(write_onnx(tmp_path / "net0.onnx", seed=99))

        found = batch(manifest, tmp_path / "out", on_event=change)
        assert statuses(found) == {"small": "done", "net0": "failed"} and late
        assert "were changed while it was converted" in found.results[-1].reason
        assert statuses(batch(manifest, tmp_path / "out")) == {"small": "reused", "net0": "done"}

    def test_some_jobs_are_chosen_by_a_glob_and_the_lines_of_others_stay(self, write, tmp_path):
        manifest = write("wrong", files=2)
        batch(manifest, tmp_path / "out")
        found = batch(manifest, tmp_path / "out", only="net*")
        assert statuses(found) == {"net0": "reused", "net1": "reused"} and found.code == 0
        assert len(lines(tmp_path / "out")) == 3

    def test_what_can_pass_is_tried_again_and_what_cannot_is_not(self, tmp_path):
        jobs = (maker(tmp_path, "killed_once"), replace(maker(tmp_path, "killed_always"), retries=1))
        jobs += (maker(tmp_path, "leaves"),)
        events = []
        found = batch(Batch(tmp_path / "m", jobs), tmp_path / "out", jobs=2, on_event=events.append)
        assert [(r.status, r.attempts) for r in found.results] == [("done", 2), ("crashed", 2), ("crashed", 1)]
        assert sorted(event.job for event in events if event.kind == "retried") == ["killed_always", "killed_once"]

    def test_what_only_another_run_can_mend_is_not_tried_again_in_this_one(self, tmp_path):
        """A back end that is not installed: the next run tries it again, without being asked."""
        jobs = (onnx_job(write_onnx(tmp_path / "a.onnx"), backend="tensorrt-weak"),)
        for _ in range(2):
            (result,) = batch(Batch(tmp_path / "m", jobs), tmp_path / "out").results
            assert (result.status, result.attempts, result.is_final) == ("failed", 1, False)
            assert "the module tensorrt is not installed" in result.reason

    def test_a_bug_of_ours_is_the_result_of_one_job(self, tmp_path, monkeypatch):
        def named(job):
            return {"a": ("0" * 64, "")}[job.name]

        monkeypatch.setattr("torch2trt_onnx.batch.keys.named", named)
        jobs = tuple(onnx_job(write_onnx(tmp_path / f"{name}.onnx")) for name in ("a", "b"))
        found = batch(Batch(tmp_path / "m", jobs), tmp_path / "out")
        assert statuses(found) == {"a": "done", "b": "crashed"}
        assert found.results[1].reason == "a bug of ours: KeyError: 'b'"

    def test_a_model_at_a_url_is_brought_with_its_weights_and_known_by_them(self, tmp_path):
        (folder := tmp_path / "elsewhere").mkdir()
        model = onnx.load(write_onnx(tmp_path / "a.onnx"))
        onnx.save(model, folder / "net.onnx", save_as_external_data=True, size_threshold=0, location="weights")
        job = replace(onnx_job(folder / "net.onnx"), model=f"file://{folder}/net.onnx")
        gone = replace(job, name="gone", model=f"file://{folder}/gone.onnx")
        for status in ("done", "reused"):
            found = batch(Batch(tmp_path / "m", (job, gone)), tmp_path / "out")
            assert statuses(found) == {"net": status, "gone": "failed"}
        assert found.results[1].reason.startswith(f"the model cannot be fetched | {gone.model} | FileNotFoundError")
        report = json.loads((tmp_path / "out" / "by-name" / "net" / "report.json").read_text())
        assert report["source"] == job.model
        assert not leftovers(tmp_path / "out")

    def test_who_is_short_of_memory_only_because_of_others_is_tried_alone(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pool, "free_memory", lambda: 1 << 30)
        jobs = (maker(tmp_path, "eats_some"), maker(tmp_path, "slow"))
        found = batch(Batch(tmp_path / "m", jobs), tmp_path / "out", jobs=2)
        assert [(r.status, r.attempts) for r in found.results] == [("done", 2), ("done", 1)]

    def test_two_jobs_that_make_the_same_make_it_once(self, tmp_path):
        job = onnx_job(write_onnx(tmp_path / "a.onnx"))
        found = batch(Batch(tmp_path / "m", (job, replace(job, name="b"))), tmp_path / "out", jobs=2)
        assert sorted(statuses(found).values()) == ["done", "reused"]

    def test_a_file_that_is_not_there_is_the_result_of_its_job(self, tmp_path):
        found = batch(Batch(tmp_path / "m", (onnx_job(tmp_path / "gone.onnx"),)), tmp_path / "out")
        assert found.results[0].reason == f"there is no such file | {tmp_path / 'gone.onnx'}"
        assert found.code == 1

    def test_the_code_says_all_some_none(self):
        good, bad = Result("a", "", "reused"), Result("b", "", "timeout")
        assert [Summary(results, 0).code for results in ([good], [], [good, bad], [bad])] == [0, 0, 5, 1]


class TestRoom:
    def pool(self, tmp_path, monkeypatch, gib, cores, slots=None):
        monkeypatch.setattr(pool, "free_memory", lambda: int(gib * 2**30 / pool.SPARE))
        monkeypatch.setattr(pool, "cores", lambda: cores)
        with Store(tmp_path / "out") as store:
            return Pool(store, lambda _: None, slots=slots)

    @pytest.mark.parametrize(("gib", "cores", "slots"), [(100, 8, 8), (6.1, 8, 4), (0.1, 8, 1), (100, 1, 1)])
    def test_cores_and_memory_decide_how_many_run_at_a_time(self, tmp_path, monkeypatch, gib, cores, slots):
        assert self.pool(tmp_path, monkeypatch, gib, cores).slots == slots

    def test_limits_of_jobs_count_against_the_memory(self, tmp_path, monkeypatch):
        """Of 8 GiB: 5 and 5 do not go together, 5 and 2 do, and one of 50 goes alone."""
        most, running = {}, {}
        monkeypatch.setattr(pool, "attempt", lambda _, job, *__, **___: work(job))

        def work(job):
            running[job.name] = job.memory
            most[tuple(sorted(running))] = sum(running.values())
            time.sleep(0.1)
            del running[job.name]
            return Result(job.name, "", "done")

        jobs = [
            replace(maker(tmp_path, "small"), name=str(at), memory=gib << 30) for at, gib in enumerate((5, 5, 2, 50))
        ]
        assert len(list(self.pool(tmp_path, monkeypatch, 8, 4, slots=4).run(jobs))) == 4
        assert ("3",) in most and max(total for names, total in most.items() if "3" not in names) <= 8 << 30
        assert not any(len(names) > 1 and "3" in names for names in most)
        assert any(len(names) == 2 for names in most)

    def test_what_this_machine_has_is_found(self):
        assert 1 <= pool.cores() <= 4096
        assert 0 < pool.free_memory() <= psutil.virtual_memory().total


class TestInterruption:
    @pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM])
    def test_it_stops_at_once_keeps_what_is_done_and_goes_on_the_next_time(self, write, tmp_path, word):
        manifest = write("small", "hangs")
        run = start(manifest, tmp_path / "out")
        pid = int(wait_for(tmp_path / "pid"))
        wait_for(tmp_path / "out" / "by-name" / "small" / "result.json")
        wait_for(tmp_path / "out" / "results.jsonl")
        run.send_signal(word)
        told, errors = run.communicate(timeout=10)
        assert told.strip() == "{'small': 'done', 'hangs': 'cancelled'}", errors
        assert run.returncode == 5 and not errors
        assert ended(pid) and not leftovers(tmp_path / "out")
        assert [result.job for result in lines(tmp_path / "out")] == ["small"]

    def test_after_sigkill_nothing_runs_on_and_the_next_run_goes_on(self, write, tmp_path):
        manifest = write("small", "hangs_with_a_child")
        run = start(manifest, tmp_path / "out")
        pids = [int(wait_for(tmp_path / name)) for name in ("child", "pid")]
        wait_for(tmp_path / "out" / "by-name" / "small" / "result.json")
        run.send_signal(signal.SIGKILL)
        run.communicate()
        assert ended(*pids)
        assert statuses(batch(manifest, tmp_path / "out", only="small")) == {"small": "reused"}
        assert not leftovers(tmp_path / "out")

    def test_two_runs_on_one_folder_share_the_work(self, write, tmp_path):
        manifest = write("slow", files=6)
        runs = [start(manifest, tmp_path / "out") for _ in range(2)]
        told = [run.communicate(timeout=60) for run in runs]
        assert [run.returncode for run in runs] == [0, 0], told
        found = [eval(out) for out, _ in told]
        for job in found[0]:
            assert sorted(one[job] for one in found) == ["done", "reused"]
        assert not leftovers(tmp_path / "out")
        assert len(lines(tmp_path / "out")) == 7

    def test_a_full_disk_is_told_and_the_next_run_goes_on(self, write, tmp_path):
        """No file may grow beyond 500 bytes, which is less than a result needs."""
        import resource

        manifest = write(files=2)
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # noqa: E731
        run = start(manifest, tmp_path / "out", preexec_fn=limit)
        told, errors = run.communicate(timeout=60)
        assert run.returncode == 1 and "failed" in told, errors
        assert not errors
        assert batch(manifest, tmp_path / "out").code == 0
        assert not leftovers(tmp_path / "out")


@pytest.mark.slow
class TestKills:
    """Coordinators and workers are killed at random points; in the end all is as if nothing had happened."""

    def test_fifty_times_nothing_is_lost_or_different(self, write, tmp_path, capsys):
        """Sometimes two runs share the folder."""
        manifest = write("small", "module", "wrong", "crashes", "slow", files=12)
        with manifest.open("a") as file:
            file.write('[[models]]\nname = "engine"\nmodel = "net0.onnx"\nbackend = "rtx"\n')
        before = time.monotonic()
        batch(manifest, tmp_path / "undisturbed", jobs=2)
        lasted = time.monotonic() - before
        expected, out = contents(tmp_path / "undisturbed"), tmp_path / "out"
        chance, kills, started, rounds = random.Random(7), {"coordinator": 0, "worker": 0}, 0, 0
        while sum(kills.values()) < 50:
            runs = [start(manifest, out) for _ in range(chance.choice([1, 1, 2]))]
            started += len(runs)
            while (living := [run for run in runs if run.poll() is None]) and sum(kills.values()) < 50:
                time.sleep(chance.uniform(0.05, 0.25 * lasted))
                who, run = chance.choice(["coordinator", "worker"]), chance.choice(living)
                kills[who] += kill(run, chance if who == "worker" else None)
            codes = [(run.communicate(), run.returncode)[1] for run in runs]
            check(out)
            if (
                5 in codes
            ):  # all is done, and some of it is bad: it must be right, and is begun anew, so that there is something to kill
                batch(manifest, out, jobs=2)
                assert contents(out) == expected
                assert not leftovers(out)
                shutil.rmtree(out)
                rounds += 1
        batch(manifest, out, jobs=2)
        assert contents(out) == expected
        assert not leftovers(out)
        with capsys.disabled():
            print(
                f"\n{kills} in {started} runs, {rounds + 1} times to the end: {len(expected)} files and links as without"
            )


def kill(run, chance=None):
    """Kill a run, or one of its descendants by chance; whether there was one."""
    family = descendants(run)
    if chance is not None and family:
        with contextlib.suppress(psutil.NoSuchProcess):
            chance.choice(family).kill()
    elif chance is None and run.poll() is None:
        run.kill()
        run.wait()
        assert ended(*(one.pid for one in family)), "a child lives on"
    else:
        return False
    return True


def descendants(run):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(run.pid).children(recursive=True)
    return []


def check(out):
    """Whatever was killed: each object is whole, and each link leads to one."""
    if not (out / "objects").exists():
        return
    for entry in (out / "objects").iterdir():
        assert len(entry.name) == 64
        result = json.loads((entry / "result.json").read_text())
        assert result["status"] != "done" or (entry / "manifest.json").exists()
