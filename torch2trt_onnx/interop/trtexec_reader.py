"""Reads a command line of trtexec: what each flag means to it, from 8.6 to 11.

The meanings are those of samples/common/sampleOptions.cpp and sampleEngines.cpp in github.com/NVIDIA/TensorRT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch2trt_onnx.errors import FlagError, InputError, PrecisionError
from torch2trt_onnx.formats import Shape
from torch2trt_onnx.inputs import Range
from torch2trt_onnx.interop.commandline import TRTEXEC_FORMATS, TRTEXEC_TYPES, after_tool, named_values, shape, split
from torch2trt_onnx.interop.imported import (
    Imported,
    Port,
    distinct,
    exact_rule,
    pattern_rule,
    precision_of,
)
from torch2trt_onnx.precision import Precision
from torch2trt_onnx.rules import Rule

SWITCHES = {f"--{p.value}": p for p in Precision if p is not Precision.FP32}
BEST = (Precision.FP16, Precision.BF16, Precision.INT8)
CONSTRAINTS = ("none", "prefer", "obey")
RANGE = ("--minShapes", "--optShapes", "--maxShapes")
OTHERWISE = {
    "--minShapes": ("--optShapes", "--maxShapes"),
    "--optShapes": ("--maxShapes", "--minShapes"),
    "--maxShapes": ("--optShapes", "--minShapes"),
}
"""Which shapes trtexec takes where some are not told, in the order in which it looks for them."""

NOT_CARRIED = {
    "--calib": "int8 by calibration is not carried over: here a node is int8 through Q/DQ in the model",
    "--minShapesCalib": "shapes of a calibration are not carried over",
    "--optShapesCalib": "shapes of a calibration are not carried over",
    "--maxShapesCalib": "shapes of a calibration are not carried over",
    "--calibProfile": "the profile of a calibration is not carried over",
    "--layerDeviceTypes": "devices of layers are not carried over",
    "--useDLACore": "DLA is not carried over; trtexec allows fp16 with it unless int8 is asked for, and prefers precision constraints",
    "--directIO": "bindings without reformatting are not carried over; TensorRT deprecates them since 10.7",
    "--safe": "safety mode is not carried over; trtexec 10 makes the network strongly typed with it",
    "--loadEngine": "an engine that is loaded keeps its precisions; nothing is built",
}


def read(flags: str | Sequence[str]) -> Imported:
    """What a command line of trtexec asks for.

    Args:
        flags: text or words, with or without `trtexec` in front; trtexec takes `--key` and `--key=value` only.

    Raises:
        FlagError: trtexec would not read it either.
        PrecisionError: precisions that exclude each other.
        InputError: shapes that do not fit each other.
    """
    return _Reader(_options(after_tool(split(flags), "trtexec"))).read()


def _options(words: Iterable[str]) -> list[tuple[str, str | None]]:
    """(key, value) of each flag in order; None where it has no value."""
    found: list[tuple[str, str | None]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not key.startswith("-"):
            raise FlagError(
                f"trtexec knows no argument {word!r}",
                why="it takes --key and --key=value only",
                fix="write --key=value",
            )
        found.append((key, value if equals else None))
    return found


@dataclass
class _Reader:
    options: list[tuple[str, str | None]]
    notes: list[str] = field(default_factory=list)

    def read(self) -> Imported:
        inputs = self.inputs()  # first, because of profiles the order of the flags counts
        typing, precisions = self.precisions()
        constraints = self.take("--precisionConstraints") or "none"
        if constraints not in CONSTRAINTS:
            raise FlagError(f"--precisionConstraints is {constraints!r}", fix=f"use one of {', '.join(CONSTRAINTS)}")
        rules = self.rules(constraints, typing)
        if precisions is not None:
            precisions |= self.missing(rules, precisions)
            if rules or constraints != "none":
                typing = typing or "weak"
        model = self.take("--onnx") or ""
        return Imported(
            "trtexec",
            precisions,
            constraints == "obey",
            typing,
            rules,
            inputs,
            self.formats("--inputIOFormats"),
            self.formats("--outputIOFormats"),
            model=model,
            tf32=not self.switch("--noTF32"),
            ignored=self.ignored(),
            notes=distinct(self.notes),
        )

    def take(self, key: str) -> str | None:
        """The value of a flag that may stand once; "" where it stands without one, None where it does not stand."""
        found = [value or "" for name, value in self.options if name == key]
        if len(found) > 1:
            raise FlagError(f"{key} stands {len(found)} times", why="trtexec reads one, and refuses the others")
        self.options = [option for option in self.options if option[0] != key]
        return found[0] if found else None

    def switch(self, key: str) -> bool:
        """Whether a flag without a value stands."""
        value = self.take(key)
        if value:
            self.notes.append(f"{key}={value} means {key} to trtexec, whatever the value")
        return value is not None

    def precisions(self) -> tuple[str | None, frozenset[Precision] | None]:
        """How the network is typed, where the flags say so, and the precisions that the builder may use."""
        found: set[Precision] = {precision for key, precision in SWITCHES.items() if self.switch(key)}
        best, strong = self.switch("--best"), self.switch("--stronglyTyped")
        if best and strong:
            raise PrecisionError("--best and --stronglyTyped exclude each other", why="trtexec refuses them together")
        if strong:
            if found:
                words = ", ".join(sorted(f"--{p.value}" for p in found))
                self.notes.append(f"{words} is ignored, as trtexec does where --stronglyTyped stands")
            return "strong", None
        if best:
            found.update(BEST)
            self.notes.append(
                "--best is int8 and fp16 to trtexec 8.6, and bf16 as well to 10 from compute capability 8.0 on"
            )
        if {Precision.FP8, Precision.INT8} <= found:
            raise PrecisionError("fp8 and int8 exclude each other", why="trtexec refuses them together")
        for precision in Precision:
            if precision in found and precision.is_quantized:
                self.notes.append(
                    f"{precision.value}: here a node is {precision.value} through Q/DQ in the model; without them trtexec takes a "
                    "calibration, or ranges that it makes up"
                )
        if not found:
            self.notes.append(
                "no flag tells a precision: up to TensorRT 10 that means fp32 for what is fp32 in the file; to 11 the types in the file"
            )
        return ("weak" if found else None), frozenset({Precision.FP32, *found})

    def missing(self, rules: Sequence[Rule], precisions: frozenset[Precision]) -> frozenset[Precision]:
        """What layers are told and no flag allows."""
        found = frozenset(rule.precision for rule in rules) - precisions
        for precision in sorted(p.value for p in found):
            self.notes.append(
                f"a layer is told {precision} without --{precision}, which TensorRT refuses; it is allowed here"
            )
        return found

    def rules(self, constraints: str, typing: str | None) -> tuple[Rule, ...]:
        """The precisions of single layers: an exact name wins over a wildcard, wherever it stands."""
        told = self.named("--layerPrecisions")
        outputs = self.named("--layerOutputTypes")
        if (told or outputs) and typing == "strong":
            self.notes.append("precisions of layers are left out: a strongly typed network takes none")
            return ()
        if (told or outputs) and constraints == "none":
            self.notes.append(
                "precisions of layers are left out: they have no effect without --precisionConstraints=obey or prefer"
            )
            return ()
        self.outputs(told, outputs)
        wild = [name for name in told if "*" in name]
        if wild:
            self.notes.append(
                f"the wildcards {', '.join(map(repr, wild))}: trtexec passes over layers of integers and shapes with them, and takes their "
                "first * as one"
            )
        if len(wild) > 1:
            self.notes.append("which of several wildcards wins is not defined in trtexec; here it is the last")
        rules = [self.rule(name, told[name]) for name in (*wild, *(name for name in told if "*" not in name))]
        return tuple(rule for rule in rules if rule is not None)

    def rule(self, name: str, word: str) -> Rule | None:
        if word not in TRTEXEC_TYPES:
            raise FlagError(f"{word!r} is no type", where="--layerPrecisions", fix=f"use {', '.join(TRTEXEC_TYPES)}")
        precision, why = precision_of(TRTEXEC_TYPES[word])
        if precision is None:
            self.notes.append(f"layer {name!r} is told {word}, which is left out: {why}")
            return None
        return pattern_rule(name, precision) if "*" in name else exact_rule(name, precision)

    def outputs(self, told: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        """Say which types of outputs are not the precision of their layer: here those are Casts in the model."""
        for name, types in outputs.items():
            words = set(types.split("+"))
            unknown = words - set(TRTEXEC_TYPES)
            if unknown:
                raise FlagError(f"{min(unknown)!r} is no type", where="--layerOutputTypes")
            if "*" in name:
                self.notes.append(
                    f"--layerOutputTypes={name}:{types} is left out: through a wildcard trtexec sets the type of '*', or else fp32, "
                    "whatever stands there"
                )
            elif words != {told.get(name)}:
                self.notes.append(
                    f"the outputs of layer {name!r} are told {types}, which is left out: here the type of what a node makes is that of its "
                    "precision, and a Cast in the model changes it"
                )

    def named(self, key: str) -> dict[str, str]:
        return dict(named_values(self.take(key) or "", key))

    def formats(self, key: str) -> tuple[Port, ...]:
        """Types and formats of the inputs or outputs, by position."""
        text = self.take(key)
        return tuple(self.port(item, key) for item in text.split(",")) if text else ()

    def port(self, item: str, key: str) -> Port:
        kind, colon, formats = item.partition(":")
        words = formats.split("+")
        if not colon or kind not in TRTEXEC_TYPES or not set(words) <= set(TRTEXEC_FORMATS):
            raise FlagError(
                f"{item!r} is not TYPE:FORMAT",
                where=key,
                fix=f"types are {', '.join(TRTEXEC_TYPES)}; formats are {', '.join(TRTEXEC_FORMATS)}",
            )
        if len(words) > 1:
            self.notes.append(f"of the formats {formats} TensorRT may choose one; here it is the first")
        return Port("", TRTEXEC_TYPES[kind], TRTEXEC_FORMATS[words[0]])

    def inputs(self) -> tuple[Port, ...]:
        """The inputs that have shapes."""
        running = self.take("--shapes")
        profiles = self.profiles()
        if not profiles and running:
            profiles = [dict.fromkeys(RANGE, running)]
        told = [_ranges(profile) for profile in profiles]
        names = distinct(name for profile in told for name in profile)
        for number, profile in enumerate(told):
            for name in names:
                if name not in profile:
                    raise InputError(f"profile {number} tells no shape of {name!r}", where="--profile")
        if any("*" in name for name in names):
            self.notes.append("a * in the name of an input is a wildcard to trtexec")
        return tuple(Port(name, profiles=tuple(profile[name] for profile in told)) for name in names)

    def profiles(self) -> list[dict[str, str]]:
        """The shapes of each optimization profile, as they stand: those right behind `--profile=N` are the Nth's."""
        numbered: dict[int, dict[str, str]] = {}
        current: dict[str, str] | None = None
        left: list[tuple[str, str | None]] = []
        for key, value in self.options:
            if key == "--profile":
                current = numbered.setdefault(int(value) if value and value.isdecimal() else -1, {})
                if current:
                    raise FlagError(f"--profile={value} stands twice", why="trtexec refuses that")
            elif current is not None and key in RANGE and key not in current:
                current[key] = value or ""
            else:
                current = None
                left.append((key, value))
        self.options = left
        loose = {key: value for key in RANGE if (value := self.take(key))}
        if numbered and (loose or sorted(numbered) != list(range(len(numbered)))):
            raise FlagError(
                "the profiles are not told one by one",
                why=f"there are the profiles {sorted(numbered)}"
                + (f", and {', '.join(loose)} that follows none" if loose else ""),
                fix="write --profile=0 --minShapes=... --optShapes=... --maxShapes=... --profile=1 ...",
            )
        return [numbered[number] for number in sorted(numbered)] if numbered else [loose] if loose else []

    def ignored(self) -> tuple[str, ...]:
        """The flags that are left, as they stood."""
        self.notes += [NOT_CARRIED[key] for key, _ in self.options if key in NOT_CARRIED]
        return tuple(key if value is None else f"{key}={value}" for key, value in self.options)


def _ranges(profile: Mapping[str, str]) -> dict[str, Range]:
    """Input -> its smallest, best and largest shape."""
    told = {
        key: {name: shape(word, key) for name, word in named_values(text, key)} for key, text in profile.items() if text
    }
    sources = [next((k for k in (key, *OTHERWISE[key]) if k in told), "") for key in RANGE]
    names = distinct(name for shapes in told.values() for name in shapes)

    def one(name: str, key: str) -> Shape:
        if name not in told[key]:
            raise InputError(f"{key} tells no shape of {name!r}", fix="name the same inputs in all three")
        return told[key][name]

    return {name: (one(name, sources[0]), one(name, sources[1]), one(name, sources[2])) for name in names}
