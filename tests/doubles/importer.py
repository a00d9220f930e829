"""Fills a network from an ONNX model, as TensorRT's parser does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import TensorProto, shape_inference

from .binding import Module
from .network import FLOATS, Layer, Network, Source, Tensor
from .operators import LACKS, LAYERS, REDUCES, SAME_TYPE, SHAPE_MATH, SHAPES, WEIGHTS
from .values import Log

T = TensorProto
TYPES = {
    T.FLOAT: "FLOAT",
    T.DOUBLE: "FLOAT",  # with a warning
    T.FLOAT16: "HALF",
    T.BFLOAT16: "BF16",
    T.INT8: "INT8",
    T.INT32: "INT32",
    T.INT64: "INT64",
    T.BOOL: "BOOL",
    T.UINT8: "UINT8",
    T.FLOAT8E4M3FN: "FP8",
    T.INT4: "INT4",
    T.FLOAT4E2M1: "FP4",
}
KINDS = {"ELEMENTWISE": "ElementWise", "MATRIX_MULTIPLY": "Matrix Multiply"}
"""How TensorRT writes kinds in the names of layers without a name."""
WORDS = {"FLOAT": "float", "HALF": "half", "BF16": "bfloat16", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}


class RefusedError(Exception):
    """The parser says no to a node."""

    def __init__(self, text: str, code: str = "UNSUPPORTED_NODE", node: onnx.NodeProto | None = None) -> None:
        super().__init__(text)
        self.code, self.node = code, node


class Importer:
    """Fills a network from a model."""

    def __init__(self, module: Module, network: Network, log: Log, model: onnx.ModelProto) -> None:
        if model.functions:
            from onnx import inliner

            model = inliner.inline_local_functions(model)
        self.model = shape_inference.infer_shapes(model, data_prop=True)
        self.module, self.network, self.log = module, network, log
        self.tensors: dict[str, Tensor] = {}
        self.infos: dict[str, onnx.TypeProto.Tensor] = {}
        self.constants: dict[str, onnx.TensorProto] = {}
        self.made: dict[str, list[Tensor | None]] = {}
        self.names: set[str] = set()
        self.index = -1
        self.warned: set[str] = set()

    def run(self) -> None:
        """Make inputs, layers and outputs."""
        graph = self.model.graph
        opset = next((o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if opset > self.module.version.opset:
            self.log.warning(
                f"Your ONNX model has been generated with opset {opset}; this parser knows up to {self.module.version.opset}"
            )
        self.opset = opset
        self._learn(graph)
        for info in graph.input:
            if info.name not in self.constants:
                self.network.inputs.append(self._tensor(info.name))
        for node in graph.node:
            self.index += 1
            self._node(node, top=True)
        for info in graph.output:
            self.network.mark_output(self._operand(info.name))
        _mark_shapes(graph, self.tensors, self.constants)
        self.network.source = Source(onnx.ModelProto.SerializeToString(self.model))

    def _learn(self, graph: onnx.GraphProto) -> None:
        for info in (*graph.input, *graph.output, *graph.value_info):
            self.infos[info.name] = info.type.tensor_type
        self.constants.update({tensor.name: tensor for tensor in graph.initializer})

    def _type(self, name: str, onnx_type: int) -> str:
        found = TYPES.get(onnx_type)
        if found == "INT64" and not self.module.version.has("INT64"):
            self._warn_once(
                "Your ONNX model has been generated with INT64 weights, while TensorRT does not natively support INT64. "
                "Attempting to cast down to INT32."
            )
            found = "INT32"
        if onnx_type == T.DOUBLE:
            self._warn_once(f"TensorRT does not support DOUBLE: {name} is cast down to FLOAT")
        if found is None or not self.module.version.has(found):
            raise RefusedError(
                f"Unsupported ONNX data type: {T.DataType.Name(onnx_type)} ({onnx_type}), of {name}",
                "UNSUPPORTED_NODE_DATATYPE",
            )
        return found

    def _warn_once(self, text: str) -> None:
        if text not in self.warned:
            self.warned.add(text)
            self.log.warning(text)

    def _tensor(self, name: str, like: Tensor | None = None) -> Tensor:
        """The tensor of an ONNX value; a type that is not told is that of another tensor."""
        if name in self.tensors:
            return self.tensors[name]
        info = self.infos.get(name)
        if info is None or not info.elem_type:
            dtype, sizes = (like.made_type, like.sizes) if like else ("FLOAT", ())
        else:
            dtype = self._type(name, info.elem_type)
            sizes = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in info.shape.dim)
        made = Tensor(self.network, name, dtype, sizes)
        if info is not None:
            made.symbols = {i: d.dim_param for i, d in enumerate(info.shape.dim) if d.dim_param}
        self.tensors[name] = made
        return made

    def _operand(self, name: str) -> Tensor:
        """The tensor of an operand; of an initializer through a constant layer without a name."""
        if name in self.constants and name not in self.tensors:
            value = self.constants[name]
            made = Tensor(self.network, name, self._type(name, value.data_type), tuple(value.dims))
            self.tensors[name] = made
            layer = self._layer("CONSTANT", self._unnamed("CONSTANT"), "Constant")
            self._connect(layer, [], [made])
        return self._tensor(name)

    def _layer(self, kind: str, name: str, op: str) -> Layer:
        known = self.module.names["LayerType"].__members__
        layer = Layer(self.network, kind if kind in known else "PLUGIN_V2", name, op)
        self.network.layers.append(layer)
        return layer

    def _unnamed(self, kind: str) -> str:
        """What TensorRT calls a layer that the parser did not name."""
        return f"(Unnamed Layer* {len(self.network.layers)}) [{KINDS.get(kind, kind.title())}]"

    def _connect(self, layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
        layer.inputs, layer.outputs = inputs, outputs
        for tensor in outputs:
            tensor.layer = layer

    def _name(self, wanted: str) -> str:
        """A name that no layer has yet."""
        name, i = wanted, 0
        while name in self.names:
            name, i = f"{wanted}_{i}", i + 1
        self.names.add(name)
        return name

    def _node(self, node: onnx.NodeProto, top: bool) -> None:
        self._check(node)
        for inside in _bodies(node):
            self._learn(inside)
            for inner in inside.node:
                self._node(inner, top=False)
        inputs = [self._operand(name) if self._is_tensor(node, i) else None for i, name in enumerate(node.input)]
        while inputs and inputs[-1] is None:
            inputs.pop()
        self._check_types(node)
        like = next((tensor for tensor in inputs if tensor is not None), None)
        outputs = [self._tensor(name, like) for name in node.output if name]
        kind = LAYERS.get(node.op_type, "PLUGIN_V2")
        layer = self._layer(kind, self._name(node.name or self._unnamed(kind)), node.op_type)
        layer.weights_type = self._weights_type(node)
        if node.op_type in ("Cast", "CastLike", "QuantizeLinear", "DynamicQuantizeLinear"):
            layer.to = outputs[0].made_type
        if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
            self._bias(layer, inputs, outputs)
        else:
            self._connect(layer, inputs, outputs)
        if self.module.version.metadata and node.name:
            layer.metadata = f"[ONNX Layer: {node.name}]"
        if top and node.name:
            self.made[node.name] = [self.tensors[name] if name else None for name in node.output]

    def _bias(self, product: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
        """Add a Gemm's third operand in a layer of its own, which the parser neither names nor gives metadata."""
        between = Tensor(self.network, f"{product.name}_output_0", outputs[0].made_type, outputs[0].sizes)
        between.onnx_name = outputs[0].onnx_name
        self._connect(product, inputs[:2], [between])
        added = self._layer("ELEMENTWISE", self._unnamed("ELEMENTWISE"), "Add")
        self._connect(added, [between, inputs[2]], outputs)

    def _is_tensor(self, node: onnx.NodeProto, i: int) -> bool:
        name = node.input[i]
        if not name:
            return False
        static = i in WEIGHTS.get(node.op_type, ()) or i in SHAPES.get(node.op_type, ())
        return not (name in self.constants and static)

    def _weights_type(self, node: onnx.NodeProto) -> str:
        for i in WEIGHTS.get(node.op_type, ()):
            if i < len(node.input) and node.input[i] in self.constants:
                return self._type(node.input[i], self.constants[node.input[i]].data_type)
        return ""

    def _check(self, node: onnx.NodeProto) -> None:
        """Refuse operators that this version does not know."""
        version, op = self.module.version, node.op_type
        known = node.domain in ("", "ai.onnx") and op in LAYERS and op not in LACKS.get(version.number[:2], ())
        if not known and not (node.domain == "trt" or op.startswith("TRT_")):
            raise RefusedError(
                f"Plugin not found, are the plugin name, version, and namespace correct? (no importer registered for op: {op})",
                node=node,
            )
        axes_given = op in REDUCES and op != "ReduceSum" and len(node.input) > 1 and bool(node.input[1])
        if axes_given and version.number[:2] == (8, 6):
            raise RefusedError(
                f"{op} of opset {self.opset} takes its axes as an input, which this parser does not know", node=node
            )
        if op == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    self._type(node.output[0], attribute.t.data_type)
        for name in node.input:
            if name in self.constants:
                self._type(name, self.constants[name].data_type)

    def _type_of(self, name: str) -> str:
        if name in self.constants:
            return self._type(name, self.constants[name].data_type)
        return self.tensors[name].made_type if name in self.tensors else ""

    def _check_types(self, node: onnx.NodeProto) -> None:
        """Under strong typing, refuse operands of different types."""
        if not self.network.strong:
            return
        wanted = [i for i in SAME_TYPE.get(node.op_type, ()) if i < len(node.input) and node.input[i]]
        types = [(i, self._type_of(node.input[i])) for i in wanted]
        types = [(i, dtype) for i, dtype in types if dtype]
        for i, dtype in types[1:]:
            first = types[0]
            if dtype != first[1]:
                raise RefusedError(
                    f"[{node.name}] Input {first[0]}'s element type ({_word(first[1])}) differs from input {i}'s "
                    f"({_word(dtype)}): in a strongly typed network the types of operands must match",
                    "INVALID_NODE",
                    node,
                )
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            self._check_scale(node)

    def _check_scale(self, node: onnx.NodeProto) -> None:
        quantizes = node.op_type == "QuantizeLinear"
        side = (
            self._type_of(node.input[0])
            if quantizes
            else self._type(node.output[0], self.infos[node.output[0]].elem_type)
        )
        scale = self._type_of(node.input[1])
        if scale in FLOATS and side in FLOATS and scale != side:
            raise RefusedError(
                f"[{node.name}] the scale's type ({_word(scale)}) differs from the type of the values ({_word(side)})",
                "INVALID_NODE",
                node,
            )


def _word(dtype: str) -> str:
    return WORDS.get(dtype, dtype.lower())


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g


def _mark_shapes(graph: onnx.GraphProto, tensors: dict[str, Tensor], constants: dict[str, Any]) -> None:
    """Find the shape tensors: shape arithmetic on from `Shape`, and back from operands whose values make shapes."""
    fixed = set(constants) | {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    found: set[str] = set()
    for node in graph.node:
        fed = [name for name in node.input if name]
        math = node.op_type in SHAPE_MATH and set(fed) <= found | fixed and bool(set(fed) & found)
        if node.op_type in ("Shape", "Size") or math:
            found.update(name for name in node.output if name in tensors and _may_be_shape(tensors[name]))
    needed: set[str] = set()
    for node in reversed(graph.node):
        for i in SHAPES.get(node.op_type, ()):
            if i < len(node.input) and node.input[i]:
                needed.add(node.input[i])
        if node.op_type in SHAPE_MATH and needed & set(node.output) and not set(node.output) & found:
            needed.update(name for name in node.input if name)
    for name in found | (needed - fixed):
        if name in tensors and _may_be_shape(tensors[name]):
            tensors[name].is_shape_tensor = True


def _may_be_shape(tensor: Tensor) -> bool:
    return len(tensor.sizes) <= 1 and -1 not in tensor.sizes and tensor.made_type in ("INT32", "INT64", "BOOL", "FLOAT")
