"""TensorRT-RTX: always strongly typed, built for a list of compute capabilities, and without a GPU."""

from __future__ import annotations

from typing import Any

from torch2trt_onnx.backends.session import RefusalError
from torch2trt_onnx.backends.strong import StrongTyping


class Rtx(StrongTyping):
    """Reads the layers from what the builder prints, because without a GPU there is no engine to ask."""

    def configure(self, config: Any) -> None:  # TensorRT's own stubs do not have what is of TensorRT-RTX alone
        """Build for the compute capabilities asked for."""
        super().configure(config)
        config.num_compute_capabilities = len(self.job.targets)
        for index, name in enumerate(self.job.targets):
            capability = getattr(self.trt.ComputeCapability, "SM" + name.replace(".", ""), None)
            if capability is None:
                known = ", ".join(c for c in dir(self.trt.ComputeCapability) if c.startswith("SM"))
                raise RefusalError(
                    "config", [{"text": f"no compute capability {name}; this TensorRT-RTX knows {known}"}]
                )
            config.set_compute_capability(capability, index)

    def read(self) -> dict[str, Any]:
        """The dump of the layers and bindings."""
        return {"form": "dump", "layers": self.log.layers, "bindings": None}
