"""The story of a node on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from torch2trt_onnx.backends.layers import EngineTensor
from torch2trt_onnx.explanation import Found, Stories, Story
from torch2trt_onnx.report import network_label
from torch2trt_onnx.selection import Selection
from torch2trt_onnx.tables import STYLES
from torch2trt_onnx.views.columns import printable
from torch2trt_onnx.views.parts import layers, number, shape, types
from torch2trt_onnx.views.screen import Screen


def lines(found: Found, stories: Stories, screen: Screen, *, every: bool) -> Iterator[str]:
    """What was found: a node in full; of several a list, or with `every` each in full."""
    if len(found.nodes) > 1:
        yield f"{found.kind} {found.word!r}: {len(found.nodes)} nodes"
        yield ""
        for listing in layers(Selection(stories.report, found.nodes, {}, is_narrowed=True)):
            yield from listing.lines(screen.width, colour=screen.colour)
    for at, node in enumerate(found.nodes if every or len(found.nodes) == 1 else ()):
        if at or len(found.nodes) > 1:
            yield ""
        yield from _told(stories.tell(node), screen)


def _told(story: Story, screen: Screen) -> list[str]:
    plan = story.node.plan
    head = Text.assemble(
        (printable(f"{plan.op} {plan.name}"), "bold"),
        "  ",
        (plan.runs_in or "no float", STYLES.get(plan.runs_in, "")),
        f"  {story.node.verdict}",
    )
    rows = Table.grid(padding=(0, 2))
    last = ""
    for label, text in _facts(story):
        rows.add_row(Text("" if label == last else f"  {label}", style="dim"), Text(printable(text)))
        last = label

    def draw(console: Console) -> None:
        console.print(head)
        console.print(rows)

    return screen.drawn(draw)


def _facts(story: Story) -> Iterator[tuple[str, str]]:
    """The story in its order: the source, the plan, the passes, the engine."""
    node, plan = story.node, story.node.plan
    known = [("module", plan.module), ("line", plan.source), ("source type", plan.authored), ("inside of", plan.scope)]
    yield from ((label, text) for label, text in known if text)
    for weight in story.weights:
        given = f", {weight.authored} in the source" if weight.authored != weight.dtype else ""
        yield "weight", f"{weight.name}: {weight.dtype} [{shape(weight.dims)}], {number(weight.bytes)} bytes{given}"
    for matched in story.rules:
        yield "rule", f"{matched.number} ({matched.rule}){'' if matched.wins else ': a later one wins'}"
    if plan.precision:
        quantized = f", quantized to {plan.quantized}" if plan.quantized else ""
        yield "plan", f"{plan.precision}{quantized} ({plan.origin}): {plan.reason}"
    if plan.kept_by:
        yield "kept by", plan.kept_by
    yield "makes", f"{', '.join(plan.tensors)}: {types(plan.outputs)}, {number(node.bytes)} bytes"
    if node.work:
        yield "work", f"{number(node.work)} multiplications"
    for cast in story.casts:
        way = f"from {cast.other[0]}" if cast.side == "before" else f"to {', '.join(cast.other)}"
        yield f"Cast {cast.side}", f"{cast.name}, of {cast.tensor}, {way}: {cast.reason}"
    for name, action, why in story.changes:
        yield "pass", f"{name}: {action} ({why})"
    yield from _engine(story)


def _engine(story: Story) -> Iterator[tuple[str, str]]:
    node = story.node
    if node.inside:
        yield "rounding", node.inside
    if story.told:
        yield "told", story.told
    if any(node.network):
        yield "network", types(node.network) + (", and not as planned" if node.differs else "")
    for layer in story.layers:
        others = ", ".join(name for name in layer.nodes if name != node.plan.name)
        beside = f", with {others}" if others else ""
        yield (
            "engine layer",
            f"{layer.name} ({layer.type}): {_labels(layer.inputs)} to {_labels(layer.outputs)}{beside}",
        )
    if node.verdict:
        yield "proof", f"{node.verdict}: {node.evidence}"


def _labels(tensors: Sequence[EngineTensor]) -> str:
    return types(network_label(tensor.dtype) for tensor in tensors)
