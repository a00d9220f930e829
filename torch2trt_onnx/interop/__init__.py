"""Plans from and to the command lines of TensorRT's own tools: trtexec and Polygraphy.

`read` takes a command line in. `say` gives a plan out (and `trtexec.write`, `polygraphy.flags` and `polygraphy.script` its parts), so
that a device that has TensorRT alone builds what was planned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch2trt_onnx.errors import FlagError
from torch2trt_onnx.interop.commandline import split
from torch2trt_onnx.interop.exported import TOOLS, say
from torch2trt_onnx.interop.imported import Imported, Port
from torch2trt_onnx.interop.polygraphy import is_meant
from torch2trt_onnx.interop.polygraphy import read as read_polygraphy
from torch2trt_onnx.interop.trtexec import read as read_trtexec

__all__ = ["TOOLS", "FlagError", "Imported", "Port", "read", "read_polygraphy", "read_trtexec", "say"]


def read(flags: str | Path | Sequence[str]) -> Imported:
    """What a command line of trtexec or Polygraphy asks for.

    Args:
        flags: a command line as text or as words, or the path of a file that holds one. It is Polygraphy's where it names `polygraphy`, or
            has its words (`convert model.onnx --precision-constraints obey`); else trtexec's.

    Raises:
        FlagError: the file or the line cannot be read.
        ConversionError: it asks for what the tool itself refuses.
    """
    if isinstance(flags, Path):
        flags = _text(flags)
    words = split(flags)
    return read_polygraphy(words) if is_meant(words) else read_trtexec(words)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise FlagError("the file of flags cannot be read", where=str(path), why=str(error)) from None
