"""Command lines as words, and the words that tools have for types, formats and shapes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from torch2trt_onnx.errors import FlagError, InputError
from torch2trt_onnx.formats import LINEAR, TENSORRT_FORMATS, Shape
from torch2trt_onnx.precision import ElementType

MAX_ARGUMENT = 128 * 1024 - 1
"""Bytes of one argument that Linux passes to a program (MAX_ARG_STRLEN, less the byte that ends it)."""

TRTEXEC_FORMATS = {("chw" if name == LINEAR else name.lower()): name for name in TENSORRT_FORMATS}
"""trtexec's words for formats -> TensorRT's names."""

TRTEXEC_TYPES = {
    word: ElementType.of(word)
    for word in ("fp32", "fp16", "bf16", "int8", "fp8", "int4", "int32", "int64", "uint8", "bool")
}
"""trtexec's words for types; it knows no others."""

TOOLS = frozenset({"trtexec", "polygraphy"})
_OPERATOR = re.compile(r"\d?[<>|&;].*")
_COMMENT = re.compile(r"(^|\s)#.*$", re.MULTILINE)
_LOGGED = re.compile(r"^.*&&&& \w+ TensorRT\.trtexec .*?# ", re.MULTILINE)
"""What trtexec logs before its own command line."""


def split(flags: str | Sequence[str]) -> list[str]:
    """The words of a command line, as a shell takes it apart. What the shell itself would take (`> log`, `| tee`, `;`) ends it, where
    it stands behind the tool.

    Raises:
        FlagError: a quotation mark is not closed.
    """
    if not isinstance(flags, str):
        return list(flags)
    try:
        line = _LOGGED.sub("", flags.replace("\\\r\n", " ").replace("\\\n", " "), count=1)
        lexer = shlex.shlex(_COMMENT.sub("", line), posix=True, punctuation_chars=";")
        lexer.whitespace_split, lexer.commenters = True, ""
        words = list(lexer)
    except ValueError as error:
        raise FlagError("the command line cannot be taken apart", where=flags, why=str(error)) from None
    start = next((i for i, word in enumerate(words) if any(_is_tool(word, tool) for tool in TOOLS)), 0)
    end = next((i for i in range(start, len(words)) if _OPERATOR.fullmatch(words[i])), len(words))
    return words[:end]


def after_tool(words: Sequence[str], tool: str) -> list[str]:
    """The words behind the name of a tool, which may be a path and have other words before it; all where it is not named."""
    at = next((i for i, word in enumerate(words) if _is_tool(word, tool)), None)
    return list(words if at is None else words[at + 1 :])


def _is_tool(word: str, tool: str) -> bool:
    """Whether a word is a tool, and not a flag whose path is called like one."""
    return not word.startswith("-") and PurePosixPath(word.replace("\\", "/")).stem == tool


def named_values(text: str, flag: str) -> list[tuple[str, str]]:
    """The pairs of trtexec's `NAME:VALUE,NAME:VALUE`.

    The comma cannot be quoted. The last colon divides a pair, so names may hold others; single quotation marks may stand around a name.

    Raises:
        FlagError: a pair has another form, which trtexec refuses too.
    """
    return [_named_value(item, flag) for item in text.split(",")] if text else []


def _named_value(item: str, flag: str) -> tuple[str, str]:
    if "'" in item:
        parts = item.split("'")
        if len(parts) == 3 and parts[2].startswith(":"):
            return parts[0] + parts[1], parts[2][1:]
    elif ":" in item:
        name, _, value = item.rpartition(":")
        return name, value
    raise FlagError(f"{item!r} is not NAME:VALUE", where=flag, fix="write NAME:VALUE,NAME:VALUE; a name holds no comma")


def shape(text: str, flag: str) -> Shape:
    """A shape of trtexec's, `1x3x224x224` or `scalar`.

    Raises:
        InputError: it has another form.
    """
    if text == "scalar":
        return ()
    if not re.fullmatch(r"\d+(x\d+)*", text):
        raise InputError(f"{text!r} is no shape", where=flag, fix="write 1x3x224x224")
    return tuple(map(int, text.split("x")))


def shape_word(dims: Shape) -> str:
    """A shape as trtexec takes it."""
    return "x".join(map(str, dims)) or "scalar"


def element(word: str, flag: str) -> ElementType:
    """The type that a tool means by a word.

    Raises:
        FlagError: it is none.
    """
    try:
        return ElementType.of(word)
    except InputError as error:
        raise FlagError(f"{word!r} is no type", where=flag, fix=error.fix) from None


def fits(flag: str) -> bool:
    """Whether Linux passes a flag to a program."""
    return len(flag.encode("utf-8", "surrogateescape")) <= MAX_ARGUMENT
