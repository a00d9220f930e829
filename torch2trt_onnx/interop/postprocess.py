"""Sets the planned precisions in a TensorRT network that was parsed from the planned ONNX file. Needs TensorRT, and nothing else.

With Polygraphy: --trt-network-postprocess-script THIS_FILE. By hand: parse the file, call postprocess(network), and allow the precisions in
the builder's configuration. TensorRT 8.6 to 10, weakly typed; where the network is strongly typed, the types in the file are the plan.
"""

from __future__ import annotations

import re
from typing import Any

PINS: dict[str, tuple[str, dict[str, str]]] = {}
"""ONNX node -> the precision that it computes in, and the type of each tensor that it puts out."""

OTHERS: tuple[str, ...] = ()
"""Nodes that are told nothing, and are called like a further layer of one that is ("Relu_1" beside "Relu")."""

OUTPUTS: dict[str, str] = {}
"""Output of the network -> its type."""

MISSING_FAILS = True
"""Whether a planned node that the network has not is an error; else it is told of only."""

FLOATS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
SUFFIX = re.compile(r"_\d+$")
PREFIX = "[ONNX Layer: "
OWN_TYPES = ("CONSTANT", "CAST", "QUANTIZE", "DEQUANTIZE", "DYNAMIC_QUANTIZE", "SHAPE")
"""Layers whose types follow from what they are."""


def postprocess(network: Any) -> None:
    """Tell each layer of a planned node its precision and the types of what it makes, and the network's outputs their types.

    Raises:
        RuntimeError: a planned node or output is not in the network, or this TensorRT has no such type.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    if not layers or not hasattr(layers[0], "precision"):
        _say("this TensorRT has no precisions of layers: the types in the ONNX file are the plan, and nothing is set")
        return
    import tensorrt as trt

    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if strong is not None and network.get_flag(strong):
        _say("the network is strongly typed: the types in the ONNX file are the plan, and nothing is set")
        return
    types = {name: getattr(trt, attribute) for name, attribute in FLOATS.items() if hasattr(trt, attribute)}
    made = _layers_of_nodes(layers)
    outputs = {t.name: t for t in (network.get_output(i) for i in range(network.num_outputs))}
    _require("nodes", PINS, made)
    _require("outputs", OUTPUTS, outputs)
    untold = [node for node in PINS if not _tell_node(node, made.get(node, []), types)]
    for name, kind in OUTPUTS.items():
        if name in outputs and _is_float(outputs[name], types) and kind in FLOATS:
            outputs[name].dtype = _type(types, kind)
    _say(f"{len(PINS) - len(untold)} nodes are told their precision")
    if untold:
        _say(f"these have no layer that can be told one: {', '.join(untold)}")


def _layers_of_nodes(layers: list[Any]) -> dict[str, list[Any]]:
    """Planned node -> the layers that the parser made of it. The last of several may have no name, and makes what the node puts out."""
    makers = {tensor: node for node, (_, kinds) in PINS.items() for tensor in kinds}
    found: dict[str, list[Any]] = {}
    for layer in layers:
        made = (makers.get(layer.get_output(i).name, "") for i in range(layer.num_outputs))
        node = _node(layer.name, str(getattr(layer, "metadata", "") or "")) or next(filter(None, made), "")
        if node:
            found.setdefault(node, []).append(layer)
    return found


def _node(name: str, metadata: str) -> str:
    """The planned node of a layer; "" where there is none. From TensorRT 10 on the metadata tells it; before, the name does, which for the
    second and later layers of a node has a number behind."""
    if metadata.startswith(PREFIX):
        told = metadata[len(PREFIX) :]
        told = told[:-1] if told.endswith("]") else told
        return next((n for n in (told, told.split(" | ")[0]) if n in PINS), "")
    return "" if name in OTHERS else next((n for n in (name, SUFFIX.sub("", name)) if n in PINS), "")


def _tell_node(node: str, layers: list[Any], types: dict[str, Any]) -> bool:
    """Tell the layers of a node its precision, where one of them can be told one."""
    precision, kinds = PINS[node]
    told = [_tell(layer, types, precision, kinds) for layer in layers]
    return any(told)


def _tell(layer: Any, types: dict[str, Any], precision: str, kinds: dict[str, str]) -> bool:
    """Tell a layer its precision, where it can be told one."""
    outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
    floats = [i for i, tensor in enumerate(outputs) if tensor is not None and _is_float(tensor, types)]
    if not floats or layer.type.name in OWN_TYPES or _converts(layer, outputs[floats[0]]):
        return False
    layer.precision = _type(types, precision)
    for index in floats:
        kind = kinds.get(outputs[index].name, precision)
        layer.set_output_type(index, _type(types, kind if kind in FLOATS else precision))
    return True


def _converts(layer: Any, output: Any) -> bool:
    """Whether a layer changes the type of what it is given, which its precision must not."""
    given = layer.get_input(0) if layer.num_inputs else None
    return layer.type.name == "IDENTITY" and given is not None and given.dtype != output.dtype


def _is_float(tensor: Any, types: dict[str, Any]) -> bool:
    return tensor.dtype in types.values() and not tensor.is_shape_tensor


def _type(types: dict[str, Any], kind: str) -> Any:
    if kind not in types:
        raise RuntimeError(f"this TensorRT has no {kind}, which the plan asks for")
    return types[kind]


def _require(what: str, planned: dict[str, Any], found: dict[str, Any]) -> None:
    missing = [name for name in planned if name not in found]
    text = f"{len(missing)} planned {what} are not in the network: {', '.join(map(repr, missing))}"
    if missing and MISSING_FAILS:
        raise RuntimeError(f"{text}. Was it parsed from the ONNX file that this plan is of?")
    if missing:
        _say(text)


def _say(text: str) -> None:
    print(f"plan: {text}")
