"""The TensorRT libraries: whether one is installed, and what it can do, asked of its module.

What a library can do is probed by the names that it has, never by its version: enum values moved between versions, flags came and went, and
a name that is missing is the one thing that cannot be wrong.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import types
from dataclasses import dataclass, fields
from typing import Any

MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Product -> its module."""

TITLES = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Capabilities:
    """What a library can do.

    Args:
        weak: layers can be told a precision (`ILayer.precision`; gone from TensorRT 11 and TensorRT-RTX).
        strong: the types of the graph can be those of the network: by a flag, or always.
        strong_flag: a network is strongly typed only where a flag says so, and the flag still means something.
        explicit_batch: there is a flag for an explicit batch dimension; before TensorRT 10 the parser needs it, and later it has no effect.
        binding_dtype: the type of an input or output can be set on the network (gone from 11).
        bf16, fp8, int4, int64: the type exists.
        targets: an engine is built for a list of compute capabilities, and needs no GPU.
        progress: a build can be watched and stopped.
        node_tensors: the parser knows the tensor of a node's output.
    """

    weak: bool
    strong: bool
    strong_flag: bool
    explicit_batch: bool
    binding_dtype: bool
    bf16: bool
    fp8: bool
    int4: bool
    int64: bool
    targets: bool
    progress: bool
    node_tensors: bool

    def table(self) -> dict[str, bool]:
        """Each by its name."""
        return {field.name: bool(getattr(self, field.name)) for field in fields(self)}


def probe(trt: Any) -> Capabilities:
    """What a library can do, by the names that its module has."""
    creation, types = trt.NetworkDefinitionCreationFlag, trt.DataType
    weak = hasattr(trt.ILayer, "precision")
    flagged = hasattr(creation, "STRONGLY_TYPED")
    return Capabilities(
        weak=weak,
        strong=flagged or not weak,
        strong_flag=flagged and weak,
        explicit_batch=hasattr(creation, "EXPLICIT_BATCH"),
        binding_dtype=getattr(getattr(trt.ITensor, "dtype", None), "fset", None) is not None,
        bf16=hasattr(types, "BF16"),
        fp8=hasattr(types, "FP8"),
        int4=hasattr(types, "INT4"),
        int64=hasattr(types, "INT64"),
        targets=hasattr(trt, "ComputeCapability"),
        progress=hasattr(trt, "IProgressMonitor"),
        node_tensors=hasattr(trt.OnnxParser, "get_layer_output_tensor"),
    )


def is_installed(product: str) -> bool:
    """Whether the module of a product is there. A folder of type stubs of the same name is no module."""
    spec = importlib.util.find_spec(MODULES[product])
    return spec is not None and spec.origin is not None


@functools.cache
def version(product: str) -> str:
    """The version of the installed product; "" where there is none. Imports nothing."""
    module = MODULES[product]
    for package in (module, f"{module}_cu13", f"{module}_cu12", f"{module}_cu11"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def load(product: str) -> Any:
    """The module of a product.

    Raises:
        ImportError, OSError: it is not there, or its libraries cannot be loaded.
    """
    return importlib.import_module(MODULES[product])


def derived(base: Any, own: type[Any], *args: Any) -> Any:
    """An object of a class that is one of the library's and one of ours, which is known only once the library is loaded.

    Args:
        base: the library's class. Its constructor must run, or calls into it crash.
        own: ours, which has the methods that the library calls.
        args: of our constructor.
    """

    def construct(self: Any) -> None:
        base.__init__(self)
        own.__init__(self, *args)

    return types.new_class(own.__name__, (own, base), {}, lambda body: body.update(__init__=construct))()
