"""A night's run in small: real models for several targets, and among them what ends a process in each way that we know.

    .venv/bin/python tools/bench/night.py [--jobs N] [--out FOLDER]

Each bad job must be reported with its reason, each good one be right: the numbers agree, and its files are as its manifest says. Then the
same goes again, and must find all of it. Prints how the time relates to the ideal, which is what the jobs took by how many ran at a time,
and how busy the cores were. Exits with 1 where something is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
from running import BENCH, ROOT

from torch2trt_onnx.batch import Result, Summary, batch
from torch2trt_onnx.batch.pool import cores
from torch2trt_onnx.batch.sentences import lasting
from torch2trt_onnx.batch.watch import watch
from torch2trt_onnx.errors import ConversionError
from torch2trt_onnx.manifest import Manifest

MODELS = (
    "pnet",
    "rnet",
    "onet",
    "crepe_tiny",
    "ocr_cls",
    "ocr_det_v3",
    "speaker_lstm",
    "minilm",
    "mobilenet_v2",
    "resnet50",
)
TARGETS = ("8.9", "12.0", "none")
TYPES = {"input_ids": ":int64:range=0..30521", "attention_mask": ":int64:range=1..1"}
PLACE, ZOO = BENCH / "night", BENCH / "zoo"

BAD = {
    "parser": ("failed", r"TensorRT crashed on .*SIGSEGV"),
    "segfault": ("crashed", r"SIGSEGV"),
    "endless": ("timeout", r"longer than 10 s"),
    "endless_in_c": ("timeout", r"longer than 10 s"),
    "endless_build": ("timeout", r"longer than 10 s"),
    "greedy": ("memory", r"more than 3.00 GiB"),
    "truncated_onnx": ("failed", r"truncated\.onnx"),
    "truncated_script": ("failed", r"truncated\.pt"),
    "weightless": ("failed", r"weightless\.data"),
    "wrong_shape": ("failed", r"image"),
}
"""Name of a job -> its status, and what its reason says."""

BEFORE_BUILD = ("", "start", "load", "export", "repairs", "plan", "lowering", "write", "compare")


def manifest() -> str:
    """The manifest of the night."""
    tables = ['[defaults]\nprecisions = ["fp32", "fp16"]\npolicy = "auto"\nbackend = "rtx"\ntimeout = 600']
    for name in MODELS:
        ranges = json.loads((ZOO / name / "meta.json").read_text())["ranges"]
        inputs = [f"{key}:{_shapes(found)}{TYPES.get(key, '')}" for key, found in ranges.items()]
        tables.append(
            f'[[models]]\nname = "{name}"\nmodel = "{ZOO / name / "model.onnx"}"\ninputs = {json.dumps(inputs)}'
        )
        for target in TARGETS:
            how = 'backend = "none"' if target == "none" else f'compute_capabilities = ["{target}"]'
            tables.append(f'[[models.targets]]\nname = "{target}"\n{how}')
    wide = 'inputs = ["image:1x3x224x224"]'
    bad = {
        "parser": 'model = "parser.onnx"\ncompare = false\nprecisions = ["fp32"]\npolicy = "source"',
        "segfault": f'model = "night_models:segfault"\n{wide}',
        "endless": f'model = "night_models:endless"\n{wide}\ntimeout = 10',
        "endless_in_c": f'model = "night_models:endless_in_c"\n{wide}\ntimeout = 10',
        "endless_build": 'model = "endless.onnx"\ncompare = false\npolicy = "source"\ntimeout = 10',
        "greedy": f'model = "night_models:greedy"\n{wide}\nmemory = 3',
        "truncated_onnx": f'model = "truncated.onnx"\n{wide}',
        "truncated_script": f'model = "truncated.pt"\n{wide}',
        "weightless": f'model = "weightless.onnx"\n{wide}',
        "wrong_shape": f'model = "{ZOO / "mobilenet_v2" / "model.onnx"}"\ninputs = ["image:1x4x224x224"]',
    }
    tables += [f'[[models]]\nname = "{name}"\n{text}' for name, text in bad.items()]
    return "\n".join(tables) + "\n"


def _shapes(found: list[list[int]]) -> str:
    return "..".join("x".join(map(str, shape)) for shape in found)


def wrong(found: Summary, out: Path) -> list[str]:
    """What is not as it must be."""
    return [f"{result.job}: {text}" for result in found.results if (text := _wrong(result, out))]


def _wrong(result: Result, out: Path) -> str:
    if result.job in BAD:
        status, words = BAD[result.job]
        if result.status != status or not re.search(words, result.reason):
            return f"is {result.status}, {result.reason!r}; expected {status}, {words!r}"
        if result.job == "endless_build" and result.stage in BEFORE_BUILD:
            return f"was ended at {result.stage}"
        return ""
    if not result.ok:
        return f"is {result.status}: {result.reason}"
    if result.numbers.get("agrees") is False:
        return f"differs from its model by {result.numbers['error']}"
    try:
        Manifest.read(out / result.folder).check(out / result.folder, every=True)
    except ConversionError as error:
        return str(error)
    return ""


def main() -> None:
    """Run it twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, help="at a time; default: by cores and free memory")
    parser.add_argument("--out", type=Path, default=PLACE / "out")
    given = parser.parse_args()
    subprocess.run([sys.executable, ROOT / "tools" / "bench" / "zoo.py", *MODELS], check=True)
    import night_models

    PLACE.mkdir(parents=True, exist_ok=True)
    shutil.copy(night_models.__file__, PLACE)
    night_models.write_files(PLACE, ZOO / "pnet" / "model.onnx")
    path = PLACE / "night.toml"
    path.write_text(manifest())
    shutil.rmtree(given.out, ignore_errors=True)
    before, times = resource.getrusage(resource.RUSAGE_CHILDREN), psutil.cpu_times()
    with watch() as on_event:
        found = batch(path, given.out, jobs=given.jobs, on_event=on_event)
    after, idle = resource.getrusage(resource.RUSAGE_CHILDREN), psutil.cpu_times().idle - times.idle
    problems = wrong(found, given.out)
    for result in found.results:
        if result.job in BAD:
            print(f"{result.job:18} {result.status:8} {result.reason[:110]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    busy = sum(result.seconds for result in found.results)
    slots = given.jobs or cores()
    print(
        f"{len(found.results)} jobs, {found.counts}, in {lasting(found.seconds)}; {slots} at a time on {cores()} cores"
    )
    print(f"the jobs took {lasting(busy)}: {found.seconds / (busy / slots):.3f} of the ideal")
    whole = found.seconds * cores()
    print(
        f"cores: {1 - idle / whole:.0%} busy, {cpu / whole:.0%} with these jobs; the rest is of others on this machine"
    )
    start = time.monotonic()
    again = batch(path, given.out, jobs=given.jobs)
    print(f"again: {again.counts}, in {lasting(time.monotonic() - start)}")
    problems += [f"{one.job}: was done again" for one in again.results if one.attempts]
    left = [str(path) for path in given.out.rglob("*") if path.name.startswith((".torch2trt_onnx-", "tmp"))]
    problems += [f"left behind: {path}" for path in left]
    for problem in problems:
        print(f"WRONG: {problem}")
    print(f"overview: {given.out / 'overview.html'}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
