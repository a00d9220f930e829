"""The accuracy budget as points of a picture: the worst error of each plan, by its limit, over the share of reduced work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch2trt_onnx.budget import Trade
from torch2trt_onnx.page import words
from torch2trt_onnx.search import Trial

TAKEN, WITHIN, BEYOND = "taken", "within", "beyond"
MOST_TICKS = 5


@dataclass(frozen=True)
class Point:
    """A plan that was run.

    Args:
        x, y: its place, in percent of the picture, from the left and from below.
        kind: "taken", "within" all limits or "beyond" one.
        kept, share, errors: in words.
    """

    x: float
    y: float
    kind: str
    kept: str
    share: str
    errors: dict[str, str]


@dataclass(frozen=True)
class Tick:
    """A line of the picture, at a place in percent."""

    at: float
    label: str


@dataclass(frozen=True)
class Curve:
    """The picture.

    Args:
        points: by share.
        across, up: the lines of both axes.
        limit: the height where an error is at its limit.
    """

    points: list[Point]
    across: list[Tick]
    up: list[Tick]
    limit: float


def curve(trade: Trade) -> Curve:
    """The picture of a trade that has trials."""
    used = [_used(trade, trial) for trial in trade.trials]
    heights = [math.log10(error) for error in used if 0 < error < math.inf] + [0.0]
    low, high = math.floor(min(heights) - 0.1), math.ceil(max(heights) + 0.1)
    left = math.floor(10 * min(trial.share for trial in trade.trials)) / 10 if len(trade.trials) > 1 else 0.0
    left = min(left, 0.9)

    def height(error: float) -> float:
        exponent = math.log10(error) if 0 < error < math.inf else low if error == 0 else high
        return 100 * (exponent - low) / (high - low)

    points = [
        Point(
            100 * (trial.share - left) / (1 - left),
            height(error),
            TAKEN if trial is trade.trials[-1] else WITHIN if trial.ok else BEYOND,
            f"{trial.kept:,}",
            words.share(trial.share),
            {name: words.error(value) for name, value in trial.errors.items()},
        )
        for trial, error in zip(trade.trials, used, strict=True)
    ]
    step = max(1, math.ceil((high - low) / MOST_TICKS))
    up = [
        Tick(100 * (e - low) / (high - low), f"{10.0**e:g} {words.TIMES}")
        for e in range(low, high + 1)
        if e % step == 0
    ]
    across = [Tick(25.0 * part, f"{100 * left + (100 - 100 * left) * part / 4:.3g}%") for part in range(5)]
    return Curve(sorted(points, key=lambda point: point.x), across, up, height(1.0))


def _used(trade: Trade, trial: Trial) -> float:
    """The worst of a plan's errors, each by its limit; infinite where one is no number."""
    found = [error / trade.limits[name].limit for name, error in trial.errors.items()]
    return max(math.inf if math.isnan(one) else one for one in found)
