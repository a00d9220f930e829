"""The plan in the graph's types."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from torch2trt_onnx.graph import PREFIX, Graph, producer, replace_uses, set_input, ties
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.precision import FLOATS, ElementType, is_lossless, label
from torch2trt_onnx.typecheck import MADE_TYPE, NO_PRECISION, Retyping, compute_type, onnx_type, retyping

CARRIED_KEY = f"{PREFIX}carried"
"""Metadata of If, Loop and Scan: the ONNX type that each tie is to have, with commas."""


class Retype(Pass):
    """Make each node run in the precision that its metadata plans, with Casts where two meet and nowhere else.

    Graph inputs and outputs keep their types. Initializers get Casts like other tensors; `FoldWeightCasts` stores them anew, and
    counts what they lose. A Cast of the author's to a precision that the plan does not give it leads to the planned one.

    Given:  y: float = MatMul(x: float, w: float), planned fp16
    Result: y: float = Cast<to=FLOAT>(MatMul(Cast<to=FLOAT16>(x), Cast<to=FLOAT16>(w)))
    """

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        owners = {id(t): inner for inner in graph.graphs() for t in inner.inputs}
        owners |= {id(t): inner for inner in graph.graphs() for node in inner.nodes for t in node.outputs}
        wants: dict[tuple[int, int], list[gs.Node]] = defaultdict(list)  # (tensor, type) -> readers
        tensors: dict[int, gs.Tensor] = {}
        results: list[tuple[gs.Graph, int, int]] = []  # body, position, type
        made: list[tuple[gs.Tensor, int]] = []
        mixed: list[tuple[gs.Node, int, int]] = []
        for node in graph.nodes():
            yield from self._note(node)
            types = _types(graph, node)
            made += zip(node.outputs, types.outputs, strict=True)
            for tie, kind in zip(ties(node), _carried(node), strict=True):
                made += ((t, kind) for t in tie.makes)
                results += ((body, index, kind) for body, index in tie.results)
            needs: dict[int, set[int]] = defaultdict(set)
            for tensor, kind in zip(node.inputs, types.inputs, strict=True):
                tensors[id(tensor)] = tensor
                if kind in FLOATS:
                    needs[id(tensor)].add(kind)
            for index, (tensor, kind) in enumerate(zip(node.inputs, types.inputs, strict=True)):
                if len(needs[id(tensor)]) > 1:
                    mixed.append((node, index, kind))
                elif kind in FLOATS:
                    wants[id(tensor), kind].append(node)
        behind = self._retype_results(graph, made)
        for (key, kind), readers in wants.items():
            tensor = tensors[key]
            if onnx_type(tensor) not in FLOATS or onnx_type(tensor) == kind:
                continue
            source = behind.get(key, tensor)
            if onnx_type(source) != kind:
                source = _cast(graph, owners.get(key, graph.ir), source, kind)
            replace_uses(tensor, source, {id(node) for node in readers})
        for node, index, kind in mixed:
            tensor = node.inputs[index]
            if onnx_type(tensor) in FLOATS and onnx_type(tensor) != kind:
                set_input(node, index, _cast(graph, owners.get(id(tensor), graph.ir), tensor, kind))
        for body, index, kind in results:
            tensor = body.outputs[index]
            if onnx_type(tensor) in FLOATS and onnx_type(tensor) != kind:
                body.outputs[index] = _cast(graph, body, tensor, kind)

    @staticmethod
    def _note(node: gs.Node) -> Iterator[Change]:
        """Say what changes for a node; a Cast's own attribute changes here."""
        planned = node.metadata.get(f"{PREFIX}precision", "")
        given = compute_type(node)
        if not planned or not given or label(given) == planned:
            return
        to = ElementType.of(planned).onnx
        why, origin = node.metadata.get(f"{PREFIX}reason", ""), node.metadata.get(f"{PREFIX}origin", "")
        verb = "widened" if is_lossless(given, to) else "narrowed"
        if node.op == "Cast" and onnx_type(node.outputs[0]) in FLOATS:
            source = node.metadata.get(f"{PREFIX}source", "")
            place = f", written at {source}" if source else ""
            lost = not is_lossless(onnx_type(node.inputs[0]), given) and is_lossless(given, to)
            action = (
                f"leads to {planned}: its rounding to {label(given)} is gone"
                if lost
                else f"leads to {planned}, not {label(given)}"
            )
            told = origin != "border" and (lost or not isinstance(node.inputs[0], gs.Constant))
            yield Change(node.name, action, why + place, warn=told)
        elif node.op != "Cast":
            yield Change(node.name, f"{verb} from {label(given)} to {planned}", why, warn=origin == "widened")

    @staticmethod
    def _retype_results(graph: Graph, made: list[tuple[gs.Tensor, int]]) -> dict[int, gs.Tensor]:
        """Give what nodes make its new type; graph outputs keep theirs, behind a Cast: `id` -> what that Cast reads."""
        behind: dict[int, gs.Tensor] = {}
        outputs = {id(t) for t in graph.ir.outputs}
        for tensor, kind in made:
            given = onnx_type(tensor)
            if kind not in FLOATS or given == kind or given not in FLOATS:
                continue
            if id(tensor) not in outputs:
                tensor.dtype = kind
                continue
            inner = graph.split_output(tensor, kind)
            graph.cast_into(graph.ir, inner, tensor, given, tensor.name)
            _explain(producer(tensor), given)
            behind[id(tensor)] = inner
        return behind


def _types(graph: Graph, node: gs.Node) -> Retyping:
    """What the operands of a node are to be; 0 where any type will do."""
    given, planned = compute_type(node), node.metadata.get(f"{PREFIX}precision", "")
    blank = Retyping((0,) * len(node.inputs), tuple(map(onnx_type, node.outputs)))
    if node.op in ("Shape", "Size"):
        return blank
    if node.op in NO_PRECISION:
        kinds: list[int] = [0] * len(node.inputs)
        for tie, kind in zip(ties(node), _carried(node), strict=True):
            for index in tie.inputs:
                kinds[index] = kind
        return Retyping(tuple(kinds), (0,) * len(node.outputs))
    to = ElementType.of(planned).onnx if planned else given
    if node.op == "Cast":
        if onnx_type(node.outputs[0]) in FLOATS:
            node.attrs["to"] = to
            return Retyping((0,), (to,))
        return blank
    types = retyping(node, to, graph.opset)
    if isinstance(types, str):
        raise TypeError(f"{node.op} {node.name!r} cannot be {planned}: {types}")
    if to != given:
        for key in MADE_TYPE:
            if node.attrs.get(key) == given:
                node.attrs[key] = to
        if node.op == "ConstantOfShape":
            value = node.attrs.get("value")
            held = np.zeros(1, np.float32) if value is None else graph.array(value)
            node.attrs["value"] = graph.constant(f"{node.name}/value", held.astype(ElementType.of(to).numpy), to)
    return types


def _carried(node: gs.Node) -> list[int]:
    """The type that each tie of a control-flow node is to have."""
    planned = node.metadata.get(CARRIED_KEY)
    if planned:
        return [int(word) for word in planned.split(",")]
    return [next((kind for t in tie.makes if (kind := onnx_type(t))), 0) for tie in ties(node)]


def _cast(graph: Graph, inner: gs.Graph, tensor: gs.Tensor, to: int) -> gs.Tensor:
    """A tensor in another type, by a new Cast beside what makes it."""
    result = graph.insert_cast(inner, tensor, to, tensor.name)
    _explain(producer(result), to)
    return result


def _explain(cast: gs.Node | None, to: int) -> None:
    assert cast is not None
    said = {"precision": label(to), "origin": "border", "reason": "two precisions of the plan meet"}
    cast.metadata = {f"{PREFIX}{key}": value for key, value in said.items()}
