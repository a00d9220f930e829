"""What each layer of a weakly typed network is told: deciding, apart from doing.

TensorRT 8.6 to 10 takes a precision as a wish of a layer. A layer that is told nothing runs in whatever is fastest of what the builder
may use, so that an fp16 layer drags its neighbours along; so each layer that can be told is told, the fp32 ones too. The rules of what
can be told are those of `ILayer::setPrecision` and `setOutputType` in NvInfer.h (8.6 and 10.13), and of the developer guide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch2trt_onnx.backends.inspector import METADATA
from torch2trt_onnx.backends.job import NodeJob

FLOATS = frozenset({"FLOAT", "HALF", "BF16"})
SUFFIX = re.compile(r"_\d+$")

CONTROL = frozenset(
    {
        "CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT", "ITERATOR", "LOOP_OUTPUT", "RECURRENCE", "TRIP_LIMIT", "ASSERTION",
    }
)  # fmt: skip
QUANTISERS = frozenset({"QUANTIZE", "DEQUANTIZE", "DYNAMIC_QUANTIZE"})
CASTS = frozenset({"CAST", "IDENTITY"})
"""The types of layers that a Cast becomes."""


@dataclass(frozen=True)
class Layer:
    """What is seen of a layer of the network.

    Args:
        index: its place.
        name: TensorRT's, which is the ONNX node's for most.
        metadata: the parser's word of the node; "" before TensorRT 10.
        type: the name of its `LayerType`.
        reads: the names of the tensors that it reads.
        makes: (name, name of the type, whether it is a shape tensor) of each output.
        casts: whether it is a Cast: it alone may have an output of another type than what it reads.
    """

    index: int
    name: str
    metadata: str
    type: str
    reads: tuple[str, ...]
    makes: tuple[tuple[str, str, bool], ...]
    casts: bool = False


@dataclass(frozen=True)
class Told:
    """What a layer is told.

    Args:
        layer: its place.
        name: TensorRT's name of it.
        node: the ONNX node that it belongs to; "" where none does.
        precision: the name of the type to compute in; "" where it is told nothing.
        outputs: (place, name of the type) of the outputs that are told one.
        reason: why it is told nothing; "" where it is.
    """

    layer: int
    name: str
    node: str
    precision: str = ""
    outputs: tuple[tuple[int, str], ...] = ()
    reason: str = ""


def decide(layers: Sequence[Layer], nodes: Iterable[NodeJob]) -> list[Told]:
    """What each layer is told, in their order. Linear in the layers and the tensors."""
    plans = {node.name: node for node in nodes}
    types = {tensor: kind for node in plans.values() for tensor, kind in node.outputs}
    owners = _owners(layers, plans)
    return [_told(layer, owners.get(layer.index), types) for layer in layers]


def _owners(layers: Sequence[Layer], plans: dict[str, NodeJob]) -> dict[int, NodeJob]:
    """Place of a layer -> its node.

    The parser names a layer after its node, and further ones of the same node with a number behind ("fc", "fc_7") or not at all; the last
    one makes the node's own output. What is left (constants, broadcasts) goes with the layer that reads it, or else with the one that
    makes what it reads; but not with a Cast, which says nothing of what it reads.
    """
    makers = {tensor: node for node in plans.values() for tensor, _ in node.outputs}
    found: dict[int, NodeJob] = {}
    for layer in layers:
        name = _named(layer, plans)
        node = plans[name] if name else next((makers[t] for t, _, _ in layer.makes if t in makers), None)
        if node is not None:
            found[layer.index] = node
    _spread(reversed(layers), found, lambda layer: [t for t, _, _ in layer.makes], lambda layer: layer.reads)
    _spread(layers, found, lambda layer: layer.reads, lambda layer: [t for t, _, _ in layer.makes])
    return found


def _named(layer: Layer, plans: dict[str, NodeJob]) -> str:
    """The node that a layer's metadata or name tells; "" where neither does."""
    told = [name.split(" | ")[0] for name in METADATA.findall(layer.metadata)]
    return next((name for name in (*told, layer.name, SUFFIX.sub("", layer.name)) if name in plans), "")


def _spread(
    layers: Iterable[Layer],
    found: dict[int, NodeJob],
    near: Callable[[Layer], Iterable[str]],
    far: Callable[[Layer], Iterable[str]],
) -> None:
    """Give each layer without a node that of the one beyond its `near` tensors, in an order that reaches those first."""
    beyond: dict[str, NodeJob] = {}
    for layer in layers:
        if layer.index not in found:
            node = next((beyond[tensor] for tensor in near(layer) if tensor in beyond), None)
            if node is not None and node.precision:
                found[layer.index] = replace(node, name="")
        if layer.index in found and not layer.casts:
            for tensor in far(layer):
                beyond.setdefault(tensor, found[layer.index])


def _told(layer: Layer, node: NodeJob | None, types: dict[str, str]) -> Told:
    reason = _reason(layer, node)
    name = node.name if node is not None else ""
    if reason or node is None:
        return Told(layer.index, layer.name, name, reason=reason)
    outputs = []
    for index, (tensor, kind, is_shape) in enumerate(layer.makes):
        # Inside a node of several layers, what they hand on is in the node's own precision.
        wanted = types.get(tensor, node.precision)
        if kind in FLOATS and wanted in FLOATS and not is_shape:
            outputs.append((index, wanted))
    return Told(layer.index, layer.name, name, node.precision, tuple(outputs))


def _reason(layer: Layer, node: NodeJob | None) -> str:
    """Why a layer cannot be told a precision, or is not; "" where it is."""
    if layer.type == "SHAPE" or all(is_shape for _, _, is_shape in layer.makes):
        return "it computes shapes, which TensorRT does in integers"
    if not any(kind in FLOATS for _, kind, _ in layer.makes):
        return f"it makes {'/'.join(dict.fromkeys(kind for _, kind, _ in layer.makes)) or 'nothing'}, and no float"
    if layer.type in CONTROL:
        return "it is the border of a loop or a condition, and computes nothing"
    if layer.type in QUANTISERS:
        return "Q/DQ says its types"
    if layer.casts:
        return "a Cast says its types itself"
    if node is None:
        return "it belongs to no node of the graph"
    if node.quantized:
        return "Q/DQ around it says that it multiplies integers"
    if node.free:
        return "TensorRT may choose: the model gives no signal, and several precisions were asked for"
    if not node.precision:
        return "its node computes with no float"
    return ""
