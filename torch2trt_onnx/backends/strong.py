"""TensorRT 10 with its flag, and 11 always: the types in the graph are the types of the network."""

from __future__ import annotations

from torch2trt_onnx.backends.engine_reader import EngineReader
from torch2trt_onnx.backends.layers import NODE


class StrongTyping(EngineReader):
    """Tells the layers nothing: the graph says it all. Touches no name that TensorRT 11 removed."""

    def creation_flags(self) -> int:
        """Strong typing, where it is not the only one; and an explicit batch dimension, where there is still a choice."""
        strong = self.creation_flag("STRONGLY_TYPED") if self.can.strong_flag else 0
        return strong | self.creation_flag("EXPLICIT_BATCH")

    def network_types(self) -> dict[str, list[str]]:
        """The type of each output of each ONNX node in the network."""
        by_layer: dict[str, list[str]] = {}
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            for name in layer.metadata.split("\x1f"):
                made = [layer.get_output(i).dtype.name for i in range(layer.num_outputs)]
                by_layer.setdefault(name.removeprefix(NODE).removesuffix("]"), []).extend(made)
        types: dict[str, list[str]] = {}
        for node in self.job.nodes:
            found = self._node_types(node.name, len(node.outputs)) if self.can.node_tensors else []
            # The parser does not know nodes in the bodies of loops by name; their layers do.
            types[node.name] = found if any(found) else by_layer.get(node.name, [])[-1:]
        return types

    def _node_types(self, name: str, outputs: int) -> list[str]:
        tensors = [self.parser.get_layer_output_tensor(name, i) for i in range(outputs)]
        return [t.dtype.name if t is not None else "" for t in tensors]
