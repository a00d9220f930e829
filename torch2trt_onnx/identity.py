"""What the result of a conversion depends on, as one hash: two conversions with the same key give the same."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from torch2trt_onnx.backends import Backend
from torch2trt_onnx.errors import InputError
from torch2trt_onnx.hashing import hash_file, hash_json
from torch2trt_onnx.inputs import Input, Output
from torch2trt_onnx.limits import Limits
from torch2trt_onnx.manifest import gpu_name, versions
from torch2trt_onnx.options import Options
from torch2trt_onnx.plan import Asked
from torch2trt_onnx.precision import ElementType

MADE_WITH = ("torch2trt_onnx", "torch", "onnx", "onnx-graphsurgeon", "onnxruntime", "onnxscript")
LIMITS = ("timeout", "memory_limit")
"""Options that end a conversion or do not, and change nothing in its result. All others count, those to come as well."""


def key(
    *,
    source_sha256: str,
    inputs: object,
    outputs: object = None,
    asked: Asked,
    options: Options,
    engine: Sequence[str] = (),
    signature: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    is_exported: bool = False,
    calibration: object = None,
    limits: Limits | None = None,
) -> str:
    """The name of what a conversion would make.

    Args:
        source_sha256: of the model: of its file before it is exported (`exporters.source.fingerprint`), or of its exported graph with the
            weights (`hashing.hash_model`), which is all that can be known of a module in memory.
        inputs: what `convert` takes. All that an `Input` says counts, example tensors by their numbers: tracing may bake them in.
        outputs: likewise.
        asked: of the precisions.
        options: all but `LIMITS`.
        engine: what would build it, and for what; see `engine_facts`.
        signature: what the model takes and returns, where it is known: two modules may have one graph and return it in different forms.
        notes: what the export warned of, which tells modules apart whose graphs at the opt shape are the same.
        is_exported: whether the hash is that of the exported graph.
        calibration: what `convert` takes; of files their names and bytes.
        limits: of the errors of the outputs.

    Raises:
        InputError: an argument is of a kind whose value we cannot tell.
    """
    settings = {name: value for name, value in asdict(options).items() if name not in LIMITS}
    parts = {
        "source": [source_sha256, is_exported],
        "inputs": _told(inputs),
        "outputs": _told(outputs),
        "asked": asked.to_json(),
        "options": settings,
        "engine": list(engine),
        "signature": signature,
        "notes": list(notes),
        "calibration": _read(calibration) if isinstance(calibration, str | os.PathLike) else _told(calibration),
        "limits": _allowed(limits),
        "state": _state(),
        "versions": versions(MADE_WITH),
        "code": _own_code(),
        "platform": [sys.platform, platform.machine()],
    }
    return hash_json(parts)


def engine_facts(backend: Backend | None, options: Options) -> tuple[str, ...]:
    """What an engine depends on beside the graph: product, typing and version; and the GPU, where it is built for the one that is here."""
    if backend is None:
        return ()
    device = () if backend.capabilities.targets else (gpu_name(), *backend.targets(options))
    return backend.product, backend.typing, backend.title, *device


def _read(path: str | os.PathLike[str]) -> list[list[str]]:
    """The files of calibration data, in the order in which they are read."""
    given = Path(path)
    files = sorted(given.glob("*.npz")) if given.is_dir() else [given]
    try:
        return [[file.name, hash_file(file)] for file in files]
    except OSError as error:
        raise InputError("the calibration data cannot be read", where=str(given), why=error.strerror) from error


def _allowed(limits: Limits | None) -> Any:
    """What `max_error` says. A user's function may do something else tomorrow, so it cannot be told."""
    if limits is None:
        return None
    every = [limits.every] if limits.every is not None else []
    return [limits.to_json(), [_told(limit.metric) for limit in (*every, *limits.named.values())]]


def _state() -> list[Any]:
    """What else PyTorch's results depend on: settings of the whole process. Where it is not loaded they are as it has them at first."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ["torch.float32", "cpu", "highest", []]
    casts = [[kind, str(torch.get_autocast_dtype(kind))] for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    return [
        str(torch.get_default_dtype()),
        str(torch.get_default_device()),
        torch.get_float32_matmul_precision(),
        casts,
    ]


def _told(value: object) -> Any:
    """What `convert` takes as inputs and outputs, as plain data. Kinds stand before values: 1, True and "1" differ."""
    torch = sys.modules.get(
        "torch"
    )  # where it is not loaded, nothing can be of it, and a file that is known is found without it
    plain: tuple[type, ...] = (bool, int, float, complex, str, np.dtype, np.generic)
    if torch is not None:
        plain += (torch.dtype, torch.device, torch.memory_format)
    if value is None or (isinstance(value, plain) and not isinstance(value, Enum)):
        return [type(value).__name__, repr(value)]
    if isinstance(value, Enum):
        return [type(value).__name__, value.name]
    if isinstance(value, type):
        return ["class", value.__module__, value.__qualname__]
    if isinstance(value, ElementType):
        return ["type", value.name]
    if isinstance(value, Input | Output):
        return [type(value).__name__, {name: _told(part) for name, part in vars(value).items()}]
    if torch is not None and isinstance(value, torch.Tensor):
        return ["tensor", str(value.dtype), list(value.shape), list(value.stride()), _digest(value)]
    if isinstance(value, Mapping):
        return [type(value).__name__, [[_told(name), _told(part)] for name, part in value.items()]]
    if isinstance(value, np.ndarray):
        flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)  # NumPy lends no buffer of bf16
        return ["array", str(value.dtype), list(value.shape), hashlib.sha256(flat.data).hexdigest()]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_told(part) for part in value]]
    raise _unknown(value)


def _digest(tensor: Any) -> str:
    import torch

    try:
        flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return hashlib.sha256(flat.view(torch.uint8).numpy().data if flat.numel() else b"").hexdigest()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, and without data
        raise _unknown(tensor) from None


def _unknown(value: object) -> InputError:
    return InputError(
        f"a cache cannot tell one {type(value).__name__} from another",
        fix="pass dense tensors, arrays, Inputs, numbers, strings, and lists and dicts of those; or no cache",
    )


@functools.cache
def _own_code() -> str:
    """The hash of this package's source: in a clone the code changes, and the version does not."""
    home = Path(__file__).parent
    files = sorted(path for part in (".", "backends", "exporters", "passes") for path in (home / part).glob("*.py"))
    return hash_json([[str(path.relative_to(home)), hash_file(path)] for path in files])
