"""The states of the graph on its way, as ONNX files that other tools open: one for each pass that changed something.

All refer to one file of weights beside them, so that each weight is there once. An index tells which pass made which file, and what it did.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from torch2trt_onnx.errors import ConversionError, SourceError
from torch2trt_onnx.files import replace_atomically
from torch2trt_onnx.graph import PREFIX, Graph
from torch2trt_onnx.pipeline import PassRecord
from torch2trt_onnx.precision import label
from torch2trt_onnx.schema import wrong
from torch2trt_onnx.typecheck import compute_type
from torch2trt_onnx.weights import Packing, WeightStore

FOLDER, WEIGHTS, INDEX = "stages", "stages.weights", "stages.json"
"""In a saved folder, the folder of its stages; and in that, their weights, and what tells of them."""

EXPORT, PLAN = "export", "plan"
"""The stages that are no passes: the graph as it was exported, and with the decision written into it. The last one is the final graph."""

MODEL = "model.onnx"
"""In a saved folder, the graph that the stages end with."""

FORMAT = 1
"""The version of the index. A change that an older reader would take wrongly needs a new one."""


@dataclass(frozen=True)
class Stage:
    """What one step did to the graph.

    Args:
        name: of the pass, or `EXPORT` or `PLAN`.
        file: holds the graph after it; where it changed nothing, that of an earlier one.
        nodes: how many there are then, those of bodies too.
        seconds: that it took.
        changes: (node, action, why) of each edit.
    """

    name: str
    file: str
    nodes: int
    seconds: float
    changes: tuple[tuple[str, str, str], ...] = ()


class Recorder:
    """Writes down the states of one graph as it is converted.

    Args:
        folder: for the files, which is made with the first of them; None: nothing is written, and no call costs anything.
    """

    def __init__(self, folder: Path | None) -> None:
        self.stages: list[Stage] = []
        self._folder, self._packing = folder, Packing(WEIGHTS)
        self._weights: WeightStore | None = None

    def begin(self, graph: Graph) -> Graph:
        """The graph, as it was exported."""
        if self._folder is not None:
            self._folder.mkdir()
            self._weights = graph.weights
            self._keep(graph, EXPORT, 0.0, ())
        return graph

    def passed(self, graph: Graph, record: PassRecord) -> None:
        """A pass, right after it."""
        if self._folder is not None:
            changes = tuple((change.node, change.action, change.why) for change in record.changes)
            self._keep(graph, record.name, record.seconds, changes)

    def planned(self, graph: Graph, seconds: float) -> None:
        """The decision on the plan, once it stands in the graph."""
        if self._folder is not None:
            self._keep(graph, PLAN, seconds, tuple(_decided(graph)))

    def told(self) -> list[dict[str, Any]]:
        """What a report says: a row a file, its path as in a saved folder."""
        files: dict[str, dict[str, Any]] = {}
        for stage in self.stages:
            row = {**vars(stage), "file": f"{FOLDER}/{stage.file}", "changes": len(stage.changes)}
            files.setdefault(stage.file, row)
        return list(files.values())

    def write(self, into: Path) -> None:
        """Write all files to a folder, which is made where it is missing.

        Raises:
            OSError: of the file system.
        """
        if self._folder is None or self._weights is None:
            return
        into.mkdir(parents=True, exist_ok=True)
        for name in {stage.file for stage in self.stages}:
            shutil.copyfile(self._folder / name, into / name)
        self._packing.write(self._weights, into)
        rows = [asdict(stage) for stage in self.stages]
        (into / INDEX).write_text(json.dumps({"format": FORMAT, "stages": rows}, indent=1))

    def files(self) -> set[str]:
        """The names of what `write` writes."""
        return {INDEX, WEIGHTS, *(stage.file for stage in self.stages)} if self.stages else set()

    def _keep(self, graph: Graph, name: str, seconds: float, changes: tuple[tuple[str, str, str], ...]) -> None:
        assert self._folder is not None
        if self.stages and not changes and name != PLAN:  # which says more than its changes do
            file, nodes = self.stages[-1].file, self.stages[-1].nodes
        else:
            file, nodes = f"{len(self.stages):02}-{name}.onnx", sum(1 for _ in graph.nodes())
            model = graph.to_proto()
            self._packing.add(model)
            (self._folder / file).write_bytes(model.SerializeToString())
        self.stages.append(Stage(name, file, nodes, seconds, changes))


@contextmanager
def recording(folder: Path, keep: bool | str | os.PathLike[str] | None) -> Iterator[Recorder]:
    """A recorder for one conversion.

    Args:
        folder: of the conversion.
        keep: whether anything is recorded; or a folder, to which it is written in the end, and where the conversion fails as far as it
            came, which is when it is wanted most.

    Raises:
        OSError: of the file system.
    """
    recorder = Recorder(folder / FOLDER if keep else None)
    to = Path(keep) if isinstance(keep, str | os.PathLike) and keep else None
    try:
        yield recorder
    except ConversionError:
        if to is not None:
            with contextlib.suppress(OSError):  # the other error is the one to hear of
                _place(recorder, to)
        raise
    if to is not None:
        _place(recorder, to)


def read(folder: Path) -> list[Stage]:
    """The index of a folder of stages, in order.

    Raises:
        SourceError: there is none, or it is damaged.
    """
    path, fix = folder / INDEX, "convert again, with keep_stages or --keep-stages"
    try:
        data = json.loads(path.read_bytes())
        if problem := wrong(data, _SCHEMA, "the index") or _strange(data["stages"]):
            raise ValueError(problem)
    except FileNotFoundError:
        raise SourceError("the folder holds no stages of a conversion", where=str(path), fix=fix) from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SourceError("the index of the stages cannot be read", where=str(path), why=str(error), fix=fix) from None
    return [
        Stage(**{**{key: row[key] for key in _ROW}, "changes": tuple(map(tuple, row["changes"]))})
        for row in data["stages"]
    ]


def find(path: Path) -> Path:
    """The file that a path means: itself; of a saved folder its graph; or, where there is none, `stages/03` or `stages/Retype` the
    stage of that number or name, and of several the last that changed something.

    Raises:
        SourceError: a folder without a graph, or a stage that is not there.
    """
    if path.is_dir():
        if not (path / MODEL).is_file():
            hint = f"name a stage of it: {path / '00'}" if (path / INDEX).is_file() else "name an ONNX file"
            raise SourceError(f"the folder holds no {MODEL}", where=str(path), fix=hint)
        return path / MODEL
    if path.exists() or not (path.parent / INDEX).is_file():
        return path
    index = read(path.parent)
    files = {word: stage.file for at, stage in enumerate(index) for word in (str(at), f"{at:02}")}
    named = {stage.name: stage.file for stage in index} | {stage.name: stage.file for stage in index if stage.changes}
    if path.name not in files | named:
        fix = f"use its number, or one of {', '.join(named)}"
        raise SourceError(f"there is no stage {path.name!r}", where=str(path.parent), fix=fix)
    return path.parent / (files | named)[path.name]


def names(folder: Path) -> set[str]:
    """The files in a folder of stages that are of them; none where it has no index that can be read."""
    try:
        return {INDEX, WEIGHTS, *(stage.file for stage in read(folder))}
    except SourceError:
        return set()


def clear(folder: Path, earlier: set[str], now: set[str]) -> None:
    """Remove the stages of an earlier conversion, and the folder where nothing else is in it.

    Args:
        folder: of the stages.
        earlier: what were their `names`.
        now: the names of those that have taken their place.
    """
    for name in earlier - now:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _place(recorder: Recorder, to: Path) -> None:
    """Write stages to a folder of the user's, each file whole or not at all."""
    if not recorder.stages:
        return
    to.mkdir(parents=True, exist_ok=True)
    earlier = names(to)
    with replace_atomically(to) as fresh:
        recorder.write(fresh)
    clear(to, earlier, recorder.files())


def _decided(graph: Graph) -> Iterator[tuple[str, str, str]]:
    """What the plan says of each node that is not to run in its source's type, or that it had reason to keep there."""
    for node in graph.nodes():
        planned = node.metadata.get(f"{PREFIX}precision", "")
        why = node.metadata.get(f"{PREFIX}reason", "")
        if planned and planned != label(compute_type(node)):
            yield node.name, f"planned {planned}, from {label(compute_type(node))}", why
        elif planned and node.metadata.get(f"{PREFIX}kept_by"):
            yield node.name, f"kept in {planned}", why


def _strange(rows: list[dict[str, Any]]) -> str:
    """What is wrong with the stages of an index beside their form, in words: a file that is elsewhere, changes that are none."""
    if not rows:
        return "it names no stage"
    for row in rows:
        if Path(row["file"]).name != row["file"]:
            return f"it names the file {row['file']!r}"
        # There may be many thousands, which `schema.wrong` would take long for.
        if not all(isinstance(c, list) and len(c) == 3 and isinstance(c[0] + c[1] + c[2], str) for c in row["changes"]):
            return f"the changes of {row['name']!r} are not such"
    return ""


_ROW = {"name": str, "file": str, "nodes": int, "seconds": Real, "changes": list}
_SCHEMA = {"format": int, "stages": [_ROW]}
"""The form of the index."""
