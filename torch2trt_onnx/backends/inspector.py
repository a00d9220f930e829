"""The layers of an engine, from the JSON of TensorRT's engine inspector (`ProfilingVerbosity.DETAILED`).

Two shapes are known, and told apart by their keys, as each may come from a file that names no version:

* TensorRT 8 and 10: `Bindings` is a list of names; a tensor has `Format/Datatype`, one text that tells both; weights are only counted.
* TensorRT 11: `I/O Tensors` is a list of objects; a tensor has `Format` and `Datatype`; `Constants` lists the weights.

The words of types come out as `ElementType.dump` spells them. Text that names no known type is kept as it is: "N/A due to dynamic
shapes" says that the type is not told, and whoever judges the engine must see that. To have the types of a dynamic engine, give the
inspector an execution context whose input shapes are set.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from torch2trt_onnx.backends.layers import Binding, EngineLayer, EngineTensor
from torch2trt_onnx.errors import InspectionError

WORDS = {
    "FLOAT": "Float",
    "FP32": "Float",
    "HALF": "Half",
    "FP16": "Half",
    "BFLOAT16": "BFloat16",
    "BF16": "BFloat16",
    "FP8": "FP8",
    "INT64": "Int64",
    "INT32": "Int32",
    "INT8": "Int8",
    "UINT8": "UInt8",
    "INT4": "Int4",
    "BOOL": "Bool",
}
"""How the inspector names types, in capitals, as it spells one type in several ways (INT8, Int8) -> `ElementType.dump`."""

METADATA = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]|\[ONNX Layer: |$)")
"""One entry of `Metadata`. Layers are joined by \\x1e, those of a Myelin region by \\x1f; text that was copied may have lost both."""
PROFILE = re.compile(r" \[profile \d+\]$")
FOREIGN = re.compile(r"\{ForeignNode\[(.*)\]\}")
FUSED = re.compile(r" \+ | \|\| |, |PWN\(|[\x1e\x1f]")
MOVE = "Reformatting CopyNode for "
UNNAMED = "(Unnamed Layer*"

Row = dict[str, Any]
T = TypeVar("T")


def parse(text: str) -> tuple[list[EngineLayer], list[Binding]]:
    """The layers and the bindings that the inspector's JSON tells.

    Args:
        text: what `get_engine_information(LayerInformationFormat.JSON)` gives.

    Raises:
        InspectionError: it is no such JSON, or tells only the names of the layers.
    """
    told = _load(text)
    rows = _rows(told, "Layers", "the engine")
    told_by_metadata = any("[ONNX Layer: " in str(row.get("Metadata", "")) for row in rows)
    layers = [_layer(row, _place("layer", i, row), told_by_metadata) for i, row in enumerate(rows)]
    if "I/O Tensors" in told:
        bound = _rows(told, "I/O Tensors", "the engine")
        return layers, [_binding(row, _place("I/O tensor", i, row)) for i, row in enumerate(bound)]
    names = _take(told, "Bindings", list, "the engine") if "Bindings" in told else []
    return layers, _bindings_of_names([str(name) for name in names], rows)


def type_of(text: str) -> str:
    """`ElementType.dump` of a text that tells a format and a type ("Row major linear FP16 format") or a type alone ("Half").

    A text that names no type, or several, is kept as it is.
    """
    found = {WORDS[word] for word in text.upper().replace(".", " ").split() if word in WORDS}
    return found.pop() if len(found) == 1 else text


def nodes_of_name(name: str) -> tuple[str, ...]:
    """The ONNX nodes that a layer's name tells, for TensorRT before 10, whose parser gives no metadata.

    TensorRT joins the names of what it fused. Of a region that its second compiler took ("{ForeignNode[a...b]}") it names the ends only.
    Names that TensorRT derives ("reshape_after_x") are told apart from nodes only by who knows the graph, and stand too.
    """
    if name.startswith(MOVE):
        return ()
    name = PROFILE.sub("", name)
    region = FOREIGN.fullmatch(name)
    fused = region[1].replace("...", " + ") if region else name
    parts = (_closed(part.strip()) for part in FUSED.split(fused))
    return tuple(dict.fromkeys(part for part in parts if part and not part.startswith(UNNAMED)))


def _closed(name: str) -> str:
    """A name without the brackets that close a "PWN(" before it; brackets of its own stay."""
    surplus = name.count(")") - name.count("(")
    last = len(name) - len(name.rstrip(")"))
    return name[: len(name) - min(surplus, last)] if surplus > 0 else name


def _nodes_of_metadata(metadata: str) -> tuple[str, ...]:
    """Each node once; after " | " follow the functions of the model that the node stands in."""
    return tuple(dict.fromkeys(entry.split(" | ")[0] for entry in METADATA.findall(metadata)))


def _load(text: str) -> Row:
    try:
        told = json.loads(text, strict=False)  # not strict: the separators in Metadata may stand unescaped
    except json.JSONDecodeError as error:
        raise InspectionError(
            "the engine inspector's information is not JSON",
            where=f"line {error.lineno}, column {error.colno}",
            why=error.msg,
            fix="ask for LayerInformationFormat.JSON",
        ) from error
    if not isinstance(told, dict):
        raise InspectionError(
            f"the engine inspector's information is of type {type(told).__name__}, not an object with 'Layers'",
            fix="pass what get_engine_information gives, whole",
        )
    return told


def _rows(row: Row, key: str, where: str) -> list[Row]:
    """A list of objects.

    A layer that is told as a string stands for an engine built without details, which is a mistake of its own.
    """
    rows = _take(row, key, list, where)
    for i, entry in enumerate(rows):
        if key == "Layers" and isinstance(entry, str):
            raise InspectionError(
                "the engine tells only the names of its layers, so that no precision can be read",
                where=f"layer {i}: {entry!r}",
                fix="build with ProfilingVerbosity.DETAILED",
            )
        if not isinstance(entry, dict):
            raise InspectionError(
                f"the engine inspector's {key!r} holds a value of type {type(entry).__name__}, not an object",
                where=f"{where}, entry {i}",
            )
    return rows


def _take(row: Row, key: str, kind: type[T], where: str) -> T:
    """The value of a key, which must be there and of a kind."""
    if key not in row:
        raise InspectionError(f"the engine inspector's information has no {key!r}", where=where)
    value = row[key]
    if not isinstance(value, kind):
        raise InspectionError(
            f"the engine inspector's {key!r} is of type {type(value).__name__}, not {kind.__name__}", where=where
        )
    return value


def _text(row: Row, key: str, where: str) -> str:
    """The text of a key that may be missing: "" then."""
    return _take(row, key, str, where) if key in row else ""


def _place(what: str, i: int, row: Row) -> str:
    return f"{what} {i} ({row.get('Name', 'without a name')})"


def _layer(row: Row, where: str, told_by_metadata: bool) -> EngineLayer:
    name = _take(row, "Name", str, where)
    metadata = _text(row, "Metadata", where)
    return EngineLayer(
        name,
        _text(row, "LayerType", where),
        _tensors(row, "Inputs", where),
        _tensors(row, "Constants", where) or _weights(row),
        _tensors(row, "Outputs", where),
        _nodes_of_metadata(metadata) if told_by_metadata else nodes_of_name(name),
        _text(row, "TacticName", where),
    )


def _tensors(row: Row, side: str, where: str) -> tuple[EngineTensor, ...]:
    if side not in row:
        return ()
    places = ((tensor, f"{where}, {_place(side, i, tensor)}") for i, tensor in enumerate(_rows(row, side, where)))
    return tuple(
        EngineTensor(_take(tensor, "Name", str, place), type_of(_described(tensor, place)), _dims(tensor, place))
        for tensor, place in places
    )


def _weights(row: Row) -> tuple[EngineTensor, ...]:
    """What TensorRT before 11 tells of the constants of a layer: a type and a number of elements each."""
    told = ((key, row[key]) for key in ("Weights", "Bias") if isinstance(row.get(key), dict))
    return tuple(
        EngineTensor(key, type_of(str(value.get("Type", ""))), (value["Count"],))
        for key, value in told
        if isinstance(value.get("Count"), int) and value["Count"] > 0
    )


def _described(tensor: Row, where: str) -> str:
    """The text that tells a tensor's type."""
    return _take(tensor, "Datatype" if "Datatype" in tensor else "Format/Datatype", str, where)


def _dims(row: Row, where: str) -> tuple[int, ...]:
    dims = _take(row, "Dimensions", list, where)
    if not all(isinstance(dim, int) for dim in dims):
        raise InspectionError(f"the engine inspector's 'Dimensions' are {dims}, not whole numbers", where=where)
    return tuple(dims)


def _binding(row: Row, where: str) -> Binding:
    """Of several optimization profiles the first: a binding has one type and, with us, one format in all."""
    profiles = _rows(row, "ProfileInfo", where) if "ProfileInfo" in row else []
    return Binding(
        _take(row, "Name", str, where),
        _take(row, "IOMode", str, where),
        type_of(_take(row, "DataType", str, where)),
        _dims(row, where),
        _text(profiles[0], "Format", where) if profiles else "",
    )


def _bindings_of_names(names: list[str], rows: list[Row]) -> list[Binding]:
    """The bindings of an engine that names them only: the layer that writes or reads one tells the rest.

    An input that no layer reads has no type. Further optimization profiles repeat the bindings under names of their own, which are
    passed over.
    """
    written = {tensor["Name"]: tensor for row in rows for tensor in row.get("Outputs", ())}
    read = {tensor["Name"]: tensor for row in reversed(rows) for tensor in row.get("Inputs", ())}
    bindings = []
    for name in names:
        if PROFILE.search(name):
            continue
        mode = "Output" if name in written else "Input"
        tensor = written.get(name) or read.get(name)
        if tensor is None:
            bindings.append(Binding(name, mode, "", (), ""))
            continue
        described = _described(tensor, name)
        dtype = type_of(described)
        layout = _text(tensor, "Format", name) or (described if " " in described and described != dtype else "")
        bindings.append(Binding(name, mode, dtype, _dims(tensor, name), layout))
    return bindings
