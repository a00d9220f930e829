"""Why two stages of one conversion differ: which pass did each thing, and what it says of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from torch2trt_onnx import passes, stages
from torch2trt_onnx.difference import Difference, Line, compare
from torch2trt_onnx.errors import SourceError
from torch2trt_onnx.passes.base import mentioned
from torch2trt_onnx.stages import Stage
from torch2trt_onnx.states import State, attributes, planned
from torch2trt_onnx.weights import graphs

DECIDES = "Decide what each node runs in."


@dataclass(frozen=True)
class History:
    """The steps between two stages of one conversion.

    Args:
        folder: of the stages.
        steps: those behind the earlier one, up to the later one.
        first: the file of the earlier one.
        is_backwards: whether it is the second of the two.
    """

    folder: Path
    steps: tuple[Stage, ...]
    first: str
    is_backwards: bool

    @classmethod
    def between(cls, before: Path, after: Path) -> History | None:
        """The steps between two files, in either order; None where they are not stages of one conversion.

        The graph of a saved folder is the last of its stages.

        Raises:
            SourceError: their index is damaged.
        """
        folders = [
            path.parent / stages.FOLDER if path.name == stages.MODEL else path.parent for path in (before, after)
        ]
        folder = folders[0].resolve()
        if folder != folders[1].resolve() or not (folder / stages.INDEX).is_file():
            return None
        known = stages.read(folder)
        files = [stage.file for stage in known]
        names = [files[-1] if path.name == stages.MODEL else path.name for path in (before, after)]
        if not set(names) <= set(files):
            return None
        places = [files.index(name) for name in names]
        low, high = sorted(places)
        return cls(folder, tuple(known[low + 1 : high + 1]), files[low], places != [low, high])


def difference(before: Path, after: Path) -> Difference:
    """What differs between two files, each line with the pass that did it where both are of one conversion.

    Args:
        before, after: see `stages.find`.

    Raises:
        SourceError: one of them is not there, is no ONNX model, or its weights are missing or cut.
    """
    paths = stages.find(before), stages.find(after)
    states = State.read(paths[0]), State.read(paths[1])
    found, history = compare(*states), History.between(*paths)
    return found if history is None else explained(found, *states, history)


def explained(found: Difference, before: State, after: State, history: History) -> Difference:
    """The same difference, each line with the pass that did it, and its reason.

    Raises:
        SourceError: a stage in between cannot be read.
    """
    doers = _doers(found, history)
    stories = {id(step): _Story(step) for step in history.steps}
    earlier, later = (after, before) if history.is_backwards else (before, after)
    lines = []
    for line, step in zip(found.lines, doers, strict=True):
        why = stories[id(step)].why(line, earlier, later) if step is not None else ""
        lines.append(replace(line, step=step.name if step is not None else "", why=why))
    return replace(found, lines=tuple(lines))


def _doers(found: Difference, history: History) -> list[Stage | None]:
    """For each line, the last step that changed what it tells of: looked for from behind, until none is left to look for."""
    files = [history.first, *(step.file for step in history.steps)]
    doers: list[Stage | None] = [None] * len(found.lines)
    left = list(enumerate(found.lines))
    later = _Glimpse(history.folder / files[-1]).facts(left)
    for step, file in zip(reversed(history.steps), reversed(files[:-1]), strict=True):
        if not left or step.file == file:
            continue
        earlier = _Glimpse(history.folder / file).facts(left)
        for at, fact in earlier.items():
            if fact != later[at]:
                doers[at] = step
        left, later = [(at, line) for at, line in left if doers[at] is None], earlier
    return doers


class _Glimpse:
    """A stage between two others, of which no more is read than the lines tell of: there may be many, of many nodes."""

    def __init__(self, path: Path) -> None:
        try:
            model = onnx.load_model(path, load_external_data=False)
        except Exception as error:  # protobuf's DecodeError, and what the operating system says
            raise SourceError("a stage in between cannot be read", where=str(path), why=str(error).strip()) from error
        every = list(graphs(model.graph))
        self._nodes = {node.name: node for graph in every for node in graph.node}
        self._weights = {weight.name: weight for graph in every for weight in graph.initializer}
        self._kinds = {v.name: v.type.tensor_type.elem_type for g in every for v in (*g.value_info, *g.output)}
        sides = (("input", model.graph.input), ("output", model.graph.output))
        self._bindings = {f"{side} {value.name}": value for side, values in sides for value in values}

    def facts(self, lines: Iterable[tuple[int, Line]]) -> dict[int, object]:
        """For each numbered line, what the stage says of what it tells of; equal where that is."""
        return {at: self._fact(line.kind, line.name) for at, line in lines}

    def _fact(self, kind: str, name: str) -> object:
        noun, verb = kind.split()
        if noun in ("weights", "bindings"):
            message = (self._weights if noun == "weights" else self._bindings).get(name)
            return message.SerializeToString(deterministic=True) if message is not None else None
        node = self._nodes.get(name)
        if node is None or verb in ("added", "removed", "renamed"):
            return node.op_type if node is not None else None
        if noun == "types":
            return [self._kinds.get(tensor) for tensor in node.output]
        if noun == "plans":
            return planned(node)
        return list(node.input), list(node.output), dict(attributes(node))


class _Story:
    """What one step says of nodes and tensors."""

    def __init__(self, step: Stage) -> None:
        self._says: dict[str, str] = {}
        for node, action, why in step.changes:
            for name in mentioned(node, action):
                self._says.setdefault(name, f"{action}: {why}")
        self._says |= {node: f"{action}: {why}" for node, action, why in step.changes}
        made_by = getattr(passes, step.name, None)
        self._does = str(made_by.__doc__).partition("\n")[0] if made_by is not None else DECIDES

    def why(self, line: Line, earlier: State, later: State) -> str:
        """What it says of the thing itself; else what a node that it put there says; else of the tensors and nodes around; else what
        it does.
        """
        if line.name in self._says:
            return self._says[line.name]
        node = later.nodes.get(line.name)
        if node is not None and node.why and line.name not in earlier.nodes:
            return node.why
        near = (name for name in _around(line, (later, earlier)) if name in self._says)
        return next((self._says[name] for name in near), self._does)


def _around(line: Line, states: tuple[State, State]) -> Iterator[str]:
    """The tensors of a node and the nodes beside it; what a weight was called; the nodes that read it or make a binding."""
    yield line.before.rpartition(" ")[2]
    for state in states:
        node = state.nodes.get(line.name)
        tensors = (*node.inputs, *node.outputs) if node is not None else (line.name.rpartition(" ")[2],)
        yield from tensors
        for tensor in tensors:
            yield from state.beside.get(tensor, ())
