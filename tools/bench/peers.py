"""Our conversion from fp32 to mixed fp16 beside its peers, on the models of tools/bench/zoo.py.

    .venv/bin/python tools/bench/peers.py [--models NAMES ...] [--tools NAMES ...] [--no-build] [--again] [--write]

Every conversion and every measurement runs in a process of its own. Each result is kept in .bench/results, so that a run that was
interrupted goes on. A peer's counts as long as its versions and the model are the same, ours as long as the commit and the working tree
are; and what was measured on a file, as long as the same file comes out.
--write writes tools/bench/README.md from all results that are there, and so does no other run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import report
import running
from environments import PLACES, python_of, state_of
from outcomes import OURS, OURS_RANDOM, OURS_UNMEASURED, SOURCE, Outcome, Results
from running import BENCH, sha256
from shipped import fetch
from zoo import ZOO, prepare
from zoo_models import ENTRIES

HERE = Path(__file__).resolve().parent
MEASURE, ENGINE = HERE / "measure_worker.py", HERE / "engine_worker.py"
SMALL = 3e8
"""Multiplications up to which ONNX's own evaluator, which is slow, runs a model."""

FORMS = {"graph": 1, "ort": 2, "emulated": 2, "reference": 2, "engine": 2}
"""Measurement -> the number of its form: one that is on the disk in an older form is made anew."""

OWN = OURS, OURS_RANDOM, OURS_UNMEASURED

Result = dict[str, Any]


def measured(tool: str, model: str, *, build: bool, again: bool, seconds: float) -> Result:
    """The result of a tool on a model: from the disk, as far as it holds, and measured for the rest.

    Args:
        tool: one of `PLACES`, or "source" for the model as it is.
        model: its name in the zoo.
        build: whether TensorRT-RTX builds it too.
        again: convert anew.
        seconds: the limit of each process.
    """
    path, folder = BENCH / "results" / tool / f"{model}.json", ZOO / model
    state = running.own_state() if tool in OWN else state_of(tool)
    key = sha256(state.encode(), *((folder / name).read_bytes() for name in ("model.onnx", "meta.json")))
    found = running.load(path)
    if again or found.get("key") != key:
        fresh = {"key": key, "state": state, **_converted(tool, folder, seconds)}
        is_same = fresh["made"] == found.get("made", "")
        found = {**{part: found[part] for part in FORMS if is_same and part in found}, **fresh}
        running.save(path, found)
    file = _file(tool, folder)
    for part, form in () if found["convert"].get("error") else FORMS.items():
        if (
            found.get(part, {}).get("form") == form
            or (part == "engine" and not build)
            or (part == "reference" and not _is_small(found))
        ):
            continue
        words: tuple[object, ...] = (MEASURE, part, folder, file)
        if part == "engine":
            words = (ENGINE, file, folder / "meta.json", *_static(tool, folder, seconds))
        found[part] = {**running.told([python_of(SOURCE), *map(str, words)], seconds), "form": form}
        running.save(path, found)
    return found


def _file(tool: str, folder: Path) -> Path:
    """The file that a tool makes of a model."""
    return folder / "model.onnx" if tool == SOURCE else BENCH / "out" / tool / folder.name / "out.onnx"


def _converted(tool: str, folder: Path, seconds: float) -> Result:
    out = _file(tool, folder)
    if tool == SOURCE:
        told = running.told([python_of(tool), MEASURE, "expected", folder, out], seconds)
        return {"convert": told, "bytes": out.stat().st_size, "made": sha256(out.read_bytes())}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    told = running.told([python_of(tool), HERE / "convert_worker.py", tool, folder, out], seconds)
    if not told.get("error") and not out.exists():
        told["error"] = "it made no file"
    made = sha256(out.read_bytes()) if out.exists() else ""
    return {"convert": told, "bytes": out.stat().st_size if out.exists() else 0, "made": made}


def _static(tool: str, folder: Path, seconds: float) -> list[Path]:
    """Our file for the usual shapes alone, where the model has a range of them: they have a say in what we make. Peers know no shapes."""
    ranges = json.loads((folder / "meta.json").read_text())["ranges"].values()
    if tool != OURS or all(least == most for least, _, most in ranges):
        return []
    out = _file(tool, folder).with_name("static.onnx")
    running.told([python_of(tool), HERE / "convert_worker.py", "ours_static", folder, out], seconds)
    return [out]


def _is_small(found: Result) -> bool:
    return bool(found.get("graph", {}).get("macs", SMALL + 1) <= SMALL)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(ENTRIES), choices=list(ENTRIES), metavar="NAMES")
    parser.add_argument("--tools", nargs="+", default=list(PLACES), choices=list(PLACES), metavar="NAMES")
    parser.add_argument("--no-build", action="store_true", help="no TensorRT-RTX")
    parser.add_argument("--again", action="store_true", help="convert anew what is there")
    parser.add_argument("--seconds", type=float, default=600, help="the limit of each process")
    parser.add_argument("--write", action="store_true", help="write tools/bench/README.md, from all that is there")
    given = parser.parse_args()
    fetch()
    for model in given.models:
        prepare(ENTRIES[model])
        for tool in dict.fromkeys([SOURCE, *given.tools]):
            again = given.again and tool in given.tools
            found = measured(tool, model, build=not given.no_build, again=again, seconds=given.seconds)
            print(report.line(model, tool, Outcome(found)), flush=True)
    report.show(Results(list(ENTRIES)), write=given.write)


if __name__ == "__main__":
    main()
