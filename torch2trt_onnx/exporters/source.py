"""What the user gave as the model, and how it is read without running foreign code."""

from __future__ import annotations

import os
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from torch2trt_onnx import hashing, wire
from torch2trt_onnx.errors import SourceError
from torch2trt_onnx.hashing import Fingerprint

if TYPE_CHECKING:
    import torch

CAST_OPSET = 6
"""The version of ONNX's operators from which on types are numbers."""


@dataclass
class Source:
    """A model in one of its three forms.

    Args:
        name: what messages call it: a path, or the name of the class.
        module: the nn.Module or ScriptModule to export and to compare with; None for ONNX.
        program: the ExportedProgram, where one was given.
        onnx_model: the ModelProto, without its external data; None for PyTorch.
        onnx_folder: the folder that the external data of `onnx_model` lies in.
    """

    name: str
    module: torch.nn.Module | None = None
    program: Any = None
    onnx_model: onnx.ModelProto | None = None
    onnx_folder: Path | None = None


def load(model: object) -> Source:
    """A `Source` from what `convert` takes.

    TorchScript files are read with `torch.jit.load`, ONNX files with onnx; nothing is unpickled.

    Raises:
        SourceError: the path does not exist, the file is not what it says, or the object is no model.
    """
    if isinstance(model, onnx.ModelProto):
        return _onnx_source(title(model), model, None)
    if isinstance(model, (str, os.PathLike)):
        try:
            return _load_file(Path(model))
        except OSError as error:
            raise SourceError("the file cannot be read", where=str(model), why=error.strerror or str(error)) from error
    import torch

    if isinstance(model, torch.nn.Module):
        return Source(title(model), module=_reopened(model))
    if isinstance(model, torch.export.ExportedProgram):
        return Source("the ExportedProgram", module=model.module(), program=model)
    raise SourceError(
        f"a {type(model).__name__} is not a model that we can convert",
        fix="pass an nn.Module, a ScriptModule, an ExportedProgram, a ModelProto, or the path of a TorchScript or ONNX file",
    )


def load_onnx(path: Path) -> onnx.ModelProto:
    """The model of an ONNX file, without its external data. PyTorch is not needed for it.

    Raises:
        SourceError: the file cannot be read, or is another.
    """
    try:
        if path.suffix != ".onnx" and zipfile.is_zipfile(path):
            _require_torchscript(path)
            raise SourceError(
                "the file is TorchScript", where=str(path), fix="convert it with --backend none, and take the result"
            )
        model = _load_file(path).onnx_model
    except OSError as error:
        raise SourceError("the file cannot be read", where=str(path), why=error.strerror or str(error)) from error
    assert model is not None
    return model


def title(model: object) -> str:
    """What messages call a model: its path, or the name of its class. The same as the name of its `Source`."""
    if isinstance(model, (str, os.PathLike)):
        return str(Path(model))
    if isinstance(model, onnx.ModelProto):
        return "the ModelProto"
    return getattr(model, "original_name", None) or type(model).__name__


def fingerprint(model: object) -> Fingerprint | None:
    """The hash of what `convert` takes: of the bytes of a TorchScript file, of the graph and the weights of an ONNX model.

    None for a module in memory and an ExportedProgram: their code has no hash. Their exported graph has one.

    Raises:
        SourceError: the path does not exist, or is no model; or its external weights cannot be read.
    """
    if isinstance(model, onnx.ModelProto):
        return hashing.fingerprint(model)
    if not isinstance(model, (str, os.PathLike)):
        return None
    path = Path(model)
    try:
        if not path.is_file():
            raise SourceError("there is no such file", where=str(path))
        before = hashing.stamp(path)
        if path.suffix != ".onnx" and zipfile.is_zipfile(path):
            return Fingerprint(hashing.hash_file(path), (before,))
        found = _load_file(path)
    except OSError as error:
        raise SourceError("the file cannot be read", where=str(model), why=error.strerror or str(error)) from error
    assert found.onnx_model is not None
    return hashing.fingerprint(found.onnx_model, found.onnx_folder, [before])


def _load_file(path: Path) -> Source:
    if not path.is_file():
        raise SourceError("there is no such file", where=str(path))
    if path.suffix == ".onnx":
        return _load_onnx(path)
    if zipfile.is_zipfile(path):
        return _load_torchscript(path)
    try:
        return _load_onnx(path)
    except SourceError:
        raise SourceError(
            "the file is neither TorchScript nor ONNX",
            where=str(path),
            fix="save the model with torch.jit.save, or pass the module",
        ) from None


def _load_onnx(path: Path) -> Source:
    try:
        model = wire.read(path)
    except Exception as error:  # protobuf's DecodeError, and what the operating system says
        raise SourceError("the file is not an ONNX model", where=str(path), why=str(error).strip()) from error
    return _onnx_source(str(path), model, path.parent)


def _onnx_source(name: str, model: onnx.ModelProto, folder: Path | None) -> Source:
    if not model.graph.node or not model.graph.output:
        raise SourceError(
            "the ONNX model has no nodes or no outputs", where=name, fix="is it an ONNX model, and whole?"
        )
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=CAST_OPSET)
    if opset < CAST_OPSET and any(node.op_type == "Cast" for node in model.graph.node):
        raise SourceError(
            f"the model is of opset {opset}, in which a Cast names its type in words",
            where=name,
            fix="export it again with a later opset",
        )
    return Source(name, onnx_model=model, onnx_folder=folder)


def _require_torchscript(path: Path) -> None:
    """Fail where a zip archive holds something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise SourceError("the file is a damaged zip archive", where=str(path), why=str(error)) from None
    if not any(name.endswith("/constants.pkl") for name in names):
        if any("serialized_exported_program" in n or "/models/" in n for n in names):
            what = "an ExportedProgram"
        elif any(name.endswith(".pkl") for name in names):
            what = "pickled tensors or a pickled module"
        else:
            raise SourceError("the zip archive holds no model, and is not TorchScript", where=str(path))
        raise SourceError(
            f"the file holds {what}, not TorchScript",
            where=str(path),
            why="unpickling a file can run any code, so it is left to you",
            fix="load it yourself (weights with torch.load(..., weights_only=True)) and pass the module",
        )


def _load_torchscript(path: Path) -> Source:
    import torch

    _require_torchscript(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as such
            return Source(str(path), module=torch.jit.load(str(path), map_location="cpu"))
    except Exception as error:
        raise SourceError("the TorchScript file cannot be read", where=str(path), why=_first_line(error)) from error


def _reopened(module: torch.nn.Module) -> torch.nn.Module:
    """A frozen module as torch.jit.load would give it: one fresh from torch.jit.freeze cannot be part of a trace."""
    import torch

    if isinstance(module, torch.jit.ScriptModule) and hasattr(module, "_c"):
        fresh: torch.nn.Module = torch.jit._recursive.wrap_cpp_module(module._c)
        return fresh
    return module


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
