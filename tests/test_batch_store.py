"""The folder of results holds no half of anything, whoever dies or writes at the same time."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
from batching import leftovers, maker, onnx_job, write_onnx

from torch2trt_onnx.batch import keys
from torch2trt_onnx.batch.attempt import attempt
from torch2trt_onnx.batch.job import Job, file_name
from torch2trt_onnx.batch.result import Result
from torch2trt_onnx.batch.store import Store
from torch2trt_onnx.errors import OutputError

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A conversion that a run has made."""
    folder = tmp_path_factory.mktemp("made")
    with Store(folder / "out") as store:
        attempt(store, onnx_job(write_onnx(folder / "a.onnx")), lambda _: None)
    (entry,) = (folder / "out" / "objects").iterdir()
    return entry


def put(store, key=KEY, status="failed", name="a"):
    place = store.place()
    (place / "job.json").write_text(json.dumps(Job(name, "m:f").to_json()))
    (place / "tmp").mkdir()
    return store.commit(place, Result(name, key, status))


class TestObjects:
    def test_what_was_put_is_found_by_its_key_and_leads_there_by_its_name(self, out):
        with Store(out) as store:
            assert store.find(KEY) is None
            result = put(store)
            store.name("a / b @ c", KEY)
            assert store.find(KEY) == (Job("a", "m:f"), result)
            assert store.find(OTHER) is None
        assert result.folder == f"objects/{KEY}"
        assert (out / "by-name" / "a _ b @ c").resolve() == out / "objects" / KEY
        assert not leftovers(out)

    def test_a_newer_one_takes_its_place(self, out):
        with Store(out) as store:
            put(store)
            put(store, name="b")
            assert store.find(KEY)[1].job == "b"
        assert not leftovers(out)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda entry: (entry / "result.json").unlink(),
            lambda entry: (entry / "result.json").write_text("{"),
            lambda entry: (entry / "result.json").write_text('{"job": "a"}'),
            lambda entry: (entry / "job.json").unlink(),
            lambda entry: (entry / "model.onnx").unlink(),
            lambda entry: os.truncate(entry / "model.onnx", 9),
            lambda entry: (entry / "manifest.json").write_text(""),
        ],
    )
    def test_one_that_was_damaged_is_not_there(self, out, made, damage):
        shutil.copytree(made.parent.parent, out)
        with Store(out) as store:
            assert store.find(made.name) is not None
            damage(out / "objects" / made.name)
            assert store.find(made.name) is None

    def test_names_of_jobs_are_names_of_files(self):
        long = [file_name(letter + "ä" * 300) for letter in ("a", "b")]
        assert long[0] != long[1] and all(len(name.encode()) < 200 for name in long)
        assert [file_name(name) for name in ("a @ b", "a/b", "..", ".x")] == ["a @ b", "a_b", "_", "x"]


class TestLocks:
    def test_one_has_it_at_a_time_and_it_leaves_no_file(self, out):
        with Store(out) as one, Store(out) as two:
            with one.lock(KEY) as has_it, two.lock(KEY) as has_it_too, two.lock(OTHER) as has_another:
                assert (has_it, has_it_too, has_another) == (True, False, True)
            with two.lock(KEY) as has_it:
                assert has_it
        assert not leftovers(out)

    def test_one_that_was_just_removed_is_not_believed(self, out, monkeypatch):
        """Between opening and locking a file, who had it removes it, and a third one makes it anew."""
        import fcntl

        with Store(out) as store:
            real, path = fcntl.flock, store.folder / ".state" / "locks" / KEY

            def late(file, how):
                monkeypatch.setattr(fcntl, "flock", real)
                path.unlink()
                path.touch()
                real(file, how)

            monkeypatch.setattr(fcntl, "flock", late)
            with store.lock(KEY) as has_it, store.lock(KEY) as has_it_too:
                assert (has_it, has_it_too) == (True, False)

    def test_they_end_with_their_process_and_what_it_left_is_swept(self, out):
        code = "import sys, time; from torch2trt_onnx.batch.store import Store\n"
        code += (
            f"with Store(sys.argv[1]) as store, store.lock({KEY!r}): print(store.place(), flush=True); time.sleep(60)"
        )
        other = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True)
        place = other.stdout.readline().strip()
        with Store(out) as store, store.lock(KEY) as has_it:
            assert not has_it
            assert os.path.isdir(place)  # noqa: PTH112 - of a run that lives
        other.send_signal(signal.SIGKILL)
        other.communicate()
        with Store(out) as store, store.lock(KEY) as has_it:
            assert has_it
            assert not os.path.exists(place)  # noqa: PTH110
        assert not leftovers(out)


class TestLines:
    def test_they_come_one_by_one_and_in_the_end_are_one_for_each_job_in_order(self, out):
        first, second, again = (
            Result(*words) for words in (("a", KEY, "crashed"), ("b", OTHER, "done"), ("a", KEY, "done"))
        )
        with Store(out) as store:
            for result in (first, second, again):
                store.record(result)
            assert store.results() == [again, second]
            assert len((out / "results.jsonl").read_text().splitlines()) == 3
            store.finish([second, again])
            assert store.results() == [second, again]
            assert len((out / "results.jsonl").read_text().splitlines()) == 2

    def test_those_of_other_runs_stay(self, out):
        with Store(out) as one, Store(out) as two:
            two.record(Result("theirs", OTHER, "done"))
            one.finish([Result("ours", KEY, "done")])
            two.record(Result("theirs too", OTHER, "done"))
            assert [result.job for result in one.results()] == ["ours", "theirs", "theirs too"]

    def test_a_torn_line_spoils_no_other(self, out):
        with Store(out) as store:
            store.record(Result("a", KEY, "done"))
            with (out / "results.jsonl").open("a") as file:
                file.write('{"job": "to')
            store.record(Result("b", KEY, "done"))
            assert [result.job for result in store.results()] == ["a", "b"]


@contextlib.contextmanager
def full_disk(most):
    """No file may grow beyond some bytes, here and in children, so that writes fail as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestDisk:
    @pytest.mark.parametrize("most", [100, 10_000, 100_000], ids=["the job", "the model", "its page"])
    def test_on_a_full_disk_the_job_fails_for_now_and_leaves_nothing(self, out, tmp_path, most):
        job = onnx_job(write_onnx(tmp_path / "a.onnx", width=64))
        with Store(out) as store:
            with full_disk(most):
                found = attempt(store, job, lambda _: None)
            assert (found.status, found.is_final) == ("failed", False)
            assert "File too large" in found.reason
            assert attempt(store, job, lambda _: None).status == "done"
        assert not leftovers(out)

    def test_a_folder_that_cannot_be_made_is_an_error(self, out):
        out.write_text("in the way")
        with pytest.raises(OutputError, match="folder of the results"):
            Store(out)


def cancelled(ran, job, *_, **__):
    ran.append(job)
    return Result(job.name, "", "cancelled")


class TestAttempts:
    def attempt(self, out, job, **how):
        events = []
        with Store(out) as store:
            return attempt(store, job, events.append, **how), [event.kind for event in events]

    def test_what_is_there_is_not_made_again_also_for_a_job_of_another_name(self, out, tmp_path):
        job = onnx_job(write_onnx(tmp_path / "a.onnx"))
        made, _ = self.attempt(out, job)
        found, events = self.attempt(out, replace(job, name="other", timeout=9.0))
        assert events == []
        assert found == replace(made, job="other", status="reused", attempts=0)
        assert (out / "by-name" / "other").resolve() == (out / "by-name" / "a").resolve()

    def test_what_fails_each_time_is_tried_again_only_where_it_is_asked_for(self, out, tmp_path):
        job = maker(tmp_path, "wrong")
        assert self.attempt(out, job)[0].status == "failed"
        found, events = self.attempt(out, job)
        assert (found.status, found.attempts, events) == ("failed", 0, [])
        found, events = self.attempt(out, job, retry_failed=True)
        assert found.attempts == 1 and events[0] == "started"

    def test_who_may_take_longer_or_hold_more_than_before_is_tried_again(self, out, tmp_path, monkeypatch):
        job = replace(maker(tmp_path, "small"), timeout=5.0, memory=1000)
        key = keys.key(job)
        for status, more in (("timeout", {"timeout": 6.0}), ("memory", {"memory": 1001}), ("memory", {"memory": None})):
            with Store(out) as store:
                place = store.place()
                (place / "job.json").write_text(json.dumps(job.to_json()))
                store.commit(place, Result("small", key, status))
            ran = []
            monkeypatch.setattr("torch2trt_onnx.batch.running.run", partial(cancelled, ran))
            assert self.attempt(out, job)[0].status == status
            assert not ran
            self.attempt(out, replace(job, **more))
            assert len(ran) == 1

    def test_another_one_at_the_same_job_is_told(self, out, tmp_path):
        job = maker(tmp_path, "small")
        with Store(out) as other, other.lock(keys.key(job)):
            assert self.attempt(out, job) == (None, [])
