"""Rules: what the user says of single nodes, over what the model and the set of precisions say."""

from __future__ import annotations

import fnmatch
import functools
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from torch2trt_onnx.errors import PrecisionError, RuleError
from torch2trt_onnx.precision import Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REGEX = "re:"


@dataclass(frozen=True)
class Rule:
    """Which nodes run in which precision. Rules are read in order, and the last one that matches a node wins.

    Each pattern is a glob (`*` takes dots and slashes too), or after `re:` a regular expression for the whole word. A node must match all
    patterns of a rule. Casts are nodes too: one that matches leads to the rule's precision.

    Args:
        precision: fp32, fp16 or bf16, as `Precision.of` takes it.
        name: of the ONNX node.
        module: the path of the module that the node comes from. `encoder.layers.3` and `encoder.layers.3.*` are both that module with
            all that is inside it.
        op: the ONNX operator type.
        tensor: the name of one of the node's outputs.

    Raises:
        RuleError: there is no pattern, one is no regular expression, or the precision is none that a node can be told.
    """

    precision: Precision
    name: str | None = None
    module: str | None = None
    op: str | None = None
    tensor: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", Precision.of(self.precision))
        if self.precision.is_quantized:
            raise RuleError(
                f"a rule asks for {self.precision.value}",
                where=str(self),
                why="a node has it through QuantizeLinear and DequantizeLinear in the model only",
                fix="quantize the model (torch.ao, ModelOpt); rules choose among fp32, fp16 and bf16",
            )
        if not self.patterns:
            raise RuleError("a rule has no pattern", where=str(self), fix=f"give it one of {', '.join(PATTERNS)}")
        for key, words in self.patterns.items():
            if not isinstance(words, str):
                raise RuleError(f"the {key} of a rule is {words!r}", where=str(self), fix="use a string")
            pattern(words, is_path=key == "module")

    @classmethod
    def of(cls, given: object) -> Rule:
        """A rule from a `Rule` or a mapping with its arguments.

        Raises:
            RuleError: it is neither, or has a key that rules do not have.
        """
        if isinstance(given, Rule):
            return given
        if not isinstance(given, Mapping):
            raise RuleError(f"{given!r} is no rule", fix="use Rule(...), or a mapping with its arguments")
        known = {field.name for field in fields(cls)}
        if "precision" not in given or set(given) - known:
            strange = ", ".join(sorted(map(str, set(given) - known)))
            raise RuleError(
                f"a rule has the unknown keys {strange}" if strange else "a rule has no precision",
                where=str(dict(given)),
                fix=f"a rule has precision, and one or more of {', '.join(PATTERNS)}",
            )
        return cls(**given)

    @property
    def patterns(self) -> dict[str, str]:
        """The patterns that it has, by key."""
        return {key: value for key in PATTERNS if (value := getattr(self, key)) is not None}

    def matches(self, name: str, module: str, op: str, tensors: Iterable[str]) -> bool:
        """Whether a node is meant."""
        words = {"name": [name], "module": [module], "op": [op], "tensor": list(tensors)}
        return all(
            any(pattern(glob, is_path=key == "module").fullmatch(word) for word in words[key])
            for key, glob in self.patterns.items()
        )

    def to_json(self) -> dict[str, str]:
        """The rule as plain data, which `of` takes."""
        return {**self.patterns, "precision": self.precision.value}

    def __str__(self) -> str:
        words = [f"{key}={pattern!r}" for key, pattern in self.patterns.items()]
        return f"{', '.join(words)} -> {self.precision.value}"


PATTERNS = ("name", "module", "op", "tensor")


def parse_rules(given: object) -> tuple[Rule, ...]:
    """The rules that a user gives: none, the path of a TOML file, or a sequence of `Rule`s or mappings.

    A file holds `[[rule]]` tables with a rule's arguments.

    Raises:
        RuleError: a rule is wrong, or the file cannot be read; it says which rule.
    """
    if given is None:
        return ()
    where = "rules"
    if isinstance(given, str | Path):
        where = str(given)
        given = _read(Path(given))
    if not isinstance(given, Iterable):
        raise RuleError(f"{given!r} are no rules", fix="give a sequence of rules, or the path of a TOML file")
    rules = []
    for number, item in enumerate(given, 1):
        try:
            rules.append(Rule.of(item))
        except PrecisionError as error:
            raise RuleError(
                error.what, where=f"{where}, rule {number}: {error.where or item}", why=error.why, fix=error.fix
            ) from None
    return tuple(rules)


def _read(path: Path) -> list[object]:
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # TOML's error is a ValueError, with the line
        raise RuleError("the file of rules cannot be read", where=str(path), why=str(error)) from None
    rules = data.get("rule")
    if set(data) != {"rule"} or not isinstance(rules, list):
        raise RuleError(
            "the file holds no rules, or more than rules",
            where=str(path),
            why=f"it has {', '.join(data) or 'nothing'}",
            fix="write each rule as a [[rule]] table, and nothing else",
        )
    return rules


@functools.cache
def pattern(words: str, *, is_path: bool) -> re.Pattern[str]:
    """A glob, or after `re:` a regular expression, for a whole word; of a path also for all that is inside it.

    Raises:
        RuleError: it is no regular expression.
    """
    if words.startswith(REGEX):
        body = f"(?:{words.removeprefix(REGEX)})"
    else:
        # translate() ends with \Z, or \z from Python 3.14 on; fullmatch needs neither.
        body = fnmatch.translate(words.removesuffix(".*") if is_path else words)[:-2]
    try:
        return re.compile(body + (r"(?:\..*)?" if is_path else ""))
    except re.error as error:
        raise RuleError(f"{words!r} is no regular expression", why=str(error)) from None
