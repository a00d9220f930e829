"""Which nodes of a report are looked at, in which order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch2trt_onnx.backends.layers import EngineLayer
from torch2trt_onnx.errors import InputError
from torch2trt_onnx.plan import NodePlan
from torch2trt_onnx.precision import Precision
from torch2trt_onnx.report import NodeReport, Report, Weight
from torch2trt_onnx.rules import pattern

FIELDS = ("name", "module", "op", "precision")
ORDERS = ("order", "name", "op", "precision", "module", "work", "bytes")


@dataclass(frozen=True)
class Only:
    """One condition on nodes, as `FIELD=GLOB` says it; the glob is that of a rule, which may be `re:` and a regular expression.

    Args:
        field: one of `FIELDS`; the precision is the one that a node multiplies in.
        pattern: of the whole word. A module's is met by all that is inside it.
    """

    field: str
    pattern: str

    @classmethod
    def parse(cls, text: str) -> Only:
        """A condition from text.

        Raises:
            InputError: it is of another form, or the expression is none.
        """
        field, equals, words = text.partition("=")
        if field not in FIELDS or not equals:
            raise InputError(f"{text!r} is not FIELD=GLOB", fix=f"use one of {', '.join(FIELDS)}, such as op=Conv*")
        pattern(words, is_path=field == "module")
        return cls(field, words)

    def matches(self, node: NodePlan) -> bool:
        """Whether a node meets it."""
        word = node.runs_in if self.field == "precision" else getattr(node, self.field)
        return pattern(self.pattern, is_path=self.field == "module").fullmatch(word) is not None


@dataclass(frozen=True)
class Selection:
    """Nodes of a report.

    Args:
        report: of a conversion or a file.
        nodes: those that were chosen.
        depths: node -> in how many bodies of If, Loop and Scan it is; empty where the order is another than the graph's.
        is_narrowed: whether conditions left nodes out.
    """

    report: Report
    nodes: list[NodeReport]
    depths: dict[str, int]
    is_narrowed: bool

    @property
    def casts(self) -> list[NodeReport]:
        """The Casts between floating-point types, or from or to one."""
        return [node for node in self.nodes if node.plan.op == "Cast" and node.plan.precision]

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """Tensor -> the names of the nodes that read it."""
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.plan.inputs):
                found.setdefault(name, []).append(node.plan.name)
        return found

    @property
    def weights(self) -> list[Weight]:
        """Those that the nodes read."""
        return [weight for weight in self.report.weights if weight.name in self.readers]

    @property
    def layers(self) -> list[EngineLayer]:
        """Those of the engine that compute the nodes; all where no nodes were left out."""
        names = {node.plan.name for node in self.nodes}
        return [layer for layer in self.report.layers if not (self.is_narrowed and names.isdisjoint(layer.nodes))]


def select(report: Report, only: Sequence[Only] = (), order: str = "order", *, every: bool = False) -> Selection:
    """The nodes that meet the conditions: of each field any.

    Args:
        report: to choose from.
        only: the conditions.
        order: one of `ORDERS`: "order" is the graph's, with bodies behind the node that they are of; the largest work and bytes come
            first.
        every: also nodes that compute with no float. Where there are no conditions they are left out, but for those with bodies.
    """
    fields = {field: [one for one in only if one.field == field] for field in FIELDS}
    wanted = [some for some in fields.values() if some]
    nested = _nested(report.nodes)
    around = {node.plan.scope for node in report.nodes}
    nodes = [
        node
        for node, _ in nested
        if (every or wanted or node.plan.precision or node.plan.name in around)
        and all(any(one.matches(node.plan) for one in some) for some in wanted)
    ]
    if order == "order":
        return Selection(report, nodes, {node.plan.name: depth for node, depth in nested}, bool(wanted))
    if order in ("work", "bytes"):
        nodes.sort(key=lambda node: -int(getattr(node, order)))
    elif order == "precision":
        places = {p.value: place for place, p in enumerate(Precision)}
        nodes.sort(key=lambda node: places.get(node.plan.runs_in, len(places)))
    else:
        nodes.sort(key=lambda node: natural(getattr(node.plan, order)))
    return Selection(report, nodes, {}, bool(wanted))


def natural(word: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in words by their size."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", word)]


def _nested(nodes: Sequence[NodeReport]) -> list[tuple[NodeReport, int]]:
    """The nodes with their depth, those of bodies behind the node that they are of."""
    inside: dict[str, list[NodeReport]] = {}
    for node in nodes:
        inside.setdefault(node.plan.scope, []).append(node)
    found, stack = [], [(node, 0) for node in reversed(inside.get("", []))]
    while stack:
        node, depth = stack.pop()
        found.append((node, depth))
        stack += ((inner, depth + 1) for inner in reversed(inside.get(node.plan.name, [])))
    return found
