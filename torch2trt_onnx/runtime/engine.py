"""An engine of TensorRT as a function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from torch2trt_onnx.backends import library
from torch2trt_onnx.backends.layers import Binding
from torch2trt_onnx.errors import BackendMissingError, EngineError, InputError
from torch2trt_onnx.runtime.graphed import GraphedEngine
from torch2trt_onnx.runtime.log import Log, log_of
from torch2trt_onnx.runtime.port import ports
from torch2trt_onnx.runtime.session import Session, on_device
from torch2trt_onnx.signature import Signature

if TYPE_CHECKING:
    import tensorrt


class Engine:
    """An engine that takes and returns what the source model did, on tensors of PyTorch and without copies.

    A call launches on the caller's current stream and waits for nothing: the outputs are complete when that stream is. Inputs must be as
    the engine reads them, in device, type, shape and memory format; what is not is an `InputError` before the launch, never a cast or a
    copy. Outputs are made by PyTorch; they carry no gradient.

    Threads may share an engine. It has one execution context, whose memory for activations serves one launch at a time, so that launches
    wait for each other on the device. For launches that overlap, make an engine each of the same bytes.

    Args:
        data: the serialized engine.
        product: "tensorrt" or "rtx": what built it.
        signature: what the source model takes and returns, as `Signature` or its JSON; None: inputs by place in the engine's order or by
            name, and the one output, or a tuple of them.
        device: that it runs on; None: the current CUDA device.

    Raises:
        BackendMissingError: the product is not installed.
        EngineError: there is no CUDA device; or TensorRT cannot load the engine, in its own words: another version built it, or for
            another GPU, or the bytes are damaged.
    """

    def __init__(
        self,
        data: bytes,
        *,
        product: str = "tensorrt",
        signature: Signature | Mapping[str, Any] | None = None,
        device: torch.device | str | int | None = None,
    ) -> None:
        self.product, self.device = product, _device(device)
        self._trt = _library(product)
        self._log: Log = log_of(self._trt)
        with on_device(self.device):
            self._runtime, self._engine = self._loaded(data)
            self._ports = ports(self._engine, self._trt)
            self._session = self.new_session()
        self.signature = self._signature(signature)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        product: str | None = None,
        device: torch.device | str | int | None = None,
        signature: Signature | Mapping[str, Any] | None = None,
    ) -> Engine:
        """An engine from a saved folder, which knows its product and signature, or from a file of an engine alone.

        Args:
            path: of the folder that `Conversion.save` wrote, or of an engine.
            product, signature: see `Engine`; of a folder they are in its manifest.
            device: see `Engine`.

        Raises:
            BackendMissingError: the product is not installed.
            ManifestError: the folder has no manifest, or one that cannot be read.
            EngineMismatchError: the files, this TensorRT or this GPU are not those of the manifest.
            EngineError: the folder has no engine, the file cannot be read, or TensorRT cannot load it.
            InputError: the product of a single file is not given.
        """
        path = Path(path)
        if not path.is_dir():
            if product is None and not path.exists():
                raise EngineError("there is no such file or folder", where=str(path))
            if product is None:
                raise InputError("a file does not tell which TensorRT built it", where=str(path), fix=_PRODUCTS)
            return cls(_read(path), product=product, signature=signature, device=device)
        from torch2trt_onnx.manifest import ENGINE, Manifest

        manifest = Manifest.read(path)
        if manifest.engine is None:
            raise EngineError(
                "the folder has no engine", where=str(path), fix="convert with a back end, and save again"
            )
        place, before = _device(device), manifest.stamps(path)
        here = _library(manifest.engine.product).__version__
        manifest.check(path, device=_capability(place), product_version=here)
        known, data = signature if signature is not None else manifest.signature, _read(path / ENGINE)
        manifest.check_still(path, before)
        return cls(data, product=manifest.engine.product, signature=known, device=place)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it as the source model is called.

        Raises:
            InputError, EngineError: see `run`; or the arguments are not those of the model.
        """
        return self.signature.build(self.run(self.signature.flatten(args, kwargs)))

    def run(
        self, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Run it on tensors by the names of its inputs.

        Args:
            inputs: each of them. Where the format of a binding pads or splits channels, the tensor has the shape that lies in memory
                (`formats.LAYOUTS[name].packed(shape)`); where it has them last, the strides of `torch.channels_last`. A tensor whose values
                say shapes is on the CPU.
            outputs: tensors to write to, by name; what is not there is made.

        Returns:
            Every output by its name.

        Raises:
            InputError: a tensor is missing, unexpected, or not as the engine has it, or a shape is in no profile. Nothing was launched.
            EngineError: TensorRT refused, in its own words.
        """
        return self._session.run(inputs, outputs)

    def graphed(self, *args: Any, **kwargs: Any) -> GraphedEngine:
        """A CUDA graph of this engine at the shapes of example arguments. It costs less of the CPU a call, and has its own memory.

        Raises:
            InputError: the arguments do not fit, or an output has a shape that depends on the data.
            EngineError: it cannot be captured.
        """
        return GraphedEngine(self.new_session(), self.device, self.signature, args, kwargs)

    def module(self) -> EngineModule:
        """The engine as an nn.Module, for places that want one."""
        return EngineModule(self)

    def new_session(self) -> Session:
        """Another execution context, with memory for activations of its own."""
        return Session(self._engine, self._trt, self._ports, self.device)

    @property
    def bindings(self) -> list[Binding]:
        """Its inputs and outputs, as the engine tells them."""
        return [port.binding for port in self._ports]

    @property
    def profile(self) -> int:
        """The number of the optimization profile that the last call ran in."""
        return int(self._session.context.active_optimization_profile)

    def __repr__(self) -> str:
        each = ", ".join(f"{p.name}: {p.binding.dtype} {p.dims}" for p in self._ports)
        return f"Engine({library.TITLES[self.product]} on {self.device}; {each})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Engine holds memory of a GPU, and cannot be pickled or copied: keep its bytes, or the saved folder"
        )

    def _loaded(self, data: bytes) -> tuple[tensorrt.Runtime, tensorrt.ICudaEngine]:
        self._log.take()
        title = f"{library.TITLES[self.product]} {self._trt.__version__}"
        try:
            runtime: tensorrt.Runtime = self._trt.Runtime(self._log)
            engine: tensorrt.ICudaEngine | None = runtime.deserialize_cuda_engine(data)
        except (TypeError, RuntimeError) as error:  # a null pointer of the library
            raise EngineError(f"{title} cannot start here", why=self._log.take() or str(error)) from error
        if engine is None:
            raise EngineError(
                f"{title} cannot load the engine",
                why=self._log.take() or "it gave no reason",
                fix="run it with the version that built it, on a GPU that it was built for; or convert the model again here",
            )
        return runtime, engine

    def _signature(self, given: Signature | Mapping[str, Any] | None) -> Signature:
        inputs = [p.name for p in self._ports if p.is_input]
        outputs = [p.name for p in self._ports if not p.is_input]
        if given is None:
            return Signature.flat(inputs, outputs)
        found = given if isinstance(given, Signature) else Signature.from_json(given)
        odd = [*(set(found.outputs) - set(outputs)), *(set(inputs) - set(found.inputs))]
        if odd:
            raise EngineError(
                f"the signature is of another model: {', '.join(map(repr, sorted(odd)))} is not in both",
                why=f"the engine has {', '.join(inputs)} and {', '.join(outputs)}",
            )
        return found.without(set(found.inputs) - set(inputs))


class EngineModule(torch.nn.Module):
    """An engine, or a conversion, as an nn.Module: takes and returns what the source model did. It has no parameters and no training, and
    cannot be pickled.

    Args:
        engine: what computes.
    """

    def __init__(self, engine: Callable[..., Any]) -> None:
        super().__init__()
        self.engine = engine

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the engine."""
        return self.engine(*args, **kwargs)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "what runs an engine cannot be pickled or copied: save the conversion, and load it with Engine.load"
        )


_PRODUCTS = "pass product='tensorrt' or product='rtx', or load the folder that the conversion saved"


def _device(given: torch.device | str | int | None) -> torch.device:
    """The device, with its number.

    Raises:
        EngineError: there is no CUDA device.
    """
    found = torch.device(given if given is not None else "cuda")
    if found.type != "cuda":
        return found
    if not torch.cuda.is_available():
        raise EngineError("PyTorch sees no CUDA device, and an engine runs on nothing else")
    return found if found.index is not None else torch.device("cuda", torch.cuda.current_device())


def _capability(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


def _library(product: str) -> Any:
    if product not in library.MODULES:
        raise BackendMissingError(f"there is no product {product!r}", fix=f"use one of {', '.join(library.MODULES)}")
    try:
        return library.load(product)
    except (ImportError, OSError) as error:
        raise BackendMissingError(f"{library.TITLES[product]} cannot be used here", why=str(error)) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError("the engine cannot be read", where=str(path), why=error.strerror or str(error)) from error
