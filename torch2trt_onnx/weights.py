"""The large tensors of a model, in one file that grows; the graph in memory holds references only.

A ModelProto with its weights inside costs their size in memory for each copy, and cannot pass 2 GB. So weights go to a file
as soon as they are met, in ONNX's own external-data form (`location`, `offset`, `length`), and are mapped where a pass or
ONNX Runtime reads them.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from torch2trt_onnx.errors import SourceError

INLINE_BYTES = 1024
"""Tensors up to this size stay in the graph, so that shape inference can read them (ONNX's own threshold)."""

FILE_NAME = "model.weights"
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
        raw = np.memmap(self.directory / location, dtype=np.uint8, mode="r", offset=offset, shape=(length,))
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
        for graph in _graphs(skeleton.graph):
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
        tensors = [t for t in _tensors(final.graph) if t.data_location == TensorProto.EXTERNAL]
        if sum(_reference(t)[2] for t in tensors) < inline_below:
            self.inline(final)
            path.write_bytes(final.SerializeToString())
            return
        data_path = path.with_name(path.name + ".data")
        written: dict[int, int] = {}  # offset here -> there: graphs and their bodies may share a tensor
        with data_path.open("wb") as target, self.path.open("rb") as source:
            for tensor in tensors:
                _, offset, length = _reference(tensor)
                if offset not in written:
                    target.write(b"\0" * (-target.tell() % ALIGNMENT))
                    written[offset] = target.tell()
                    source.seek(offset)
                    _copy(source, target, length)
                refer(tensor, data_path.name, written[offset], length)
        path.write_bytes(final.SerializeToString())

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


_SUB_BYTE = {
    getattr(TensorProto, name): bits
    for name, bits in (("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2), ("UINT2", 2))
    if hasattr(TensorProto, name)
}
"""ONNX types of less than a byte -> their bits."""


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
    path = (base / location).resolve()
    if not path.is_relative_to(base.resolve()):
        raise SourceError(
            "the model refers to a file outside its folder", where=where, fix="put the weights beside the model"
        )
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise SourceError("the weights of the model cannot be read", where=where, why=str(error)) from error
    size = _nbytes(tensor)
    if length not in (0, size):
        raise SourceError(
            "the model contradicts itself",
            where=where,
            why=f"it says {length} bytes, and its shape and type need {size}",
        )
    if offset + size > len(mapped):
        raise SourceError(
            "the file of the weights is too short",
            where=where,
            why=f"{offset + size} bytes expected, {len(mapped)} found",
        )
    return memoryview(mapped)[offset : offset + size]


def _nbytes(tensor: TensorProto) -> int:
    """The size of a tensor in `raw_data`, by its shape and type."""
    bits = _SUB_BYTE.get(tensor.data_type) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(-(-math.prod(tensor.dims) * bits // 8))


def _copy_field(target: object, name: str, value: object) -> None:
    try:
        setattr(target, name, value)
    except (AttributeError, TypeError):
        getattr(target, name).MergeFrom(value)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies of its control flow, outer first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    for inner in _graphs(graph):
        yield from inner.initializer
        for node in inner.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    yield attribute.t
