"""What a person or a program sees of a batch while it runs, and at its end."""

import io
import json
import threading

import pytest
from rich.console import Console

from torch2trt_onnx.batch import sentences, table
from torch2trt_onnx.batch.events import FINISHED, PHASE, QUEUED, RETRIED, STARTED, Event
from torch2trt_onnx.batch.progress import Progress
from torch2trt_onnx.batch.result import Result, Summary
from torch2trt_onnx.batch.watch import JsonLines, LiveDisplay, PlainLines, watch
from torch2trt_onnx.views.screen import Screen

NUMBERS = {"shares": {"fp16": 0.982, "fp32": 0.018}, "error": 3e-4, "agrees": True, "engine": 12_300_000, "unproven": 0}
GOOD = Result("good", "1" * 64, "done", seconds=41.2, peak=1_300_000_000, folder="objects/1", numbers=NUMBERS)
BAD = Result(
    "bad",
    "2" * 64,
    "failed",
    reason="the file is truncated",
    detail="the file is truncated\n  where: /models/bad.onnx",
    stage="load",
    seconds=0.3,
    folder="objects/2",
)


class Clock:
    """A clock that is set."""

    now = 100.0

    def __call__(self):
        return self.now


def a_run(*results):
    """The events of a run, one job after the other."""
    yield from (Event(one.job, QUEUED) for one in results)
    for one in results:
        if one.attempts:
            yield Event(one.job, STARTED)
            yield Event(one.job, PHASE, "build", 0.5)
        yield Event(one.job, FINISHED, result=one)


class TestProgress:
    """What events add up to."""

    def test_time_left_is_that_of_the_mean_job_for_as_many_as_run_at_a_time(self):
        clock = Clock()
        progress = Progress(clock)
        for name in "abcdef":
            progress.take(Event(name, QUEUED))
        progress.take(Event("a", STARTED))
        progress.take(Event("b", STARTED))
        assert progress.left() is None
        clock.now += 10
        progress.take(Event("a", FINISHED, result=GOOD))
        progress.take(Event("c", STARTED))
        assert progress.left() == pytest.approx((5 * 10 - 10) / 2)  # five are left, and one of them is nearly done
        clock.now += 4
        assert progress.left() == pytest.approx((5 * 10 - 10 - 4) / 2)

    def test_what_was_there_already_says_nothing_of_the_rest(self):
        clock = Clock()
        progress = Progress(clock)
        progress.take(Event("a", QUEUED))
        progress.take(Event("b", QUEUED))
        progress.take(Event("a", FINISHED, result=Result("a", "1", "reused", attempts=0)))
        assert progress.left() is None
        assert (progress.finished, progress.bad) == (1, 0)

    def test_it_forgets_jobs_that_are_finished(self):
        progress = Progress()
        for event in a_run(*(Result(f"{i}", "1", "done") for i in range(1000))):
            progress.take(event)
        assert progress.running == {}
        assert progress.statuses == {"done": 1000}


class TestLines:
    """Where there is no terminal."""

    def test_each_job_that_is_finished_is_a_line_with_its_reason(self):
        out = io.StringIO()
        with PlainLines(out) as seen:
            for event in a_run(GOOD, BAD):
                seen(event)
        assert out.getvalue().splitlines() == [
            "1/2  done       good: 41 s; 1.3 GB; 98.2% fp16, 1.8% fp32, error 0.0003",
            "2/2  failed     bad: the file is truncated; while at load; 0.30 s",
        ]

    def test_a_second_attempt_is_told_with_its_cause(self):
        out = io.StringIO()
        with PlainLines(out) as seen:
            seen(Event("a", QUEUED))
            seen(Event("a", RETRIED, "its worker was lost"))
        assert out.getvalue() == "     again      a: its worker was lost\n"

    def test_in_a_long_silence_it_says_what_runs(self):
        told = threading.Event()

        class Out(io.StringIO):
            def flush(self):
                told.set()

        out = Out()
        with PlainLines(out, every=0.05) as seen:
            seen(Event("slow", QUEUED))
            seen(Event("slow", STARTED))
            seen(Event("slow", PHASE, "build", 0.25))
            assert told.wait(10)
        assert out.getvalue().startswith("0 of 1 jobs; running: slow (build 25%, 0.")

    def test_names_and_reasons_cannot_give_orders_to_a_terminal(self):
        out = io.StringIO()
        hostile = Result("a\x1b[2J\nb", "1", "failed", reason="x\x07\r\x1b]0;y")
        with PlainLines(out) as seen:
            seen(Event(hostile.job, QUEUED))
            seen(Event(hostile.job, FINISHED, result=hostile))
        assert out.getvalue().count("\n") == 1
        assert out.getvalue()[:-1].isprintable()


class TestJson:
    """For a program."""

    def test_each_event_is_a_line_that_has_its_result(self):
        out = io.StringIO()
        with JsonLines(out) as seen:
            for event in a_run(GOOD, BAD):
                seen(event)
        told = [json.loads(line) for line in out.getvalue().splitlines()]
        assert [line["event"] for line in told] == [*["queued"] * 2, *["started", "phase", "finished"] * 2]
        assert Result.from_json(told[-1]["result"]) == BAD
        assert told[3] == {"job": "good", "event": "phase", "phase": "build", "fraction": 0.5}

    def test_threads_do_not_mix_their_lines(self):
        out = io.StringIO()
        with JsonLines(out) as seen:
            threads = [
                threading.Thread(target=lambda n=n: [seen(Event(f"{n}" * 50, PHASE, "build")) for _ in range(200)])
                for n in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len([json.loads(line) for line in out.getvalue().splitlines()]) == 800


class TestTerminal:
    """Where there is one."""

    def shown(self, events, width=100):
        console = Console(file=io.StringIO(), force_terminal=True, width=width, height=30, color_system=None)
        with LiveDisplay(console) as seen:
            for event in events:
                seen(event)
            with console.capture() as captured:
                console.print(seen._drawn())
        return console.file.getvalue(), captured.get()

    def test_running_jobs_stand_with_their_phase_and_a_bar(self):
        events = [Event("a", QUEUED), Event("b", QUEUED), Event("a", STARTED), Event("a", PHASE, "build", 0.5)]
        _, now = self.shown(events)
        assert [line.split()[:2] for line in now.splitlines() if line.startswith("a ")] == [["a", "build"]]
        assert "0 of 2 jobs" in now
        assert "b" not in now.split()

    def test_finished_jobs_go_by_above(self):
        printed, now = self.shown(a_run(GOOD, BAD))
        assert "1/2  done       good: 41 s" in printed
        assert "2/2  failed     bad: the file is truncated" in printed
        assert "2 of 2 jobs, 1 went wrong" in now

    def test_a_cluster_of_hundreds_is_still_a_screen(self):
        jobs = [f"job {i}" for i in range(300)]
        _, now = self.shown([*(Event(j, QUEUED) for j in jobs), *(Event(j, STARTED) for j in jobs)])
        assert "and 280 more" in now
        assert len(now.splitlines()) < 30

    def test_a_long_name_takes_no_second_line(self):
        name = "a/very/long/path/" * 20
        _, now = self.shown([Event(name, QUEUED), Event(name, STARTED), Event(name, PHASE, "build", 0.1)], width=60)
        assert max(map(len, now.splitlines())) <= 60
        assert len(now.splitlines()) <= 3

    def test_it_is_chosen_by_where_we_are(self, monkeypatch):
        assert isinstance(watch(), PlainLines)
        assert isinstance(watch(as_json=True), JsonLines)
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert isinstance(watch(), LiveDisplay)


class TestSummary:
    """The end of a run."""

    def test_what_was_made_is_a_table_and_what_failed_its_whole_message(self):
        found = "\n".join(table.lines(Summary([GOOD, BAD], 44.0), Screen()))
        head, good = found.splitlines()[1:3]
        assert head.split("  ")[0] == "job"
        assert good.split() == [
            *["good", "done", "41", "s", "1.3", "GB", "12.3", "MB", "98.2%", "fp16,", "1.8%", "fp32", "0.0003"]
        ]
        assert "failed bad (0.30 s, while at load)\n  the file is truncated\n    where: /models/bad.onnx\n" in found
        assert "  log: by-name/bad/log.txt\n" in found
        assert found.endswith("2 jobs: 1 done, 1 failed; 44 s")

    def test_two_thousand_jobs_are_not_all_told(self):
        many = [Result(f"{i}", "1", "done") for i in range(2000)]
        found = list(table.lines(Summary(many, 1.0), Screen()))
        assert len(found) < 120
        assert "and 1,900 more" in found
        assert found[-1] == "2,000 jobs: 2,000 done; 1.0 s"

    def test_a_narrow_terminal_keeps_names_and_statuses(self):
        found = list(table.lines(Summary([GOOD], 44.0), Screen(60, 40)))
        assert max(map(len, found)) <= 60
        assert "good" in found[2] and "done" in found[2]

    def test_no_job_is_nothing_to_do(self):
        assert list(table.lines(Summary([], 0.1), Screen())) == ["0 jobs: nothing to do; 0.10 s"]

    def test_numbers_that_are_none_are_named_as_such(self):
        lost = Result("a", "1", "done", numbers={"shares": {}, "error": None, "agrees": False})
        assert sentences.error(lost) == "error that is no number, beyond the tolerance"

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (0.421, "0.42 s"),
            (4.26, "4.3 s"),
            (41.2, "41 s"),
            (59.7, "1 min 0 s"),
            (200, "3 min 20 s"),
            (7500, "2 h 5 min"),
        ],
    )
    def test_times_have_two_units_at_most(self, seconds, words):
        assert sentences.lasting(seconds) == words
