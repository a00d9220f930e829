"""Nodes that only hand values on: whether their rounding changes anything hangs on the nodes around them."""

from __future__ import annotations

from collections.abc import Sequence, Set

import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import PREFIX, Graph
from torch2trt_onnx.passes.switch_precision import FP32, departs, rounds
from torch2trt_onnx.placement import MONOTONE, MOVING, is_embedding
from torch2trt_onnx.planning import ADDING
from torch2trt_onnx.precision import FLOATS
from torch2trt_onnx.typecheck import onnx_type


def planned(node: gs.Node) -> str:
    """The precision that a node is planned in; "" where it computes with no float."""
    return str(node.metadata.get(f"{PREFIX}precision", ""))


def follows(node: gs.Node) -> bool:
    """Whether a node only hands values on, and no rule says in which precision."""
    if node.metadata.get(f"{PREFIX}origin") == "rule":
        return False
    if node.op == "Cast":
        return onnx_type(node.inputs[0]) in FLOATS
    adds = node.attrs.get("reduction", "none") in ADDING
    return node.op in MOVING | MONOTONE and not is_embedding(node) and not adds


class Followers:
    """The nodes of a planned graph that hand fp32 values on, and are planned to do so in a reduced precision.

    Args:
        graph: as `planning.decide` leaves it.
    """

    def __init__(self, graph: Graph) -> None:
        self._nodes = list(graph.nodes())
        self._outputs = {id(t) for inner in graph.graphs() for t in inner.outputs}
        departing = [node for node in self._nodes if departs(node)]
        self._rounds = {id(node): rounds(node, graph.opset) for node in departing}
        self._kinds = dict.fromkeys(map(planned, departing))
        self._followers = {id(node) for node in departing if follows(node)}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._followers)

    def between(self, reduced: Set[str]) -> list[str]:
        """The names of those that round what was not rounded, for a reader that does not: they change numbers.

        The others do not. What their makers have rounded stays as it is; and where all readers round, it makes no difference when, because
        moving and choosing numbers can change places with rounding.

        Args:
            reduced: the names of the other nodes that run in a reduced precision.
        """
        found: list[str] = []
        for kind in self._kinds:
            alike = [node for node in self._nodes if planned(node) == kind]
            following = {id(node) for node in alike if id(node) in self._followers}
            computing = {id(node) for node in alike if node.name in reduced and id(node) in self._rounds} - following
            rounded, seen = self._rounded(computing, following), self._seen(computing, following)
            names = (n.name for n in alike if id(n) in following and _is_new(n, rounded) and _is_in(n.outputs, seen))
            found += names
        return found

    def _rounded(self, computing: Set[int], following: Set[int]) -> set[int]:
        """The tensors that their makers round, or hand on rounded."""
        rounded: set[int] = set()
        for node in self._nodes:
            if id(node) in computing:
                rounded.update(id(node.outputs[index]) for index in self._rounds[id(node)][1])
            elif id(node) in following and not _is_new(node, rounded):
                rounded.update(map(id, node.outputs))
        return rounded

    def _seen(self, computing: Set[int], following: Set[int]) -> set[int]:
        """The tensors that something reads and does not round, at once or from what hands them on; and what leaves a graph."""
        seen = set(self._outputs)
        for node in reversed(self._nodes):
            if id(node) in following:
                seen.update(id(t) for t in node.inputs if _is_in(node.outputs, seen))
            elif id(node) in computing:
                own = self._rounds[id(node)][0]
                seen.update(id(t) for index, t in enumerate(node.inputs) if index not in own)
            elif node.op not in ("Shape", "Size"):
                seen.update(map(id, node.inputs))
        return seen


def _is_new(node: gs.Node, rounded: Set[int]) -> bool:
    """Whether a node that hands values on would be the first to round some."""
    return any(onnx_type(t) == FP32 and id(t) not in rounded for t in node.inputs)


def _is_in(tensors: Sequence[gs.Tensor], found: Set[int]) -> bool:
    return any(id(t) in found for t in tensors)
