"""What a pass is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch2trt_onnx.graph import Graph


@dataclass(frozen=True)
class Change:
    """One edit of the graph.

    Args:
        node: the node that it concerns (or the tensor, where it is an input or an initializer).
        action: what was done, as a verb phrase.
        why: the reason.
        warn: whether the result differs from what the author wrote, so that the user must hear of it.
    """

    node: str
    action: str
    why: str
    warn: bool = False


QUOTED = re.compile(r"'([^']+)'")


def mentioned(node: str, action: str) -> set[str]:
    """What a change tells of: its node, and the nodes and tensors that its words quote ("reads what '/Cast' reads")."""
    return {node, *QUOTED.findall(action)}


class Pass(ABC):
    """An edit of the graph in place, which yields one `Change` an edit.

    `pipeline.run` does what every pass needs: it sorts and cleans up, recomputes the types, checks them, and says which
    pass failed. A pass may rely on the types of all tensors, on unique node names, and on topological order; a second run
    on its own result changes nothing.
    """

    leaves_well_typed: ClassVar[bool] = True
    """Whether the graph must be well-typed after it. Only repairs, which run on ill-typed graphs, say False."""

    keeps_types: ClassVar[bool] = False
    """Whether each tensor that it leaves has its right type and shape already: then they are not inferred once more."""

    @property
    def name(self) -> str:
        """The name in reports and errors."""
        return type(self).__name__

    @abstractmethod
    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
