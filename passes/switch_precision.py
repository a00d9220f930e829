"""Many plans in one graph: an input says which nodes round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from torch2trt_onnx.graph import PREFIX, Graph, new_node, ties
from torch2trt_onnx.passes.base import Change, Pass
from torch2trt_onnx.passes.retype import CARRIED_KEY
from torch2trt_onnx.precision import ElementType, label
from torch2trt_onnx.typecheck import Retyping, compute_type, onnx_type, retyping

FP32 = int(TensorProto.FLOAT)
SWITCHES = "switches"
"""The name of the new input, where nothing else has it: a bool a node."""


class SwitchPrecision(Pass):
    """Let each of some fp32 nodes round as if it ran in its planned precision, where an element of a new input is true.

    Not part of a conversion: it makes a copy in which each run of one session is another plan. All other fp32 nodes that are planned
    in a reduced precision stay in fp32, and so does what control flow hands over.

    An If and no Where: what is switched off costs no rounding, and ONNX Runtime would make the results for all weights first.

    Args:
        names: of the nodes, in the order of the switches.

    Given:  y = Exp(x: float), planned fp16
    Result: on = Gather(switches, 0); y = If(on){Cast<to=FLOAT>(Cast<to=FLOAT16>(e))}{e}, where e = Exp(d), and d is from x as y is from e
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def apply(self, graph: Graph) -> Iterator[Change]:
        """Edit the graph."""
        departing = {node.name: node for node in graph.nodes() if departs(node)}
        switched = [(place, departing[name]) for place, name in enumerate(self._names) if name in departing]
        if switched:
            yield from self._switch(graph, switched)
        for node in departing.values():
            node.metadata[f"{PREFIX}precision"] = label(FP32)
            yield Change(node.name, "computes in fp32", "its rounding is switched, or it only hands values on")
        for node in graph.nodes():
            yield from _hand_over_fp32(node)

    def _switch(self, graph: Graph, switched: list[tuple[int, gs.Node]]) -> Iterator[Change]:
        switches = gs.Variable(graph.fresh_name(SWITCHES), np.bool_, [len(self._names)])
        graph.ir.inputs.append(switches)
        owners = {id(t): inner for inner in graph.graphs() for t in inner.inputs}
        owners |= {id(t): inner for inner in graph.graphs() for node in inner.nodes for t in node.outputs}
        read: dict[int, gs.Tensor] = {}
        for place, node in switched:
            kind, switch = _planned(node), _element(graph, switches, place)
            inputs, outputs = rounds(node, graph.opset)
            rounded: dict[int, gs.Tensor] = {}  # a node may read a tensor twice
            for index in inputs:
                tensor = node.inputs[index]
                if id(tensor) not in rounded:
                    rounded[id(tensor)] = gs.Variable(graph.fresh_name(f"{tensor.name}_{label(kind)}"))
                    _round(graph, owners.get(id(tensor), graph.ir), switch, tensor, rounded[id(tensor)], kind)
                read[id(tensor)] = tensor
                list.__setitem__(node.inputs, index, rounded[id(tensor)])
                list.append(rounded[id(tensor)].outputs, node)
            for index in outputs:
                result = node.outputs[index]
                exact = gs.Variable(graph.fresh_name(f"{result.name}_exact"), FP32, result.shape)
                node.outputs[index] = exact
                _round(graph, owners[id(result)], switch, exact, result, kind)
            yield Change(node.name, f"rounds to {label(kind)} where switch {place} is on", "trials of many plans")
        for tensor in read.values():  # once a tensor: graphsurgeon's own lists are quadratic in its uses
            readers = {id(node): node for node in tensor.outputs}.values()
            uses = [node for node in readers for t in node.inputs if t is tensor]
            list.__setitem__(tensor.outputs, slice(None), uses)


def departs(node: gs.Node) -> bool:
    """Whether a node computes in fp32, and is planned in a reduced precision."""
    return compute_type(node) == FP32 and node.metadata.get(f"{PREFIX}precision", label(FP32)) != label(FP32)


def rounds(node: gs.Node, opset: int) -> tuple[list[int], list[int]]:
    """The positions of the inputs and of the outputs that are rounded where a node that departs runs as planned.

    What is looked up is rounded when it is found: there is less of it than of what it is looked up in.
    """
    kind = _planned(node)
    types = Retyping((0,), (kind,)) if node.op == "Cast" else retyping(node, kind, opset)
    assert isinstance(types, Retyping)  # the plan has asked
    inputs, outputs = (
        [index for index, (t, to) in enumerate(zip(tensors, kinds, strict=True)) if to == kind and onnx_type(t) == FP32]
        for tensors, kinds in ((node.inputs, types.inputs), (node.outputs, types.outputs))
    )
    return inputs if node.op != "Gather" else [], outputs


def _planned(node: gs.Node) -> int:
    return ElementType.of(node.metadata[f"{PREFIX}precision"]).onnx


def _element(graph: Graph, switches: gs.Variable, place: int) -> gs.Variable:
    name = graph.fresh_name(f"switch_{place}")
    found = gs.Variable(name, np.bool_, [])
    index = graph.constant(f"{name}_index", np.array(place), TensorProto.INT64)
    graph.ir.nodes.append(new_node("Gather", graph.fresh_name(f"{name}/Gather"), {}, [switches, index], [found]))
    return found


def _round(graph: Graph, inner: gs.Graph, switch: gs.Tensor, tensor: gs.Tensor, result: gs.Variable, kind: int) -> None:
    """Let `result` be a tensor, rounded to a type where a switch is on."""

    def node(op: str, given: gs.Tensor, made: gs.Tensor, **attrs: object) -> gs.Node:
        return new_node(op, graph.fresh_name(f"{made.name}/{op}"), attrs, [given], [made])

    result.dtype, result.shape = FP32, tensor.shape
    narrow, wide, exact = (
        gs.Variable(graph.fresh_name(f"{result.name}/{word}"), to, tensor.shape)
        for word, to in ((label(kind), kind), ("rounded", FP32), ("exact", FP32))
    )
    on = [node("Cast", tensor, narrow, to=kind), node("Cast", narrow, wide, to=FP32)]
    bodies = {
        "then_branch": gs.Graph(on, [], [wide], name=wide.name, opset=graph.opset),
        "else_branch": gs.Graph([node("Identity", tensor, exact)], [], [exact], name=exact.name, opset=graph.opset),
    }
    inner.nodes.append(node("If", switch, result, **bodies))


def _hand_over_fp32(node: gs.Node) -> Iterator[Change]:
    """Let a control-flow node hand over in fp32 what it does in the source."""
    planned = node.metadata.get(CARRIED_KEY)
    if planned is None:
        return
    given = [next((kind for t in tie.makes if (kind := onnx_type(t))), 0) for tie in ties(node)]
    words = ",".join(str(FP32 if g == FP32 else int(to)) for g, to in zip(given, planned.split(","), strict=True))
    if words != planned:
        node.metadata[CARRIED_KEY] = words
        yield Change(node.name, "hands over fp32", "what is handed over follows the nodes around it")
