"""The double of TensorRT, put together: `install` fills a module with the classes of one version."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import stubs
from .binding import Module
from .builder import Builder
from .engine import Runtime
from .parser import OnnxParser
from .stubs import ClassSpec, ModuleSpec, Property
from .values import NUMPY, Dims, Logger, Weights, volume
from .versions import VERSIONS, Version

MAKERS = {
    "Logger": Logger,
    "Builder": Builder,
    "OnnxParser": OnnxParser,
    "Runtime": Runtime,
    "Weights": Weights,
    **dict.fromkeys(("Dims", "Dims2", "Dims3", "Dims4", "DimsHW", "Permutation"), Dims),
}
"""Classes that the caller constructs, and that do something."""


def install(version: str, names: dict[str, Any]) -> None:
    """Fill a module.

    Args:
        version: "8.6", "10.13" or "11.0".
        names: of the module, to fill.
    """
    facts = VERSIONS[version]
    spec = stubs.read((stubs.folder() / "tensorrt_bindings" / "tensorrt.pyi").read_text())
    amend(spec, facts)
    module = Module(spec, {}, facts)
    module.makers.update({name: functools.partial(maker, module) for name, maker in MAKERS.items()})
    names.update(module.names)
    names.update(_functions(module))
    names["__version__"] = facts.text
    names["__all__"] = [name for name in names if not name.startswith("_")]


def amend(spec: ModuleSpec, facts: Version) -> None:
    """Make the table of the stubs the table of a version."""
    for name, cls in stubs.read(facts.adds).classes.items():
        known = spec.classes.setdefault(name, cls)
        known.methods.update(cls.methods)
        known.properties.update(cls.properties)
    for name in facts.lacks:
        owner, _, part = name.partition(".")
        if not part:
            spec.classes.pop(owner, None)
        elif owner in spec.classes:
            _remove(spec.classes[owner], part)
    for name, members in facts.values.items():
        spec.classes[name].members |= members
    for name in facts.read_only:
        owner, _, part = name.partition(".")
        spec.classes[owner].properties[part] = Property(spec.classes[owner].properties[part].annotation, settable=False)
    gone = {name for name in facts.lacks if "." not in name}
    for cls in spec.classes.values():
        _forget(cls, gone)


def _remove(cls: ClassSpec, part: str) -> None:
    cls.members.pop(part, None)
    cls.properties.pop(part, None)
    cls.methods.pop(part, None)


def _forget(cls: ClassSpec, gone: set[str]) -> None:
    """Take classes that are gone out of bases and of signatures, which would take anything in their place."""
    cls.bases = tuple(base for base in cls.bases if base not in gone)
    for name, overloads in cls.methods.items():
        kept = [signature for signature in overloads if not any(p.annotation in gone for p in signature)]
        cls.methods[name] = kept or overloads


def _functions(module: Module) -> dict[str, Any]:
    def nptype(trt_type: Any) -> Any:
        """The NumPy type of a DataType."""
        if trt_type.name in ("BF16", "FP8", "INT4", "FP4", "E8M0"):
            raise TypeError(f"Could not resolve TensorRT datatype to an equivalent numpy datatype: {trt_type}")
        return NUMPY[trt_type.name].type

    def get_nv_onnx_parser_version() -> int:
        """The parser's version."""
        major, minor, *_ = module.version.number
        return major * 10000 + minor * 100

    def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
        """Register TensorRT's plugins."""
        return True

    return {
        "nptype": nptype,
        "volume": lambda iterable: int(np.int64(volume(iterable))),
        "get_nv_onnx_parser_version": get_nv_onnx_parser_version,
        "init_libnvinfer_plugins": init_libnvinfer_plugins,
    }
