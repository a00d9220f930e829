"""Plans from and to command lines of Polygraphy: the flags, and a script that tells the parsed network what each layer computes in."""

from __future__ import annotations

import ast
import importlib.resources
import re
import shlex
import warnings
from collections.abc import Sequence

from torch2trt_onnx.errors import ConversionWarning, FlagError, InputError
from torch2trt_onnx.formats import LINEAR
from torch2trt_onnx.interop.imported import Port
from torch2trt_onnx.interop.pins import FLOATS, enabled, parse_version, pins
from torch2trt_onnx.interop.polygraphy_reader import RANGE, is_meant, read
from torch2trt_onnx.plan import PrecisionPlan
from torch2trt_onnx.precision import Precision

__all__ = ["flags", "is_meant", "read", "script", "text"]

FUNCTION = "postprocess"
SUFFIX = re.compile(r"_\d+$")
MISSING = ("fail", "say")


def script(plan: PrecisionPlan, *, outputs: Sequence[object] = (), missing: str = "fail") -> str:
    """A Python script for `--trt-network-postprocess-script`, which needs TensorRT only.

    It finds the layers of each planned node by their metadata (TensorRT 10) or their names (8.6), however many there are, and any
    characters may be in them. Nothing is set where the network is strongly typed, or TensorRT knows no precisions of layers (11).

    Args:
        plan: of the ONNX file.
        outputs: those whose types are set, by name: `Output`, `Binding` or `Port`.
        missing: of a planned node that the parser made no layer of: "fail", or "say" so only.

    Raises:
        FlagError: `missing` is neither.
    """
    if missing not in MISSING:
        raise FlagError(f"missing is {missing!r}", fix=f"use one of {', '.join(MISSING)}")
    template = importlib.resources.files("torch2trt_onnx.interop").joinpath("postprocess.py").read_text()
    ports = [Port.of(output) for output in outputs]
    told = {pin.name: (pin.precision, dict(zip(pin.tensors, pin.outputs, strict=False))) for pin in pins(plan)}
    others = tuple(n.name for n in plan.nodes if n.name not in told and SUFFIX.sub("", n.name) in told)
    kinds = {p.name: p.dtype.label for p in ports if p.name and p.dtype is not None and p.dtype.label in FLOATS}
    constants = {"PINS": told, "OTHERS": others, "OUTPUTS": kinds, "MISSING_FAILS": missing == "fail"}
    for name, value in constants.items():
        template = _filled(template, name, value)
    return template


def _filled(template: str, name: str, value: object) -> str:
    """The script with another value of a constant."""
    if isinstance(value, dict):
        rows = "".join(f"    {key!a}: {item!a},\n" for key, item in value.items())
        written = f"{{\n{rows}}}" if rows else "{}"
    else:
        written = ascii(value)
    start = re.compile(rf"^({name}(?:: [^=\n]*)? = ).*$", re.MULTILINE)
    filled, count = start.subn(lambda found: found[1] + written, template, count=1)
    assert count == 1
    ast.parse(filled)
    return filled


def flags(
    plan: PrecisionPlan,
    *,
    model: str = "model.onnx",
    engine: str = "model.engine",
    script_path: str = "plan.py",
    inputs: Sequence[object] = (),
    outputs: Sequence[object] = (),
    tf32: bool = False,
    typing: str = "weak",
    version: str = "10",
) -> list[str]:
    """The words behind `polygraphy` that build a plan from its ONNX file; weakly typed, with the script beside it.

    Args:
        plan: of the ONNX file.
        model, engine: paths of what is read and written.
        script_path: where the text of `script` was written.
        inputs: `Input`, `Binding` or `Port`: shapes of the dynamic ones, and formats that are not row-major.
        outputs: formats that are not row-major (`Output`, `Binding` or `Port`).
        tf32: whether fp32 products may run in TF32.
        typing: "weak" (8.6 to 10), or "strong" (from 9.1 on): the types in the file are the plan, and there is no script.
        version: of TensorRT, such as "8.6" or "10.13".

    Warns:
        ConversionWarning: what the flags do not say of the plan.

    Raises:
        FlagError: a name that Polygraphy cannot be told.
        PrecisionError: that TensorRT cannot have the precisions, or Polygraphy has no flag for one.
    """
    number = parse_version(version, typing)
    words = ["convert", model, "-o", engine]
    if typing == "strong":
        words += ["--strongly-typed"]
    else:
        words += _precisions(plan, number, script_path)
    given, made = [Port.of(p) for p in inputs], [Port.of(p) for p in outputs]
    words += _formats([*given, *made]) + _shapes(given)
    return [*words, "--tf32"] if tf32 else words


def text(words: Sequence[str]) -> str:
    """The whole command line, quoted for a shell."""
    return shlex.join(["polygraphy", *words])


def _precisions(plan: PrecisionPlan, version: tuple[int, int], script_path: str) -> list[str]:
    precisions, notes = enabled(plan, version)
    if Precision.INT4 in precisions:
        notes.append(
            "Polygraphy has no flag for int4: set it with --trt-config-postprocess-script, or build with trtexec"
        )
    for note in notes:
        warnings.warn(note, ConversionWarning, stacklevel=3)
    words = [f"--{p.value}" for p in precisions if p is not Precision.INT4]
    words += ["--precision-constraints", "obey" if plan.asked.strict else "prefer"]
    return [*words, "--trt-network-postprocess-script", f"{script_path}:{FUNCTION}"]


def _formats(ports: Sequence[Port]) -> list[str]:
    told = [f"{_told(p.name)}:[{p.format.lower()}]" for p in ports if p.format not in ("", LINEAR)]
    return ["--tensor-formats", *told] if told else []


def _shapes(ports: Sequence[Port]) -> list[str]:
    """The shapes of the dynamic inputs: the three flags once for each profile."""
    dynamic = [port for port in ports if port.is_dynamic]
    words: list[str] = []
    for number in range(max((len(port.profiles) for port in dynamic), default=0)):
        for index, key in enumerate(RANGE):
            ranges = [(p.name, p.profiles[number if len(p.profiles) > 1 else 0][index]) for p in dynamic]
            words += [key, *(f"{_told(name)}:[{','.join(map(str, dims))}]" for name, dims in ranges)]
    return words


def _told(name: str) -> str:
    """A name as a word of a command line."""
    if not name:
        raise InputError("an input or output has no name", fix="give it one")
    if name.startswith("-"):
        raise FlagError(f"Polygraphy takes {name!r} for a flag", fix="give it another name")
    return name
