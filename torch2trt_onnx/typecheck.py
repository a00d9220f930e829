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

from torch2trt_onnx.precision import FLOATS, label


def onnx_type(tensor: gs.Tensor) -> int:
    """The ONNX element type of a tensor; 0 where it is unknown or the tensor is an omitted input."""
    return onnx_dtype(tensor.dtype)


def onnx_dtype(dtype: Any) -> int:
    """What graphsurgeon holds as the type of a tensor, an ONNX type or one of NumPy, as an ONNX type; 0 for None."""
    if dtype is None:
        return 0
    return dtype if isinstance(dtype, int) else _of_numpy(dtype)


@functools.lru_cache(maxsize=256)
def _of_numpy(dtype: Any) -> int:
    return int(dtype_to_onnx(dtype))


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


MADE_TYPE = ("to", "dtype", "output_dtype", "output_datatype")
"""Attributes that say the type of an output. `stash_type` and the like say what a node computes in, and stay."""

LIKE_INPUT = frozenset({"EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli"})
"""Operators whose result has the type of their input where no attribute says another."""

FIXED = {
    "BitCast": "it reads the bits",
    "MeanVarianceNormalization": "its definition has fp32 constants",
    "LinearAttention": "ONNX's inference contradicts its type constraints",
}
"""Operators that compute in the type that they are written in, whatever their type constraints say, and why."""

NO_PRECISION = frozenset({"Shape", "Size", "Constant", "If", "Loop", "Scan"})
"""Operators that compute with no float, whatever they read or make."""


def compute_type(node: gs.Node) -> int:
    """The ONNX type that a node computes in: that of its first float input, else of its first float output; 0 for none.

    For a Cast the type that it leads to, where that is a float.
    """
    return computes_in(node.op, map(onnx_type, node.inputs), map(onnx_type, node.outputs))


def computes_in(op: str, inputs: Iterable[int], outputs: Iterable[int]) -> int:
    """As `compute_type`, of a node that reads and makes tensors of these types."""
    if op in NO_PRECISION:
        return 0
    first, second = (outputs, inputs) if op == "Cast" else (inputs, outputs)
    return next((kind for kinds in (first, second) for kind in kinds if kind in FLOATS), 0)


@dataclass(frozen=True)
class Retyping:
    """The types that a node's operands have once it computes in another: 0 for what is omitted or unknown."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def retyping(node: gs.Node, to: int, opset: int) -> Retyping | str:
    """What a node's operands must be for it to compute in `to`; or why it cannot.

    All operands of the type that it computes in change, but for those that the operator fixes (the scales of Resize) and results
    whose type follows from nothing that changes (the fp32 mean of LayerNormalization).

    Args:
        node: no Cast, and no control flow.
        to: a float type.
        opset: of ONNX's own operators.
    """
    given = compute_type(node)
    kept = Retyping(tuple(map(onnx_type, node.inputs)), tuple(map(onnx_type, node.outputs)))
    if to == given:
        return kept
    if node.op in FIXED:
        return FIXED[node.op]
    spec = schema(node.op, opset) if is_standard(node) else None
    if spec is None:
        return f"nothing is known of the types of {node.op}"
    if any(getattr(t, "type", "tensor_type") != "tensor_type" for t in (*node.inputs, *node.outputs)):
        return "it handles sequences"
    unknown = next((t.name for t in node.inputs if t.name and not onnx_type(t)), None)
    if unknown is not None:
        return f"the type of {unknown!r} is not known"
    free = any(node.attrs.get(key) == given for key in MADE_TYPE) or node.op == "ConstantOfShape"
    follows = node.op in LIKE_INPUT and "dtype" not in node.attrs
    known = {variable for variable, is_input, _ in spec.variables(node) if is_input}
    types: dict[bool, list[int]] = {True: list(kept.inputs), False: list(kept.outputs)}
    position = {True: 0, False: 0}
    changed = False
    for variable, is_input, tensor in spec.variables(node):
        index, position[is_input] = position[is_input], position[is_input] + 1
        if onnx_type(tensor) != given or not (is_input or variable in known or free or follows):
            continue
        if to in spec.allowed[variable]:
            types[is_input][index] = to
            changed = True
        elif not changed:
            return f"{node.op} takes no {label(to)} in opset {opset}"
    if not changed:
        return f"the type of its result is fixed in opset {opset}"
    return Retyping(tuple(types[True]), tuple(types[False]))


@functools.cache
def _element(word: str) -> int:
    name = word.removeprefix("optional(").removeprefix("seq(").removeprefix("tensor(").rstrip(")")
    return int(_ELEMENTS.get(name, 0))


def _elements(words: Iterable[str]) -> frozenset[int]:
    return frozenset(filter(None, map(_element, words)))


_ELEMENTS = {name.lower(): value for name, value in onnx.TensorProto.DataType.items()}
