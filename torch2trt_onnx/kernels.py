"""The layers of an engine as a graph: which nodes they name, and what they hand to each other. For the proof.

Layers that name no node of the graph (moves and conversions that TensorRT inserts, operators whose names it loses) are kept as
clusters, within which such layers pass tensors on, so that what leads from one layer to another can be looked up at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch2trt_onnx.backends.layers import LABELS, EngineLayer, EngineTensor
from torch2trt_onnx.flow import components
from torch2trt_onnx.precision import Precision

PRECISE = frozenset(p.value for p in Precision)
"""Our words for the types in which something can be computed that has a precision."""

FLOATS = frozenset(p.value for p in Precision if not p.is_quantized)
"""Those of them that need no Q/DQ."""

TOLD = frozenset(LABELS.values())
"""Our words for types; what an engine says beside them says that it does not tell the type."""


def type_of(tensor: EngineTensor) -> str:
    """Our word for the type of an engine tensor; TensorRT's own where it tells none that we know."""
    return LABELS.get(tensor.dtype, tensor.dtype)


@dataclass(frozen=True)
class Place:
    """Some layers, by number, and the outside of the engine at some of its inputs and outputs."""

    layers: frozenset[int] = frozenset()
    inputs: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Group:
    """What a place reads and writes, seen from the engine: the outside writes inputs and reads outputs.

    Args:
        place: the place.
        reads, writes: tensor -> our word for its type.
        constants: (type, number of elements) of each.
        nodes: what its layers name.
        before, after: cluster of unnamed layers -> the types of what they write for this group, or read from it.
    """

    place: Place
    reads: dict[str, str]
    writes: dict[str, str]
    constants: frozenset[tuple[str, int]]
    nodes: frozenset[str]
    before: dict[int, set[str]]
    after: dict[int, set[str]]

    @property
    def layers(self) -> frozenset[int]:
        """The numbers of its layers."""
        return self.place.layers

    @functools.cached_property
    def borders(self) -> frozenset[str]:
        """The types of what it reads and writes."""
        return frozenset((*self.reads.values(), *self.writes.values()))

    @property
    def types(self) -> frozenset[str]:
        """Those of its borders in which something can be computed."""
        return self.borders & PRECISE


@dataclass(frozen=True)
class Link:
    """How tensors get from one group of layers to another.

    Args:
        shared: layers of both, inside which a tensor may stay unseen.
        leaving: the types in which the first one writes what goes to the second.
        entering: the types in which the second one reads it.
        between: clusters of unnamed layers on the way.
        direct: whether the second reads what the first writes.
    """

    shared: frozenset[int]
    leaving: frozenset[str]
    entering: frozenset[str]
    between: tuple[int, ...]
    direct: bool


class Engine:
    """The layers, found by the nodes and tensors that they name.

    Attributes:
        layers: of the engine.
        holders: node -> the numbers of the layers that name it.
        writers, readers: engine tensor -> the numbers of the layers.
        cluster: number of a layer that names no node -> number of its cluster, within which unnamed layers pass tensors on.
        clusters: their layers.
    """

    def __init__(self, layers: Sequence[EngineLayer], names: set[str]) -> None:
        self.layers = layers
        self.holders: dict[str, list[int]] = {}
        self.writers: dict[str, list[int]] = {}
        self.readers: dict[str, list[int]] = {}
        self._types: dict[str, str] = {}
        for number, layer in enumerate(layers):
            for node in layer.nodes:
                if node in names:
                    self.holders.setdefault(node, []).append(number)
            for tensor in layer.inputs:
                self.readers.setdefault(tensor.name, []).append(number)
                self._types[tensor.name] = type_of(tensor)
            for tensor in layer.outputs:
                self.writers.setdefault(tensor.name, []).append(number)
                self._types[tensor.name] = type_of(tensor)
        unnamed = [i for i, layer in enumerate(layers) if not any(node in names for node in layer.nodes)]
        self.clusters = self._clusters(unnamed)
        self.cluster = {layer: number for number, part in enumerate(self.clusters) for layer in part}
        self._groups: dict[Place, Group] = {}
        self._links: dict[tuple[int, int], Link] = {}

    def _clusters(self, unnamed: list[int]) -> list[list[int]]:
        place = {layer: i for i, layer in enumerate(unnamed)}
        links: list[list[int]] = [[] for _ in unnamed]
        for layer in unnamed:
            for tensor in self.layers[layer].outputs:
                # Counters and sizes tie together what has nothing else in common.
                if type_of(tensor) not in PRECISE and type_of(tensor) != "bool":
                    continue
                for reader in self.readers.get(tensor.name, ()):
                    if reader in place:
                        links[place[layer]].append(place[reader])
                        links[place[reader]].append(place[layer])
        return [[unnamed[i] for i in part] for part in components(links)]

    def group(self, layers: Iterable[int] = (), inputs: Iterable[str] = (), outputs: Iterable[str] = ()) -> Group:
        """What some layers, and the outside at some inputs and outputs, read and write."""
        place = Place(frozenset(layers), frozenset(inputs), frozenset(outputs))
        if place not in self._groups:
            held = [self.layers[i] for i in sorted(place.layers)]
            reads = {t.name: type_of(t) for layer in held for t in layer.inputs}
            writes = {t.name: type_of(t) for layer in held for t in layer.outputs}
            reads.update((name, self._types[name]) for name in place.outputs if name in self._types)
            writes.update((name, self._types[name]) for name in place.inputs if name in self._types)
            before = _by_cluster(reads, self.writers, self.cluster)
            after = _by_cluster(writes, self.readers, self.cluster)
            constants = frozenset((type_of(t), math.prod(t.dims)) for layer in held for t in layer.constants)
            nodes = frozenset(node for layer in held for node in layer.nodes)
            self._groups[place] = Group(place, reads, writes, constants, nodes, before, after)
        return self._groups[place]

    def join(self, groups: Iterable[Group]) -> Group:
        """Several groups as one."""
        places = {group.place for group in groups}
        return self.group(
            (i for place in places for i in place.layers),
            (name for place in places for name in place.inputs),
            (name for place in places for name in place.outputs),
        )

    def without(self, group: Group, layers: frozenset[int]) -> Group:
        """A group without some of its layers."""
        return self.group(group.layers - layers, group.place.inputs, group.place.outputs)

    def link(self, first: Group, second: Group) -> Link:
        """How tensors get from `first` to `second`."""
        key = id(first), id(second)
        if key not in self._links:
            self._links[key] = self._link(first, second)
        return self._links[key]

    def _link(self, first: Group, second: Group) -> Link:
        shared = first.layers & second.layers
        if shared:
            # What a node hands from one of its own layers to the next may be part of a result: a sum, a mean.
            first, second = self.without(first, shared), self.without(second, shared)
        few, many = sorted((first.writes, second.reads), key=len)
        direct = [name for name in few if name in many]
        near, far = sorted((first.after, second.before), key=len)
        between = tuple(number for number in near if number in far)
        leaving = {first.writes[name] for name in direct}.union(*(first.after[number] for number in between))
        entering = {second.reads[name] for name in direct}.union(*(second.before[number] for number in between))
        return Link(
            shared,
            frozenset(leaving & PRECISE),
            frozenset(entering & PRECISE),
            between,
            bool(direct),
        )


def _by_cluster(tensors: dict[str, str], ends: dict[str, list[int]], cluster: dict[int, int]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for name, kind in tensors.items():
        for layer in ends.get(name, ()):
            if layer in cluster:
                found.setdefault(cluster[layer], set()).add(kind)
    return found
