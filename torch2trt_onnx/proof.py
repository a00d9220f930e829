"""The proof: in what precision the built engine runs each node of the final graph, and how that is known.

The engine is a list of layers (kernels) that read and write tensors; each layer names the nodes that it computes, most of the
time. So the tensors of a node are looked for where the layers of its neighbours meet its own: what the producer's layers write
and the node's layers read carries the node's input. Names of engine tensors are not relied on, except for those of inputs and
outputs: TensorRT-RTX names a tensor after another one that it was made from.

A node that no layer names is followed through its neighbours: what the layers before it write is what the layers after it read,
or what a layer without names between them reads and writes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import onnx

from torch2trt_onnx.backends import BuildResult
from torch2trt_onnx.backends.layers import LABELS, EngineLayer, EngineTensor
from torch2trt_onnx.flow import CONSTANT, CONTROL, Flow, Step, components
from torch2trt_onnx.plan import NodePlan, PrecisionPlan

HONOURED, FUSED, FOLDED, OVERRIDDEN, UNVERIFIABLE = "honoured", "fused", "folded", "overridden", "unverifiable"
WORDS = (HONOURED, FUSED, FOLDED, OVERRIDDEN, UNVERIFIABLE)

FLOATS = frozenset({"fp32", "fp16", "bf16"})
QUANTISED = frozenset({"int8", "int4", "float8_e4m3fn"})
PRECISE = FLOATS | QUANTISED
TOLD = frozenset(LABELS.values())

MOVES = frozenset(
    {
        "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "Expand", "Tile", "Pad",
        "Gather", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth", "Dropout",
    }
)  # fmt: skip
"""Operators that compute nothing: what they put out is what they were given, at another place."""

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
MULTIPLY = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
"""Operators that TensorRT runs in the quantised type where both inputs are quantised."""

KERNEL = re.compile(r"__myl_([A-Za-z]+)")
OPERATOR = re.compile(r"[A-Z][a-z]*")
"""TensorRT's generated kernels are named after what they compute, with four letters each: __myl_ReluCast_myl0_0."""

SHOWN = 2  # names of layers in a sentence
WIDTH = 70  # letters of a name in a sentence


@dataclass(frozen=True)
class Verdict:
    """What the engine proves of one node.

    Args:
        word: "honoured": an engine layer holds it, and its tensors have the planned types; "fused": inside a layer whose inner types
            cannot be read, and the borders are as planned; "folded": gone at build time; "overridden": held, in another precision;
            "unverifiable": no evidence either way.
        evidence: what was seen, or why nothing was, in words.
    """

    word: str
    evidence: str


def prove(model: onnx.ModelProto, plan: PrecisionPlan, built: BuildResult) -> dict[str, Verdict]:
    """A verdict for each node that has a precision, by its name.

    Args:
        model: the final graph; weights may be references.
        plan: its plan.
        built: the engine. Only its layers count; the types of the network are told where those leave a question open.
    """
    return _Proof(Flow(model), plan, _Engine(built.layers, {n.name for n in plan.nodes}), built.network).verdicts()


@dataclass(frozen=True)
class _Place:
    """Some layers, by number, and the outside of the engine at some of its inputs and outputs."""

    layers: frozenset[int] = frozenset()
    inputs: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class _Group:
    """What a place reads and writes, seen from the engine: the outside writes inputs and reads outputs.

    Args:
        place: the place.
        reads, writes: tensor -> our word for its type.
        before, after: cluster of unnamed layers -> the types of what they write for this group, or read from it.
    """

    place: _Place
    reads: dict[str, str]
    writes: dict[str, str]
    before: dict[int, set[str]]
    after: dict[int, set[str]]

    @property
    def layers(self) -> frozenset[int]:
        """The numbers of its layers."""
        return self.place.layers

    @property
    def types(self) -> set[str]:
        """The types at its borders in which something can be computed."""
        return {*self.reads.values(), *self.writes.values()} & PRECISE


def _by_cluster(tensors: dict[str, str], ends: dict[str, list[int]], cluster: dict[int, int]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for name, kind in tensors.items():
        for layer in ends.get(name, ()):
            if layer in cluster:
                found.setdefault(cluster[layer], set()).add(kind)
    return found


@dataclass(frozen=True)
class _Link:
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


class _Engine:
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
                self._types[tensor.name] = _type(tensor)
            for tensor in layer.outputs:
                self.writers.setdefault(tensor.name, []).append(number)
                self._types[tensor.name] = _type(tensor)
        unnamed = [i for i, layer in enumerate(layers) if not any(node in names for node in layer.nodes)]
        self.clusters = self._clusters(unnamed)
        self.cluster = {layer: number for number, part in enumerate(self.clusters) for layer in part}
        self._groups: dict[_Place, _Group] = {}
        self._links: dict[tuple[int, int], _Link] = {}

    def _clusters(self, unnamed: list[int]) -> list[list[int]]:
        place = {layer: i for i, layer in enumerate(unnamed)}
        links: list[list[int]] = [[] for _ in unnamed]
        for layer in unnamed:
            for tensor in self.layers[layer].outputs:
                # Counters and sizes tie together what has nothing else in common.
                if _type(tensor) not in PRECISE and _type(tensor) != "bool":
                    continue
                for reader in self.readers.get(tensor.name, ()):
                    if reader in place:
                        links[place[layer]].append(place[reader])
                        links[place[reader]].append(place[layer])
        return [[unnamed[i] for i in part] for part in components(links)]

    def group(self, layers: Iterable[int] = (), inputs: Iterable[str] = (), outputs: Iterable[str] = ()) -> _Group:
        """What some layers, and the outside at some inputs and outputs, read and write."""
        place = _Place(frozenset(layers), frozenset(inputs), frozenset(outputs))
        if place not in self._groups:
            held = [self.layers[i] for i in sorted(place.layers)]
            reads = {t.name: _type(t) for layer in held for t in layer.inputs}
            writes = {t.name: _type(t) for layer in held for t in layer.outputs}
            reads.update((name, self._types[name]) for name in place.outputs if name in self._types)
            writes.update((name, self._types[name]) for name in place.inputs if name in self._types)
            before = _by_cluster(reads, self.writers, self.cluster)
            after = _by_cluster(writes, self.readers, self.cluster)
            self._groups[place] = _Group(place, reads, writes, before, after)
        return self._groups[place]

    def join(self, groups: Iterable[_Group]) -> _Group:
        """Several groups as one."""
        places = {group.place for group in groups}
        return self.group(
            (i for place in places for i in place.layers),
            (name for place in places for name in place.inputs),
            (name for place in places for name in place.outputs),
        )

    def without(self, group: _Group, layers: frozenset[int]) -> _Group:
        """A group without some of its layers."""
        return self.group(group.layers - layers, group.place.inputs, group.place.outputs)

    def link(self, first: _Group, second: _Group) -> _Link:
        """How tensors get from `first` to `second`."""
        key = id(first), id(second)
        if key not in self._links:
            self._links[key] = self._link(first, second)
        return self._links[key]

    def _link(self, first: _Group, second: _Group) -> _Link:
        shared = first.layers & second.layers
        if shared:
            # What a node hands from one of its own layers to the next may be part of a result: a sum, a mean.
            first, second = self.without(first, shared), self.without(second, shared)
        few, many = sorted((first.writes, second.reads), key=len)
        direct = [kind for name, kind in few.items() if name in many]
        near, far = sorted((first.after, second.before), key=len)
        between = tuple(number for number in near if number in far)
        leaving = {kind for number in between for kind in first.after[number]}
        entering = {kind for number in between for kind in second.before[number]}
        return _Link(
            shared,
            frozenset({*direct, *leaving}) & PRECISE,
            frozenset({*direct, *entering}) & PRECISE,
            between,
            bool(direct),
        )


def _type(tensor: EngineTensor) -> str:
    """Our word for the type of an engine tensor; TensorRT's own where it tells none that we know."""
    return LABELS.get(tensor.dtype, tensor.dtype)


@dataclass
class _Region:
    """Nodes that no layer names and that pass tensors to each other.

    Args:
        steps: their numbers.
        sources, sinks: the layers and bindings around.
        types: the planned types of all their tensors.
        computes: whether one of them is more than a move.
        decides: whether their only reader is control flow.
    """

    steps: list[int]
    sources: _Group
    sinks: _Group
    types: frozenset[str]
    computes: bool
    decides: bool


@dataclass(frozen=True)
class _View:
    """What is seen of one tensor of a node at the border of the node's layers.

    Args:
        tensor: its name in the graph.
        way: "reads" or "writes".
        planned: the types that it may have there; several where a node between, that no layer names, changes the type.
        seen: the types that it has; several where others go the same way.
        inner: it may stay inside a layer.
        exact: `seen` is of this very tensor, or of a moved one.
    """

    tensor: str
    way: str
    planned: frozenset[str]
    seen: frozenset[str]
    inner: bool
    exact: bool

    @property
    def differs(self) -> bool:
        """Whether it is seen, and in no type that was planned."""
        return bool(self.seen) and not self.seen & self.planned

    @property
    def proves(self) -> bool:
        """Whether it is seen in the planned type, and in no other."""
        return self.exact and not self.inner and bool(self.seen) and self.seen <= self.planned

    def __str__(self) -> str:
        return f"{self.way} {_short(self.tensor)!r} as {_list(self.seen)}, planned {_list(self.planned)}"


@dataclass
class _Proof:
    """The verdicts of one engine, and what they rest on."""

    flow: Flow
    plan: PrecisionPlan
    engine: _Engine
    network: dict[str, list[str]]
    _views: dict[int, list[_View]] = field(default_factory=dict)
    _region: dict[int, _Region] = field(default_factory=dict)

    def __post_init__(self) -> None:
        flow = self.flow
        self._plans = {node.name: node for node in self.plan.nodes}
        self._held = {
            i: self.engine.group(self.engine.holders[step.name])
            for i, step in enumerate(flow.steps)
            if step.name in self.engine.holders and step.op not in CONTROL
        }
        self._twin = self._twins()
        self._same = {
            own: other
            for i, first in self._twin.items()
            for own, other in zip(flow.steps[i].outputs, flow.steps[first].outputs, strict=False)
        }
        self._maker: dict[str, int] = {}
        self._readers: dict[str, list[int]] = {}
        for i, step in enumerate(flow.steps):
            if i in self._twin:
                continue
            self._maker.update((name, i) for name in step.outputs)
            for name in dict.fromkeys(step.inputs):
                self._readers.setdefault(self._same.get(name, name), []).append(i)
        self._outputs = {self._same.get(name, name): name for name in flow.outputs}
        self._find_regions()
        self._views = {i: list(self._seen(i)) for i in self._held}
        self._doubts = self._find_doubts()

    def verdicts(self) -> dict[str, Verdict]:
        """By the name of the node."""
        number = {step.name: i for i, step in enumerate(self.flow.steps) if step.name}
        found = {node.name: self._judge(number[node.name], node) for node in self.plan.floats()}
        return {**found, **self._unquantised(found, number)}

    # What belongs together.

    def _twins(self) -> dict[int, int]:
        """Node that no layer names -> the one that computes the same from the same, and that one does name where there is one."""
        families: dict[int, list[int]] = {}
        for own, first in self.flow.twins.items():
            families.setdefault(first, [first]).append(own)
        found: dict[int, int] = {}
        for family in families.values():
            chosen = next((i for i in family if i in self._held), family[0])
            found.update((i, chosen) for i in family if i != chosen and i not in self._held)
        return found

    def _find_regions(self) -> None:
        loose = [i for i in range(len(self.flow.steps)) if self._is_loose(i)]
        place = {step: at for at, step in enumerate(loose)}
        links: list[list[int]] = [[] for _ in loose]
        for step in loose:
            for name in self._inputs(step):
                maker = self._maker.get(name)
                if maker in place:
                    links[place[step]].append(place[maker])
                    links[place[maker]].append(place[step])
        for part in components(links):
            steps = [loose[at] for at in part]
            region = self._make_region(steps)
            self._region.update((step, region) for step in steps)

    def _is_loose(self, step: int) -> bool:
        """Whether no layer names a node, although it computes with data."""
        if step in self._held or step in self._twin or self.flow.steps[step].op in CONTROL:
            return False
        return any(name not in self.flow.known for name in self.flow.steps[step].outputs)

    def _make_region(self, steps: list[int]) -> _Region:
        sources: list[_Group] = []
        sinks: list[_Group] = []
        types: set[str] = set()
        decides = False
        for step in steps:
            for name in self._inputs(step):
                types.add(self._planned(name))
                maker = self._maker.get(name)
                if maker in self._held:
                    sources.append(self._held[maker])
                elif maker is None and name in self.flow.inputs:
                    sources.append(self.engine.group(inputs=[name]))
            for name in self.flow.steps[step].outputs:
                types.add(self._planned(name))
                readers = self._readers.get(name, ())
                sinks += [self._held[i] for i in readers if i in self._held]
                decides = decides or any(self.flow.steps[i].op in CONTROL for i in readers)
                if name in self._outputs:
                    sinks.append(self.engine.group(outputs=[self._outputs[name]]))
        computes = any(self.flow.steps[step].op not in MOVES for step in steps)
        before, after = self.engine.join(sources), self.engine.join(sinks)
        return _Region(steps, before, after, frozenset(types & PRECISE), computes, decides and not sinks)

    def _inputs(self, step: int) -> Iterator[str]:
        """What a node reads of the data."""
        for name in dict.fromkeys(self.flow.steps[step].inputs):
            if name and name not in self.flow.known:
                yield self._same.get(name, name)

    def _planned(self, tensor: str) -> str:
        return self.flow.types.get(tensor, "?")

    # What is seen of the nodes that layers name.

    def _seen(self, step: int) -> Iterator[_View]:
        own, node = self._held[step], self.flow.steps[step]
        for name in self._inputs(step):
            if self._planned(name) in PRECISE:
                yield from self._entering(own, name)
        for name in node.outputs:
            if self._planned(name) in PRECISE and name not in self.flow.known:
                yield from self._leaving(own, name)
        for name in dict.fromkeys(node.inputs):
            if self._planned(name) in FLOATS and name in self.flow.weights:
                yield from self._weight(own, name)

    def _entering(self, own: _Group, name: str) -> Iterator[_View]:
        maker = self._maker.get(name)
        planned = frozenset({self._planned(name)})
        exact = True
        if maker is None:
            far = self.engine.group(inputs=[name])
        elif maker in self._held:
            far = self._held[maker]
        elif maker in self._region:
            region = self._region[maker]
            if not region.sources.writes:
                return  # made of shapes and constants alone: nothing carries it here
            far, planned, exact = region.sources, planned | region.types, not region.computes
        else:
            return
        link = self.engine.link(far, own)
        yield _View(name, "reads", planned, link.entering, bool(link.shared), exact)

    def _leaving(self, own: _Group, name: str) -> Iterator[_View]:
        planned = frozenset({self._planned(name)})
        readers = self._readers.get(name, ())
        held = {id(self._held[i]): self._held[i] for i in readers if i in self._held}
        regions = {id(self._region[i]): self._region[i] for i in readers if i in self._region}
        ends = [(group, planned, True) for group in held.values()]
        ends += [(region.sinks, planned | region.types, not region.computes) for region in regions.values()]
        if name in self._outputs:
            ends.append((self.engine.group(outputs=[self._outputs[name]]), planned, True))
        for far, types, exact in ends:
            link = self.engine.link(own, far)
            yield _View(name, "writes", types, link.leaving, bool(link.shared), exact)

    def _weight(self, own: _Group, name: str) -> Iterator[_View]:
        """A weight that is seen in another type; other constants of its size are no evidence for it, but these are against."""
        dims = self.flow.weights[name]
        if sum(d > 1 for d in dims) < 2:
            return  # vectors are added, or scale a result, in the type of the sums
        constants = (t for i in own.layers for t in self.engine.layers[i].constants)
        seen = frozenset(_type(t) for t in constants if _size(t.dims) == _size(dims)) & FLOATS
        if seen and self._planned(name) not in seen:
            yield _View(name, "reads", frozenset({self._planned(name)}), seen, False, True)

    def _find_doubts(self) -> dict[int, str]:
        """Layer -> why what goes on inside it is not proven by its borders."""
        doubts: dict[int, str] = {}
        may_have = self._may_have()
        for number, types in may_have.items():
            layer = self.engine.layers[number]
            for way, tensors in (("reads", layer.inputs), ("writes", layer.outputs)):
                for tensor in tensors:
                    kind = _type(tensor)
                    if kind not in TOLD:
                        doubts.setdefault(number, f"{way} a tensor of which the engine tells no type")
                    elif kind in FLOATS and kind not in types and not self._is_partial(number, way, tensor, types):
                        doubts.setdefault(number, f"{way} {kind}, which none of its nodes was planned to")
        for step, views in self._views.items():
            wrong = next((view for view in views if view.differs), None)
            if wrong is not None:
                for number in self._held[step].layers:
                    doubts.setdefault(number, str(wrong))
        return doubts

    def _may_have(self) -> dict[int, set[str]]:
        """Layer -> the planned types of all tensors of its nodes, and of the nodes without a layer beside them."""
        found: dict[int, set[str]] = {}
        for step, group in self._held.items():
            node = self.flow.steps[step]
            types = {self._planned(name) for name in (*node.inputs, *node.outputs)}
            for number in group.layers:
                found.setdefault(number, set()).update(types)
        for region in {id(region): region for region in self._region.values()}.values():
            for number in (*region.sources.layers, *region.sinks.layers):
                found[number] |= region.types
        return found

    def _is_partial(self, number: int, way: str, tensor: EngineTensor, types: set[str]) -> bool:
        """Whether a tensor is a sum in fp32 that one node, which runs as several layers, hands from one to the next."""
        if _type(tensor) != "fp32" or not types & {"fp16", "bf16"}:
            return False
        ends = self.engine.writers if way == "reads" else self.engine.readers
        nodes = set(self.engine.layers[number].nodes)
        others = ends.get(tensor.name, ())
        return bool(others) and all(nodes & set(self.engine.layers[i].nodes) for i in others)

    # Verdicts.

    def _judge(self, step: int, plan: NodePlan) -> Verdict:
        node = self.flow.steps[step]
        if node.op in CONTROL:
            return Verdict(FOLDED, "control flow computes nothing: the nodes of its bodies have verdicts of their own")
        if step in self._held:
            return self._judge_held(step, plan)
        if step in self._twin:
            return self._judge_twin(step)
        if step not in self._region:
            kinds = {self.flow.known.get(name) for name in node.outputs}
            what = "the values of constants" if kinds == {CONSTANT} else "shapes"
            return Verdict(FOLDED, f"depends on {what} only, and no layer holds it")
        return self._judge_loose(step, plan)

    def _judge_held(self, step: int, plan: NodePlan) -> Verdict:
        own, views = self._held[step], self._views[step]
        where = f"in {self._names(own.layers)}"
        quantised = self._quantised(step)
        if quantised:
            return self._judge_quantised(own, quantised, where)
        types = {self._planned(name) for name in (*self._inputs(step), *self.flow.steps[step].outputs)} & PRECISE
        wrong = next((view for view in views if view.differs), None)
        if wrong is not None and not own.types & types:
            return Verdict(OVERRIDDEN, f"{where}, which {wrong}")
        if wrong is not None:
            return self._unknown(plan, f"{where}, which {wrong}; what runs before a conversion inside it is not seen")
        strange = self._interior(step) - types
        if strange:
            return self._unknown(plan, f"{where}, and in layers beside that name no node and use {_list(strange)}")
        if views and all(view.proves for view in views):
            return Verdict(HONOURED, f"{where}, which {_summary(views)}, as planned")
        doubt = self._doubt(own.layers)
        if doubt:
            return self._unknown(plan, f"{where}, of which one {doubt}")
        if not own.types:
            return self._unknown(plan, f"{where}, which neither reads nor writes a float")
        others = len({node for i in own.layers for node in self.engine.layers[i].nodes}) - 1
        with_others = f" with {others} other node{'s' * (others > 1)}" if others else ""
        return Verdict(FUSED, f"{where}{with_others}; what is seen at its borders is {_list(own.types)}, as planned")

    def _doubt(self, layers: Iterable[int]) -> str:
        return next((self._doubts[i] for i in sorted(layers) if i in self._doubts), "")

    def _interior(self, step: int) -> set[str]:
        """The types inside a recurrent node, whose time steps run as layers that name no node."""
        if self.flow.steps[step].op not in RECURRENT:
            return set()
        own = self._held[step]
        clusters = own.before.keys() | own.after.keys()
        return {kind for c in clusters for i in self.engine.clusters[c] for kind in self.engine.group([i]).types}

    def _judge_twin(self, step: int) -> Verdict:
        twin = self.flow.steps[self._twin[step]].name
        verdict = self._judge(self._twin[step], self._plans[twin])
        if verdict.word in (OVERRIDDEN, UNVERIFIABLE):
            return Verdict(verdict.word, f"the same as {_short(twin)!r}: {verdict.evidence}")
        return Verdict(FOLDED, f"the same as {_short(twin)!r}, which is computed once for both and is {verdict.word}")

    def _judge_loose(self, step: int, plan: NodePlan) -> Verdict:
        region, node = self._region[step], self.flow.steps[step]
        around = region.sources.layers | region.sinks.layers
        if not region.sources.writes:
            return self._judge_made_of_shapes(region, plan)
        if region.decides:
            return self._judge_condition(region, plan)
        link = self.engine.link(region.sources, region.sinks)
        if not (link.shared or link.direct or link.between):
            return self._unknown(plan, "no layer names it, and none leads from the layers before it to those after it")
        inside = self.engine.group(i for c in link.between for i in self.engine.clusters[c])
        passing = link.leaving | link.entering | inside.types
        untold = self._doubt(inside.layers)
        if untold:
            return self._unknown(plan, f"no layer names it, and one that leads past it {untold}")
        if passing - region.types:
            return self._unknown(plan, f"no layer names it, and what passes there is {_list(passing)}")
        named = [i for i in inside.layers if _names_operator(self.engine.layers[i], node)]
        if named and len(region.steps) == 1 and passing >= region.types:
            return Verdict(
                HONOURED,
                f"in {self._names(named)}, by that name; what it reads and writes is {_list(passing)}, as planned",
            )
        doubt = self._doubt(around)
        if node.op in MOVES and passing and not inside.layers:
            return Verdict(
                FOLDED,
                f"moves data only, and no layer does: what is written before it and read after it is {_list(passing)}",
            )
        if doubt:
            return self._unknown(plan, f"no layer names it, and one around it {doubt}")
        if node.op in MOVES and link.shared:
            return Verdict(
                FOLDED, f"moves data only, inside {self._names(link.shared)}, which holds the nodes around it"
            )
        if not (region.sources.types | region.sinks.types):
            return self._unknown(plan, "no layer names it, and those around it neither read nor write a float")
        what = self._names(around | inside.layers)
        return Verdict(
            FUSED, f"no layer names it, so one of those that hand its tensors on does it, all as planned: {what}"
        )

    def _judge_condition(self, region: _Region, plan: NodePlan) -> Verdict:
        """What decides an If or a Loop ends there: the engine's control flow is no layer."""
        handed = {kind for kinds in region.sources.after.values() for kind in kinds} & PRECISE
        doubt = self._doubt(region.sources.layers)
        if doubt or handed - region.types or not handed:
            return self._unknown(
                plan, f"it decides a control flow, and {doubt or 'its operand is not seen on the way there'}"
            )
        return Verdict(
            FUSED, f"it decides a control flow, to which its operand is handed on as {_list(handed)}, as planned"
        )

    def _judge_made_of_shapes(self, region: _Region, plan: NodePlan) -> Verdict:
        """A filler or a mask that depends on no data: who reads it makes it."""
        doubt = self._doubt(region.sinks.layers)
        if doubt or not region.sinks.types:
            return self._unknown(plan, f"no layer names it, and one that reads it {doubt or 'is not found'}")
        return Verdict(FUSED, f"made of shapes, by those that read it: {self._names(region.sinks.layers)}, as planned")

    def _unknown(self, plan: NodePlan, why: str) -> Verdict:
        kinds = [LABELS.get(word, word) for word in self.network.get(plan.name, []) if word]
        note = f"; TensorRT's network has it in {_list(kinds)}" if kinds else ""
        return Verdict(UNVERIFIABLE, why + note)

    # Quantised nodes.

    def _quantised(self, step: int) -> frozenset[str]:
        """The quantised types of both operands of a product; empty where it is none, or one of them is not quantised."""
        node = self.flow.steps[step]
        if node.op not in MULTIPLY:
            return frozenset()
        types = [self._quantised_type(name) for name in node.inputs[:2]]
        return frozenset(types) if all(types) else frozenset()

    def _quantised_type(self, name: str) -> str:
        """The type before the DequantizeLinear that a tensor comes from, moved about or not; "" where there is none."""
        maker = self._any_maker.get(name)
        while maker is not None and maker.op in MOVES:
            maker = self._any_maker.get(maker.inputs[0])
        return self._planned(maker.inputs[0]) if maker is not None and maker.op == "DequantizeLinear" else ""

    @functools.cached_property
    def _any_maker(self) -> dict[str, Step]:
        return {name: step for step in self.flow.steps for name in step.outputs}

    def _judge_quantised(self, own: _Group, types: frozenset[str], where: str) -> Verdict:
        constants = {_type(t) for i in own.layers for t in self.engine.layers[i].constants}
        if types <= {*own.reads.values(), *constants} and types & set(own.reads.values()):
            return Verdict(HONOURED, f"{where}, and reads {_list(types)}, as quantised")
        return Verdict(
            OVERRIDDEN,
            f"{where}, and reads {_list(set(own.reads.values()) & PRECISE)}, though its inputs are quantised",
        )

    def _unquantised(self, found: dict[str, Verdict], number: dict[str, int]) -> dict[str, Verdict]:
        """Q and DQ before products that do not run quantised: they round, and that is all."""
        lost: dict[str, Verdict] = {}
        for name, verdict in found.items():
            if verdict.word != OVERRIDDEN or not self._quantised(number[name]):
                continue
            waiting = list(self.flow.steps[number[name]].inputs[:2])
            for tensor in waiting:
                maker = self._any_maker.get(tensor)
                if maker is not None and maker.op in MOVES | {"DequantizeLinear", "QuantizeLinear"}:
                    waiting.append(maker.inputs[0])
                    if maker.name in found and maker.op not in MOVES:
                        lost[maker.name] = Verdict(OVERRIDDEN, f"is for {_short(name)!r}, of which {verdict.evidence}")
        return lost

    # Words.

    def _names(self, layers: Iterable[int]) -> str:
        names = [repr(_short(self.engine.layers[i].name)) for i in sorted(layers)]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"layer{'s' * (len(names) > 1)} {', '.join(names[:SHOWN])}{more}"


def _names_operator(layer: EngineLayer, node: Step) -> bool:
    """Whether the name of a generated kernel that names no node tells the operator."""
    kernel = KERNEL.match(layer.name)
    return kernel is not None and node.op[:4] in OPERATOR.findall(kernel[1])


def _summary(views: Sequence[_View]) -> str:
    parts = []
    for way in ("reads", "writes"):
        seen = {kind for view in views if view.way == way for kind in view.seen}
        parts += [f"{way} {_list(seen)}"] if seen else []
    return " and ".join(parts)


def _size(dims: Iterable[int]) -> int:
    size = 1
    for dim in dims:
        size *= dim
    return size


def _list(words: Iterable[str]) -> str:
    return "/".join(sorted(set(words))) or "no float"


def _short(name: str) -> str:
    return name if len(name) <= WIDTH else f"{name[: WIDTH - 3]}..."
