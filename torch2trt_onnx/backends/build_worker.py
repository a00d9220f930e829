"""Parse and build with TensorRT, as a program: `python -m torch2trt_onnx.backends.build_worker JOB.json`.

Runs in a process of its own, because hostile graphs crash TensorRT's parser or never come back from it. Reads a job, writes the engine
and a result as files beside it, and says on its standard output, a JSON object a line, how far it is. What TensorRT itself prints goes to
standard error. A job that only names a product asks what its library can do, and one that names an engine too, what that tells.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

from torch2trt_onnx.backends import library
from torch2trt_onnx.backends.engine_reader import tell
from torch2trt_onnx.backends.job import Job
from torch2trt_onnx.backends.session import Log, Session


def main(job_path: str) -> None:
    """Do the job and write `result.json` beside it."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # TensorRT prints some errors past its logger
    threading.Thread(target=_die_with_parent, daemon=True).start()
    data = json.loads(Path(job_path).read_text())
    try:
        result = _done(data, channel)
    except Exception:
        traceback.print_exc()
        os._exit(1)  # an orderly end would wait for the thread that reads
    Path(job_path).with_name("result.json").write_text(json.dumps(result))
    channel.flush()
    os._exit(0)  # the result is on disk: what TensorRT does while it unloads cannot spoil it


def _done(data: dict[str, Any], channel: TextIO) -> dict[str, Any]:
    if set(data) == {"product"}:
        return probe(data["product"])
    if set(data) == {"product", "engine"}:
        return read(data["product"], Path(data["engine"]))
    return open_session(Job.from_json(data), channel).run()


def _die_with_parent() -> None:
    sys.stdin.buffer.read()  # ends when the parent does
    os._exit(1)


def open_session(job: Job, channel: TextIO) -> Session:
    """The session of a job's behaviour; it alone imports the library."""
    name = {("tensorrt", "weak"): "weak.WeakTyping", ("tensorrt", "strong"): "strong.StrongTyping"}.get(
        (job.product, job.typing), "rtx.Rtx"
    )
    module, _, behaviour = name.partition(".")
    found: type[Session] = getattr(importlib.import_module(f"torch2trt_onnx.backends.{module}"), behaviour)
    return found(library.load(job.product), job, channel)


def probe(product: str) -> dict[str, Any]:
    """What a library can do, and why it cannot build here, if so: `version`, `capabilities`, `problem`."""
    try:
        trt = library.load(product)
    except (ImportError, OSError) as error:
        return {"version": "", "capabilities": {}, "problem": f"it cannot be loaded: {error}"}
    can = library.probe(trt)
    found = {"version": trt.__version__, "capabilities": can.table(), "problem": ""}
    try:
        trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    except (TypeError, RuntimeError) as error:  # no driver, or no GPU
        found["problem"] = f"its builder cannot be made (is there a GPU, and a driver?): {error}"
    return found


def read(product: str, engine: Path) -> dict[str, Any]:
    """What an engine tells of itself to a library: `version`, `engine` as `engine_reader.tell` has it, and where it cannot be loaded
    the `problem`."""
    try:
        trt = library.load(product)
    except (ImportError, OSError) as error:
        return {"version": "", "engine": None, "problem": f"it cannot be loaded: {error}"}
    log: Any = library.derived(trt.ILogger, Log)
    told = tell(trt, log, engine)
    said = [text for severity, text in log.kept if severity != "WARNING"]
    problem = "" if told is not None else "; ".join(said) or "it does not load the engine, and gives no reason"
    return {"version": trt.__version__, "engine": told, "problem": problem}


if __name__ == "__main__":
    main(sys.argv[1])
