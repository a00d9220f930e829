"""The large tensors of a model, in one file that grows; the graph in memory holds references only.

A ModelProto with its weights inside costs their size in memory for each copy, and cannot pass 2 GB. So weights go to a file
as soon as they are met, in ONNX's own external-data form (`location`, `offset`, `length`), and are mapped where a pass or
ONNX Runtime reads them.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from torch2trt_onnx.errors import SourceError

INLINE_BYTES = 1024
"""Tensors up to this size stay in the graph, so that shape inference can read them (ONNX's own threshold)."""

FILE_NAME = "model.weights"
Part = bytes | tuple[int, int]
"""Bytes, or an offset in a store and a length."""

ALIGNMENT = 64  # bytes; enough for any vector load from the mapped file


class WeightStore:
    """One file of tensors in a directory that the caller owns.

    Args:
        directory: where the file is made. A model saved beside it resolves its references there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / FILE_NAME
        self.path.touch()

    @classmethod
    def opened(cls, directory: Path) -> WeightStore:
        """The store that lies in a directory already; for reading."""
        store = cls.__new__(cls)
        store.directory, store.path = directory, directory / FILE_NAME
        return store

    def put(self, name: str, onnx_type: int, dims: tuple[int, ...], data: memoryview | bytes) -> TensorProto:
        """Append the bytes of a tensor, little-endian and row-major as in `raw_data`, and return a reference to them.

        Tensors of at most `INLINE_BYTES` are returned whole.
        """
        tensor = TensorProto(name=name, data_type=onnx_type, dims=dims)
        size = memoryview(data).nbytes
        if size <= INLINE_BYTES:
            tensor.raw_data = bytes(data)
            return tensor
        with self.path.open("ab") as file:
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            offset = file.tell()
            file.write(data)
        refer(tensor, FILE_NAME, offset, size)
        return tensor

    def put_array(self, name: str, array: npt.NDArray[np.generic], onnx_type: int) -> TensorProto:
        """Append a NumPy array. Types of less than a byte are packed as ONNX packs them."""
        if array.dtype.itemsize == 1 and onnx_type in _SUB_BYTE:
            packed = numpy_helper.from_array(array, name)
            return self.put(name, onnx_type, array.shape, packed.raw_data)
        flat = np.ascontiguousarray(array).reshape(-1)
        return self.put(name, onnx_type, array.shape, flat.view(np.uint8).data if flat.size else b"")

    def array(self, tensor: TensorProto) -> npt.NDArray[np.generic]:
        """The values of a tensor: mapped, read-only and not copied where they lie in the store."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        location, offset, length = _reference(tensor)
        shape = tuple(tensor.dims)
        raw = _mapped(os.path.join(self.directory, location), offset, length)  # noqa: PTH118 - ten times as quick
        if tensor.data_type in _SUB_BYTE:
            return numpy_helper.to_array(
                TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw.tobytes())
            )
        return raw.view(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(shape)

    def adopt(self, model: onnx.ModelProto, base: Path | None) -> onnx.ModelProto:
        """A copy of a model whose large tensors lie in this store, and whose sparse tensors are dense, as no pass reads those.

        The model itself is left as it is.

        Args:
            model: with its weights inside, or in external files.
            base: the folder of those files; None where there are none.

        Raises:
            SourceError: an external file is missing or too short, or lies outside `base`.
        """
        skeleton = onnx.ModelProto()
        for field, value in model.ListFields():
            if field.name != "graph":
                _copy_field(skeleton, field.name, value)
        for field, value in model.graph.ListFields():
            if field.name != "initializer":
                _copy_field(skeleton.graph, field.name, value)
        skeleton.graph.initializer.extend(self._adopted(t, base) for t in model.graph.initializer)
        for graph in graphs(skeleton.graph):
            for node in graph.node:
                for attribute in node.attribute:
                    if attribute.type == onnx.AttributeProto.TENSOR:
                        attribute.t.CopyFrom(self._adopted(attribute.t, base))
                    elif attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
                        dense = self._dense(attribute.sparse_tensor, base)
                        attribute.CopyFrom(onnx.helper.make_attribute("value", dense))
            if graph is not skeleton.graph:
                tensors = [self._adopted(t, base) for t in graph.initializer]
                del graph.initializer[:]
                graph.initializer.extend(tensors)
            graph.initializer.extend(self._dense(t, base) for t in graph.sparse_initializer)
            del graph.sparse_initializer[:]
        return skeleton

    def _dense(self, sparse: onnx.SparseTensorProto, base: Path | None) -> TensorProto:
        values, indices = (self.array(self._adopted(t, base)) for t in (sparse.values, sparse.indices))
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        where = tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices.astype(np.int64), dense.shape)
        dense[where] = values
        return self.put_array(sparse.values.name, dense, sparse.values.data_type)

    def _adopted(self, tensor: TensorProto, base: Path | None) -> TensorProto:
        if tensor.data_location == TensorProto.EXTERNAL:
            location, offset, length = _reference(tensor)
            if location == FILE_NAME and base == self.directory:
                return tensor
            return self.put(
                tensor.name,
                tensor.data_type,
                tuple(tensor.dims),
                _external_bytes(tensor, base, location, offset, length),
            )
        if tensor.HasField("raw_data"):
            return self.put(tensor.name, tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if tensor.data_type == TensorProto.STRING or tensor.ByteSize() <= INLINE_BYTES:
            return tensor
        return self.put_array(tensor.name, numpy_helper.to_array(tensor), tensor.data_type)

    def save(self, model: onnx.ModelProto, path: Path, *, inline_below: int) -> None:
        """Write a model of this store to a folder: one file below `inline_below` bytes, else with `<name>.data` beside it.

        Only the tensors that the model still refers to are written, one at a time.
        """
        final = onnx.ModelProto()
        final.CopyFrom(model)
        if self.nbytes(final) < inline_below:
            self._write_whole(final, path)
            return
        packing = Packing(path.name + ".data")
        packing.add(final)
        packing.write(self, path.parent)
        path.write_bytes(final.SerializeToString())

    def _write_whole(self, model: onnx.ModelProto, path: Path) -> None:
        """Write what `SerializeToString` gives once the weights are inside; they go from file to file, and are never all in memory.

        Args:
            model: is used up.
            path: of the file.
        """
        initializers = list(map(self._parts, model.graph.initializer))
        size = sum(map(_length, initializers))
        model.graph.ClearField("initializer")
        self.inline(model)  # what lies in bodies and attributes
        before, after = _around(model.graph, onnx.GraphProto.INITIALIZER_FIELD_NUMBER)
        first, last = _around(model, onnx.ModelProto.GRAPH_FIELD_NUMBER)
        graph = _head(onnx.ModelProto.GRAPH_FIELD_NUMBER, len(before) + size + len(after))
        with path.open("wb") as target:
            for part in chain((first, graph, before), *initializers, (after, last)):
                if isinstance(part, bytes):
                    target.write(part)
                else:  # a saved model has none, and no store beside it
                    with self.path.open("rb") as source:
                        source.seek(part[0])
                        _copy(source, target, part[1])

    def _parts(self, tensor: TensorProto) -> list[Part]:
        """An initializer in protobuf's wire format: bytes, and places in the store."""
        number = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
        if tensor.data_location != TensorProto.EXTERNAL:
            whole = tensor.SerializeToString()
            return [_head(number, len(whole)) + whole]
        _, offset, length = _reference(tensor)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        before, after = _around(tensor, TensorProto.RAW_DATA_FIELD_NUMBER)
        before += _head(TensorProto.RAW_DATA_FIELD_NUMBER, length)
        return [_head(number, len(before) + length + len(after)) + before, (offset, length), after]

    def inline(self, model: onnx.ModelProto) -> None:
        """Put the tensors that a model refers to into the model, in place."""
        tensors = [t for t in _tensors(model.graph) if t.data_location == TensorProto.EXTERNAL]
        if not tensors:
            return  # a saved model has its weights inside already, and no store beside it
        with self.path.open("rb") as source:
            for tensor in tensors:
                _, offset, length = _reference(tensor)
                source.seek(offset)
                data = source.read(length)
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.raw_data = data

    def nbytes(self, model: onnx.ModelProto) -> int:
        """The size in bytes of the tensors that a model refers to."""
        return sum(_reference(t)[2] for t in _tensors(model.graph) if t.data_location == TensorProto.EXTERNAL)


class Packing:
    """Those tensors of a store that models refer to, each once, in one file beside these models.

    Args:
        name: of that file.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._places: dict[int, tuple[int, int]] = {}  # offset in the store -> offset in the file, length
        self._end = 0

    def add(self, model: onnx.ModelProto) -> None:
        """Let a model of the store refer to the file, in place."""
        for tensor in _tensors(model.graph):
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            _, offset, length = _reference(tensor)
            if offset not in self._places:  # graphs and their bodies may share a tensor
                start = self._end + -self._end % ALIGNMENT
                self._places[offset], self._end = (start, length), start + length
            refer(tensor, self.name, *self._places[offset])

    def write(self, store: WeightStore, folder: Path) -> None:
        """Write the file, one tensor at a time; none where no model refers to it."""
        if not self._places:
            return
        with (folder / self.name).open("wb") as target, store.path.open("rb") as source:
            for offset, (start, length) in self._places.items():
                target.write(b"\0" * (start - target.tell()))
                source.seek(offset)
                _copy(source, target, length)


_SUB_BYTE = {
    getattr(TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(TensorProto, name)
}
"""ONNX types of less than a byte -> their bits."""


def _mapped(path: str, offset: int, length: int) -> npt.NDArray[np.uint8]:
    """Bytes of a file, which stay on the disk until they are read, and leave memory with the array; `np.memmap` takes thrice as long."""
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    file = os.open(path, os.O_RDONLY)
    try:
        mapped = mmap.mmap(file, length + offset - start, access=mmap.ACCESS_READ, offset=start)
    finally:
        os.close(file)
    return np.frombuffer(mapped, np.uint8, length, offset - start)


def _around(message: Any, number: int) -> tuple[bytes, bytes]:
    """The fields of a message before and behind one of them, serialized."""
    before, after = type(message)(), type(message)()
    for field, value in message.ListFields():
        if field.number != number:
            _copy_field(before if field.number < number else after, field.name, value)
    return before.SerializeToString(), after.SerializeToString()


def _length(parts: Iterable[Part]) -> int:
    return sum(len(part) if isinstance(part, bytes) else part[1] for part in parts)


def _head(number: int, length: int) -> bytes:
    """What stands before a field that holds so many bytes."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


def _copy(source: BinaryIO, target: BinaryIO, length: int) -> None:
    while length > 0:
        chunk = source.read(min(length, 1 << 22))
        if not chunk:
            raise OSError("the file of the weights is too short")
        target.write(chunk)
        length -= len(chunk)


def refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Let a tensor be a reference to bytes of a file beside the model."""
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("external_data")
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _reference(tensor: TensorProto) -> tuple[str, int, int]:
    words = {entry.key: entry.value for entry in tensor.external_data}
    return words.get("location", ""), int(words.get("offset", 0)), int(words.get("length", 0))


def _external_bytes(tensor: TensorProto, base: Path | None, location: str, offset: int, length: int) -> memoryview:
    where = f"tensor {tensor.name!r}, file {location!r}"
    if base is None:
        raise SourceError(
            "the ModelProto keeps weights in external files, and we cannot know in which folder",
            where=where,
            fix="pass the path of the .onnx file, or load the model with its external data",
        )
    try:
        with _inside(base, location, where).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise _unreadable(error, where) from error
    end = _end(tensor, offset, length, len(mapped), where)
    return memoryview(mapped)[offset:end]


def check_external(model: onnx.ModelProto, path: Path) -> None:
    """Fail where the weights that a file refers to are not there. None is read.

    Raises:
        SourceError: a file is missing or too short, or lies outside the folder of the model.
    """
    sizes: dict[str, int] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        location, offset, length = _reference(tensor)
        where = f"{path}, tensor {tensor.name!r}, file {location!r}"
        try:
            if location not in sizes:
                sizes[location] = _inside(path.parent, location, where).stat().st_size
        except OSError as error:
            raise _unreadable(error, where) from None
        _end(tensor, offset, length, sizes[location], where)


def _inside(base: Path, location: str, where: str) -> Path:
    path = (base / location).resolve()
    if not path.is_relative_to(base.resolve()):
        raise SourceError(
            "the model refers to a file outside its folder", where=where, fix="put the weights beside the model"
        )
    return path


def _end(tensor: TensorProto, offset: int, length: int, found: int, where: str) -> int:
    """Where a tensor ends in its file, which has `found` bytes."""
    size = nbytes_of(tensor.data_type, tensor.dims)
    if length not in (0, size):
        raise SourceError(
            "the model contradicts itself",
            where=where,
            why=f"it says {length} bytes, and its shape and type need {size}",
        )
    if offset + size > found:
        raise SourceError(
            "the file of the weights is too short",
            where=where,
            why=f"{offset + size} bytes expected, {found} found",
        )
    return offset + size


def _unreadable(error: Exception, where: str) -> SourceError:
    why = getattr(error, "strerror", None) or str(error)
    return SourceError("the weights of the model cannot be read", where=where, why=why, fix="put them beside the model")


def nbytes_of(onnx_type: int, dims: Iterable[int]) -> int:
    """The size of a tensor in bytes, by its shape and type; 0 where the type is not known."""
    if not onnx_type:
        return 0
    bits = _SUB_BYTE.get(onnx_type) or 8 * onnx.helper.tensor_dtype_to_np_dtype(onnx_type).itemsize
    return int(-(-math.prod(dims) * bits // 8))


def _copy_field(target: object, name: str, value: object) -> None:
    try:
        setattr(target, name, value)
    except (AttributeError, TypeError):
        getattr(target, name).MergeFrom(value)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies of its control flow, outer first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    for inner in graphs(graph):
        yield from inner.initializer
        for node in inner.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    yield attribute.t
