"""Which nodes are ill-typed, all of them, by the type constraints of ONNX's own operator schemas.

`onnx.checker` stops at the first such node, and names neither tensor. TensorRT accepts some of them and computes in another
type than the graph says (fp16 BatchNormalization with fp32 parameters, Clip bounds, Pad values), so this runs before it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import dtype_to_onnx

from torch2trt_onnx.precision import label


def onnx_type(tensor: gs.Tensor) -> int:
    """The ONNX element type of a tensor; 0 where it is unknown or the tensor is an omitted input."""
    if tensor.dtype is None:
        return 0
    return tensor.dtype if isinstance(tensor.dtype, int) else int(dtype_to_onnx(tensor.dtype))


def is_standard(node: gs.Node) -> bool:
    """Whether a node's operator is one of ONNX's own."""
    return (node.domain or "") in ("", "ai.onnx")


@dataclass(frozen=True)
class Problem:
    """One ill-typed node."""

    node: str
    op: str
    text: str

    def __str__(self) -> str:
        return f"{self.op} {self.node!r}: {self.text}"


@dataclass(frozen=True)
class _Operand:
    """A formal input or output: the type variable or type that it is bound to, and whether it repeats."""

    name: str
    variable: str
    repeats: bool
    mixed: bool


@dataclass(frozen=True)
class Schema:
    """What an operator says of the types of its operands."""

    inputs: tuple[_Operand, ...]
    outputs: tuple[_Operand, ...]
    allowed: dict[str, frozenset[int]]

    def variables(self, node: gs.Node) -> Iterable[tuple[str, bool, gs.Tensor]]:
        """`(type variable, is input, tensor)` for each operand of a node that is bound to a type variable."""
        for formals, actuals, is_input in ((self.inputs, node.inputs, True), (self.outputs, node.outputs, False)):
            for index, tensor in enumerate(actuals):
                formal = formals[min(index, len(formals) - 1)] if formals else None
                if formal is not None and not formal.mixed and (index < len(formals) or formal.repeats):
                    yield formal.variable, is_input, tensor


@functools.cache
def schema(op: str, opset: int) -> Schema | None:
    """The schema of an operator of ONNX's own at an opset, or None where ONNX does not know it."""
    try:
        found = onnx.defs.get_schema(op, max_inclusive_version=opset, domain="")
    except onnx.defs.SchemaError:
        return None
    allowed = {c.type_param_str: _elements(c.allowed_type_strs) for c in found.type_constraints}

    def operand(formal: Any) -> _Operand:
        repeats = formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic
        if formal.type_str not in allowed:
            allowed[formal.type_str] = _elements([formal.type_str])
        return _Operand(formal.name, formal.type_str, repeats, repeats and not formal.is_homogeneous)

    return Schema(tuple(map(operand, found.inputs)), tuple(map(operand, found.outputs)), allowed)


def problems(nodes: Iterable[gs.Node], opset: int) -> list[Problem]:
    """Every node whose tensors contradict the type constraints of its operator; tensors of unknown type are passed over."""
    found = []
    for node in nodes:
        spec = schema(node.op, opset) if is_standard(node) else None
        if spec is None:
            continue
        bound: dict[str, tuple[gs.Tensor, int]] = {}
        for variable, is_input, tensor in spec.variables(node):
            kind = onnx_type(tensor)
            if not kind:
                continue
            first, first_kind = bound.setdefault(variable, (tensor, kind))
            if kind != first_kind:
                found.append(
                    Problem(
                        node.name,
                        node.op,
                        f"{first.name!r} is {label(first_kind)} and {tensor.name!r} is {label(kind)}; both must have one type ({variable})",
                    )
                )
                break
            allowed = spec.allowed.get(variable)
            if allowed and kind not in allowed:
                verb = "takes" if is_input else "makes"
                text = f"{tensor.name!r} is {label(kind)}, which {node.op} {verb} not in opset {opset}"
                found.append(Problem(node.name, node.op, text))
                break
    return found


@functools.cache
def _element(word: str) -> int:
    name = word.removeprefix("optional(").removeprefix("seq(").removeprefix("tensor(").rstrip(")")
    return int(_ELEMENTS.get(name, 0))


def _elements(words: Iterable[str]) -> frozenset[int]:
    return frozenset(filter(None, map(_element, words)))


_ELEMENTS = {name.lower(): value for name, value in onnx.TensorProto.DataType.items()}
