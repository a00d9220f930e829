"""What an ONNX file says of its nodes, tensors and weights, for comparison with another. No weight is read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from onnx import AttributeProto, TensorProto

from torch2trt_onnx.errors import SourceError
from torch2trt_onnx.exporters import source
from torch2trt_onnx.graph import PREFIX
from torch2trt_onnx.precision import label
from torch2trt_onnx.typecheck import computes_in
from torch2trt_onnx.weights import check_external, graphs, nbytes_of


@dataclass(frozen=True)
class NodeState:
    """A node as a file has it.

    Args:
        name: its own, or where it has none or shares it, one made of what it makes.
        op: its operator.
        inputs, outputs: the names of its tensors.
        attributes: name -> value in words; bodies and large tensors are left out.
        types: of its outputs, as labels; "?" where it is not known.
        nbytes: of each output, at the shapes that the file declares; a dynamic dimension counts 1.
        precision: of its computation, as a label; "" where it computes with no float.
        planned: the precision that its metadata plans; "" without.
        why: the reason of that.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, str]
    types: tuple[str, ...]
    nbytes: tuple[int, ...]
    precision: str
    planned: str
    why: str


@dataclass(frozen=True)
class State:
    """A graph as a file has it.

    Args:
        path: of the file.
        nodes: by name, those of bodies too.
        weights: by name, as they are or as references; large tensors in attributes under the name of the node's first output.
        bindings: inputs and outputs -> type and shape, in words.
    """

    path: Path
    nodes: dict[str, NodeState]
    weights: dict[str, TensorProto]
    bindings: dict[str, str]

    @cached_property
    def beside(self) -> dict[str, list[str]]:
        """Tensor -> the names of the nodes that make and read it."""
        found: dict[str, list[str]] = {}
        for node in self.nodes.values():
            for tensor in (*node.inputs, *node.outputs):
                found.setdefault(tensor, []).append(node.name)
        return found

    @classmethod
    def read(cls, path: Path) -> State:
        """The state of a file.

        Raises:
            SourceError: it cannot be read, is no ONNX file, or its weights are missing or cut.
        """
        model = source.load_onnx(path)
        check_external(model, path)
        reader = _Reader(_typed(model, path))
        return cls(path, {node.name: node for node in reader.nodes()}, reader.weights, dict(_bindings(model.graph)))


class _Reader:
    """Reads the messages of a model whose tensors have types."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.weights: dict[str, TensorProto] = {}
        self._kinds: dict[str, tuple[int, int]] = {}  # tensor -> type, bytes
        self._protos: list[onnx.NodeProto] = []
        for graph in graphs(model.graph):
            self._protos += graph.node
            self.weights |= {weight.name: weight for weight in graph.initializer}
            for value in (*graph.input, *graph.value_info, *graph.output):
                tensor = value.type.tensor_type
                dims = [dim.dim_value or 1 for dim in tensor.shape.dim]
                self._kinds[value.name] = tensor.elem_type, nbytes_of(tensor.elem_type, dims)
        self._kinds |= {weight.name: (weight.data_type, 0) for weight in self.weights.values()}
        self.weights |= {n.output[0]: a.t for n in self._protos for a in n.attribute if _is_large(a)}

    def nodes(self) -> Iterator[NodeState]:
        """All nodes, each under a name of its own."""
        count = Counter(proto.name for proto in self._protos)
        for proto in self._protos:
            name = proto.name
            if not name or count[name] > 1:
                name = f"{name or proto.op_type} of {next(iter(proto.output), '')}"
            yield self._node(proto, name)

    def _node(self, proto: onnx.NodeProto, name: str) -> NodeState:
        read, made = ([self._kinds.get(t, (0, 0)) for t in side] for side in (proto.input, proto.output))
        kind = computes_in(proto.op_type, (k for k, _ in read), (k for k, _ in made))
        return NodeState(
            name,
            proto.op_type,
            tuple(proto.input),
            tuple(proto.output),
            dict(attributes(proto)),
            tuple(label(k) for k, _ in made),
            tuple(size for _, size in made),
            label(kind) if kind else "",
            planned(proto),
            _told(proto, "reason"),
        )


def planned(proto: onnx.NodeProto) -> str:
    """The precision that the metadata of a node plans; "" without."""
    return _told(proto, "precision")


def attributes(proto: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    """Name and value in words of the attributes of a node, bodies and large tensors left out."""
    for attribute in proto.attribute:
        if not _is_large(attribute) and attribute.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            yield attribute.name, _value(attribute)


def _told(proto: onnx.NodeProto, word: str) -> str:
    return next((entry.value for entry in proto.metadata_props if entry.key == f"{PREFIX}{word}"), "")


def _is_large(attribute: AttributeProto) -> bool:
    return attribute.type == AttributeProto.TENSOR and attribute.t.data_location == TensorProto.EXTERNAL


def _typed(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """A model with the types that follow from its inputs; what operators of other domains make keeps the declared one."""
    for graph in graphs(model.graph):
        foreign = {name for node in graph.node if node.domain not in ("", "ai.onnx") for name in node.output}
        kept = [value for value in graph.value_info if value.name in foreign]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise SourceError(
            "the types of the model cannot be inferred", where=str(path), why=str(error).strip().splitlines()[0]
        ) from None


def _bindings(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    for side, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            shape = "x".join(
                str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim
            )
            yield f"{side} {value.name}", f"{label(tensor.elem_type)} {shape or 'scalar'}"


def _value(attribute: AttributeProto) -> str:
    """An attribute in words that are equal where attributes are."""
    if attribute.type == AttributeProto.INT:  # which most are
        return str(attribute.i)
    if attribute.type == AttributeProto.TENSOR:
        digest = hashlib.sha256(attribute.t.SerializeToString(deterministic=True)).hexdigest()
        return f"{label(attribute.t.data_type)}{list(attribute.t.dims)} {digest[:8]}"
    return str(onnx.helper.printable_attribute(attribute)).partition(" = ")[2]
