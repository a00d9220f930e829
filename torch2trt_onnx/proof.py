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
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx

from torch2trt_onnx.backends import BuildResult
from torch2trt_onnx.backends.layers import LABELS, EngineLayer, EngineTensor
from torch2trt_onnx.flow import CONSTANT, CONTROL, Flow, Step, components
from torch2trt_onnx.kernels import FLOATS, PRECISE, TOLD, Engine, Group, type_of
from torch2trt_onnx.plan import NodePlan, PrecisionPlan

HONOURED, FUSED, FOLDED, OVERRIDDEN, UNVERIFIABLE = "honoured", "fused", "folded", "overridden", "unverifiable"
WORDS = (HONOURED, FUSED, FOLDED, OVERRIDDEN, UNVERIFIABLE)

MOVES = frozenset(
    {
        "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "Expand", "Tile", "Pad",
        "Gather", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth", "Dropout",
    }
)  # fmt: skip
"""Operators that compute nothing: what they put out is what they were given, at another place."""

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})

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
    engine = Engine(built.layers, {node.name for node in plan.nodes})
    return _Proof(Flow(model), plan, engine, built.network).verdicts()


@dataclass(frozen=True, eq=False)
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
    sources: Group
    sinks: Group
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


@dataclass(frozen=True)
class _Passage:
    """What leads past the nodes of a region.

    Args:
        types: the types of it.
        inside: the layers without names on the way.
        shared: the layers that name nodes on both sides.
        missing: why it proves nothing; "" where it may.
    """

    types: frozenset[str]
    inside: frozenset[int]
    shared: frozenset[int]
    missing: str


class _Proof:
    """The verdicts of one engine, and what they rest on.

    Args:
        flow: the graph.
        plan: its plan.
        engine: the layers.
        network: node -> TensorRT's words for the types of its outputs in the network.
    """

    def __init__(self, flow: Flow, plan: PrecisionPlan, engine: Engine, network: dict[str, list[str]]) -> None:
        self.flow, self.plan, self.engine, self.network = flow, plan, engine, network
        self._plans = {node.name: node for node in plan.nodes}
        self._region: dict[int, _Region] = {}
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
        self._may_have = self._find_types()
        self._doubts = self._find_doubts()

    def verdicts(self) -> dict[str, Verdict]:
        """By the name of the node."""
        number = {step.name: i for i, step in enumerate(self.flow.steps) if step.name}
        found = {node.name: self._noted(self._judge(number[node.name]), node) for node in self.plan.floats()}
        return {**found, **self._unquantised(found, number)}

    def _noted(self, verdict: Verdict, plan: NodePlan) -> Verdict:
        """A verdict that leaves the question open, with what the network says, which is no proof; and that of a node that the compiler
        was free with, which every precision that the builder was allowed fits."""
        if plan.is_free and verdict.word == OVERRIDDEN:
            return Verdict(HONOURED, f"TensorRT was free to choose: {verdict.evidence}")
        kinds = [LABELS.get(word, word) for word in self.network.get(plan.name, []) if word]
        if verdict.word != UNVERIFIABLE or not kinds:
            return verdict
        return replace(verdict, evidence=f"{verdict.evidence}; TensorRT's network has it in {_list(kinds)}")

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
        sources: list[Group] = []
        sinks: list[Group] = []
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

    def _entering(self, own: Group, name: str) -> Iterator[_View]:
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

    def _leaving(self, own: Group, name: str) -> Iterator[_View]:
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

    def _weight(self, own: Group, name: str) -> Iterator[_View]:
        """A weight that is seen in another type. Seen in the planned one it proves nothing: another may have its size."""
        dims, planned = self.flow.weights[name], self._planned(name)
        if sum(d > 1 for d in dims) < 2:
            return  # vectors are added, or scale a result, in the type of the sums
        seen = frozenset(kind for kind, size in own.constants if size == math.prod(dims) and kind in FLOATS)
        if seen and planned not in seen:
            yield _View(name, "reads", frozenset({planned}), seen, False, True)

    def _find_doubts(self) -> dict[int, str]:
        """Layer -> why its borders do not prove what goes on inside it."""
        doubts: dict[int, str] = {}
        for number, types in self._may_have.items():
            layer = self.engine.layers[number]
            for way, tensors in (("reads", layer.inputs), ("writes", layer.outputs)):
                for tensor in tensors:
                    kind = type_of(tensor)
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

    def _find_types(self) -> dict[int, set[str]]:
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
        """Whether a tensor is a sum in fp32 that one node, which runs as several layers, hands from one to the next.

        A layer that has the planned type nowhere does not only add up in fp32: it runs in it. A quantised product adds up in integers,
        and scales its sums in fp32.
        """
        layer = self.engine.group([number])
        reduced = types & (PRECISE - {"fp32"})
        if type_of(tensor) != "fp32" or not reduced & (layer.types | {kind for kind, _ in layer.constants}):
            return False
        ends = self.engine.writers if way == "reads" else self.engine.readers
        others = ends.get(tensor.name, ())
        return bool(others) and all(layer.nodes & self.engine.group([i]).nodes for i in others)

    # Verdicts.

    def _judge(self, step: int) -> Verdict:
        node = self.flow.steps[step]
        if step in self._held:
            return self._judge_held(step)
        if all(name in self.flow.known for name in node.outputs):
            kinds = {self.flow.known[name] for name in node.outputs}
            what = "constants" if kinds == {CONSTANT} else "shapes"
            return Verdict(FOLDED, f"depends on {what} only, and no layer names it")
        if step in self._twin:
            return self._judge_twin(self._twin[step])
        region = self._region[step]
        moved = self._judge_moves(region) if node.op in MOVES else None
        return moved or self._judge_region(region)

    def _judge_held(self, step: int) -> Verdict:
        own, views = self._held[step], self._views[step]
        where = f"in {self._names(own.layers)}"
        quantised = self._plans[self.flow.steps[step].name].quantized
        if quantised:
            return self._judge_quantised(own, quantised, where)
        types = PRECISE & {self._planned(name) for name in (*self._inputs(step), *self.flow.steps[step].outputs)}
        wrong = next((view for view in views if view.differs), None)
        if wrong is not None and not own.types & types:
            return Verdict(OVERRIDDEN, f"{where}, which {wrong}")
        if wrong is not None:
            return Verdict(UNVERIFIABLE, f"{where}, which {wrong}; on which side of the conversion it runs is not seen")
        strange = self._interior(step) - types
        if strange:
            return Verdict(UNVERIFIABLE, f"{where}, and in layers beside that name no node and use {_list(strange)}")
        doubt = self._doubt(own.layers)
        # What one layer reads and writes for the node is all there is; between several of them there is more.
        if views and all(view.proves for view in views) and (len(own.layers) == 1 or not doubt):
            return Verdict(HONOURED, f"{where}, which {_summary(views)}, as planned")
        if doubt:
            return Verdict(UNVERIFIABLE, f"{where}, of which one {doubt}")
        if not own.types:
            return Verdict(UNVERIFIABLE, f"{where}, which neither reads nor writes a float")
        others = len(own.nodes) - 1
        with_others = f" with {others} other node{'s' * (others > 1)}" if others else ""
        planned = {kind for i in own.layers for kind in self._may_have[i]}
        partial = ", and partial results are fp32" if own.types - planned else ""
        seen = f"what is seen at its borders is {_list(own.types & planned)}, as planned{partial}"
        return Verdict(FUSED, f"{where}{with_others}; {seen}")

    def _interior(self, step: int) -> set[str]:
        """The types inside a recurrent node, whose time steps run as layers that name no node."""
        if self.flow.steps[step].op not in RECURRENT:
            return set()
        own = self._held[step]
        clusters = own.before.keys() | own.after.keys()
        return {kind for c in clusters for kind in self.engine.group(self.engine.clusters[c]).types}

    def _judge_twin(self, twin: int) -> Verdict:
        name, verdict = _short(self.flow.steps[twin].name), self._judge(twin)
        if verdict.word in (OVERRIDDEN, UNVERIFIABLE):
            return Verdict(verdict.word, f"the same as {name!r}: {verdict.evidence}")
        return Verdict(FOLDED, f"the same as {name!r}, which is computed once for both and is {verdict.word}")

    @functools.cache  # noqa: B019 - once a region, and no longer than the proof
    def _judge_moves(self, region: _Region) -> Verdict | None:
        """The verdict of what moves data only, where that needs no layer; None where it may."""
        passage = self._passage(region)
        if passage.missing or region.decides or not passage.types or self._naming(region, passage):
            return None
        what = f"moves {_list(passage.types)}, as planned, and computes nothing"
        if not passage.inside and not passage.shared:
            return Verdict(FOLDED, f"{what}: no layer stands between those before it and those after it")
        if not passage.inside and not self._doubt(passage.shared):
            return Verdict(FOLDED, f"{what}: {self._names(passage.shared)} names nodes on both sides of it")
        return None

    @functools.cache  # noqa: B019 - once a region, and no longer than the proof
    def _judge_region(self, region: _Region) -> Verdict:
        """The verdict of what no layer names."""
        if not region.sources.writes:
            return self._judge_made_of_shapes(region)
        if region.decides:
            return self._judge_condition(region)
        passage = self._passage(region)
        if passage.missing:
            return Verdict(UNVERIFIABLE, f"no layer names it, and {passage.missing}")
        around = region.sources.layers | region.sinks.layers
        alone = len(region.steps) == 1 and passage.types >= region.types
        types = f"what is read and written there is {_list(passage.types)}, as planned"
        if alone and passage.inside and not around:
            return Verdict(HONOURED, f"in {self._names(passage.inside)}, as there are no others on its way; {types}")
        named = self._naming(region, passage)
        if named and alone:
            return Verdict(HONOURED, f"in {self._names(named)}, by the layer's own name; {types}")
        doubt = self._doubt(around)
        if doubt:
            return Verdict(UNVERIFIABLE, f"no layer names it, and one around it {doubt}")
        if not (region.sources.types | region.sinks.types):
            return Verdict(UNVERIFIABLE, "no layer names it, and those around it neither read nor write a float")
        where = self._names(around | passage.inside)
        return Verdict(FUSED, f"no layer names it, so it is in one of those on its way, all as planned: {where}")

    @functools.cache  # noqa: B019 - once a region, and no longer than the proof
    def _passage(self, region: _Region) -> _Passage:
        link = self.engine.link(region.sources, region.sinks)
        inside = self.engine.group(i for c in link.between for i in self.engine.clusters[c])
        types = link.leaving | link.entering | inside.types
        missing = ""
        if not (link.shared or link.direct or link.between):
            missing = "none leads from the layers before it to those after it"
        elif inside.borders - TOLD:
            missing = "of one that may do it the engine tells no type"
        elif types - region.types:
            missing = f"what passes there is {_list(types)}, planned {_list(region.types)}"
        elif not types and link.shared:
            types = self.engine.group(link.shared).types & region.types
        return _Passage(types, inside.layers, link.shared, missing)

    def _naming(self, region: _Region, passage: _Passage) -> list[int]:
        """The layers that tell a region's only node by their own name."""
        if len(region.steps) > 1:
            return []
        node = self.flow.steps[region.steps[0]]
        return [i for i in passage.inside if _names_operator(self.engine.layers[i], node)]

    def _judge_condition(self, region: _Region) -> Verdict:
        """What decides an If or a Loop ends there: the engine's control flow is no layer."""
        handed = PRECISE & {kind for kinds in region.sources.after.values() for kind in kinds}
        doubt = self._doubt(region.sources.layers)
        if doubt or handed - region.types or not handed:
            why = doubt or "its operand is not seen on the way there"
            return Verdict(UNVERIFIABLE, f"it decides a control flow, and {why}")
        return Verdict(FUSED, f"it decides a control flow, to which its operand goes as {_list(handed)}, as planned")

    def _judge_made_of_shapes(self, region: _Region) -> Verdict:
        """A filler or a mask that depends on no data: who reads it makes it."""
        doubt = self._doubt(region.sinks.layers)
        if doubt or not region.sinks.types:
            return Verdict(UNVERIFIABLE, f"no layer names it, and one that reads it {doubt or 'is not found'}")
        return Verdict(FUSED, f"made of shapes, by those that read it: {self._names(region.sinks.layers)}, as planned")

    def _doubt(self, layers: Iterable[int]) -> str:
        return next((self._doubts[i] for i in sorted(layers) if i in self._doubts), "")

    # Quantised nodes.

    @staticmethod
    def _judge_quantised(own: Group, quantised: str, where: str) -> Verdict:
        read = PRECISE & set(own.reads.values())
        if quantised in read:
            return Verdict(HONOURED, f"{where}, which reads {quantised}, as quantised")
        return Verdict(
            OVERRIDDEN, f"{where}, which reads {_list(read)}, though its inputs are quantised to {quantised}"
        )

    def _unquantised(self, found: dict[str, Verdict], number: dict[str, int]) -> dict[str, Verdict]:
        """Q and DQ before products that do not run quantised: they round, and that is all."""
        makers = {name: step for step in self.flow.steps for name in step.outputs}
        lost: dict[str, Verdict] = {}
        for product in self.plan.nodes:
            if not product.quantized or found[product.name].word != OVERRIDDEN:
                continue
            waiting = list(self.flow.steps[number[product.name]].inputs[:2])
            for tensor in waiting:
                maker = makers.get(tensor)
                if maker is None or maker.op not in MOVES | QUANTISERS:
                    continue
                waiting.append(maker.inputs[0])
                if maker.op in QUANTISERS:
                    why = f"{_short(product.name)!r} is to run quantised by it, and does not: {found[product.name].evidence}"
                    lost[maker.name] = Verdict(OVERRIDDEN, why)
        return lost

    # Words.

    def _names(self, layers: Iterable[int]) -> str:
        numbers = sorted(layers)
        names = [repr(_short(self.engine.layers[i].name)) for i in numbers[:SHOWN]]
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        return f"layer{'s' * (len(numbers) > 1)} {', '.join(names)}{more}"


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


def _list(words: Iterable[str]) -> str:
    return "/".join(sorted(set(words))) or "no float"


def _short(name: str) -> str:
    return name if len(name) <= WIDTH else f"{name[: WIDTH - 3]}..."
