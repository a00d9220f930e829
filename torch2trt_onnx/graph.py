"""The graph that passes edit: onnx-graphsurgeon's, with what it drops (metadata, source lines) and what it lacks (types).

graphsurgeon keeps operators, tensors, opsets and most attributes. It drops `metadata_props` and `doc_string` of the model and
of each node, drops or fails at some attributes, and leaves stale types behind an edit. `Graph` carries the first two on the
node objects themselves, so that they survive renaming and reordering, and recomputes the third.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from torch2trt_onnx import protos, typecheck
from torch2trt_onnx.errors import GraphError
from torch2trt_onnx.precision import label
from torch2trt_onnx.typecheck import onnx_type
from torch2trt_onnx.weights import WeightStore, graphs

PREFIX = "torch2trt_onnx."
"""Prefix of our keys in `metadata_props` of models and nodes."""

AUTHORED_KEY = f"{PREFIX}authored"
"""Metadata of an initializer that a pass stored in another type: the one that the source gave it."""

BOUND_KEY = f"{PREFIX}bound"
"""Metadata of the Cast behind an input that the user wants in another type: it is no word of the author's."""

ODD_TYPES = ("optional_type", "map_type")

READABLE = frozenset(
    getattr(onnx.AttributeProto, kind)
    for kind in ("FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS")
)
"""The types of attributes that graphsurgeon reads and writes."""


class Graph:
    """A model under edit.

    Args:
        model: without large tensors inside; see `WeightStore.adopt`.
        weights: the store that the model's references point to.

    Attributes:
        ir: the graphsurgeon graph. Each node has `metadata: dict[str, str]`, `doc_string: str`, and in
            `unread: list[AttributeProto]` the attributes that graphsurgeon would lose.
        metadata: the model's `metadata_props`.
        weights: the store of the large tensors.
    """

    def __init__(self, model: onnx.ModelProto, weights: WeightStore) -> None:
        self.weights = weights
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self._about = {field: getattr(model, field) for field in ("domain", "model_version", "doc_string")}
        with G_LOGGER.suppress():
            self.ir: gs.Graph = gs.import_onnx(_readable(model))
        _read_metadata(self.ir, model.graph)
        # graphsurgeon reads optional and map types, and cannot write them.
        values = (*model.graph.input, *model.graph.output)
        self._odd_types = {v.name: v.type for v in values if v.type.WhichOneof("value") in ODD_TYPES}
        for tensor in (t for graph in self.graphs() for t in _tensors(graph)):
            if isinstance(tensor, gs.Variable) and tensor.type in ODD_TYPES:
                tensor.dtype = None
        elements = {
            v.name: v.type.sequence_type.elem_type.tensor_type for v in values if v.type.HasField("sequence_type")
        }
        for tensor in (*self.ir.inputs, *self.ir.outputs):
            if tensor.name in elements and elements[tensor.name].HasField("shape"):  # it reads their type only
                tensor.shape = [_dim(d) for d in elements[tensor.name].shape.dim]
        self._names: set[str] = set()
        self._counts: dict[str, int] = {}
        self._name_tensors()
        self._name_nodes()

    @property
    def opset(self) -> int:
        """The version of the default operator domain."""
        return int(self.ir.opset)

    def graphs(self) -> Iterator[gs.Graph]:
        """The graph and the bodies of If, Loop and Scan inside it, outer first."""
        waiting = [self.ir]
        for graph in waiting:
            yield graph
            waiting.extend(body for node in graph.nodes for body in subgraphs(node))

    def nodes(self) -> Iterator[gs.Node]:
        """All nodes, those of control-flow bodies after their graph's."""
        for graph in self.graphs():
            yield from graph.nodes

    def fresh_name(self, hint: str) -> str:
        """A name that no node or tensor of the model has, made from `hint`."""
        name = hint
        while name in self._names:
            self._counts[hint] = self._counts.get(hint, 1) + 1
            name = f"{hint}__{self._counts[hint]}"
        self._names.add(name)
        return name

    def constant(
        self, name: str, values: npt.NDArray[np.generic], onnx_type: int, of: gs.Constant | None = None
    ) -> gs.Constant:
        """A new initializer, its values in the store where they are large.

        Args:
            name: a hint.
            values: in row-major order.
            onnx_type: of them.
            of: the initializer that they were in another type.
        """
        name = self.fresh_name(name)
        return gs.Constant(name, self._stored(name, values, onnx_type, of))

    def retype(self, constant: gs.Constant, values: npt.NDArray[np.generic], onnx_type: int) -> None:
        """Store an initializer in another type, its values rounded to it."""
        constant._values = self._stored(constant.name, values, onnx_type, constant)

    def _stored(
        self, name: str, values: npt.NDArray[np.generic], onnx_type: int, of: gs.Constant | None
    ) -> gs.ir.tensor.LazyValues:
        tensor = self.weights.put_array(name, values, onnx_type)
        if of is not None:
            tensor.metadata_props.add(key=AUTHORED_KEY, value=authored_type(of))
        return gs.ir.tensor.LazyValues(tensor)

    def array(self, constant: gs.Constant) -> npt.NDArray[np.generic]:
        """The values of an initializer; mapped, not loaded, where they are large."""
        held = constant._values
        return self.weights.array(held.tensor) if isinstance(held, gs.ir.tensor.LazyValues) else np.asarray(held)

    def insert_cast(self, graph: gs.Graph, tensor: gs.Tensor, to: int, hint: str) -> gs.Variable:
        """The output of a new `Cast` of `tensor`, in `graph`; put in order by the next `tidy`."""
        name = self.fresh_name(f"{hint}/Cast")
        output = gs.Variable(self.fresh_name(f"{name}_output"), dtype=to, shape=tensor.shape)
        graph.nodes.append(new_node("Cast", name, {"to": to}, [tensor], [output]))
        return output

    def cast_into(self, graph: gs.Graph, tensor: gs.Tensor, result: gs.Tensor, to: int, hint: str) -> None:
        """Let a new `Cast` of `tensor` make `result`, which nothing makes now; put in order by the next `tidy`."""
        result.dtype = to
        graph.nodes.append(new_node("Cast", self.fresh_name(f"{hint}/Cast"), {"to": to}, [tensor], [result]))

    def rebind_input(self, tensor: gs.Variable, to: int) -> None:
        """Give a graph input the type `to`, and let its readers read a Cast of it to the type that it had."""
        given, readers = onnx_type(tensor), {id(node) for node in tensor.outputs}
        tensor.dtype = to
        cast = self.insert_cast(self.ir, tensor, given, tensor.name)
        cast.inputs[0].metadata[BOUND_KEY] = label(to)
        replace_uses(tensor, cast, readers)

    def split_output(self, tensor: gs.Variable, inner_type: int) -> gs.Variable:
        """A new tensor that the maker of a graph output makes instead of it, so that a Cast can make the output: its name stays."""
        maker = producer(tensor)
        assert maker is not None
        inner = gs.Variable(self.fresh_name(f"{tensor.name}_{label(inner_type)}"), inner_type, tensor.shape)
        list.clear(tensor.inputs)
        index = next(i for i, t in enumerate(maker.outputs) if t is tensor)
        list.__setitem__(maker.outputs, index, inner)
        list.append(inner.inputs, maker)
        return inner

    def to_proto(self) -> onnx.ModelProto:
        """The model as it stands; large tensors are references into `weights`."""
        model = protos.model_of(self.ir)
        for field, value in self._about.items():
            setattr(model, field, value)
        # Exporters state the IR version that their writer knew; metadata_props of nodes need 10.
        model.ir_version = max(model.ir_version, 10)
        onnx.helper.set_model_props(model, self.metadata)
        for value in (*model.graph.input, *model.graph.output):
            if value.name in self._odd_types:
                value.type.CopyFrom(self._odd_types[value.name])
        return model

    def write(self, path: Path) -> Path:
        """Write the graph to the folder of its weights, which it refers to and which are not copied; returns `path`."""
        path.write_bytes(self.to_proto().SerializeToString())
        return path

    def infer_types(self, *, strict: bool) -> None:
        """Recompute the type and shape of every tensor from the inputs, the initializers and the operators.

        What operators of other domains make keeps the type that the model declares: nothing else knows it.

        Args:
            strict: fail on the first contradiction (`onnx.shape_inference`, strict and data-propagating).

        Raises:
            GraphError: `strict`, and the graph contradicts itself.
        """
        outputs = [t for t in self.ir.outputs if not isinstance(t, gs.Constant)]
        declared = {id(t): (t.dtype, t.shape) for t in outputs}
        inputs = {id(t) for graph in self.graphs() for t in graph.inputs}
        for node in self.nodes():
            if not typecheck.is_standard(node):
                continue
            for tensor in node.outputs:
                if id(tensor) not in inputs:
                    tensor.dtype = tensor.shape = None
        try:
            inferred = onnx.shape_inference.infer_shapes(
                self.to_proto(), check_type=False, strict_mode=strict, data_prop=True
            )
        except onnx.shape_inference.InferenceError as error:
            raise GraphError(
                "the types or shapes of the graph contradict each other",
                why=str(error).strip(),
                fix="inspect the graph with torch2trt-onnx inspect",
            ) from error
        finally:
            for tensor in outputs:
                tensor.dtype, tensor.shape = declared[id(tensor)]
        _apply_types(self.ir, inferred.graph)
        for tensor in outputs:
            dtype, shape = declared[id(tensor)]
            tensor.dtype = tensor.dtype or dtype
            if shape and tensor.shape and len(shape) == len(tensor.shape):
                # The exporter's names of dynamic dimensions are better than 'unk__7', and its constants than a name.
                tensor.shape = [
                    new if isinstance(new, int) else old for old, new in zip(shape, tensor.shape, strict=True)
                ]
            tensor.shape = tensor.shape if tensor.shape is not None else shape

    def sizes(self, shapes: Mapping[str, Sequence[int | None]]) -> dict[str, int]:
        """How many elements each tensor that a node makes has; 1 where that is not known. The graph stays as it is.

        Args:
            shapes: of the inputs that are dynamic, by name.
        """
        return {name: math.prod(dims) for name, dims in self.dims(shapes).items()}

    def dims(self, shapes: Mapping[str, Sequence[int | None]]) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that a node makes, with 1 for what is not known; see `sizes`."""
        model = self.to_proto()
        for value in model.graph.input:
            dims = value.type.tensor_type.shape.dim
            given = shapes.get(value.name)
            if given is not None and len(given) == len(dims):
                for dim, size in zip(dims, given, strict=True):
                    if size is not None:
                        dim.dim_value = size
        for inner in graphs(model.graph):  # declared shapes would win over those that follow from the inputs
            del inner.value_info[:]
            for value in inner.output:
                value.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=True)
        return dict(_dims(inferred.graph))

    def type_problems(self) -> list[typecheck.Problem]:
        """Every node whose inputs do not have the types that its operator takes."""
        return typecheck.problems(self.nodes(), self.opset)

    def tidy(self) -> None:
        """Sort each graph topologically, keeping the order where it is free, and drop nodes that nothing uses."""
        _tidy(self.ir)

    def _name_tensors(self) -> None:
        """Give each tensor of a body a name that no other tensor has, so that `InlineIfs` can move it anywhere.

        A body that hands out a tensor from outside gets an Identity, as ONNX Runtime demands: what a body puts out is its own.
        """
        tensors = [(graph, tensor) for graph in self.graphs() for tensor in _tensors(graph) if tensor.name]
        self._names = {tensor.name for _, tensor in tensors}
        owners: dict[str, gs.Tensor] = {}
        for graph, tensor in tensors:
            owner = owners.setdefault(tensor.name, tensor)
            if owner is tensor:
                continue
            if isinstance(tensor, gs.Variable) and not tensor.inputs and all(tensor is not t for t in graph.inputs):
                graph.nodes.insert(0, new_node("Identity", "", {}, [owner], [tensor]))  # a nested body may read it
            tensor.name = self.fresh_name(tensor.name)
            owners[tensor.name] = tensor

    def _name_nodes(self) -> None:
        """Give each node a unique name: reports, rules and TensorRT know nodes by it."""
        taken: set[str] = set()
        others = []
        for node in self.nodes():
            if node.name and node.name not in taken:
                taken.add(node.name)
            else:
                others.append(node)
        self._names |= taken
        for node in others:
            node.name = self.fresh_name(node.name or f"{node.op}_{node.outputs[0].name if node.outputs else ''}")


@contextmanager
def paused_gc() -> Iterator[None]:
    """No cyclic garbage collection while graphs are built.

    A graph of 64,000 nodes is a million objects that all live; searching them again and again for garbage made the time per
    node grow with the size.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def new_node(
    op: str, name: str, attrs: dict[str, object], inputs: list[gs.Tensor], outputs: list[gs.Tensor]
) -> gs.Node:
    """A node as `Graph` keeps them; its name comes from `Graph.fresh_name`."""
    node = gs.Node(op, name, attrs, inputs, outputs)
    node.metadata, node.doc_string, node.unread = {}, "", []
    return node


def authored_type(constant: gs.Constant) -> str:
    """The type that the source gave an initializer, as a label."""
    held = constant._values
    about = held.tensor.metadata_props if isinstance(held, gs.ir.tensor.LazyValues) else ()
    return next((entry.value for entry in about if entry.key == AUTHORED_KEY), label(onnx_type(constant)))


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that makes a tensor; None for inputs and initializers."""
    return tensor.inputs[0] if tensor.inputs else None


def set_input(node: gs.Node, index: int, tensor: gs.Tensor) -> None:
    """Let one input of a node be `tensor`. Linear in the uses of the tensor before; for many nodes, `replace_uses`."""
    uses = node.inputs[index].outputs
    list.__delitem__(uses, next(i for i, reader in enumerate(uses) if reader is node))
    list.__setitem__(node.inputs, index, tensor)
    list.append(tensor.outputs, node)


def replace_uses(old: gs.Tensor, new: gs.Tensor, readers: Container[int] | None = None) -> None:
    """Let the nodes that read `old` read `new`. Linear in the uses, where graphsurgeon's own lists are quadratic.

    Args:
        old: the tensor that is read now.
        new: the tensor to read.
        readers: the `id`s of the nodes to change; None: all.
    """
    kept = []
    for node in old.outputs:
        if readers is not None and id(node) not in readers:
            kept.append(node)
            continue
        for index, tensor in enumerate(node.inputs):
            if tensor is old:
                list.__setitem__(node.inputs, index, new)
                list.append(new.outputs, node)
    list.__setitem__(old.outputs, slice(None), kept)


def bypass(graph: gs.Graph, node: gs.Node) -> bool:
    """Let the readers of a node with one output read its first input; the next `tidy` drops the node.

    The name of a graph output never changes, so where the node makes one, its producer makes it instead. Returns False, and
    changes nothing, where even that cannot be: an input or an initializer that is an output as well, or one from outside.
    """
    source, result = node.inputs[0], node.outputs[0]
    if not any(result is t for t in graph.outputs):
        replace_uses(result, source)
        return True
    maker = producer(source)
    if maker is None or any(source is t for t in graph.outputs) or not any(maker is n for n in graph.nodes):
        return False
    list.clear(node.outputs)
    list.clear(result.inputs)
    replace_uses(source, result, {id(n) for n in source.outputs if n is not node})
    index = next(i for i, t in enumerate(maker.outputs) if t is source)
    list.__setitem__(maker.outputs, index, result)
    list.append(result.inputs, maker)
    list.clear(source.inputs)
    return True


def subgraphs(node: gs.Node) -> list[gs.Graph]:
    """The bodies of a control-flow node."""
    return [value for value in node.attrs.values() if isinstance(value, gs.Graph)]


def captured(node: gs.Node) -> Iterator[gs.Tensor]:
    """What the bodies of a control-flow node read: their own tensors, and those of the graphs around them."""
    for body in subgraphs(node):
        yield from body.outputs
        for inner in body.nodes:
            yield from inner.inputs
            yield from captured(inner)


@dataclass
class Tie:
    """What an If, Loop or Scan hands over under one type.

    Args:
        inputs: the positions among the node's inputs.
        results: (body, position among its outputs).
        makes: the node's own output and the bodies' inputs.
    """

    inputs: list[int]
    results: list[tuple[gs.Graph, int]]
    makes: list[gs.Tensor]

    def reads(self, node: gs.Node) -> list[gs.Tensor]:
        """The tensors that it takes from outside and from the bodies."""
        return [node.inputs[i] for i in self.inputs] + [body.outputs[i] for body, i in self.results]


def ties(node: gs.Node) -> list[Tie]:
    """What a control-flow node hands over: a tie an output, and behind them one a scanned input. Empty for other nodes."""
    bodies = subgraphs(node)
    if node.op == "If":
        return [Tie([], [(body, j) for body in bodies], [made]) for j, made in enumerate(node.outputs)]
    if node.op == "Loop":
        (body,) = bodies
        carried = len(node.inputs) - 2  # behind the trip count and the condition
        return [
            Tie([2 + j], [(body, 1 + j)], [made, body.inputs[2 + j]])
            if j < carried
            else Tie([], [(body, 1 + j)], [made])
            for j, made in enumerate(node.outputs)
        ]
    if node.op == "Scan":
        (body,) = bodies
        first = len(node.inputs) - len(body.inputs)  # in opset 8 the lengths of the sequences are before them
        carried = len(body.inputs) - node.attrs["num_scan_inputs"]
        found = [
            Tie([first + j], [(body, j)], [made, body.inputs[j]]) if j < carried else Tie([], [(body, j)], [made])
            for j, made in enumerate(node.outputs)
        ]
        return found + [Tie([first + j], [], [body.inputs[j]]) for j in range(carried, len(body.inputs))]
    return []


def _tensors(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """What a graph takes, puts out, and its nodes read and make; some more than once, and those from outside as well."""
    yield from graph.inputs
    yield from graph.outputs
    for node in graph.nodes:
        yield from node.inputs
        yield from node.outputs


def _tidy(graph: gs.Graph) -> None:
    nodes = list(graph.nodes)
    for node in nodes:
        for body in subgraphs(node):
            _tidy(body)
    position = {id(node): index for index, node in enumerate(nodes)}
    waits: list[set[int]] = []
    for node in nodes:
        makers = (producer(t) for t in (*node.inputs, *captured(node)))
        waits.append({position[id(m)] for m in makers if m is not None and id(m) in position})
    if any(before >= index for index, wait in enumerate(waits) for before in wait):
        nodes = _sorted(nodes, waits)
    needed = {id(t) for t in graph.outputs}
    live: list[gs.Node] = []
    dead: list[gs.Node] = []
    for node in reversed(nodes):
        if any(id(t) in needed for t in node.outputs):
            needed.update(id(t) for t in (*node.inputs, *captured(node)))
            live.append(node)
        else:
            dead.append(node)
    gone = {id(node) for node in dead}
    gone.update(id(node) for maker in dead for body in maker.subgraphs(recursive=True) for node in body.nodes)
    for tensor in {id(t): t for node in dead for t in (*node.inputs, *captured(node))}.values():
        list.__setitem__(tensor.outputs, slice(None), [n for n in tensor.outputs if id(n) not in gone])
    for node in dead:
        list.clear(node.inputs)
        list.clear(node.outputs)
    graph.nodes = live[::-1]


def _sorted(nodes: list[gs.Node], waits: list[set[int]]) -> list[gs.Node]:
    """The nodes in their order, each right behind those that it waits for: what a pass appends goes where it is needed.

    Depth first. A runtime that follows the order holds a result no longer than it must.
    """
    order: list[gs.Node] = []
    begun = [False] * len(nodes)
    done = [False] * len(nodes)
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            index = stack[-1]
            if done[index]:
                stack.pop()
            elif begun[index]:
                done[index] = True
                order.append(nodes[stack.pop()])
            else:
                begun[index] = True
                before = sorted((b for b in waits[index] if not done[b]), reverse=True)
                for waiting in before:
                    if begun[waiting]:  # and not done: it is on the way here
                        raise GraphError("the graph has a cycle", where=f"node {nodes[waiting].name!r}")
                stack += before
    return order


def _readable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy without the attributes that graphsurgeon fails at or drops."""
    if all(map(_is_readable, _attributes(model.graph))):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    waiting = [copy.graph]
    for graph in waiting:
        for node in graph.node:
            for index in reversed(range(len(node.attribute))):
                if not _is_readable(node.attribute[index]):
                    del node.attribute[index]
            waiting.extend(attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH)
    return copy


def _attributes(graph: onnx.GraphProto) -> Iterator[onnx.AttributeProto]:
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _attributes(attribute.g)


def _is_readable(attribute: onnx.AttributeProto) -> bool:
    """Whether graphsurgeon gives an attribute back as it is: it guesses the type from the value, and reads bytes as text."""
    lists = (onnx.AttributeProto.FLOATS, onnx.AttributeProto.INTS, onnx.AttributeProto.STRINGS)
    if attribute.type in lists and not (attribute.floats or attribute.ints or attribute.strings):
        return False
    return attribute.type in READABLE and all(map(_is_text, (attribute.s, *attribute.strings)))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_metadata(graph: gs.Graph, proto: onnx.GraphProto) -> None:
    # graphsurgeon imports and exports nodes one to one, in order; so do we, bodies included.
    for node, source in zip(graph.nodes, proto.node, strict=True):
        node.metadata = {entry.key: entry.value for entry in source.metadata_props}
        node.doc_string = source.doc_string
        node.unread = [attribute for attribute in source.attribute if not _is_readable(attribute)]
        for body, inner in _bodies(node, source):
            _read_metadata(body, inner)


def _bodies(node: gs.Node, proto: onnx.NodeProto) -> Iterator[tuple[gs.Graph, onnx.GraphProto]]:
    for attribute in proto.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield node.attrs[attribute.name], attribute.g


def _apply_types(graph: gs.Graph, proto: onnx.GraphProto) -> None:
    known = {info.name: info.type for info in (*proto.value_info, *proto.output)}
    for node, source in zip(graph.nodes, proto.node, strict=True):
        for tensor in node.outputs:
            info: Any = known.get(tensor.name)
            if info is None:
                continue
            tensor.type = info.WhichOneof("value") or "tensor_type"
            if tensor.type == "sequence_type":
                info = info.sequence_type.elem_type
            if info.HasField("tensor_type") and info.tensor_type.elem_type:
                tensor.dtype = info.tensor_type.elem_type
                if info.tensor_type.HasField("shape"):
                    tensor.shape = [_dim(d) for d in info.tensor_type.shape.dim]
        for body, inner in _bodies(node, source):
            for tensor, value in zip(body.inputs, inner.input, strict=True):
                # Loop and Scan bodies declare their inputs rarely in full; inference fills them in.
                if not tensor.dtype and value.type.HasField("tensor_type"):
                    tensor.dtype = value.type.tensor_type.elem_type or None
            _apply_types(body, inner)


def _dims(proto: onnx.GraphProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """`(name, shape)` of the tensors of a graph and its bodies; dimensions that are not known count as 1."""
    for value in (*proto.input, *proto.value_info, *proto.output):
        if value.type.HasField("tensor_type"):
            yield value.name, tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
    for node in proto.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _dims(attribute.g)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None
