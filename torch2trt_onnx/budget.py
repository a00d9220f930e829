"""The accuracy budget: as much as possible in the planned precisions, with the outputs within their limits of what fp32 computes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_graphsurgeon as gs

from torch2trt_onnx.errors import InputError, PrecisionError
from torch2trt_onnx.followers import Followers, follows, planned
from torch2trt_onnx.graph import Graph
from torch2trt_onnx.limits import ErrorLimit, Limits
from torch2trt_onnx.passes.switch_precision import departs
from torch2trt_onnx.precision import Precision
from torch2trt_onnx.search import Nodes, Problem, Search, Trial
from torch2trt_onnx.trials import Sample, Trials
from torch2trt_onnx.typecheck import compute_type
from torch2trt_onnx.work import work


@dataclass
class Trade:
    """What the budget costs.

    Args:
        limits: output -> what it may have; of those that have a limit.
        reduced: the precisions planned beside fp32, in words.
        movable: how many nodes might have been kept in fp32.
        runs: how many plans were run, those that tell the effect of one node included.
        kept: the nodes that are to be kept in fp32, and why.
        trials: the plans of the curve, in the order that they were run, and behind them the one that was taken.
    """

    limits: dict[str, ErrorLimit]
    reduced: str
    movable: int
    runs: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)

    def then(self, later: Trade) -> Trade:
        """The same, and what was kept and tried in a later round, on the plan that followed from this one."""
        tried = [replace(trial, kept=trial.kept + len(self.kept)) for trial in later.trials]
        trials, kept = [*self.trials[:-1], *tried], self.kept | later.kept
        return replace(self, runs=self.runs + later.runs, kept=kept, trials=trials)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trade:
        """What `to_json` wrote."""
        limits = {name: ErrorLimit.from_json(limit) for name, limit in data["limits"].items()}
        return cls(**{**data, "limits": limits, "trials": [Trial(**trial) for trial in data["trials"]]})

    def to_json(self) -> dict[str, Any]:
        """The trade as plain data."""
        limits = {name: limit.to_json() for name, limit in self.limits.items()}
        return {**vars(self), "limits": limits, "trials": list(map(asdict, self.trials))}


def hold(
    graph: Graph,
    samples: Iterable[Sample],
    limits: Limits,
    shapes: Mapping[str, Sequence[int | None]],
    movable: Collection[str],
) -> Trade:
    """Find which nodes to keep in fp32, so that the outputs stay within their limits of what fp32 computes.

    Args:
        graph: as `planning.decide` leaves it, its types still the source's. It stays as it is.
        samples: each maps the names of the inputs to arrays; read once.
        limits: of the outputs.
        shapes: of the dynamic inputs, by name, for the shares of work.
        movable: the names of the nodes that may be kept. Nodes that only hand values on need not be among them, if no rule is for them:
            they are kept where they stand between nodes in fp32. All others that are planned in a reduced precision stay in it.

    Returns:
        The nodes to keep, and what was tried; none where the whole plan holds.

    Raises:
        InputError: a limit is for an output that is not there or is no tensor, a sample lacks an input, or there is none.
        PrecisionError: the limits are passed even with all nodes in fp32 that may be.
        ComparisonError: ONNX Runtime cannot run the graph.
    """
    allowed = _limited(graph, limits)
    numbers, plan = _numbers(allowed), _Plan(graph, shapes)
    free = [place for place in sorted(plan.computing) if plan.nodes[place].name in movable]
    fixed = plan.computing.difference(free)
    trade = Trade(allowed, ", ".join(dict.fromkeys(map(planned, plan.nodes))), len(free) + plan.followers.count)
    with TemporaryDirectory(dir=graph.weights.directory) as folder:
        trials = Trials(graph, [node.name for node in plan.nodes], allowed, samples, Path(folder))
        estimate = partial(trials.errors, samples=1)
        problem = Problem(
            trials.errors, estimate, numbers, free, fixed, plan.share, lambda on: len(plan.kept(on)), plan.size
        )
        search = Search(problem)
        if plan.kept(plan.computing):  # as it stands it rounds where no trial of the search does
            trade.trials.append(Trial.of(0, plan.share(plan.every), trials.errors(plan.every), numbers))
        kept = frozenset() if any(t.ok for t in trade.trials) else search.find()
        trade.runs = trials.runs
    if kept is None:
        raise _hopeless(search.trial(frozenset(free)), allowed, [plan.nodes[place] for place in sorted(fixed)])
    if not any(t.ok for t in trade.trials):
        trade.trials += search.curve(kept)
        for place in plan.kept(plan.computing - kept):
            node = plan.nodes[place]
            trade.kept[node.name] = _reason(node, *search.alone(place), allowed) if place in kept else HANDS_ON
    return trade


def _limited(graph: Graph, limits: Limits) -> dict[str, ErrorLimit]:
    found = limits.by_output([t.name for t in graph.ir.outputs])
    odd = [t.name for t in graph.ir.outputs if t.name in found and getattr(t, "type", "tensor_type") != "tensor_type"]
    if odd:
        raise InputError(
            f"max_error limits {', '.join(map(repr, odd))}, and its error cannot be measured",
            why="it is no tensor",
            fix="limit the other outputs, each by its name",
        )
    return found


def _numbers(limits: Mapping[str, ErrorLimit]) -> dict[str, float]:
    return {name: limit.limit for name, limit in limits.items()}


class _Plan:
    """What a planned graph may have in fp32 or in a reduced precision, by position.

    Args:
        graph: the graph.
        shapes: of the dynamic inputs, by name.

    Attributes:
        nodes: all nodes that leave fp32.
        every: their positions.
        computing: of those that do not only hand values on.
        followers: the others.
    """

    def __init__(self, graph: Graph, shapes: Mapping[str, Sequence[int | None]]) -> None:
        self.nodes = [node for node in graph.nodes() if departs(node)]
        self.every = frozenset(range(len(self.nodes)))
        self.computing = frozenset(place for place, node in enumerate(self.nodes) if not follows(node))
        self.followers = Followers(graph)
        counted = work(graph, shapes)
        amounts = {
            n.name: counted[n.name] for n in graph.nodes() if compute_type(n) and n.op != "Cast" and not follows(n)
        }
        others = (n for n in graph.nodes() if n.name in amounts and not departs(n))
        self._all = sum(amounts.values())
        self._own = sum(amounts[n.name] for n in others if planned(n) != Precision.FP32.value)
        self._sizes = [amounts.get(node.name, 0) for node in self.nodes]

    def size(self, place: int) -> int:
        """The work of a node."""
        return self._sizes[place]

    def share(self, reduced: Nodes) -> float:
        """The share of the work that is in a reduced precision, where these nodes are."""
        return (self._own + sum(map(self.size, reduced))) / self._all if self._all else 0.0

    def kept(self, reduced: Nodes) -> list[int]:
        """The nodes that are in fp32, where these are reduced: the others that compute, and what hands values on between them."""
        between = set(self.followers.between({self.nodes[place].name for place in reduced}))
        wide = self.computing - reduced
        return [place for place, node in enumerate(self.nodes) if place in wide or node.name in between]


HANDS_ON = "it hands on in fp32 what comes in fp32 and is read so"


def _reason(node: gs.Node, unit: Sequence[int], output: str, error: float, limits: Mapping[str, ErrorLimit]) -> str:
    """Why a node is kept, from what it did where it alone was reduced, or with some neighbours."""
    limit = limits[output]
    others = f", with {len(unit) - 1} nodes beside it," if len(unit) > 1 else ""
    beyond = "" if error > limit.limit else "; together with the others it would be too much"
    return (
        f"alone in {planned(node)}{others} it gives {output!r} a {limit.measure} error of {error:.3g}, "
        f"of {limit.limit:g} allowed{beyond}"
    )


def _hopeless(trial: Trial, limits: Mapping[str, ErrorLimit], fixed: Sequence[gs.Node]) -> PrecisionError:
    why = [
        f"{name!r} has a {limit.measure} error of {trial.errors[name]:.3g}, and may have {limit.limit:g}"
        for name, limit in limits.items()
        if trial.errors[name] > limit.limit
    ]
    names = ", ".join(f"{planned(node)} {node.op} {node.name!r}" for node in fixed)
    return PrecisionError(
        "max_error cannot be held, even with all nodes in fp32 that may be",
        where=f"not kept in fp32 whatever the error: {names}" if fixed else None,
        why="\n       ".join(why),
        fix="allow a larger error, or change the rules for these nodes"
        if fixed
        else "both sides are fp32 here: is the model random, or the function that measures not 0 for equal arrays?",
    )
