"""Which type each layer runs in: the rules of weak and of strong typing.

A layer's row is what the engine keeps of it: its tensors in the types that the builder chose, so that a pin that was not honoured shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .network import FLOATS, INTEGERS, Layer, Network, Tensor
from .operators import INT8, runs_in

FLAGS = {"HALF": "FP16", "BF16": "BF16", "INT8": "INT8", "FP8": "FP8", "INT4": "INT4", "FP4": "FP4"}
"""Type -> the builder flag that allows it."""
IGNORES = "TENSORRT_DOUBLE_IGNORES"
LACKS = "TENSORRT_DOUBLE_LACKS"
"""Names a type in which no operator is faster than in fp32, so that a free layer never takes it."""

Told = tuple[str, str, tuple[int, ...], str]


class BuildFailedError(Exception):
    """The builder says no; the text is TensorRT's."""


@dataclass
class Row:
    """A layer of the engine: (name, type, shape, ONNX name) of each tensor."""

    name: str
    kind: str
    metadata: str = ""
    weights: str = ""
    inputs: list[Told] = field(default_factory=list)
    outputs: list[Told] = field(default_factory=list)

    def asdict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Choice:
    """Chooses types for a network.

    Args:
        network: with its constraints.
        has_flag: whether the configuration has a builder flag.
    """

    def __init__(self, network: Network, has_flag: Callable[[str], bool]) -> None:
        self.network, self.has_flag, self.log = network, has_flag, network.log
        self.obey = has_flag("OBEY_PRECISION_CONSTRAINTS")
        self.pinned = self.obey or has_flag("PREFER_PRECISION_CONSTRAINTS")
        self.ignored = {name for name in os.environ.get(IGNORES, "").split(",") if name}
        self.holds: dict[Tensor, str] = {}

    def validate(self) -> None:
        """Refuse what TensorRT refuses before it times a kernel.

        Raises:
            BuildFailedError: with its text.
        """
        if self.network.strong:
            self._validate_strong()
        else:
            self._validate_weak()

    def rows(self) -> list[Row]:
        """The layers of the engine.

        Raises:
            BuildFailedError: a layer must run in a type in which it has no kernel.
        """
        self.holds = {tensor: tensor.io_type for tensor in self.network.inputs}
        rows: list[Row] = []
        for layer in self.network.layers:
            if layer.kind == "CONSTANT" or layer.is_shape:
                self.holds.update({tensor: tensor.made_type for tensor in layer.outputs})
                continue  # folded, or computed on the host: the inspector tells of neither
            rows += self._strong(layer) if self.network.strong else self._weak(layer)
        return rows

    def _validate_strong(self) -> None:
        for flag in (*FLAGS.values(), "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"):
            if self.has_flag(flag):
                raise BuildFailedError(f"API Usage Error (k{flag} is not supported when network is strongly typed.)")

    def _validate_weak(self) -> None:
        if self.obey and self.has_flag("PREFER_PRECISION_CONSTRAINTS"):
            raise BuildFailedError(
                "API Usage Error (kOBEY_PRECISION_CONSTRAINTS and kPREFER_PRECISION_CONSTRAINTS cannot both be set.)"
            )
        for layer in self.network.layers:
            self._validate_flags(layer)
            self._validate_constraints(layer)

    def _validate_flags(self, layer: Layer) -> None:
        used = {layer.asked_precision, *layer.asked_outputs.values(), layer.to}
        for dtype, flag in FLAGS.items():
            plain_cast = layer.kind == "CAST" and dtype not in FLOATS
            if dtype in used and not plain_cast and not self.has_flag(flag):
                word = flag.lower()
                raise BuildFailedError(
                    f"Internal Error ({word} precision has been set for a layer or layer output, but {word} is not configured in "
                    "the builder)"
                )

    def _validate_constraints(self, layer: Layer) -> None:
        """Constraints that no layer of the kind can have are errors in the log; fatal under OBEY."""
        problem = ""
        asked = layer.asked_precision or layer.asked_outputs
        if layer.kind == "TOPK" and layer.asked_outputs.get(1, "INT32") != "INT32":
            problem = f"{layer.name}: the second output of a TopK layer is always Int32"
        elif asked and (layer.is_shape or layer.kind == "SHAPE"):
            problem = f"{layer.name}: shape operations run in integers: their types cannot be constrained"
        elif asked and layer.kind == "CONSTANT" and layer.outputs[0].made_type in INTEGERS:
            problem = f"{layer.name}: a constant with weights of {layer.outputs[0].made_type} cannot be constrained"
        elif self.network.module.version.number >= (10,):
            for i, dtype in layer.asked_outputs.items():
                if (dtype in FLOATS) != (layer.outputs[i].made_type in FLOATS) and layer.kind not in (
                    "CAST",
                    "QUANTIZE",
                ):
                    problem = f"{layer.name}: output {i} is {layer.outputs[i].made_type}: a conversion to {dtype} needs a Cast"
        if problem and self.obey:
            raise BuildFailedError(f"Internal Error ({problem})")
        if problem:
            self.log.error(problem)

    def _strong(self, layer: Layer) -> list[Row]:
        self.holds.update({tensor: tensor.made_type for tensor in layer.outputs})
        return [self._row(layer, {})]

    def _row(self, layer: Layer, reads: dict[Tensor, str]) -> Row:
        """A layer's row, with its inputs in the types that it reads; constants are weights, and no input."""
        fed = [tensor for tensor in layer.inputs if tensor is not None and not _constant(tensor)]
        weights = next((t.made_type for t in layer.inputs if t is not None and _constant(t)), layer.weights_type)
        return Row(
            layer.name,
            layer.kind,
            layer.metadata,
            weights,
            [(t.name, reads.get(t, self.holds.get(t, t.made_type)), t.sizes, t.onnx_name) for t in fed],
            [(t.name, self.holds[t], t.sizes, t.onnx_name) for t in layer.outputs],
        )

    def _weak(self, layer: Layer) -> list[Row]:
        compute = self._compute(layer)
        moves, reads = [], {}
        for i, tensor in enumerate(layer.inputs):
            if tensor is None or tensor.made_type not in FLOATS or layer.kind in ("CAST", "QUANTIZE"):
                continue
            if compute == "INT8":
                reads[tensor] = "INT8"
            elif compute and not _constant(tensor) and self.holds.get(tensor, tensor.made_type) != compute:
                moves.append(self._move(layer, "Input", i, tensor, self.holds.get(tensor, tensor.made_type), compute))
                reads[tensor] = compute
        made = {tensor: self._output(layer, i, compute) for i, tensor in enumerate(layer.outputs)}
        self.holds.update(made)
        row = self._row(layer, reads)
        if compute and row.weights in (*FLOATS, "INT8"):
            row.weights = compute
        row.inputs = [
            (f"Reformatted Input Tensor {i} to {layer.name}", *told[1:])
            if any(m.inputs[0][0] == told[0] for m in moves)
            else told
            for i, told in enumerate(row.inputs)
        ]
        after = []
        for i, tensor in enumerate(layer.outputs):
            if tensor.is_network_output and self.holds[tensor] != tensor.io_type:
                move = self._move(layer, "Output", i, tensor, self.holds[tensor], tensor.io_type)
                row.outputs[i] = move.inputs[0]
                after.append(move)
                self.holds[tensor] = tensor.io_type
        return [*moves, row, *after]

    def _move(self, layer: Layer, side: str, i: int, tensor: Tensor, held: str, wanted: str) -> Row:
        name = f"Reformatted {side} Tensor {i} to {layer.name}"
        first, last = (tensor.name, name) if side == "Input" else (name, tensor.name)
        ends = [(first, held, tensor.sizes, tensor.onnx_name), (last, wanted, tensor.sizes, tensor.onnx_name)]
        return Row(
            f"Reformatting CopyNode for {side} Tensor {i} to {layer.name}", "REFORMAT", "", "", ends[:1], ends[1:]
        )

    def _compute(self, layer: Layer) -> str:
        """The type that a layer computes in; "" where it computes no floats."""
        touched = [t for t in (*layer.inputs, *layer.outputs) if t is not None and t.made_type in FLOATS]
        if not touched or layer.kind in ("CAST", "QUANTIZE"):
            return ""
        wanted = layer.asked_precision
        if layer.name in self.ignored:
            return self._other(layer, wanted)
        if wanted and self.pinned and not (layer.is_shape or layer.kind == "CONSTANT"):
            if self._has_kernel(layer, wanted):
                return wanted
            if self.obey:
                raise BuildFailedError(_no_kernel(layer))
            self.log.warning(
                f"No implementation of layer {layer.name} obeys the requested constraints, using the fastest implementation."
            )
            return "FLOAT"
        return self._fastest(layer)

    def _other(self, layer: Layer, wanted: str) -> str:
        """What a layer runs in whose pin a fusion overrides."""
        return self._fastest(layer) if wanted in ("", "FLOAT") else "FLOAT"

    def _fastest(self, layer: Layer) -> str:
        for dtype in ("INT8", "HALF", "BF16"):
            if dtype != os.environ.get(LACKS) and self.has_flag(FLAGS[dtype]) and self._has_kernel(layer, dtype):
                return dtype
        return "FLOAT"

    def _has_kernel(self, layer: Layer, dtype: str) -> bool:
        if dtype == "INT8":
            data = layer.inputs[0] if layer.inputs else None
            return layer.op in INT8 and data is not None and data.layer is not None and data.layer.kind == "DEQUANTIZE"
        return runs_in(layer.op, dtype)

    def _output(self, layer: Layer, i: int, compute: str) -> str:
        made = layer.outputs[i].made_type
        if layer.to:
            return layer.to
        if made not in FLOATS:
            return made
        asked = layer.asked_outputs.get(i, "")
        if asked in FLOATS and self.pinned and layer.name not in self.ignored:
            if runs_in(layer.op, asked):
                return asked
            if self.obey:
                raise BuildFailedError(_no_kernel(layer))
        if compute != "INT8":
            return compute or made
        return next((dtype for dtype in ("HALF", "BF16") if self.has_flag(FLAGS[dtype])), "FLOAT")


def _constant(tensor: Tensor) -> bool:
    return tensor.layer is not None and tensor.layer.kind == "CONSTANT"


def _no_kernel(layer: Layer) -> str:
    return f"Error Code 10: Internal Error (Could not find any implementation for node {layer.name}.)"
