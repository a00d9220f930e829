"""Computes what an engine computes: its ONNX model in onnxruntime, or a few operators in PyTorch on a CUDA stream."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

T = TensorProto
STRANGE = (T.BFLOAT16, T.FLOAT8E4M3FN)
"""Types that NumPy does not know, so that they do not pass onnxruntime's border: float32 does in their stead."""


class Program:
    """The ONNX model of an engine.

    Args:
        model: its bytes.
        tensors: the engine's inputs and outputs.
    """

    def __init__(self, model: bytes, tensors: list[dict[str, Any]]) -> None:
        self.bytes = model
        self.inputs = [t["onnx"] for t in tensors if t["mode"] == "INPUT"]
        self.outputs = [t["onnx"] for t in tensors if t["mode"] == "OUTPUT"]

    @functools.cached_property
    def model(self) -> onnx.ModelProto:
        """The model."""
        return onnx.load_model_from_string(self.bytes)

    @functools.cached_property
    def session(self) -> Any:
        """An onnxruntime session of it."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        data = runnable(self.model).SerializeToString()
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    @functools.cached_property
    def device_weights(self) -> dict[str, Any]:
        """The weights as CUDA tensors. To be made with the engine: a run may not wait for them, nor may it in a CUDA graph."""
        import torch

        made = {
            tensor.name: torch.from_numpy(_plain(tensor)).to("cuda", _torch_type(tensor.data_type))
            for tensor in self.model.graph.initializer
        }
        torch.cuda.synchronize()
        return made

    def run(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by ONNX name."""
        wanted = {entry.name: _NUMPY[entry.type] for entry in self.session.get_inputs()}
        fed = {name: given[name].astype(dtype, copy=False) for name, dtype in wanted.items()}
        return dict(zip(self.outputs, self.session.run(self.outputs, fed), strict=True))

    def shapes(self, given: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """The shapes of tensors for shapes of the inputs (of a shape input: an array of its values). -1 where they depend on data."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        del graph.value_info[:]
        for info in list(graph.input):
            shape = given.get(info.name)
            if isinstance(shape, np.ndarray):
                graph.initializer.append(numpy_helper.from_array(shape.astype(np.int64), info.name))
                graph.input.remove(info)
            elif shape is not None:
                elem = info.type.tensor_type.elem_type
                info.CopyFrom(helper.make_tensor_value_info(info.name, elem, list(shape)))
        for info in graph.output:
            info.type.tensor_type.ClearField("shape")
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
        found = {}
        for info in (*inferred.input, *inferred.output, *inferred.value_info):
            dims = info.type.tensor_type.shape.dim
            if info.type.tensor_type.HasField("shape"):
                found[info.name] = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
        return found


_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that onnxruntime's CPU kernels run: bf16 is computed in fp32, and rounded after each node.

    Rounding after each node gives what a bf16 kernel gives that accumulates in fp32.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = min(made.ir_version, 10)
    graph = made.graph
    types = {i.name: i.type.tensor_type.elem_type for i in (*graph.input, *graph.output, *graph.value_info)}
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == T.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[onnx.NodeProto] = []
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type in STRANGE:
            info.type.tensor_type.elem_type = T.FLOAT
    for info in graph.input:
        if types[info.name] == T.FLOAT8E4M3FN:
            raise NotImplementedError("the double of TensorRT does not model fp8 inputs")
    for node in graph.node:
        nodes += _widened(node, types)
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def _widened(node: onnx.NodeProto, types: dict[str, int]) -> list[onnx.NodeProto]:
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == T.BFLOAT16:
            attribute.i = T.FLOAT
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == T.BFLOAT16:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
    after = []
    for i, name in enumerate(node.output):
        if types.get(name) == T.BFLOAT16:
            wide, narrow = f"{name}/unrounded", f"{name}/bf16"
            node.output[i] = wide
            after.append(helper.make_node("Cast", [wide], [narrow], to=T.BFLOAT16))
            after.append(helper.make_node("Cast", [narrow], [name], to=T.FLOAT))
    return [node, *after]


def run_on_device(program: Program, given: dict[str, Any], stream: int) -> dict[str, Any]:
    """The outputs of a model on CUDA tensors, enqueued on a stream and not waited for. Knows a few operators.

    Raises:
        NotImplementedError: it has another one.
    """
    import torch

    values = {**program.device_weights, **given}
    with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
        for node in program.model.graph.node:
            if node.op_type not in DEVICE:
                raise NotImplementedError(f"the double of TensorRT does not run {node.op_type} on a device")
            values[node.output[0]] = DEVICE[node.op_type](node, *(values[name] for name in node.input))
    return values


def _plain(tensor: onnx.TensorProto) -> np.ndarray:
    array = numpy_helper.to_array(tensor)
    return array.astype(np.float32) if tensor.data_type == T.BFLOAT16 else np.array(array)


def _torch_type(onnx_type: int) -> Any:
    import torch

    names = {
        T.FLOAT: "float32",
        T.FLOAT16: "float16",
        T.BFLOAT16: "bfloat16",
        T.INT32: "int32",
        T.INT64: "int64",
        T.BOOL: "bool",
    }
    return getattr(torch, names[onnx_type])


DEVICE: dict[str, Callable[..., Any]] = {
    "Add": lambda _, a, b: a + b,
    "Mul": lambda _, a, b: a * b,
    "MatMul": lambda _, a, b: a @ b,
    "Relu": lambda _, a: a.relu(),
    "NonZero": lambda _, a: a.nonzero().t().contiguous(),
    "Identity": lambda _, a: a.clone(),
    "Cast": lambda node, a: a.to(_torch_type(next(x.i for x in node.attribute if x.name == "to"))),
}
