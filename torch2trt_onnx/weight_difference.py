"""What differs between the weights of two graphs. Their numbers are read only where they are not in the same place of the same file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from onnx import TensorProto

from torch2trt_onnx.errors import SourceError
from torch2trt_onnx.precision import label
from torch2trt_onnx.states import NodeState, State
from torch2trt_onnx.weights import WeightStore

Retyped = tuple[TensorProto, TensorProto]


def retyped(before: State, after: State, pairs: Iterable[tuple[NodeState, NodeState]]) -> list[Retyped]:
    """The weights that are there in another type: under their names, or where the same node reads them, by a Cast or not.

    Args:
        before, after: the graphs.
        pairs: the nodes that are in both.
    """
    found = {
        name: (before.weights[name], new)
        for name, new in after.weights.items()
        if name in before.weights and before.weights[name].data_type != new.data_type
    }
    uncast = [_uncast(state) for state in (before, after)]
    for old_node, new_node in pairs:
        for reads in zip(old_node.inputs, new_node.inputs, strict=False):
            name, other = (casts.get(read, read) for casts, read in zip(uncast, reads, strict=True))
            old, new = before.weights.get(name), after.weights.get(other)
            if old is None or new is None or name == other or other in before.weights:
                continue
            if old.data_type != new.data_type and old.dims == new.dims:
                found.setdefault(other, (old, new))
    return list(found.values())


def lines(before: State, after: State, changed: Iterable[Retyped]) -> Iterator[tuple[str, str, str, str, str]]:
    """`(kind, name, "", before, after)` of each weight that is not the same.

    Args:
        before, after: the graphs.
        changed: those of another type; see `retyped`.

    Raises:
        SourceError: the numbers of one cannot be read.
    """
    gone, come = set(), set()
    for old, new in changed:
        gone.add(old.name)
        come.add(new.name)
        renamed = f" {old.name}" if old.name != new.name else ""
        yield "weights retyped", new.name, "", label(old.data_type) + renamed, label(new.data_type)
    for name, new in after.weights.items():
        earlier = before.weights.get(name)
        if name in come:
            continue
        if earlier is None:
            yield "weights added", name, "", "", _words(new)
        elif earlier.dims != new.dims:
            yield "weights changed", name, "", _words(earlier), _words(new)
        elif not _equal((before.path, earlier), (after.path, new)):
            yield "weights changed", name, "", _words(earlier), "other numbers"
    for name, old in before.weights.items():
        if name not in after.weights and name not in gone:
            yield "weights removed", name, "", _words(old), ""


def _uncast(state: State) -> dict[str, str]:
    """What a Cast makes of a weight -> the weight."""
    return {n.outputs[0]: n.inputs[0] for n in state.nodes.values() if n.op == "Cast" and n.inputs[0] in state.weights}


def _words(tensor: TensorProto) -> str:
    return f"{label(tensor.data_type)} {'x'.join(map(str, tensor.dims)) or 'scalar'}"


def _equal(*sides: tuple[Path, TensorProto]) -> bool:
    """Whether two weights of one type and shape have the same bytes."""
    (old_path, old), (new_path, new) = sides
    if old.data_location == new.data_location == TensorProto.EXTERNAL and old_path.parent == new_path.parent:
        places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in (old, new)]
        if places[0] == places[1]:
            return True
    a, b = (_numbers(*side) for side in sides)
    return a.tobytes() == b.tobytes() if a.dtype != object else bool(np.array_equal(a, b))


def _numbers(path: Path, tensor: TensorProto) -> np.ndarray:
    try:
        return WeightStore.opened(path.parent).array(tensor)
    except (OSError, ValueError, TypeError) as error:
        raise SourceError(
            "the numbers of a weight cannot be read", where=f"{path}, tensor {tensor.name!r}", why=str(error)
        ) from error
