"""A manifest: which models to convert, for which targets; and the jobs that this makes."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch2trt_onnx.batch import form, lines, settings
from torch2trt_onnx.batch.expand import expand
from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.batch.lines import Lines, line_of
from torch2trt_onnx.errors import ConversionError, RequestError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENDINGS = (".toml", ".yaml", ".yml")


@dataclass(frozen=True)
class Batch:
    """The jobs of a manifest.

    Args:
        path: of the manifest.
        jobs: in its order.
    """

    path: Path
    jobs: tuple[Job, ...]

    def called(self, pattern: str | None) -> list[Job]:
        """The jobs whose names a glob matches; all without one."""
        return [job for job in self.jobs if pattern is None or fnmatch.fnmatch(job.name, pattern)]

    def problems(self) -> list[str]:
        """What can be seen to go wrong before anything is converted: files that are not there, rules that cannot be read."""
        found = []
        for job in self.jobs:
            named = [] if job.is_function or "://" in job.model else [job.model]
            named += [*job.files, *(word for word in (job.rules, job.calibration) if isinstance(word, str))]
            missing = [f"{job.name}: there is no {path}" for path in named if not Path(path).exists()]
            found += missing or _refusals(job)
        return list(dict.fromkeys(found))


def read(path: str | Path) -> Batch:
    """The jobs of a manifest in TOML or YAML.

    Raises:
        RequestError: the file cannot be read, or something in it is wrong; it names all, with lines and keys.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RequestError("the manifest cannot be read", where=str(path), why=why) from None
    if path.suffix not in ENDINGS:
        raise RequestError(
            "the manifest is neither TOML nor YAML", where=str(path), fix=f"call it {', '.join(ENDINGS)}"
        )
    data, places = _toml(path, text) if path.suffix == ".toml" else _yaml(path, text)
    _refuse(path, places, form.check(data, form.SCHEMA))
    wrong: list[tuple[form.Path, str]] = []
    jobs, origins = expand(data, path.parent.absolute(), wrong)
    _refuse(path, places, wrong)
    _refuse(path, places, _wrong_words(jobs, origins))
    return Batch(path, tuple(jobs))


def _toml(path: Path, text: str) -> tuple[Any, Lines]:
    try:
        return tomllib.loads(text), lines.of_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable("TOML", path, str(error)) from None


def _yaml(path: Path, text: str) -> tuple[Any, Lines]:
    try:
        import yaml
    except ImportError:
        raise RequestError(
            "YAML cannot be read here", where=str(path), fix="pip install 'torch2trt_onnx[batch]', or write TOML"
        ) from None
    try:
        places = lines.of_yaml(yaml.compose(text, yaml.SafeLoader))
        return yaml.safe_load(text), places
    except RecursionError:
        raise _unreadable("YAML", path, "it is inside of itself, or nested too deep") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise _unreadable("YAML", place, str(getattr(error, "problem", None) or error)) from None


def _unreadable(kind: str, where: object, why: str) -> RequestError:
    return RequestError(f"the manifest is no {kind}", where=str(where), why=why)


def _refuse(path: Path, places: Lines, problems: Any) -> None:
    """Fail where there are problems: `(path of the value, what is wrong)`.

    Raises:
        RequestError: there are.
    """
    rows = {f"{path}:{line_of(at, places)}: {_said(at)}{text}": None for at, text in problems}
    if rows:
        raise RequestError("the manifest is wrong", why="\n       ".join(rows))


def _said(path: form.Path) -> str:
    """A path as people write it: models[2].inputs[0]."""
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{words.removeprefix('.')}: " if words else ""


def _wrong_words(jobs: list[Job], origins: list[Callable[[str], form.Path]]) -> Iterator[tuple[form.Path, str]]:
    """What `convert` would say of the words of the jobs."""
    for job, origin in zip(jobs, origins, strict=True):
        for key, trial in settings.TRIALS.items():
            try:
                trial(job)
            except ConversionError as error:
                text = f"{error.what}; {error.fix}" if error.fix else error.what
                yield origin(key), text


def _refusals(job: Job) -> list[str]:
    try:
        settings.arguments(job)
    except ConversionError as error:
        return [f"{job.name}: {error.line}"]
    return []
