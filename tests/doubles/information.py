"""What the engine inspector prints, in the shape of each version: see tests/fixtures/inspector."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .layouts import title

if TYPE_CHECKING:
    from .context import ExecutionContext
    from .engine import Engine

WORDS = {
    "FLOAT": "Float",
    "HALF": "Half",
    "BF16": "BFloat16",
    "INT8": "Int8",
    "INT32": "Int32",
    "INT64": "Int64",
    "BOOL": "Bool",
    "UINT8": "UInt8",
    "FP8": "FP8",
    "INT4": "Int4",
}
SENTENCES = {
    "FLOAT": "Row major linear FP32",
    "HALF": "Row major linear FP16 format",
    "INT8": "Row major linear Int8 format",
    "INT32": "Row major linear Int32",
    "BOOL": "Row major linear BOOL",
    "UINT8": "Row major linear UInt8 format",
}
"""How TensorRT 8 tells types."""
KINDS = {"CONVOLUTION": "CaskConvolution", "REFORMAT": "Reformat", "MATRIX_MULTIPLY": "MatrixMultiply"}
DYNAMIC = "N/A due to dynamic shapes"


def told(engine: Engine, context: ExecutionContext | None, *, as_json: bool, only: int | None = None) -> str:
    """The information of an engine, or of one of its layers."""
    telling = Telling(engine, context)
    if engine.plan["verbosity"] == "NONE":
        return "{}" if as_json else ""
    rows = telling.layers()
    if only is not None:
        return json.dumps(rows[only]) if as_json else str(rows[only])
    if not as_json:
        return "\n".join(row if isinstance(row, str) else row["Name"] for row in rows)
    if engine.module.version.number >= (11,):
        return json.dumps({"Layers": rows, "I/O Tensors": telling.bindings()}, indent=1)
    return json.dumps({"Layers": rows, "Bindings": telling.names()}, indent=1)


class Telling:
    """Tells of one engine; of a dynamic one wholly only if a context has the shapes of its inputs."""

    def __init__(self, engine: Engine, context: ExecutionContext | None) -> None:
        self.engine, self.number = engine, engine.module.version.number
        dynamic = any(-1 in t["shape"] for t in engine.plan["tensors"] if t["mode"] == "INPUT")
        known = context is not None and context.all_binding_shapes_specified
        self.is_dark = dynamic and not known
        self.shapes = engine.program.shapes(context.known_shapes()) if dynamic and known and context is not None else {}

    def _suffixes(self) -> list[str]:
        return ["", *(f" [profile {i}]" for i in range(1, self.engine.num_optimization_profiles))]

    def names(self) -> list[str]:
        """The bindings of TensorRT before 11."""
        return [name + suffix for suffix in self._suffixes() for name in self.engine.tensors]

    def layers(self) -> list[Any]:
        """The layers, for each optimization profile anew."""
        rows = [(row, suffix) for suffix in self._suffixes() for row in self.engine.plan["layers"]]
        if self.engine.plan["verbosity"] == "LAYER_NAMES_ONLY":
            return [row["name"] + suffix for row, suffix in rows]
        return [self._layer(row, suffix) for row, suffix in rows]

    def bindings(self) -> list[dict[str, Any]]:
        """The bindings of TensorRT 11."""
        return [self._binding(name) for name in self.engine.tensors]

    def _layer(self, row: dict[str, Any], suffix: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "Name": row["name"] + suffix,
            "LayerType": KINDS.get(row["kind"], row["kind"].title().replace("_", "")),
            "Inputs": [self._tensor(tensor, suffix) for tensor in row["inputs"]],
            "Outputs": [self._tensor(tensor, suffix) for tensor in row["outputs"]],
        }
        if self.number >= (11,):
            found["Constants"] = [self._constant(row["weights"])] if row["weights"] else []
        elif row["weights"] and row["kind"] == "CONVOLUTION":
            found["Weights"] = {"Type": WORDS[row["weights"]], "Count": 1}
        found["TacticName"] = ""
        if self.number >= (10,):
            found |= {"StreamId": 0, "Metadata": row["metadata"]}
        return found

    def _tensor(self, told_tensor: list[Any], suffix: str) -> dict[str, Any]:
        name, dtype, sizes, onnx = told_tensor
        found = {
            "Name": name + (suffix if name in self.engine.tensors else ""),
            "Location": "Device",
            "Dimensions": list(self.shapes.get(onnx, sizes)),
        }
        if self.number >= (11,):
            word = DYNAMIC if self.is_dark else WORDS[dtype]
            return {**found, "Datatype": word, "Format": "(Linear) Row major linear format"}
        word = WORDS[dtype] if self.number >= (10,) else SENTENCES[dtype]
        return {**found, "Format/Datatype": DYNAMIC if self.is_dark else word}

    def _constant(self, dtype: str) -> dict[str, Any]:
        return {
            "Name": "weights",
            "Dimensions": [1],
            "Datatype": WORDS[dtype],
            "Format": "(Linear) Row major linear format",
        }

    def _binding(self, name: str) -> dict[str, Any]:
        tensor = self.engine.tensors[name]
        layout = f"{title(tensor['format'], tensor['dtype'])} (k{tensor['format']})"
        profiles = []
        for i in range(self.engine.num_optimization_profiles):
            ends = zip(("MinShape", "OptShape", "MaxShape"), self.engine.ranges(name, i), strict=True)
            shapes = {key: list(shape) for key, shape in ends} if tensor["mode"] == "INPUT" else {}
            profiles.append({**shapes, "Format": layout})
        return {
            "Name": name,
            "IOMode": tensor["mode"].title(),
            "DataType": WORDS[tensor["dtype"]],
            "Dimensions": list(tensor["shape"]),
            "Location": "Host" if tensor["is_shape"] else "Device",
            "IsShapeInferenceIO": tensor["is_shape"],
            "ProfileInfo": profiles,
        }
