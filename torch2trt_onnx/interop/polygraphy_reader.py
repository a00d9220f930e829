"""Reads a command line of Polygraphy (`polygraphy convert`, `polygraphy run`): what each flag means to it, as of 0.53.6."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch2trt_onnx.errors import FlagError, InputError
from torch2trt_onnx.formats import LINEAR, TENSORRT_FORMATS, Shape
from torch2trt_onnx.inputs import Range
from torch2trt_onnx.interop.commandline import after_tool, element, split
from torch2trt_onnx.interop.imported import Imported, Port, distinct, exact_rule, precision_of
from torch2trt_onnx.precision import Precision
from torch2trt_onnx.rules import Rule

SUBTOOLS = frozenset({"run", "convert"})
SWITCHES = {f"--{p.value}": p for p in (Precision.FP16, Precision.BF16, Precision.FP8, Precision.INT8)}
RANGE = ("--trt-min-shapes", "--trt-opt-shapes", "--trt-max-shapes")
ALIASES = {
    "--tensor-datatypes": "--tensor-dtypes",
    "--all-tensor-datatypes": "--all-tensor-dtypes",
    "--trt-npps": "--trt-network-postprocess-script",
    "--inputs": "--input-shapes",
    "--model-inputs": "--input-shapes",
    "--model-input-shapes": "--input-shapes",
}
MANY = frozenset(
    {
        *RANGE, "--input-shapes", "--layer-precisions", "--tensor-dtypes", "--tensor-formats", "--all-tensor-formats",
        "--trt-network-postprocess-script", "--rtol", "--rel-tol", "--atol", "--abs-tol", "--val-range", "--load-inputs",
        "--load-input-data", "--load-outputs", "--load-results", "--plugins", "--plugin-libraries", "--pool-limit",
        "--memory-pool-limit", "--onnx-outputs", "--onnx-exclude-outputs", "--trt-outputs", "--trt-exclude-outputs",
        "--onnx-flags", "--providers", "--execution-providers", "--check-error-stat", "--postprocess", "--mark-debug",
        "--tactic-sources", "--preview-features", "--quantization-flags", "--verbosity", "--log-format", "--compare",
    }
)  # fmt: skip
"""Flags that take all words up to the next flag."""

NONE = frozenset(
    {
        *SWITCHES, "--tf32", "--strongly-typed", "--trt", "--onnxrt", "--pluginref", "--validate", "--use-dla", "--allow-gpu-fallback",
        "--direct-io", "--refittable", "--strip-plan", "--sparse-weights", "--version-compatible", "--exclude-lean-runtime",
        "--weight-streaming", "--fail-fast", "--show-output", "--use-subprocess", "--plugin-instancenorm", "--shape-inference",
        "--no-shape-inference", "--ignore-external-data", "--trt-safety-restricted", "--disable-compilation-cache",
        "--error-on-timing-cache-miss", "--decomposable-attentions", "--fp-to-fp16", "--no-shape-check", "--check-average",
        "-v", "-vv", "-vvv", "-q", "-h", "--verbose", "--quiet", "--silent", "--help",
    }
)  # fmt: skip
"""Flags that take no word. The others take one."""

NOT_CARRIED = {
    "--calibration-cache": "int8 by calibration is not carried over: here a node is int8 through Q/DQ in the model",
    "--trt-config-script": "a script that makes the configuration is not read; other flags of precisions have no effect beside it",
    "--trt-config-postprocess-script": "a script that changes the configuration is not read",
    "--use-dla": "DLA is not carried over; Polygraphy prefers precision constraints with it",
    "--direct-io": "bindings without reformatting are not carried over; TensorRT deprecates them since 10.7",
    "--fp-to-fp16": "the conversion of the model to fp16 is not carried over: ask for fp16 alone in `precisions`",
}


def is_meant(words: Sequence[str]) -> bool:
    """Whether a command line is Polygraphy's, and not trtexec's."""
    behind = after_tool(words, "polygraphy")
    return len(behind) < len(words) or (bool(words) and words[0] in SUBTOOLS)


def read(flags: str | Sequence[str]) -> Imported:
    """What a command line of `polygraphy convert` or `polygraphy run` asks of TensorRT.

    A post-processing script is not run; the planned precisions are read out of one that `interop.polygraphy.script` wrote.

    Args:
        flags: text or words, with or without `polygraphy` in front.

    Raises:
        FlagError: it cannot be read.
        InputError: shapes that do not fit each other.
    """
    words = after_tool(split(flags), "polygraphy")
    return _Reader(*_taken_apart(words[1:] if words and words[0] in SUBTOOLS else words)).read()


def _taken_apart(words: Sequence[str]) -> tuple[str, list[tuple[str, list[str]]]]:
    """The model, and (flag, its words) in order."""
    model = ""
    found: list[tuple[str, list[str]]] = []
    left: list[str] = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            if model:
                raise FlagError(f"Polygraphy knows no argument {word!r}", why=f"the model is {model!r}")
            model = word
            continue
        key, equals, value = word.partition("=")
        key = ALIASES.get(key, key)
        taken = [value] if equals else []
        while left and not left[0].startswith("-") and (key in MANY or (key not in NONE and not taken)):
            taken.append(left.pop(0))
        found.append((key, taken))
    return model, found


@dataclass
class _Reader:
    model: str
    options: list[tuple[str, list[str]]]
    notes: list[str] = field(default_factory=list)

    def read(self) -> Imported:
        precisions = frozenset({Precision.FP32, *(p for key, p in SWITCHES.items() if self.last(key) is not None)})
        strong = self.last("--strongly-typed") is not None
        constraints = (self.last("--precision-constraints") or ["none"])[-1]
        rules = self.rules(constraints, strong)
        for precision in sorted(p.value for p in precisions if p.is_quantized):
            self.notes.append(
                f"{precision}: here a node is {precision} through Q/DQ in the model, and not by calibration"
            )
        if strong and len(precisions) > 1:
            self.notes.append("the precisions that the builder may use are ignored: the network is strongly typed")
        typing = "strong" if strong else "weak" if rules or len(precisions) > 1 or constraints != "none" else None
        all_tensors = self.all_tensors()
        return Imported(
            "polygraphy",
            None if strong else precisions | {rule.precision for rule in rules},
            constraints == "obey" and not strong,
            typing,
            rules,
            self.inputs(),
            all_tensors,
            all_tensors,
            self.tensors(),
            self.model,
            tf32=self.last("--tf32") is not None,
            ignored=self.ignored(),
            notes=distinct(self.notes),
        )

    def every(self, key: str) -> list[list[str]]:
        """The words of each time that a flag stands."""
        found = [words for name, words in self.options if name == key]
        self.options = [option for option in self.options if option[0] != key]
        return found

    def last(self, key: str) -> list[str] | None:
        """The words of a flag, of which the last one counts; None where it does not stand."""
        found = self.every(key)
        return found[-1] if found else None

    def rules(self, constraints: str, strong: bool) -> tuple[Rule, ...]:
        """The precisions of single layers, by exact names."""
        told = [self.rule(name, word) for name, word in _pairs(self.last("--layer-precisions"), "--layer-precisions")]
        scripts = [r for path in self.last("--trt-network-postprocess-script") or [] for r in self.script(path)]
        rules = tuple(rule for rule in (*scripts, *told) if rule is not None)  # Polygraphy runs the scripts first
        if rules and (strong or constraints == "none"):
            why = (
                "a strongly typed network takes none"
                if strong
                else "they have no effect without --precision-constraints"
            )
            self.notes.append(f"precisions of layers are left out: {why}")
            return ()
        return rules

    def rule(self, name: str, word: str) -> Rule | None:
        precision, why = precision_of(element(word, "--layer-precisions"))
        if precision is None:
            self.notes.append(f"layer {name!r} is told {word}, which is left out: {why}")
            return None
        return exact_rule(name, precision)

    def script(self, path: str) -> list[Rule]:
        """The precisions that a script of ours sets; nothing of another's, which could do anything."""
        file = path if path.endswith(".py") else path.rpartition(":")[0] or path
        planned = _planned(Path(file))
        if planned is None:
            self.notes.append(f"what the script {file!r} does to the network is not carried over: it is not run")
            return []
        return [exact_rule(name, precision) for name, (precision, _) in planned.items()]

    def inputs(self) -> tuple[Port, ...]:
        """The inputs that have shapes, in each profile."""
        default = _shapes(self.last("--input-shapes") or [], "--input-shapes")
        told = [[_shapes(words, key) for words in self.every(key)] for key in RANGE]
        count = max(map(len, told)) or (1 if default else 0)
        profiles = [[{**default, **(shapes[i] if i < len(shapes) else {})} for shapes in told] for i in range(count)]
        names = distinct(name for profile in profiles for shapes in profile for name in shapes)
        return tuple(Port(name, profiles=tuple(_range(name, profile) for profile in profiles)) for name in names)

    def tensors(self) -> tuple[Port, ...]:
        """Types and formats of inputs and outputs by name."""
        found: dict[str, Port] = {}
        for name, word in _pairs(self.last("--tensor-dtypes"), "--tensor-dtypes"):
            found[name] = Port(name, element(word, "--tensor-dtypes"))
        for name, words in _pairs(self.last("--tensor-formats"), "--tensor-formats"):
            known = found.get(name, Port(name))
            found[name] = known.with_type(Port(format=self.format(words.strip("[]").split(","))))
        return tuple(found.values())

    def all_tensors(self) -> tuple[Port, ...]:
        """What is said of all inputs and outputs at once."""
        dtype, words = self.last("--all-tensor-dtypes"), self.last("--all-tensor-formats")
        port = Port(
            "", element(dtype[-1], "--all-tensor-dtypes") if dtype else None, self.format(words) if words else ""
        )
        return (port,) if dtype or words else ()

    def format(self, words: Sequence[str]) -> str:
        names = [word.strip(" ,").upper() for word in words if word.strip(" ,")]
        unknown = [name for name in names if name not in TENSORRT_FORMATS]
        if unknown:
            raise FlagError(f"{unknown[0]!r} is no format", fix=f"use one of {', '.join(TENSORRT_FORMATS)}")
        if len(names) > 1:
            self.notes.append(f"of the formats {', '.join(names)} TensorRT may choose one; here it is the first")
        return names[0] if names else LINEAR

    def ignored(self) -> tuple[str, ...]:
        """The flags that are left, as they stood."""
        self.notes += [NOT_CARRIED[key] for key, _ in self.options if key in NOT_CARRIED]
        return tuple(" ".join([key, *words]) for key, words in self.options)


def _pairs(words: Iterable[str] | None, flag: str) -> list[tuple[str, str]]:
    """The pairs of `NAME:VALUE NAME:VALUE`; the last colon divides a pair."""
    found = []
    for word in words or ():
        name, colon, value = word.rpartition(":")
        if not colon or not name:
            raise FlagError(f"{word!r} is not NAME:VALUE", where=flag, fix="write NAME:VALUE NAME:VALUE")
        found.append((name, value))
    return found


def _shapes(words: Iterable[str], flag: str) -> dict[str, Shape]:
    """Input -> its shape, of `NAME:[1,3,224,224]`."""
    found = {}
    for name, value in _pairs(words, flag):
        try:
            found[name] = tuple(int(d) for d in value.strip("[]").split(",") if d.strip())
        except ValueError:
            raise InputError(f"{value!r} is no shape", where=f"{flag} {name}", fix="write [1,3,224,224]") from None
    return found


def _range(name: str, profile: Sequence[Mapping[str, Shape]]) -> Range:
    """The shapes of an input in a profile."""
    for key, shapes in zip(RANGE, profile, strict=True):
        if name not in shapes:
            raise InputError(f"{key} tells no shape of {name!r}", fix="name the same inputs in all three")
    return profile[0][name], profile[1][name], profile[2][name]


def _planned(path: Path) -> dict[str, tuple[str, dict[str, str]]] | None:
    """What a script of ours plans; None of another's, or where there is none."""
    try:
        body = ast.parse(path.read_text()).body
    except (OSError, ValueError, SyntaxError):
        return None
    for node in body:
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == "PINS"
            and node.value
        ):
            try:
                found = ast.literal_eval(node.value)
            except ValueError:
                return None
            return found if isinstance(found, dict) and all(map(_is_pin, found.items())) else None
    return None


def _is_pin(item: tuple[object, object]) -> bool:
    name, told = item
    return isinstance(name, str) and isinstance(told, tuple) and len(told) == 2 and told[0] in ("fp32", "fp16", "bf16")
