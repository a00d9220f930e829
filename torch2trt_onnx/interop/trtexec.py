"""Plans from and to command lines of trtexec, for a device that has TensorRT alone."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Sequence

from torch2trt_onnx.errors import ConversionWarning, FlagError, InputError
from torch2trt_onnx.formats import LINEAR
from torch2trt_onnx.interop.commandline import TRTEXEC_FORMATS, TRTEXEC_TYPES, fits, shape_word
from torch2trt_onnx.interop.imported import Port
from torch2trt_onnx.interop.pins import Pin, enabled, named, parse_version, pins
from torch2trt_onnx.interop.trtexec_reader import RANGE, read
from torch2trt_onnx.plan import PrecisionPlan

__all__ = ["read", "text", "write"]

SCRIPT = "use the Polygraphy script (interop.polygraphy.script), which has no such limit"
BREAKS = ",'*"
"""What a name cannot hold: a comma divides names and cannot be quoted, one quotation mark is refused, and a * means other layers too."""

WORDS = {kind.name: word for word, kind in TRTEXEC_TYPES.items()}
FORMAT_WORDS = {name: word for word, name in TRTEXEC_FORMATS.items()}
LATER = {"bf16": (9, 0), "int64": (9, 0), "uint8": (9, 0), "bool": (9, 0), "int4": (10, 0), "hwc16": (10, 0)}
"""Words that trtexec 8.6 does not know; in which version exactly each came is not documented."""


def write(
    plan: PrecisionPlan,
    *,
    model: str = "",
    engine: str = "",
    inputs: Sequence[object] = (),
    outputs: Sequence[object] = (),
    tf32: bool = False,
    typing: str = "weak",
    version: str = "10",
    skip: bool = False,
) -> list[str]:
    """The flags with which trtexec builds a plan from its ONNX file.

    Layers are told by their exact names, each one that the plan ties to a precision, as a layer that is told nothing runs in whatever is
    fastest. trtexec says nothing of a name that no layer has, and of a node that becomes several layers it reaches the first.

    Args:
        plan: of the ONNX file.
        model, engine: paths for `--onnx` and `--saveEngine`; left out where "".
        inputs: all of them, in the order of the network: `Input`, `Binding` or `Port`. Shapes are written where one is dynamic, types and
            formats where all types are known.
        outputs: likewise (`Output`, `Binding` or `Port`).
        tf32: whether fp32 products may run in TF32.
        typing: "weak" (8.6 to 10), or "strong" (from 9.1 on): the types in the file are the plan, and no layer is told anything.
        version: of TensorRT, such as "8.6" or "10.13".
        skip: leave out, with a warning, the layers whose names trtexec cannot be told.

    Warns:
        ConversionWarning: what the flags do not say of the plan.

    Raises:
        FlagError: names that trtexec cannot be told, or a flag that is too long.
        PrecisionError: that TensorRT cannot have the precisions.
        InputError: shapes, types or formats that trtexec cannot be told.
    """
    number = parse_version(version, typing)
    flags = [f"--{key}={path}" for key, path in (("onnx", model), ("saveEngine", engine)) if path]
    if typing == "strong":
        flags += ["--stronglyTyped"] if number < (11, 0) else []
    else:
        flags += _precisions(plan, number, skip)
    for key, ports in (("--inputIOFormats", inputs), ("--outputIOFormats", outputs)):
        flags += _formats(key, [Port.of(p) for p in ports], number)
    flags += _shapes([Port.of(p) for p in inputs], number)
    flags += [] if tf32 else ["--noTF32"]
    _refuse_long(flags)
    return flags


def text(flags: Sequence[str]) -> str:
    """The whole command line, quoted for a shell."""
    return shlex.join(["trtexec", *flags])


def can_say(name: str) -> bool:
    """Whether trtexec can be told a name, and takes it for that one alone."""
    return bool(name) and not any(c in name for c in BREAKS)


def _precisions(plan: PrecisionPlan, version: tuple[int, int], skip: bool) -> Iterator[str]:
    """Which precisions the builder may use, whether it must obey, and what each layer is told."""
    precisions, notes = enabled(plan, version)
    tied = pins(plan)
    lost = [pin.name for pin in tied if not can_say(pin.name)]
    if lost and not skip:
        raise FlagError(
            f"trtexec cannot be told the names of {len(lost)} layers",
            where=named(lost),
            why="it splits at commas, which it lets nobody quote, refuses a quotation mark, and takes * for a wildcard",
            fix=f"rename the nodes, leave them out with skip=True, or {SCRIPT}",
        )
    if lost:
        notes.append(
            f"trtexec is not told the precision of {named(lost)}, whose names it cannot read; they may run in another"
        )
    for note in notes:
        warnings.warn(note, ConversionWarning, stacklevel=3)
    told = [pin for pin in tied if can_say(pin.name)]
    yield from (f"--{precision.value}" for precision in precisions)
    if told or plan.asked.strict:
        yield f"--precisionConstraints={'obey' if plan.asked.strict else 'prefer'}"
    yield from _joined("--layerPrecisions", [f"{pin.name}:{pin.precision}" for pin in told])
    yield from _joined("--layerOutputTypes", [_output_types(pin) for pin in told if pin.output_types])


def _output_types(pin: Pin) -> str:
    """One type goes for all outputs, however many layers the node becomes; several must be as many as the layer has outputs."""
    return f"{pin.name}:{'+'.join(pin.output_types)}"


def _joined(key: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield f"{key}={','.join(items)}"


def _formats(key: str, ports: Sequence[Port], version: tuple[int, int]) -> Iterator[str]:
    """Types and formats by position: of all, or of none."""
    if not ports or (any(p.dtype is None for p in ports) and all(p.format in ("", LINEAR) for p in ports)):
        return
    pairs = []
    for port in ports:
        if port.dtype is None:
            raise InputError(
                f"the type of {port.name!r} is not known",
                where=key,
                why="another one has a format, and trtexec is told the types and formats of all, or of none",
                fix="give its dtype",
            )
        kind = (
            port.dtype.name if version >= (10, 0) or port.dtype.name != "int64" else "int32"
        )  # what the parser makes of it
        pairs.append((WORDS.get(kind, ""), FORMAT_WORDS.get(port.format or LINEAR, "")))
    unknown = [
        p.name
        for p, pair in zip(ports, pairs, strict=True)
        if any(not w or version < LATER.get(w, (0, 0)) for w in pair)
    ]
    if unknown and any(p.format not in ("", LINEAR) for p in ports):
        raise InputError(
            f"trtexec {version[0]}.{version[1]} has no word for the type or the format of {named(unknown)}", where=key
        )
    if not unknown:
        yield from _joined(key, [":".join(pair) for pair in pairs])


def _shapes(ports: Sequence[Port], version: tuple[int, int]) -> Iterator[str]:
    """The shapes of the dynamic inputs, profile by profile; a static network takes none."""
    dynamic = [port for port in ports if port.is_dynamic]
    count = max((len(port.profiles) for port in dynamic), default=0)
    lost = [port.name for port in dynamic if not can_say(port.name)]
    if lost:
        raise FlagError(f"trtexec cannot be told the name of the input {named(lost)}", fix="give it another name")
    if count > 1 and version < (9, 0):
        raise InputError(f"trtexec {version[0]}.{version[1]} builds one optimization profile, and there are {count}")
    for number in range(count):
        if count > 1:
            yield f"--profile={number}"
        for index, key in enumerate(RANGE):
            ranges = ((p.name, p.profiles[number if len(p.profiles) > 1 else 0][index]) for p in dynamic)
            yield from _joined(key, [f"{name}:{shape_word(dims)}" for name, dims in ranges])


def _refuse_long(flags: Sequence[str]) -> None:
    for flag in flags:
        if not fits(flag):
            raise FlagError(
                f"{flag.partition('=')[0]} is {len(flag.encode('utf-8', 'surrogateescape')):,} bytes long",
                why="Linux passes no argument of more than 128 KiB to a program",
                fix=SCRIPT,
            )
