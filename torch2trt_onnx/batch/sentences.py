"""Jobs and their results in words: the lines of a run, and the cells of its tables."""

from __future__ import annotations

from collections.abc import Iterator

from torch2trt_onnx.batch.events import FINISHED, RETRIED, Event
from torch2trt_onnx.batch.progress import Progress
from torch2trt_onnx.batch.result import CANCELLED, OK, STATUSES, Result
from torch2trt_onnx.page import words
from torch2trt_onnx.views.columns import printable

WIDTH = max(map(len, STATUSES))


def lasting(seconds: float) -> str:
    """A time in its two largest units: 0.42 s, 41 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def about(seconds: float) -> str:
    """A time that is guessed, in its largest unit."""
    if seconds < 60:
        return "less than a minute"
    return (
        f"about {words.counted(round(seconds / 60), 'minute')}"
        if seconds < 5400
        else f"about {seconds / 3600:.1f} hours"
    )


def state(progress: Progress) -> str:
    """How far it is: 12 of 40 done, 2 of them badly, about 3 minutes left."""
    told = f"{progress.finished:,} of {progress.total:,} jobs"
    if progress.bad:
        told += f", {progress.bad:,} went wrong"
    left = progress.left()
    return f"{told}, {about(left)} left" if left and progress.finished < progress.total else told


def lines(event: Event, progress: Progress) -> Iterator[str]:
    """What is told of an event, once the progress has it: nothing of phases, which come and go."""
    place = f"{progress.finished:>{len(str(progress.total))}}/{progress.total}"
    if event.kind == RETRIED:
        yield printable(f"{'':{len(place)}}  {'again':{WIDTH}}  {event.job}: {event.phase}")
    elif event.kind == FINISHED and event.result is not None:
        yield printable(f"{place}  {event.result.status:{WIDTH}}  {event.job}: {told(event.result)}")


def told(result: Result) -> str:
    """What came of a job, in one line."""
    if result.ok:
        return "; ".join([*costs(result), ", ".join(facts(result))]).strip("; ")
    if result.status == CANCELLED:
        return result.reason or "stopped before it was done"
    return "; ".join([result.reason, *([f"while at {result.stage}"] if result.stage else []), *costs(result)])


def costs(result: Result) -> list[str]:
    """What a job took, where it was run."""
    if not result.attempts:
        return []
    found = [lasting(result.seconds)]
    found += [words.size(result.peak)] if result.peak else []
    return found + ([f"{result.attempts} attempts"] if result.attempts > 1 else [])


def facts(result: Result) -> list[str]:
    """What its report says, in a few words."""
    return [text for text in (mix(result), error(result), proof(result)) if text]


def mix(result: Result) -> str:
    """What it computes in: 98.2% fp16."""
    shares: dict[str, float] = result.numbers.get("shares", {})
    found = [(part, name) for name, part in shares.items() if part]
    return ", ".join(f"{words.share(part)} {name}" for part, name in sorted(found, reverse=True)[:2])


def error(result: Result) -> str:
    """How far it is from the model."""
    if "error" not in result.numbers:
        return ""
    found = result.numbers["error"]
    size = words.error(found) if found is not None else "that is no number"
    return f"error {size}" + ("" if result.numbers["agrees"] else ", beyond the tolerance")


def proof(result: Result) -> str:
    """What the engine does not prove."""
    unproven = result.numbers.get("unproven", 0)
    return f"{words.counted(unproven, 'node')} not proven" if unproven else ""


def tone(status: str) -> str:
    """The colour of a status on a terminal."""
    return "green" if status in OK else "yellow" if status == CANCELLED else "red"
