"""TensorRT 8.6 to 10, weakly typed: precisions are wishes of layers, with builder flags that allow them."""

from __future__ import annotations

from dataclasses import asdict

import tensorrt as trt

from torch2trt_onnx.backends.constraints import CASTS, Layer, Told, decide
from torch2trt_onnx.backends.engine_reader import EngineReader
from torch2trt_onnx.backends.session import Constraint, RefusalError

FLAGS = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8", "fp8": "FP8", "int4": "INT4"}
"""Precision -> the builder flag that allows it; fp32 needs none."""


class WeakTyping(EngineReader):
    """Tells each layer its precision and the types of what it makes.

    What the network then says proves nothing: only the engine does, whose layers are read with TensorRT's inspector.
    """

    def creation_flags(self) -> int:
        """An explicit batch dimension, where there is still a choice; and no strong typing."""
        return self.creation_flag("EXPLICIT_BATCH")

    def constrain(self) -> list[Constraint]:
        """Tell the layers their precisions, and the outputs of the network their types."""
        layers = [self.network.get_layer(i) for i in range(self.network.num_layers)]
        told = decide([_view(i, layer) for i, layer in enumerate(layers)], self.job.nodes)
        for what in told:
            self._tell(layers[what.layer], what)
        self._type_outputs()
        return [asdict(what) for what in told]

    def configure(self, config: trt.IBuilderConfig) -> None:
        """Allow exactly the precisions asked for; a wish that cannot be met fails the build where strict, and falls back elsewhere."""
        super().configure(config)
        for precision in self.job.precisions:
            name = FLAGS.get(precision)
            if name is None:
                continue
            flag = trt.BuilderFlag.__members__.get(name)
            if flag is None:
                raise RefusalError(
                    "config",
                    [{"text": f"Requested {precision}, but this TensorRT ({trt.__version__}) has no flag for it"}],
                )
            config.set_flag(flag)
        constraints = (
            trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS
            if self.job.strict
            else trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS
        )
        config.set_flag(constraints)

    @staticmethod
    def _tell(layer: trt.ILayer, what: Told) -> None:
        if what.reason:
            return
        layer.precision = _type(what.precision)
        for index, kind in what.outputs:
            layer.set_output_type(index, _type(kind))

    def _type_outputs(self) -> None:
        """The outputs of the network in the types of the graph: `set_output_type` has no effect on a tensor's own type."""
        tensors = {t.name: t for t in map(self.network.get_output, range(self.network.num_outputs))}
        for asked in self.job.outputs:
            tensor = tensors.get(asked.name)
            if tensor is not None and asked.dtype and tensor.dtype.name != asked.dtype and not tensor.is_shape_tensor:
                tensor.dtype = _type(asked.dtype)


def _type(name: str) -> trt.DataType:
    found = trt.DataType.__members__.get(name)
    if found is None:
        raise RefusalError("config", [{"text": f"this TensorRT ({trt.__version__}) has no type {name}"}])
    return found


def _view(index: int, layer: trt.ILayer) -> Layer:
    reads = [t for t in map(layer.get_input, range(layer.num_inputs)) if t is not None]
    makes = [layer.get_output(i) for i in range(layer.num_outputs)]
    return Layer(
        index,
        layer.name,
        str(getattr(layer, "metadata", "")),
        layer.type.name,
        tuple(t.name for t in reads),
        tuple((t.name, t.dtype.name, t.is_shape_tensor) for t in makes),
        layer.type.name in CASTS and bool(reads) and reads[0].dtype != makes[0].dtype,
    )
