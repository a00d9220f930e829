"""What came of each tool on each model, out of .bench/results."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import running
from environments import PLACES
from running import BENCH

SOURCE, AUTOCAST, RANDOM, ORT = "source", "autocast", "autocast_random", "ort"
OURS, OURS_RANDOM, OURS_UNMEASURED = "ours", "ours_random", "ours_unmeasured"
TITLES = {
    SOURCE: "(source)",
    OURS: "ours",
    OURS_RANDOM: "ours, random",
    OURS_UNMEASURED: "ours, unmeasured",
    AUTOCAST: "AutoCast",
    RANDOM: "AutoCast, random",
    ORT: "ORT float16",
    "common": "onnxconverter-common",
    "polygraphy": "Polygraphy",
}
PARTS = {"checker": "graph", "ORT": "ort", "RTX": "engine"}
"""What a model has to pass -> the measurement that tells."""

RIGHT = 0.05
"""The root mean square error, over that of the output, up to which a model counts as right."""


@dataclass(frozen=True)
class Outcome:
    """One tool on one model.

    Args:
        found: the result, as tools/bench/peers.py keeps it.
    """

    found: Mapping[str, Any]

    @property
    def failure(self) -> str:
        """Why there is no model, or ""."""
        return str(self.found["convert"].get("error", ""))

    @property
    def cpu(self) -> float:
        """CPU seconds of the conversion, from a file to a file, without imports."""
        return float(self.found["convert"]["cpu"])

    @property
    def seconds(self) -> float:
        """The same by the clock."""
        return float(self.found["convert"]["seconds"])

    @property
    def imports(self) -> float:
        """Seconds of the imports by the clock."""
        return float(self.found["convert"]["import"])

    @property
    def peak(self) -> int:
        """Bytes of resident memory, imports included."""
        return int(self.found["convert"]["peak"])

    def part(self, name: str) -> Mapping[str, Any]:
        """A measurement; empty where it was not made."""
        told: Mapping[str, Any] = self.found.get(name, {})
        return told

    @property
    def troubles(self) -> dict[str, str]:
        """What is wrong with the model that was made: `checker`, `ORT` and `RTX`, each with what it says; empty where it was not asked."""
        said = {what: self.part(part).get("error", "") for what, part in PARTS.items()}
        said["checker"] = said["checker"] or self.part("graph").get("checker", "")
        return {what: str(text) for what, text in said.items() if text}

    def passes(self, what: str) -> bool:
        """Whether one of them was asked, and has nothing against it."""
        return PARTS[what] in self.found and what not in self.troubles

    @cached_property
    def ran(self) -> Mapping[str, list[float]]:
        """The errors on each held-out input: by the emulation, or where that fails by ONNX Runtime; empty where neither runs it."""
        told: Mapping[str, Any] = next((self.part(n) for n in ("emulated", "ort") if self.part(n).get("relative")), {})
        return {name: [float(e) for e in values] for name, values in told.items() if isinstance(values, list)}

    @property
    def errors(self) -> list[float]:
        """The largest relative error of any output, for each held-out input."""
        return self.ran.get("relative", [])

    @property
    def error(self) -> float:
        """The largest of them; infinite where there is none."""
        return max(self.errors, default=float("inf"))

    @property
    def noise(self) -> float:
        """How much the error varies over the inputs: the standard deviation."""
        finite = all(map(math.isfinite, self.errors)) and len(self.errors) > 1
        return statistics.stdev(self.errors) if finite else 0.0

    @property
    def rms(self) -> float:
        """The largest root mean square error of any output on any held-out input, over that of the output."""
        return max(self.ran.get("rms", []), default=float("inf"))

    @property
    def is_right(self) -> bool:
        """Whether ONNX Runtime runs it, and that error is small."""
        return self.passes("ORT") and self.rms < RIGHT

    def fact(self, part: str, name: str) -> float | None:
        """A number of a measurement, where there is one."""
        value = self.part(part).get(name)
        return None if value is None else float(value)


class Results:
    """All outcomes that are there.

    Args:
        models: the names of the models, in order.
    """

    def __init__(self, models: list[str]) -> None:
        self.models = models
        self._kept: dict[tuple[str, str], Outcome] = {}
        for tool in PLACES:
            for model in models:
                found = running.load(BENCH / "results" / tool / f"{model}.json")
                if found:
                    self._kept[tool, model] = Outcome(found)

    def get(self, tool: str, model: str) -> Outcome | None:
        """The outcome, where it is there."""
        return self._kept.get((tool, model))

    def of(self, tool: str) -> dict[str, Outcome]:
        """All of a tool, by model."""
        return {model: self._kept[tool, model] for model in self.models if (tool, model) in self._kept}

    @property
    def tools(self) -> list[str]:
        """The tools that have outcomes, the source first and we next."""
        return [tool for tool in TITLES if self.of(tool)]


def about(folder: Path) -> str:
    """What a model of the zoo is."""
    return str(json.loads((folder / "meta.json").read_text())["about"])
