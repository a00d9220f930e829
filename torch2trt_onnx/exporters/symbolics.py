"""Translations of operators that PyTorch's TorchScript exporter lacks, or gives other types than PyTorch computes in.

A symbolic is a function from the inputs of an ATen operator to ONNX nodes. Ours are registered for the time of one export, so
that the user's own exports stay as they were. Their names and parameters are those of ATen's schemas.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from onnx import TensorProto
from torch.onnx import symbolic_helper as helper
from torch.onnx import symbolic_opset9, symbolic_opset10, symbolic_opset11

from torch2trt_onnx.precision import FLOATS, ElementType

Value = Any  # torch._C.Value, whose attributes the stubs do not declare in full
Context = Any  # the exporter's GraphContext, which is private

HALF_MAX = float(torch.finfo(torch.float16).max)
HALF_TINY = float(torch.finfo(torch.float16).tiny)


@contextlib.contextmanager
def registered(opset: int) -> Iterator[None]:
    """Use the symbolics of this file for exports at `opset`, until the block ends; then the exporter is as it was."""
    register = torch.onnx.register_custom_op_symbolic  # type: ignore[attr-defined]
    table: dict[str, Any] = sys.modules[register.__module__].registration.registry._registry
    groups = {name: table[name]._functions for name in SYMBOLICS if name in table}
    users = {name: group[opset] for name, group in groups.items() if group.overridden(opset)}
    for name, symbolic in SYMBOLICS.items():
        register(name, symbolic, opset)
    try:
        yield
    finally:
        for name in SYMBOLICS:
            torch.onnx.unregister_custom_op_symbolic(name, opset)  # type: ignore[attr-defined]
            if name in users:
                register(name, users[name], opset)
            if not table[name]._functions:
                del table[name]  # an empty entry breaks the exporter's message on an operator that it does not know


def _onnx_type(value: Value) -> int:
    """The ONNX element type of a tensor; 0 where tracing does not know it."""
    kind = value.type()
    dtype = kind.dtype() if kind.isSubtypeOf(torch._C.TensorType.get()) and hasattr(kind, "dtype") else None
    return ElementType.of(dtype).onnx if dtype is not None else 0


def _torch_type(onnx_type: int) -> torch.dtype:
    return ElementType.of(onnx_type).torch


def _sizes(value: Value) -> list[int | None] | None:
    """The dimensions of a tensor, None where dynamic; None where the rank is unknown."""
    found = helper._get_tensor_sizes(value)
    return list(found) if found is not None else None


def _cast(g: Context, value: Value, to: int) -> Value:
    return value if _onnx_type(value) == to else g.op("Cast", value, to_i=to)


def _retyped(g: Context, value: Value, to: torch.dtype) -> Value:
    """A Cast whose result the exporter's own symbolics know the type and shape of."""
    cast = g.op("Cast", value, to_i=ElementType.of(to).onnx)
    cast.setType(value.type().with_dtype(to))
    return cast


def _number(g: Context, value: float, onnx_type: int) -> Value:
    return g.op("Constant", value_t=torch.tensor(value, dtype=_torch_type(onnx_type)))


def _integers(g: Context, *values: int) -> Value:
    return g.op("Constant", value_t=torch.tensor(values, dtype=torch.int64))


def scaled_dot_product_attention(
    g: Context, query: Value, key: Value, value: Value, attn_mask: Value = None, dropout_p: Value = None,
    is_causal: Value = None, scale: Value = None, enable_gqa: Value = None,
) -> Value:  # fmt: skip
    """Attention whose mask and scale have the type of the query, as PyTorch computes it.

    The exporter's own makes an fp32 mask of a bool or causal one, so that Softmax and the second MatMul run in fp32. Scaling
    the query and the key by the square root each is PyTorch's (aten/src/ATen/native/transformers/attention.cpp).
    """
    kind = _onnx_type(query) or TensorProto.FLOAT
    if dropout_p is not None and float(helper._maybe_get_const(dropout_p, "f") or 0.0) > 0:
        raise RuntimeError("attention with dropout is random: pass dropout_p=0.0 when the model is in eval mode")
    if enable_gqa is not None and helper._maybe_get_const(enable_gqa, "b"):
        key, value = _repeat_heads(g, query, key), _repeat_heads(g, query, value)
    rank = helper._get_tensor_rank(key)
    if rank is None:
        raise RuntimeError("attention needs a key of known rank")
    root = _root_of_scale(g, query, scale, kind)
    axes = [*range(rank - 2), rank - 1, rank - 2]
    scores = g.op("MatMul", g.op("Mul", query, root), g.op("Mul", g.op("Transpose", key, perm_i=axes), root))
    if is_causal is not None and helper._maybe_get_const(is_causal, "b"):
        mask = _additive(g, _causal(g, query, key), kind)
        return g.op("MatMul", g.op("Softmax", g.op("Add", scores, mask), axis_i=-1), value)
    if attn_mask is None or helper._is_none(attn_mask):
        return g.op("MatMul", g.op("Softmax", scores, axis_i=-1), value)
    is_bool = _onnx_type(attn_mask) == TensorProto.BOOL
    mask = _additive(g, attn_mask, kind) if is_bool else _cast(g, attn_mask, kind)
    attention = g.op("Softmax", g.op("Add", scores, mask), axis_i=-1)
    # A row that is masked in full is 0 in PyTorch, and 0/0 in ONNX. (A causal mask has no such row.)
    attention = g.op("Where", g.op("IsNaN", attention), _number(g, 0.0, kind), attention)
    return g.op("MatMul", attention, value)


def _additive(g: Context, mask: Value, kind: int) -> Value:
    """0 where a bool mask is true, and minus infinity elsewhere."""
    return g.op("Where", mask, _number(g, 0.0, kind), _number(g, -math.inf, kind))


def _root_of_scale(g: Context, query: Value, scale: Value, kind: int) -> Value:
    if scale is not None and not helper._is_none(scale):
        number = helper._maybe_get_const(scale, "f")
        if isinstance(number, float):
            return _number(g, math.sqrt(number), kind)
        return g.op("Sqrt", _cast(g, scale, kind))
    sizes = _sizes(query)
    if sizes is not None and sizes[-1] is not None:
        return _number(g, 1 / math.sqrt(math.sqrt(sizes[-1])), kind)
    width = g.op("Cast", g.op("Gather", g.op("Shape", query), _integers(g, -1)), to_i=TensorProto.FLOAT)
    root = g.op("Reciprocal", g.op("Sqrt", g.op("Sqrt", width)))
    return root if kind == TensorProto.FLOAT else g.op("Cast", root, to_i=kind)


def _causal(g: Context, query: Value, key: Value) -> Value:
    """A bool mask of `[L, S]`, true where the column is not beyond the row."""

    def positions(tensor: Value, axis: int) -> Value:
        length = g.op("Squeeze", g.op("Gather", g.op("Shape", tensor), _integers(g, -2)), _integers(g, 0))
        zero, one = (g.op("Constant", value_t=torch.tensor(i)) for i in (0, 1))
        return g.op("Unsqueeze", g.op("Range", zero, length, one), _integers(g, axis))

    return g.op("GreaterOrEqual", positions(query, 1), positions(key, 0))


def _repeat_heads(g: Context, query: Value, tensor: Value) -> Value:
    """Grouped queries: `[B, H / r, S, E]` as `[B, H, S, E]`, each head `r` times in a row."""
    wide, narrow = _sizes(query), _sizes(tensor)
    if (
        wide is None
        or narrow is None
        or wide[-3] is None
        or narrow[-3] is None
        or len(narrow) != 4
        or narrow[-1] is None
    ):
        raise RuntimeError("grouped-query attention needs 4-d tensors with static numbers of heads")
    repeats = wide[-3] // narrow[-3]
    if repeats == 1:
        return tensor
    grown = g.op("Expand", g.op("Unsqueeze", tensor, _integers(g, 2)), _integers(g, 1, 1, repeats, 1, 1))
    return g.op("Reshape", grown, _integers(g, 0, wide[-3], -1, narrow[-1]))


def rms_norm(g: Context, self: Value, normalized_shape: Value, weight: Value = None, eps: Value = None) -> Value:
    """RMSNorm in fp32 inside, as PyTorch computes it for fp16 and bf16 (aten/src/ATen/native/layer_norm.cpp)."""
    kind = _onnx_type(self)
    dims = helper._maybe_get_const(normalized_shape, "is")
    number = None if eps is None or helper._is_none(eps) else helper._maybe_get_const(eps, "f")
    if not isinstance(number, float):
        number = float(torch.finfo(torch.float32 if kind in FLOATS else torch.float64).eps)
    wide = TensorProto.FLOAT if kind in FLOATS else kind
    x = _cast(g, self, wide)
    axes = _integers(g, *range(-len(dims), 0))
    mean = g.op("ReduceMean", g.op("Mul", x, x), axes, keepdims_i=1)
    result = g.op("Div", x, g.op("Sqrt", g.op("Add", mean, _number(g, number, wide))))
    if weight is not None and not helper._is_none(weight):
        result = g.op("Mul", result, _cast(g, weight, wide))
    return result if kind == wide else g.op("Cast", result, to_i=kind)


def group_norm(
    g: Context, self: Value, num_groups: Value, weight: Value, bias: Value, eps: Value, cudnn_enabled: Value
) -> Value:
    """GroupNorm with fp32 parameters on a reduced input in fp32, rounded at the end; the exporter leaves the result in fp32."""
    kind = _onnx_type(self)
    mixed = kind in FLOATS - {TensorProto.FLOAT} and _onnx_type(weight) == TensorProto.FLOAT
    x = _retyped(g, self, torch.float32) if mixed else self
    result = symbolic_opset9.group_norm(g, x, num_groups, weight, bias, eps, cudnn_enabled)
    return g.op("Cast", result, to_i=kind) if mixed else result


def _softmax(op: str) -> Callable[..., Value]:
    def symbolic(g: Context, self: Value, dim: Value, dtype: Value = None) -> Value:
        if dtype is not None and not helper._is_none(dtype):
            # PyTorch casts first, and computes in the type that was asked for.
            to = ElementType.of(_dtype_of(helper._get_const(dtype, "i", "dtype"))).onnx
            self = _cast(g, self, to)
        return g.op(op, self, axis_i=helper._get_const(dim, "i", "dim"))

    return symbolic


def _dtype_of(scalar_type: int) -> torch.dtype:
    """The dtype of one of ATen's ScalarType numbers (c10/core/ScalarType.h)."""
    numbers = {
        0: "uint8",
        1: "int8",
        3: "int32",
        4: "int64",
        5: "float16",
        6: "float32",
        7: "float64",
        11: "bool",
        15: "bfloat16",
    }
    dtype: torch.dtype = getattr(torch, numbers[scalar_type])
    return dtype


def diff(g: Context, self: Value, n: Value, dim: Value, prepend: Value = None, append: Value = None) -> Value:
    """Differences of neighbours, `n` times; transformers' decoders need it for their masks, and the exporter lacks it."""
    axis, times = helper._get_const(dim, "i", "dim"), helper._get_const(n, "i", "n")
    edges = [value for value in (prepend, self, append) if value is not None and not helper._is_none(value)]
    x = g.op("Concat", *edges, axis_i=axis) if len(edges) > 1 else self
    operator = "Xor" if _onnx_type(self) == TensorProto.BOOL else "Sub"
    for _ in range(times):
        later = g.op("Slice", x, _integers(g, 1), _integers(g, 2**63 - 1), _integers(g, axis))
        x = g.op(operator, later, g.op("Slice", x, _integers(g, 0), _integers(g, -1), _integers(g, axis)))
    return x


def cumsum(g: Context, self: Value, dim: Value, dtype: Value = None) -> Value:
    """Running sums; of integers and bool in int64, as PyTorch computes them. The exporter leaves bool as it is, which is ill-typed."""
    kind = _onnx_type(self)
    to = kind if kind in FLOATS or kind == TensorProto.DOUBLE else TensorProto.INT64
    if dtype is not None and not helper._is_none(dtype):
        to = ElementType.of(_dtype_of(helper._get_const(dtype, "i", "dtype"))).onnx
    axis = g.op("Constant", value_t=torch.tensor(helper._get_const(dim, "i", "dim")))
    return g.op("CumSum", _cast(g, self, to), axis)


def unflatten(g: Context, self: Value, dim: Value, unflattened_size: Value) -> Value:
    """Unflatten as one Reshape, with a constant shape where it is the last dimension, so that the rank stays known."""
    axis = helper._get_const(dim, "i", "dim")
    sizes = helper._maybe_get_const(unflattened_size, "is")
    known = _sizes(self)
    rank = helper._get_tensor_rank(self)
    if isinstance(sizes, list) and rank is not None:
        axis %= rank
        tail = known[axis + 1 :] if known is not None else [None] * (rank - axis - 1)
        if all(isinstance(size, int) for size in tail):
            head = [0] * axis
            if head and -1 not in sizes:
                head[-1] = -1  # the exporter's shape inference asserts that a shape with zeros has a -1
            return g.op("Reshape", self, _integers(g, *head, *sizes, *tail))
    wanted = _integers(g, *sizes) if isinstance(sizes, list) else unflattened_size
    shape = g.op("Shape", self)
    parts = [g.op("Slice", shape, _integers(g, 0), _integers(g, axis)), wanted]
    if axis != -1:
        parts.append(g.op("Slice", shape, _integers(g, axis + 1), _integers(g, 2**63 - 1)))
    return g.op("Reshape", self, g.op("Concat", *parts, axis_i=0))


def fake_quantize_per_tensor_affine(
    g: Context, self: Value, scale: Value, zero_point: Value, quant_min: Value, quant_max: Value
) -> Value:
    """Q/DQ around fp32, with a Clip where the range is narrower than the integer type."""
    return _fake_quantize(g, self, scale, zero_point, quant_min, quant_max, None)


def fake_quantize_per_channel_affine(
    g: Context, self: Value, scale: Value, zero_point: Value, axis: Value, quant_min: Value, quant_max: Value
) -> Value:
    """The same, a scale and a zero point for each channel."""
    return _fake_quantize(g, self, scale, zero_point, quant_min, quant_max, helper._get_const(axis, "i", "axis"))


def _fake_quantize(
    g: Context, self: Value, scale: Value, zero_point: Value, quant_min: Value, quant_max: Value, axis: int | None
) -> Value:
    """QuantizeLinear and DequantizeLinear in fp32, which PyTorch computes them in for fp16 as well.

    The range is cut before Q, in floats: x is clipped to the values of the smallest and the largest step, which rounds to the
    same integers as cutting them afterwards, and leaves Q next to DQ, where TensorRT looks for it. Ranges that fit in int8 are
    int8, TensorRT's only such type, and only wider ones uint8.
    """
    low, high = (int(helper._get_const(v, "i", "quant_min")) for v in (quant_min, quant_max))
    limits, kind = ((-128, 127), TensorProto.INT8) if low >= -128 and high <= 127 else ((0, 255), TensorProto.UINT8)
    if low < limits[0] or high > limits[1]:
        raise RuntimeError(f"fake_quantize of {low}..{high}: ONNX's QuantizeLinear makes int8 and uint8 only")
    given = _onnx_type(self)
    x = _cast(g, self, TensorProto.FLOAT)
    steps = _cast(g, scale, TensorProto.FLOAT)
    if (low, high) != limits:
        offset = g.op("Cast", zero_point, to_i=TensorProto.FLOAT)
        bounds = [g.op("Mul", g.op("Sub", _number(g, float(q), TensorProto.FLOAT), offset), steps) for q in (low, high)]
        if axis is not None:
            shape = [1] * (helper._get_tensor_rank(self) or 1)
            shape[axis] = -1
            bounds = [g.op("Reshape", bound, _integers(g, *shape)) for bound in bounds]
        x = g.op("Min", g.op("Max", x, bounds[0]), bounds[1])
    zero = g.op("Cast", zero_point, to_i=kind)
    where = {} if axis is None else {"axis_i": axis}
    result = g.op("DequantizeLinear", g.op("QuantizeLinear", x, steps, zero, **where), steps, zero, **where)
    return result if given in (0, TensorProto.FLOAT) else g.op("Cast", result, to_i=given)


def _in_fp32_where_the_number_needs_it(plain: Callable[..., Value]) -> Callable[..., Value]:
    """A symbolic that computes in fp32 where a Python number next to an fp16 tensor is no fp16 number.

    PyTorch computes `half_tensor * 1e5` in fp32 with the number in fp32 (its opmath), and rounds the result. The exporter
    rounds the number, to an infinity here, and 0 * 1e5 becomes NaN. Numbers below the normal range are the same case. (Add and
    sub round the number on the CPU and not on CUDA; CUDA is the one that an engine replaces.)
    """

    def symbolic(g: Context, self: Value, other: Value, *rest: Value, **named: Value) -> Value:
        number = _beyond_half(self, other)
        if number is None:
            return plain(g, self, other, *rest, **named)
        tensor, is_left = (self, True) if _onnx_type(self) == TensorProto.FLOAT16 else (other, False)
        wide = _retyped(g, tensor, torch.float32)
        constant = _number(g, number, TensorProto.FLOAT)
        pair = (wide, constant) if is_left else (constant, wide)
        return g.op("Cast", plain(g, *pair, *rest, **named), to_i=TensorProto.FLOAT16)

    return symbolic


def _beyond_half(self: Value, other: Value) -> float | None:
    for tensor, scalar in ((self, other), (other, self)):
        if not helper._is_value(tensor) or _onnx_type(tensor) != TensorProto.FLOAT16:
            continue
        found = helper._maybe_get_scalar(scalar)
        if isinstance(found, torch.Tensor) and found.dim() == 0 and found.dtype in (torch.float64, torch.int64):
            number = float(found)
            if math.isfinite(number) and number and not HALF_TINY <= abs(number) <= HALF_MAX:
                return number
    return None


SYMBOLICS: dict[str, Callable[..., Value]] = {
    "aten::scaled_dot_product_attention": scaled_dot_product_attention,
    "aten::rms_norm": rms_norm,
    "aten::group_norm": group_norm,
    "aten::softmax": _softmax("Softmax"),
    "aten::log_softmax": _softmax("LogSoftmax"),
    "aten::unflatten": unflatten,
    "aten::diff": diff,
    "aten::cumsum": cumsum,
    "aten::fake_quantize_per_tensor_affine": fake_quantize_per_tensor_affine,
    "aten::fake_quantize_per_channel_affine": fake_quantize_per_channel_affine,
    "aten::mul": _in_fp32_where_the_number_needs_it(symbolic_opset9.mul),
    "aten::add": _in_fp32_where_the_number_needs_it(symbolic_opset11.add),
    "aten::sub": _in_fp32_where_the_number_needs_it(symbolic_opset9.sub),
    "aten::rsub": _in_fp32_where_the_number_needs_it(symbolic_opset9.rsub),
    "aten::div": _in_fp32_where_the_number_needs_it(symbolic_opset10.div),
}
