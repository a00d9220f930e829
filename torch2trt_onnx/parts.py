"""A large graph as several that run one after another.

ONNX Runtime takes 0.3 s to load a chain of 7,000 nodes, 1.4 s for 28,000 and 8.5 s for 114,000 (`tools/bench/growth.py` shows what that
costs): in parts, the time is in proportion to the nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

LARGEST = 4096
"""Nodes of a part."""


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Args:
        model: on its own, without metadata; it puts out what it hands over, and outputs of the whole model.
        hands: what later parts take of it.
    """

    model: onnx.ModelProto
    hands: tuple[str, ...] = ()


def split(model: onnx.ModelProto, size: int) -> list[Part]:
    """Parts of a model, in the order in which they run. Bodies of control flow stay whole.

    The first part takes all inputs. A model of no more nodes than `size`, or that would hand over something whose type it does not tell,
    is the one part.

    Args:
        model: its nodes in topological order, and tensors of bodies with names of their own; large tensors are references.
        size: nodes of a part, the nodes of bodies not counted.
    """
    nodes = list(model.graph.node)
    if len(nodes) <= size:
        return [Part(model)]
    chunks = [nodes[start : start + size] for start in range(0, len(nodes), size)]
    reads = [list(dict.fromkeys(name for node in chunk for name in _reads(node))) for chunk in chunks]
    maker = {name: place for place, chunk in enumerate(chunks) for node in chunk for name in node.output if name}
    types = {v.name: v for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    inputs = [i.name for i in model.graph.input]
    early = set(inputs)
    taken = [[n for n in names if n in early or maker.get(n, at) < at] for at, names in enumerate(reads)]
    taken[0] = inputs  # those as well that no node reads: they are measured
    hands: list[dict[str, None]] = [{} for _ in chunks]
    for name in (name for names in taken for name in names if name in maker):
        if name not in types or not types[name].HasField("type"):
            return [Part(model)]
        hands[maker[name]][name] = None
    weights = {t.name: t for t in model.graph.initializer}
    parts = []
    for place, chunk in enumerate(chunks):
        made = [name for node in chunk for name in node.output if name in types]
        outputs = [o.name for o in model.graph.output if maker.get(o.name) == place and o.name not in hands[place]]
        part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
        part.graph.name = model.graph.name
        part.graph.node.extend(chunk)
        part.graph.input.extend(types[n] for n in taken[place] if n not in weights)
        part.graph.output.extend(types[n] for n in (*outputs, *hands[place]))
        part.graph.initializer.extend(weights[n] for n in reads[place] if n in weights)
        part.graph.value_info.extend(types[n] for n in made if n not in outputs and n not in hands[place])
        parts.append(Part(part, tuple(hands[place])))
    return parts


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads, and those that its bodies read, their own left in: tensors of bodies have names of their own."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from (output.name for output in attribute.g.output)
            for inner in attribute.g.node:
                yield from _reads(inner)
