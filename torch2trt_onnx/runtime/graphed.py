"""A launch of an engine as a CUDA graph."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from torch2trt_onnx.errors import EngineError, InputError
from torch2trt_onnx.runtime.session import Session
from torch2trt_onnx.signature import Signature

WARM_UPS = 2
"""Launches before the one that is captured: TensorRT prepares itself at the first of a shape, by calls that no graph can hold."""


class GraphedEngine:
    """An engine at fixed shapes. A call copies the arguments into the graph's own inputs and replays it on the caller's current stream.

    The tensors that it returns are the graph's own: the next call writes to them, so clone what must last.

    Args:
        session: of this graph alone: its memory is in the graph.
        device: that it runs on.
        signature: what it takes and returns.
        args, kwargs: example arguments; those of a call must have the same shapes and types.

    Raises:
        InputError: the arguments do not fit, or an output has a shape that depends on the data.
        EngineError: the device has no CUDA graphs, or the launch cannot be captured.
    """

    def __init__(
        self,
        session: Session,
        device: torch.device,
        signature: Signature,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        if device.type != "cuda":
            raise EngineError(f"{device} has no CUDA graphs")
        self._session, self._device, self._signature = session, device, signature
        self._lock = threading.Lock()
        given = signature.flatten(args, kwargs)
        self._inputs = {name: t if not t.is_cuda else torch.empty_like(t).copy_(t) for name, t in given.items()}
        self._constants = {name: t.clone() for name, t in given.items() if not t.is_cuda}
        with torch.cuda.device(device):
            self._graph = torch.cuda.CUDAGraph()
            self._outputs = self._captured()
            self._done = torch.cuda.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it as the source model is called.

        Raises:
            InputError: an argument differs from the example in shape, type or device, or a shape tensor in its values.
        """
        given = self._signature.flatten(args, kwargs)
        for name, example in self._inputs.items():
            self._check(name, given[name], example)
        with self._lock, torch.cuda.device(self._device):
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(self._done)  # a replay before, perhaps on another stream
            for name, own in self._inputs.items():
                if name not in self._constants:
                    own.copy_(given[name], non_blocking=True)
                    given[name].record_stream(stream)
            self._graph.replay()
            self._done.record(stream)
        return self._signature.build(self._outputs)

    def _captured(self) -> dict[str, torch.Tensor]:
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._session.run(self._inputs)
        shapeless = self._session.data_dependent()
        if shapeless:
            raise InputError(
                f"the shape of output {shapeless[0]!r} depends on the data, so that no CUDA graph can hold the launch",
                fix="call the engine itself",
            )
        try:
            with torch.cuda.graph(self._graph, stream=stream):
                return self._session.run(self._inputs)
        except RuntimeError as error:
            raise EngineError("the launch cannot be captured in a CUDA graph", why=str(error)) from error

    def _check(self, name: str, given: torch.Tensor, example: torch.Tensor) -> None:
        found, wanted = [(tuple(t.shape), t.dtype, t.device) for t in (given, example)]
        if found != wanted:
            raise InputError(
                f"input {name!r} is {_spoken(*found)}, and the graph was captured with {_spoken(*wanted)}",
                fix="call the engine itself, or make a graph for each shape",
            )
        if name in self._constants and not torch.equal(given, self._constants[name]):
            raise InputError(
                f"input {name!r} is {given.tolist()}, and the graph was captured with {self._constants[name].tolist()}",
                why="the engine makes shapes of these values",
                fix="call the engine itself, or make a graph for each",
            )


def _spoken(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> str:
    return f"{str(dtype).removeprefix('torch.')} {shape} on {device}"
