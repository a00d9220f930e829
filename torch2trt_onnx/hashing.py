"""SHA-256 of files, of plain data, and of ONNX models with their weights, wherever those lie.

The hash of a model is that of the messages it is made of, with each tensor as its type, its shape and the hash of its bytes. So it is the
same with the weights inside or in files beside it, in any order and with any alignment, and nothing is copied: files are read in pieces.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch2trt_onnx.errors import SourceError

if TYPE_CHECKING:
    import onnx

CHUNK = 1 << 20
"""Bytes read at once; while they are hashed, other threads run."""

MARK = b"torch2trt_onnx.graph.1\0"
"""Before what is hashed of a graph, so that it is the hash of nothing else. The number is that of the rules here."""

TENSOR = "onnx.TensorProto"
TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
ELEMENTS = frozenset({"raw_data", "external_data", "data_location", *TYPED})
"""The fields of a tensor that say its elements, or where they are."""

Stamp = tuple[str, int, int, int]


@dataclass(frozen=True)
class Fingerprint:
    """The hash of a model, and what tells whether its files have changed since.

    Args:
        sha256: of the model.
        stamps: of each file that it was read from; see `stamp`.
    """

    sha256: str
    stamps: tuple[Stamp, ...] = ()

    @property
    def still_holds(self) -> bool:
        """Whether no file has changed: then what was read in the meantime is what the hash says."""
        try:
            return all(stamp(Path(old[0])) == old for old in self.stamps)
        except OSError:
            return False


def stamp(path: Path) -> Stamp:
    """(path, inode, bytes, time of the last change) of a file.

    Raises:
        OSError: there is none.
    """
    found = path.stat()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns


def hash_file(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for piece in _pieces(file):
            digest.update(piece)
    return digest.hexdigest()


def hash_json(data: object) -> str:
    """The SHA-256 of plain data as JSON with sorted keys, where a tuple is a list.

    Raises:
        TypeError: it holds what JSON has not.
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_model(model: onnx.ModelProto, folder: Path | None = None) -> str:
    """The SHA-256 of a model with its weights: names, attributes, types, metadata and all.

    Args:
        model: its weights inside, in files, or both.
        folder: of those files; None where there are none.

    Raises:
        SourceError: a file of weights is missing or too short, or lies outside the folder.
    """
    return fingerprint(model, folder).sha256


def fingerprint(model: onnx.ModelProto, folder: Path | None = None, stamps: Sequence[Stamp] = ()) -> Fingerprint:
    """As `hash_model`, with the stamps of the files of weights.

    Args:
        model: likewise.
        folder: likewise.
        stamps: of the files that the model was read from before.

    Raises:
        SourceError: likewise.
    """
    digest = hashlib.sha256(MARK)
    with _Walker(folder) as walker:
        walker.add(digest, model)
        return Fingerprint(digest.hexdigest(), tuple(dict.fromkeys([*stamps, *walker.stamps])))


class _Walker:
    """Hashes messages. Holds the files of the weights open, and one piece of one of them."""

    def __init__(self, folder: Path | None) -> None:
        self.stamps: list[Stamp] = []
        self._folder = folder
        self._files: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Walker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, digest: Any, message: Any) -> None:
        """A message: in one piece where no tensor is inside, which is nearly always, else field by field.

        Lengths come before contents and counts before lists, so that no two messages give the same bytes.
        """
        if message.DESCRIPTOR.full_name == TENSOR:
            _put(digest, _without_elements(message))
            _put(digest, self._elements(message))
            return
        fields, holders = message.ListFields(), _holders(message.DESCRIPTOR)
        if not any(field.name in holders for field, _ in fields):
            _put(digest, message.SerializeToString(deterministic=True))
            return
        digest.update(b"%d{" % len(fields))
        for field, value in fields:
            values = value if _is_repeated(field) else [value]
            digest.update(b"%d[%d:" % (field.number, len(values)))
            for one in values:
                if field.name in holders:
                    self.add(digest, one)
                elif field.message_type is not None:
                    _put(digest, one.SerializeToString(deterministic=True))
                else:
                    _put(digest, one if isinstance(one, bytes) else repr(one).encode())

    def _elements(self, tensor: onnx.TensorProto) -> bytes:
        """The hash of the elements as `raw_data` has them: little-endian and row-major."""
        from onnx import TensorProto, numpy_helper

        digest = hashlib.sha256()
        if tensor.data_location == TensorProto.EXTERNAL:
            for piece in self._external(tensor):
                digest.update(piece)
        elif tensor.data_type == TensorProto.STRING:
            for text in tensor.string_data:
                _put(digest, text)
        elif not any(len(getattr(tensor, name)) for name in TYPED):
            digest.update(tensor.raw_data)
        else:
            try:
                digest.update(numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data)
            except (TypeError, ValueError, KeyError) as error:
                where = f"tensor {tensor.name!r}"
                raise SourceError("the model contradicts itself", where=where, why=str(error)) from None
        return digest.digest()

    def _external(self, tensor: onnx.TensorProto) -> Iterator[memoryview]:
        words = {entry.key: entry.value for entry in tensor.external_data}
        name = words.get("location", "")
        where = f"tensor {tensor.name!r}, file {name!r}"
        if self._folder is None:
            raise SourceError(
                "the ModelProto keeps weights in external files, and we cannot know in which folder",
                where=where,
                fix="pass the path of the .onnx file, or load the model with its external data",
            )
        try:
            if name not in self._files:
                self._open(name, self._folder)
            file = self._files[name]
            file.seek(int(words.get("offset", 0)))
            yield from _pieces(file, int(words.get("length", 0)) or _nbytes(tensor))
        except (OSError, ValueError, OverflowError, KeyError, EOFError) as error:
            raise SourceError("the weights of the model cannot be read", where=where, why=str(error)) from error

    def _open(self, name: str, folder: Path) -> None:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError("it lies outside the folder of the model")
        if not path.is_file():
            raise ValueError("there is no such file")
        self._files[name] = self._stack.enter_context(path.open("rb", buffering=0))
        self.stamps.append(stamp(path))


def _pieces(file: Any, length: int | None = None) -> Iterator[memoryview]:
    """What comes next in a file, `length` bytes or all, in one buffer again and again.

    Raises:
        ValueError: the length makes no sense.
        EOFError: there are fewer bytes.
    """
    if length is not None and length < 0:
        raise ValueError(f"it says {length} bytes")
    buffer = memoryview(bytearray(CHUNK if length is None else min(CHUNK, length)))
    while length is None or length > 0:
        read = file.readinto(buffer if length is None else buffer[:length])
        if not read:
            if length is None:
                return
            raise EOFError(f"the file ends {length} bytes too early")
        yield buffer[:read]
        length = None if length is None else length - read


def _put(digest: Any, data: bytes) -> None:
    digest.update(b"%d," % len(data))
    digest.update(data)


def _without_elements(tensor: onnx.TensorProto) -> bytes:
    about: Any = type(tensor)()
    for field, value in tensor.ListFields():
        if field.name in ELEMENTS:
            continue
        if _is_repeated(field):
            getattr(about, field.name).extend(value)
        elif field.message_type is not None:
            getattr(about, field.name).CopyFrom(value)
        else:
            setattr(about, field.name, value)
    return bytes(about.SerializeToString(deterministic=True))


def _nbytes(tensor: onnx.TensorProto) -> int:
    """The size of the elements by shape and type, where the model does not say it."""
    from onnx import TensorProto, helper

    name = TensorProto.DataType.Name(tensor.data_type)
    bits = 4 if "INT4" in name or "FLOAT4" in name else 2 if "INT2" in name else 0
    bits = bits or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(-(-math.prod(tensor.dims) * bits // 8))


def _is_repeated(field: Any) -> bool:
    # protobuf of late has the property, and calls the label deprecated.
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


_HOLDERS: dict[str, frozenset[str]] = {}


def _holders(descriptor: Any) -> frozenset[str]:
    """The fields of a kind of message that hold tensors, or messages that can."""
    if descriptor.full_name not in _HOLDERS:
        found = (f.name for f in descriptor.fields if f.message_type is not None and _can_hold(f.message_type, set()))
        _HOLDERS[descriptor.full_name] = frozenset(found)
    return _HOLDERS[descriptor.full_name]


def _can_hold(descriptor: Any, seen: set[str]) -> bool:
    if descriptor.full_name == TENSOR:
        return True
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return any(f.message_type is not None and _can_hold(f.message_type, seen) for f in descriptor.fields)
