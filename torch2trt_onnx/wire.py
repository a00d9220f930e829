"""Read an ONNX file without reading its weights.

Parsing a file costs its size in memory twice: for the bytes, and for the message. The initializers are most of it, so here
they become references into the file itself, in ONNX's external-data form, before the rest is parsed. The outermost three
levels of the message are walked by the encoding that protobuf documents (a varint tag of field number and wire type, then
the value); the field numbers are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from torch2trt_onnx.weights import INLINE_BYTES, refer

GRAPH = 7  # in ModelProto
INITIALIZER = 5  # in GraphProto
RAW_DATA = 9  # in TensorProto
LENGTH_DELIMITED = 2

Span = tuple[int, int]


def read(path: Path) -> onnx.ModelProto:
    """The model of a file; initializers of more than `INLINE_BYTES` are references to where they lie in it.

    Raises:
        ValueError, google.protobuf.message.DecodeError: it is no ONNX file.
        OSError: of the file system.
    """
    if path.stat().st_size <= INLINE_BYTES:
        return _parsed(path.read_bytes())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _parsed(_skeleton(data, path.name))


def _parsed(data: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.ParseFromString(data)
    return model


def _skeleton(data: mmap.mmap, name: str) -> bytes:
    def tensor(span: Span) -> bytes | None:
        if span[1] - span[0] <= INLINE_BYTES:
            return None
        raw = next((value for field, _, _, value in _fields(data, span) if field == RAW_DATA and value), None)
        if raw is None:
            return None
        bare = TensorProto()
        bare.ParseFromString(_rewritten(data, span, RAW_DATA, lambda _: b""))
        bare.ClearField("raw_data")
        refer(bare, name, raw[0], raw[1] - raw[0])
        return bytes(bare.SerializeToString())

    def graph(span: Span) -> bytes:
        return _rewritten(data, span, INITIALIZER, tensor)

    return _rewritten(data, (0, len(data)), GRAPH, graph)


def _rewritten(data: mmap.mmap, span: Span, wanted: int, change: Callable[[Span], bytes | None]) -> bytes:
    """A message with the value of each length-delimited field `wanted` changed; None leaves one as it is."""
    parts: list[bytes] = []
    copied = span[0]  # what is left as it is goes in runs, not field by field
    for field, start, end, value in _fields(data, span):
        new = change(value) if field == wanted and value else None
        if new is not None:
            parts += [data[copied:start], _varint(field << 3 | LENGTH_DELIMITED), _varint(len(new)), new]
            copied = end
    parts.append(data[copied : span[1]])
    return b"".join(parts)


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int, int, Span | None]]:
    """`(field number, start, end, span of the value where length-delimited)` of each field of a message."""
    at, last = span
    while at < last:
        start = at
        tag, at = _read_varint(data, at, last)
        kind, value = tag & 7, None
        if kind == LENGTH_DELIMITED:
            size, at = _read_varint(data, at, last)
            value = (at, at + size)
            at += size
        elif kind == 0:
            _, at = _read_varint(data, at, last)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {start}")
        if at > last:
            raise ValueError(f"the field at byte {start} ends beyond its message")
        yield tag >> 3, start, at, value


def _read_varint(data: mmap.mmap, at: int, last: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= last or shift > 63:
            raise ValueError(f"no number at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
