"""From the tables of a manifest to jobs: defaults, models with their globs, targets, overrides."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch2trt_onnx.batch import form, settings
from torch2trt_onnx.batch.job import RETRIES, TIMEOUT, Job, file_name

GIB = 2**30
Origin = Callable[[str], form.Path]
"""Where in the manifest a job has a setting from."""

WORDS = ("inputs", "outputs", "precisions", "compute_capabilities")


def expand(data: dict[str, Any], home: Path, wrong: list[tuple[form.Path, str]]) -> tuple[list[Job], list[Origin]]:
    """The jobs of a manifest whose form is right, and where each has its settings from.

    Args:
        data: the manifest.
        home: the folder that it lies in.
        wrong: what is wrong is added here: globs that match nothing, and names that two jobs have.
    """
    jobs: list[Job] = []
    origins: list[Origin] = []
    taken: set[str] = set()
    defaults = data.get("defaults", {})
    for at, model in enumerate(data["models"]):
        place: form.Path = ("models", at)
        found = _models(model["model"], home)
        if not found:
            wrong.append(((*place, "model"), f"no file matches {model['model']!r}"))
        for path in found:
            for target, where in _targets(defaults, model, place):
                name = _name(model, path, len(found) > 1) + _suffix(
                    target, many="targets" in model or "targets" in defaults
                )
                layers = [(defaults, ("defaults",)), (model, place), (target, where)]
                for number, override in enumerate(data.get("overrides", [])):
                    if fnmatch.fnmatch(name, override["match"]):
                        layers.append((override, ("overrides", number)))
                if (file := file_name(name)) in taken:
                    wrong.append((place, f"a second job is called {name!r}; give one of them a name"))
                taken.add(file)
                said = {key: value for layer, _ in layers for key, value in layer.items() if key in form.SETTINGS}
                jobs.append(_job(name, path, home, said))
                origins.append(_origin(layers))
    return jobs, origins


def _origin(layers: list[tuple[dict[str, Any], form.Path]]) -> Origin:
    return lambda key: next(((*where, key) for layer, where in reversed(layers) if key in layer), layers[1][1])


def _models(word: str, home: Path) -> list[str]:
    """The models that a word means: those of a glob in the order of their names."""
    if "://" in word or Job("", word).is_function:
        return [word]
    if not glob.has_magic(word) or (home / word).exists():
        return [str(home / word)]
    found = glob.glob(str(home / word), recursive=True)  # noqa: PTH207 - absolute patterns, which Path refuses
    return sorted(path for path in found if Path(path).is_file())


def _targets(
    defaults: dict[str, Any], model: dict[str, Any], place: form.Path
) -> Iterator[tuple[dict[str, Any], form.Path]]:
    home, given = (place, model) if "targets" in model else (("defaults",), defaults)
    for at, target in enumerate(given.get("targets", [{}])):
        yield target, (*home, "targets", at)


def _name(model: dict[str, Any], path: str, is_one_of_many: bool) -> str:
    own = path.partition(":")[2] if Job("", path).is_function else Path(path.rpartition("://")[2]).stem
    given = model.get("name")
    return own if given is None else f"{given}-{own}" if is_one_of_many else str(given)


def _suffix(target: dict[str, Any], *, many: bool) -> str:
    if not many:
        return ""
    words = [target.get("backend", ""), *target.get("compute_capabilities", ()), "+".join(target.get("precisions", ()))]
    name = target.get("name") or "-".join(filter(None, words))
    return f" @ {name}" if name else ""


def _job(name: str, model: str, home: Path, said: dict[str, Any]) -> Job:
    words: dict[str, Any] = {key: tuple(said.get(key, ())) for key in WORDS}
    rules, calibration, limits = said.get("rules"), said.get("calibration"), said.get("max_error", [])
    return Job(
        name,
        model,
        home=str(home),
        files=tuple(str(home / word) for word in said.get("files", ())),
        **words,
        policy=said.get("policy"),
        rules=str(home / rules) if isinstance(rules, str) else tuple(rules) if rules else None,
        calibration=str(home / calibration) if isinstance(calibration, str) else None if calibration else calibration,
        max_error=tuple(map(str, limits)) if isinstance(limits, list) else (str(limits),),
        backend=said.get("backend"),
        options={key: said[key] for key in (*settings.OPTIONS, *settings.ARGUMENTS) if key in said},
        timeout=float(said.get("timeout", TIMEOUT)),
        memory=int(said["memory"] * GIB) if "memory" in said else None,
        retries=said.get("retries", RETRIES),
        resources=said.get("resources", {}),
    )
