"""Where Casts between two precisions cost least: a minimum cut.

Some nodes can take either of two precisions: they move values, or choose among them (Reshape, Concat, Relu, MaxPool), or the user set
them free. Each choice costs bytes: a tensor is written in its maker's type and read in each reader's, and where the two differ
a Cast reads it and writes it again, once for all readers of one type. With two labels the cheapest choice is a minimum cut:
the wide label is the side of the source, the narrow one that of the sink. A shared Cast counts once through two auxiliary vertices
a tensor, as in the hypergraph cuts of VLSI partitioning (Lawler 1973; Ihler, Wagner and Wagner 1993).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDE, NARROW, NEITHER = -1, -2, -3
"""Instead of a place: fixed in the wide or the narrow type, or at no cost in either (an initializer, stored as it is read)."""

WIDE_BYTES, NARROW_BYTES = 4, 2
CAST_BYTES = WIDE_BYTES + NARROW_BYTES
INFINITE = 2**31 - 1  # SciPy's capacities are 32-bit


@dataclass(frozen=True)
class Flow:
    """A tensor, by the places that make and read it. A place is what has one label: a node, or what a loop carries.

    Args:
        elements: how many it has.
        maker: a place, WIDE, NARROW or NEITHER.
        readers: places, WIDE or NARROW, one each.
        raw: how many readers take it in any type, without a Cast (Casts, Shape).
        bound: places that must be narrow, or WIDE, if the maker is: they would see a rounding that was not there.
    """

    elements: int
    maker: int
    readers: tuple[int, ...]
    raw: int = 0
    bound: tuple[int, ...] = ()


def cost(flows: Sequence[Flow], narrow: Sequence[bool]) -> float:
    """The bytes that a choice moves; infinite where it adds a rounding that a reader sees.

    Args:
        flows: the tensors.
        narrow: for each place whether it takes the narrow type.
    """

    def is_narrow(place: int) -> bool:
        return narrow[place] if place >= 0 else place == NARROW

    total = 0.0
    for flow in flows:
        read = [is_narrow(r) for r in flow.readers]
        total += flow.elements * sum(NARROW_BYTES if r else WIDE_BYTES for r in read)
        if flow.maker == NEITHER:
            continue
        made = is_narrow(flow.maker)
        total += flow.elements * (1 + flow.raw) * (NARROW_BYTES if made else WIDE_BYTES)
        total += flow.elements * CAST_BYTES * any(r != made for r in read)
        if made and not all(map(is_narrow, flow.bound)):
            return math.inf
    return total


def cheapest(count: int, flows: Sequence[Flow]) -> list[bool]:
    """For each place whether it takes the narrow type in the choice that moves the fewest bytes; narrow where both cost the same.

    Exact as long as the bytes of what hangs together are below 2^31 after division by their common divisor; above, they are
    rounded to that many steps.

    Args:
        count: how many places there are; at least one choice must be possible.
        flows: the tensors that they make or read.
    """
    settled = _settled(count, flows)

    def own(place: int) -> int:
        return place if place < 0 or settled[place] is None else NARROW if settled[place] else WIDE

    left = [Flow(f.elements, own(f.maker), tuple(map(own, f.readers)), f.raw, tuple(map(own, f.bound))) for f in flows]
    for places, tensors in _apart(count, left):
        for place, label in zip(places, _cut(places, tensors), strict=True):
            settled[place] = label
    return [bool(label) for label in settled]


def _settled(count: int, flows: Sequence[Flow]) -> list[bool | None]:
    """For each place whether it is narrow in the cheapest choice, for those of which that can be told from their neighbours; else None.

    The cost is submodular: a place gains most from being wide where all others are, and least where none is. Where it does not gain even
    then, it is narrow; where it gains all the same, it is wide; and so on with its neighbours. Most models have no others, and need no cut.
    """
    touched: list[list[Flow]] = [[] for _ in range(count)]
    for flow in flows:
        if flow.maker == NEITHER:  # what its readers read has nothing to do with each other, and there may be thousands
            for place in flow.readers:
                if place >= 0:
                    touched[place].append(Flow(flow.elements, NEITHER, (place,)))
            continue
        for place in {p for p in (flow.maker, *flow.readers, *flow.bound) if p >= 0}:
            touched[place].append(flow)
    settled: list[bool | None] = [None if tensors else True for tensors in touched]
    for others in (False, True):  # whether those that are not settled count as narrow
        narrow = [others if label is None else label for label in settled]
        waiting = [place for place in range(count) if settled[place] is None]
        while waiting:
            place = waiting.pop()
            if settled[place] is not None:
                continue
            prices = []
            for label in (True, False):
                narrow[place] = label
                prices.append(cost(touched[place], narrow))
            narrow[place] = others
            gains = prices[1] < prices[0]
            if gains is others:
                settled[place] = narrow[place] = not gains
                near = {p for flow in touched[place] for p in (flow.maker, *flow.readers, *flow.bound) if p >= 0}
                waiting += (p for p in near if settled[p] is None)
    return settled


def components(count: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """For each of `count` things the number of what it hangs together with by some links."""
    part = list(range(count))

    def root(thing: int) -> int:
        while part[thing] != thing:
            part[thing] = thing = part[part[thing]]
        return thing

    for a, b in links:
        part[root(a)] = root(b)
    return [root(thing) for thing in range(count)]


def _apart(count: int, flows: Sequence[Flow]) -> Iterator[tuple[list[int], list[Flow]]]:
    """The places that hang together, and their tensors: a smaller cut is faster, and its capacities fit."""
    touched = [[p for p in (f.maker, *f.readers, *f.bound) if p >= 0] for f in flows]
    part = components(count, [(places[0], place) for places in touched for place in places[1:]])
    members: dict[int, list[int]] = defaultdict(list)
    for place in range(count):
        members[part[place]].append(place)
    tensors: dict[int, list[Flow]] = defaultdict(list)
    for flow, places in zip(flows, touched, strict=True):
        if places:
            tensors[part[places[0]]].append(flow)
    for key, places in members.items():
        if tensors[key]:
            yield places, tensors[key]


def _cut(places: list[int], flows: list[Flow]) -> list[bool]:
    """The labels of some places by a minimum cut."""
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    source, sink = 0, 1
    vertex = {place: index for index, place in enumerate(places, 2)} | {WIDE: source, NARROW: sink}
    size = 2 + len(places)
    edges: dict[tuple[int, int], int] = defaultdict(int)
    forced: set[tuple[int, int]] = set()
    for flow in flows:
        readers = [vertex[r] for r in flow.readers]
        for reader in readers:
            edges[reader, sink] += flow.elements * WIDE_BYTES
            edges[source, reader] += flow.elements * NARROW_BYTES
        if flow.maker == NEITHER:
            continue
        maker = vertex[flow.maker]
        edges[maker, sink] += flow.elements * WIDE_BYTES * (1 + flow.raw)
        edges[source, maker] += flow.elements * NARROW_BYTES * (1 + flow.raw)
        narrowing, widening, size = size, size + 1, size + 2
        edges[maker, narrowing] += flow.elements * CAST_BYTES
        edges[widening, maker] += flow.elements * CAST_BYTES
        for reader in readers:
            forced |= {(narrowing, reader), (reader, widening)}
        forced |= {(vertex[place], maker) for place in flow.bound}
    edges = {(a, b): c for (a, b), c in edges.items() if a not in (b, sink) and b != source and c}
    divisor = math.gcd(*edges.values()) or 1
    step = max(1.0, sum(edges.values()) / divisor / (INFINITE - 1 - len(edges)))
    capacities = {pair: max(1, round(c / divisor / step)) for pair, c in edges.items()}
    capacities |= {(a, b): INFINITE for a, b in forced if a not in (b, sink) and b != source}
    if not capacities:
        return [True] * len(places)
    rows, columns = np.array(list(capacities)).T
    network = csr_array((np.array(list(capacities.values()), np.int32), (rows, columns)), shape=(size, size))
    rest = network - maximum_flow(network, source, sink).flow
    rest.data = np.maximum(rest.data, 0)
    rest.eliminate_zeros()
    wide = set(breadth_first_order(rest, source, return_predecessors=False).tolist())
    return [vertex[place] not in wide for place in places]
