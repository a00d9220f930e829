"""The graph under edit in ONNX's own form.

onnx-graphsurgeon's exporter gives the same. It goes through helpers that check each attribute and copy each message several times,
and took a fifth of a conversion, which needs this form a dozen times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from torch2trt_onnx.typecheck import onnx_dtype

Sparse = gs.ir.tensor.SparseValues


def model_of(graph: gs.Graph) -> onnx.ModelProto:
    """A graph as a model, with the metadata that `graph.Graph` keeps on its nodes."""
    model = onnx.ModelProto(ir_version=graph.ir_version or onnx.IR_VERSION)
    model.producer_name, model.producer_version = graph.producer_name or "", graph.producer_version or ""
    _fill(graph, model.graph)
    model.functions.extend(OnnxExporter.export_function(function) for function in graph.functions)
    model.opset_import.extend(_opsets(graph))
    return model


def _fill(graph: gs.Graph, proto: onnx.GraphProto) -> None:
    proto.name, proto.doc_string = graph.name or "", graph.doc_string or ""
    tensors: dict[str, gs.Tensor] = {}
    for tensor in graph.inputs:
        tensors[tensor.name] = tensor
    for node in graph.nodes:
        _fill_node(node, proto.node.add())
        for tensor in (*node.inputs, *node.outputs):
            tensors[tensor.name] = tensor
    for tensor in graph.outputs:
        tensors[tensor.name] = tensor
    proto.input.extend(map(_value, graph.inputs))
    proto.output.extend(map(_value, graph.outputs))
    bound = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    for name, tensor in tensors.items():
        if not name:
            continue
        if not isinstance(tensor, gs.Constant):
            if name not in bound and (tensor.dtype is not None or tensor.shape is not None):
                proto.value_info.append(_value(tensor))
        elif isinstance(tensor._values, Sparse):
            proto.sparse_initializer.append(OnnxExporter.export_sparse_tensor_proto(tensor))
        else:
            proto.initializer.append(OnnxExporter.export_tensor_proto(tensor))


def _fill_node(node: gs.Node, proto: onnx.NodeProto) -> None:
    proto.op_type, proto.name, proto.domain = node.op, node.name or "", node.domain or ""
    proto.input.extend([t.name for t in node.inputs])
    proto.output.extend([t.name for t in node.outputs])
    for key, value in node.attrs.items():
        if isinstance(value, gs.Graph):
            attribute = proto.attribute.add(name=key, type=AttributeProto.GRAPH)
            _fill(value, attribute.g)
        else:
            proto.attribute.extend(_attributes(key, value))
    proto.attribute.extend(node.unread)
    proto.doc_string = node.doc_string
    for key, text in node.metadata.items():
        proto.metadata_props.add(key=key, value=text)


def _attributes(key: str, value: Any) -> list[AttributeProto]:
    """One attribute. What is frequent is made here, and the rest by graphsurgeon."""
    kind = type(value)
    if kind is int:
        return [AttributeProto(name=key, type=AttributeProto.INT, i=value)]
    if kind is float:
        return [AttributeProto(name=key, type=AttributeProto.FLOAT, f=value)]
    if kind is str:
        return [AttributeProto(name=key, type=AttributeProto.STRING, s=value.encode())]
    if kind is list and value and all(type(item) is int for item in value):
        return [AttributeProto(name=key, type=AttributeProto.INTS, ints=value)]
    found: list[AttributeProto] = OnnxExporter.export_attributes({key: value})
    return found


def _value(tensor: gs.Tensor) -> onnx.ValueInfoProto:
    """The name, type and shape of a tensor."""
    if tensor.dtype is None:
        return onnx.ValueInfoProto(name=tensor.name)
    kind = "tensor_type" if isinstance(tensor, gs.Constant) else tensor.type
    shape = tuple(tensor.shape) if tensor.shape is not None else None
    return onnx.ValueInfoProto(name=tensor.name, type=_type(kind, onnx_dtype(tensor.dtype), shape))


@functools.lru_cache(maxsize=4096)
def _type(kind: str, element: int, shape: tuple[int | str | None, ...] | None) -> onnx.TypeProto:
    made: onnx.TypeProto = MAKE[kind](element, shape)
    return made


def _sequence_type(element: int, shape: tuple[int | str | None, ...] | None) -> onnx.TypeProto:
    return onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(element, shape))


MAKE: dict[str, Callable[..., Any]] = {
    "tensor_type": onnx.helper.make_tensor_type_proto,
    "sequence_type": _sequence_type,
    "sparse_tensor_type": onnx.helper.make_sparse_tensor_type_proto,
}


def _opsets(graph: gs.Graph) -> list[onnx.OperatorSetIdProto]:
    """The graph's own, and version 1 of each other domain that a node is of, as graphsurgeon does it."""
    known = list(graph.import_domains or [onnx.helper.make_opsetid("", graph.opset)])
    domains = {opset.domain for opset in known}
    for domain in _domains(graph):
        if domain is not None and domain not in domains:
            domains.add(domain)
            known.append(onnx.helper.make_opsetid(domain, 1))
    return known


def _domains(graph: gs.Graph) -> Iterator[str | None]:
    for node in graph.nodes:
        yield node.domain
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from _domains(value)
