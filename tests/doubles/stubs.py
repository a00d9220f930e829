"""Reads type stubs (`.pyi`) into a table of classes: the only source of what the double of TensorRT has.

The stubs come from the package `tensorrt-stubs`, which was generated from the real extension module. They are installed beside
the environment, not in it, so that no `tensorrt` can be imported by accident:
`pip install --no-deps --target .venv/stubs tensorrt-stubs==10.13.0.35.1`.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

REQUIRED = "<required>"
"""Stands for the default of a parameter that has none."""

MEMBERS = re.compile(r"'(\w+)': <[\w.]+: (-?\d+)>")
RESERVED = re.compile(r"(?<=[(, ])in:")


@dataclass
class Parameter:
    """One parameter of a function: `annotation` and `default` as the stub spells them."""

    name: str
    annotation: str
    default: str


@dataclass
class Property:
    """An attribute of objects of a class."""

    annotation: str
    settable: bool


@dataclass
class ClassSpec:
    """What a class declares itself, without what it inherits."""

    name: str
    bases: tuple[str, ...] = ()
    methods: dict[str, list[list[Parameter]]] = field(default_factory=dict)
    properties: dict[str, Property] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)
    nested: dict[str, ClassSpec] = field(default_factory=dict)

    @property
    def is_enum(self) -> bool:
        """Whether it is one of pybind11's enums."""
        return bool(self.members)


@dataclass
class ModuleSpec:
    """What a module declares. `aliases` are its names of enum members (`float16` -> `DataType.HALF`)."""

    classes: dict[str, ClassSpec] = field(default_factory=dict)
    functions: dict[str, list[Parameter]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


def folder() -> Path:
    """Where the stubs are installed.

    Raises:
        ImportError: nowhere that is known.
    """
    root = Path(__file__).resolve().parents[2]
    places = [os.environ.get("TENSORRT_DOUBLE_STUBS", ""), f"{sys.prefix}/stubs", f"{root}/.venv/stubs"]
    for place in places:
        if place and (Path(place) / "tensorrt_bindings").is_dir():
            return Path(place)
    raise ImportError(
        "the stubs of TensorRT are not installed: "
        "pip install --no-deps --target .venv/stubs tensorrt-stubs==10.13.0.35.1"
    )


def read(text: str) -> ModuleSpec:
    """The table of a stub's text."""
    lines = _repaired(text)
    module = ModuleSpec()
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.ClassDef):
            module.classes[node.name] = _class(node, lines)
        elif isinstance(node, ast.FunctionDef):
            module.functions[node.name] = _parameters(node, bound=False)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            value = re.search(r"# value = <([\w.]+): ", lines[node.lineno - 1])
            if value:
                module.aliases[node.target.id] = value[1]
    return module


def _repaired(text: str) -> list[str]:
    """The lines, with those mended that are no Python: a parameter called `in`, and defaults before a parameter without one."""
    lines = [RESERVED.sub("in_:", line) for line in text.splitlines()]
    while True:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            number = (error.lineno or 1) - 1
            mended = re.sub(r" = None\b", "", lines[number])
            if mended == lines[number]:
                raise
            lines[number] = mended
        else:
            return lines


def _class(node: ast.ClassDef, lines: list[str]) -> ClassSpec:
    spec = ClassSpec(node.name, tuple(ast.unparse(base) for base in node.bases))
    for item in node.body:
        if isinstance(item, ast.ClassDef):
            spec.nested[item.name] = _class(item, lines)
        elif isinstance(item, ast.FunctionDef):
            _function(spec, item)
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            _attribute(spec, item.target.id, item, lines)
    return spec


def _function(spec: ClassSpec, node: ast.FunctionDef) -> None:
    marks = {ast.unparse(mark) for mark in node.decorator_list}
    if "property" in marks:
        spec.properties[node.name] = Property(ast.unparse(node.returns) if node.returns else "...", settable=False)
    elif f"{node.name}.setter" in marks:
        spec.properties[node.name] = Property(_parameters(node, bound=True)[0].annotation, settable=True)
    else:
        spec.methods.setdefault(node.name, []).append(_parameters(node, bound=True))


def _attribute(spec: ClassSpec, name: str, node: ast.AnnAssign, lines: list[str]) -> None:
    annotation = ast.unparse(node.annotation)
    if name == "__members__":
        spec.members = {member: int(value) for member, value in MEMBERS.findall(lines[node.lineno - 1])}
    elif annotation.startswith("typing.ClassVar"):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, int):
            spec.constants[name] = node.value.value
    else:
        spec.properties[name] = Property(annotation, settable=True)


def _parameters(node: ast.FunctionDef, bound: bool) -> list[Parameter]:
    given = node.args.args[1:] if bound else node.args.args
    defaults = [ast.unparse(default) for default in node.args.defaults]
    padded = [REQUIRED] * (len(given) - len(defaults)) + defaults
    return [
        Parameter(argument.arg, ast.unparse(argument.annotation) if argument.annotation else "...", default)
        for argument, default in zip(given, padded[-len(given) :] if given else [], strict=True)
    ]
