"""One job, as a program: `python -m torch2trt_onnx.batch.worker FOLDER`; see `running`, which starts it.

It reads `job.json` in the folder, converts, and writes the conversion there. On its standard output it says, a JSON object a line, how far
it is, and in the end the result; what anything else prints there goes to standard error, which is the job's log.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.batch.result import CRASHED, DONE, FAILED, MEMORY, Result
from torch2trt_onnx.errors import BackendMissingError, ConversionError, ConversionWarning, OutputError, WorkerError

LACKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What the system says where it has no more of something: errors that pass."""

INTERVAL = 0.1
"""Seconds between two words on one phase."""


def main(folder: str, guard: int) -> None:
    """Do the job in a folder.

    Args:
        folder: of the job.
        guard: the process that ends this one where nobody watches any more.
    """
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with contextlib.suppress(OSError):  # where memory ends, let the system end a job and not who watches it
        Path("/proc/self/oom_score_adj").write_text("500")
    place = Path(folder)
    teller = Teller(channel)
    job = Job.from_json(json.loads((place / "job.json").read_text()))
    result = replace(_done(job, place, teller), stage=teller.phase)
    channel.write(json.dumps({"result": result.to_json()}) + "\n")  # and not to a file: the disk may be full
    channel.flush()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    with contextlib.suppress(OSError):  # the model's code may have waited for it
        os.kill(guard, signal.SIGKILL)
        os.waitpid(guard, 0)  # else it stays as a zombie wherever the first process is no init, as in containers
    os._exit(0)  # all is said: what libraries do while they unload cannot spoil it


class Teller:
    """Says how far a job is: each phase as it begins, and steps in it now and then.

    Args:
        channel: to whoever watches.
    """

    def __init__(self, channel: TextIO) -> None:
        self.phase, self._channel, self._last = "", channel, 0.0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Tell."""
        now = time.monotonic()
        if event["phase"] == self.phase and now - self._last < INTERVAL:
            return
        self.phase, self._last = str(event["phase"]), now
        with contextlib.suppress(OSError):
            self._channel.write(json.dumps({key: event[key] for key in ("phase", "step", "steps")}) + "\n")


def _done(job: Job, place: Path, teller: Teller) -> Result:
    """The result of a job; nothing that can go wrong in it is raised."""
    found = Result(job.name, "", FAILED)
    try:
        numbers, times = _converted(job, place, teller)
        return replace(found, status=DONE, numbers=numbers, phases=times)
    except ConversionError as error:
        _log()
        status = CRASHED if (was_ended := _was_ended(error)) else FAILED
        is_final = not was_ended and not _may_be_mended(error)
        return replace(found, status=status, reason=error.line, detail=str(error), is_final=is_final)
    except MemoryError:
        _log()
        return replace(found, status=MEMORY, reason="no memory was left", is_final=False)
    except OSError as error:
        _log()
        reason = f"a file cannot be written or read | {error.filename or place} | {error.strerror or error}"
        return replace(found, reason=reason, detail=reason, is_final=False)
    except Exception as error:
        _log()
        said = next((line for line in str(error).splitlines() if line.strip()), "")
        reason = f"a bug of ours, or of the model's code: {type(error).__name__}: {said.strip()}"
        return replace(found, status=CRASHED, reason=reason, detail=traceback.format_exc())


def _converted(job: Job, place: Path, teller: Teller) -> tuple[dict[str, Any], dict[str, float]]:
    """Convert and save; what the report tells in numbers, and the seconds of each phase."""
    teller({"phase": "start", "step": 0, "steps": 0})
    from torch2trt_onnx import page
    from torch2trt_onnx.batch import numbers, settings, sources
    from torch2trt_onnx.batch.overview import REPORT
    from torch2trt_onnx.conversion import convert

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)  # they stand in the report
        conversion = convert(sources.make(job), **settings.arguments(job), progress=teller)
        teller({"phase": "save", "step": 0, "steps": 0})
        if job.shown:
            conversion.rename(job.shown)
        # Times go with the result, so that the conversion is the same to the bit whenever it is made.
        times, conversion.report.seconds = conversion.report.seconds, {}
        conversion.save(place)
        page.write(place / REPORT, page.render(conversion.report))
    return numbers.of(conversion.report), times


def _log() -> None:
    with contextlib.suppress(OSError):
        traceback.print_exc()


def _may_be_mended(error: ConversionError) -> bool:
    """Whether it is not the job that must change: the disk is full, which anybody may say in his words, or a library is not here."""
    said = any(os.strerror(number) in str(error) for number in LACKS)
    return said or isinstance(error, OutputError | BackendMissingError)


def _was_ended(error: ConversionError) -> bool:
    """Whether it is that somebody has ended our own child, TensorRT's."""
    return isinstance(error, WorkerError) and any(word in (error.why or "") for word in ("SIGKILL", "SIGTERM"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
