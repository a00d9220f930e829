"""Which layers of a weakly typed network a plan ties to a precision, and which precisions that needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch2trt_onnx.errors import FlagError, PrecisionError
from torch2trt_onnx.plan import NodePlan, PrecisionPlan
from torch2trt_onnx.precision import Precision

CONVERTS = frozenset({"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
"""Operators whose types say what they do, and that no layer precision may touch."""

FLOATS = frozenset({"fp32", "fp16", "bf16"})
TYPINGS = ("weak", "strong")
OLDEST = (8, 6)

_SINCE = {Precision.BF16: (9, 0), Precision.FP8: (8, 6), Precision.INT4: (10, 0)}
"""The TensorRT that brought a precision; the others were always there."""


@dataclass(frozen=True)
class Pin:
    """A layer that computes in one precision.

    Args:
        name: of the ONNX node, and of the first layer that TensorRT's parser makes of it.
        precision: "fp32", "fp16" or "bf16".
        outputs: the type of each of the node's outputs, "int64" and the like where it is no float.
        tensors: the name of each.
    """

    name: str
    precision: str
    outputs: tuple[str, ...]
    tensors: tuple[str, ...] = ()

    @property
    def output_types(self) -> tuple[str, ...]:
        """What its outputs must be told to be: one type where all have it, and nothing where one is no float."""
        if not self.outputs or not FLOATS.issuperset(self.outputs):
            return ()
        return self.outputs[:1] if len(set(self.outputs)) == 1 else self.outputs


def pins(plan: PrecisionPlan) -> list[Pin]:
    """The layers to tie down: they compute with a float, convert nothing, are not quantized, and the plan does not leave them free."""
    return [Pin(node.name, node.precision, node.outputs, node.tensors) for node in plan.nodes if _is_tied(node)]


def _is_tied(node: NodePlan) -> bool:
    return node.precision in FLOATS and not node.quantized and node.op not in CONVERTS and not node.is_free


def enabled(plan: PrecisionPlan, version: tuple[int, int]) -> tuple[list[Precision], list[str]]:
    """The precisions beside fp32 that the builder must be allowed, in the order of the flags; and what is left out, and why.

    Raises:
        PrecisionError: that TensorRT does not have one of them, or not both of two.
    """
    quantized = {Precision(node.quantized) for node in plan.nodes if node.quantized}
    used = {Precision(word) for node in plan.floats() for word in (node.precision, *node.outputs) if word in FLOATS}
    wanted = used | quantized | (plan.asked.precisions or frozenset())
    idle = {p for p in wanted if p.is_quantized and p not in quantized}
    notes = [
        f"{p.value} is left out: no node is quantized to it, and without Q/DQ the tool would make up ranges of its own"
        for p in Precision
        if p in idle
    ]
    found: list[Precision] = [p for p in Precision if p in wanted - idle and p is not Precision.FP32]
    for precision in found:
        since = _SINCE.get(precision, OLDEST)
        if version < since:
            raise PrecisionError(
                f"TensorRT {version[0]}.{version[1]} has no {precision.value}",
                fix=f"use TensorRT {since[0]}.{since[1]} or later, or plan without {precision.value}",
            )
    if {Precision.FP8, Precision.INT8} <= set(found):
        raise PrecisionError("fp8 and int8 are both planned", why="weakly typed TensorRT takes one of them")
    return found, notes


def parse_version(version: str, typing: str) -> tuple[int, int]:
    """The major and the minor number of a TensorRT, which must have a way of typing.

    Raises:
        FlagError: it is no version, or no way of typing.
        PrecisionError: that TensorRT does not have it.
    """
    numbers = version.split(".")[:2]
    if not all(n.isdecimal() for n in numbers):
        raise FlagError(f"{version!r} is no version of TensorRT", fix="write 8.6, 10.13 or 11")
    found = (int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else (6 if numbers[0] == "8" else 0))
    if typing not in TYPINGS:
        raise FlagError(f"typing is {typing!r}", fix="use weak or strong")
    if typing == "weak" and found >= (11, 0):
        raise PrecisionError(
            f"TensorRT {version} has no weak typing",
            why="the types in the file are its plan",
            fix="use typing='strong'",
        )
    if typing == "strong" and found < (9, 1):
        raise PrecisionError(f"TensorRT {version} has no strong typing", fix="use typing='weak', or a later TensorRT")
    return found


def named(names: Sequence[str], limit: int = 20) -> str:
    """Names for a message; not all of a thousand."""
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more
