"""The parts of a report that can be shown: each a few tables of the selected nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch2trt_onnx.report import NodeReport, network_label
from torch2trt_onnx.selection import Selection
from torch2trt_onnx.tables import STYLES, VERDICT_STYLES
from torch2trt_onnx.views.columns import Cell, Listing, Row, Styled

NONE = "-"  # for a cell that would be empty: words are counted in lines by people who grep


def layers(chosen: Selection) -> Iterator[Listing]:
    """What was planned of each node, why, and what TensorRT's network and engine made of it."""
    built = any(node.network for node in chosen.nodes)
    rows: list[Row] = []
    for node in chosen.nodes:
        plan = node.plan
        proven = Styled(node.verdict or NONE, VERDICT_STYLES.get(node.verdict, ""))
        engine: list[Cell] = (
            [_types(node.network, node.differs), ", ".join(node.layers) or NONE, proven] if built else []
        )
        rows.append((_indented(chosen, node), plan.op, precision(plan.precision), *engine, plan.reason or NONE))
    title = f"{len(rows)} of {len(chosen.report.nodes)} nodes"
    heads = ("node", "operator", "planned", *(("network", "engine layer", "proof") if built else ()), "why")
    yield Listing(title, heads, rows, spare=("engine layer", "network") if built else ())


def casts(chosen: Selection) -> Iterator[Listing]:
    """The Casts between floating-point types, or from or to one."""
    rows = [(node.plan.name, node.plan.reason, node.plan.source or NONE) for node in chosen.casts]
    yield Listing(f"{len(rows)} Casts", ("node", "what", "source"), rows)


def plan(chosen: Selection) -> Iterator[Listing]:
    """Who decided on each node, and why."""
    rows = [
        (
            _indented(chosen, node),
            node.plan.op,
            precision(node.plan.authored),
            precision(node.plan.runs_in),
            node.plan.origin or NONE,
            node.plan.kept_by or NONE,
            node.plan.reason or NONE,
        )
        for node in chosen.nodes
    ]
    heads = ("node", "operator", "source", "planned", "origin", "kept by", "why")
    yield Listing("Plan", heads, rows, spare=("operator", "kept by"))


def bindings(chosen: Selection) -> Iterator[Listing]:
    """The inputs and outputs."""
    rows = [
        (b.name, b.mode.lower(), precision(network_label(b.dtype)), shape(b.dims), b.format or NONE)
        for b in chosen.report.bindings
    ]
    yield Listing("Bindings", ("name", "mode", "type", "shape", "format"), rows)


def weights(chosen: Selection) -> Iterator[Listing]:
    """The initializers that the nodes read, with the type that the source gave them."""
    rows = [
        (
            w.name,
            precision(w.dtype),
            precision(w.authored),
            shape(w.dims),
            number(w.bytes),
            _first(chosen.readers[w.name]),
        )
        for w in chosen.weights
    ]
    heads = ("name", "type", "source", "shape", "bytes", "read by")
    yield Listing(f"{len(rows)} weights", heads, rows, frozenset({"bytes"}), spare=("read by",))


def engine(chosen: Selection) -> Iterator[Listing]:
    """The layers of the engine, with the types of what they read and make."""
    rows: list[Row] = []
    for layer in chosen.layers:
        sides = (tuple(network_label(t.dtype) for t in side) for side in (layer.inputs, layer.outputs))
        rows.append((layer.name, layer.type, *map(_types, sides), ", ".join(layer.nodes) or NONE))
    title = f"{len(rows)} of {len(chosen.report.layers)} engine layers" if chosen.report.backend else "No engine"
    yield Listing(title, ("layer", "type", "reads", "makes", "nodes"), rows)


def precision(word: str) -> Styled:
    """A precision in its colour."""
    return Styled(word or NONE, STYLES.get(word, ""))


def shape(dims: Iterable[int]) -> str:
    """A shape as a word, a dynamic dimension as "?"."""
    return "x".join("?" if d < 0 else str(d) for d in dims) or "scalar"


def number(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}"


def types(words: Iterable[str]) -> str:
    """Types as a word, each once."""
    return "/".join(dict.fromkeys(word for word in words if word)) or NONE


def _indented(chosen: Selection, node: NodeReport) -> str:
    """The name of a node, by the depth of the body that it is in."""
    return "  " * chosen.depths.get(node.plan.name, 0) + node.plan.name


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _types(words: tuple[str, ...], differs: bool = False) -> Styled:
    text = types(words)
    return Styled(text, "bold red" if differs else STYLES.get(text, ""))


Part = Callable[[Selection], Iterator[Listing]]
