"""On which line of a manifest each value stands, for messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch2trt_onnx.batch.form import Path

Lines = dict[Path, int]

KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
HEADER = re.compile(rf"\s*(\[\[?)\s*({KEY}(?:\s*\.\s*{KEY})*)\s*\]")
SETTING = re.compile(rf"\s*({KEY}(?:\s*\.\s*{KEY})*)\s*=")
SKIPPED = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|' + r"'''.*?'''|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'|#[^\n]*", re.DOTALL
)
"""What brackets do not count in: strings of four kinds, and comments."""


def of_toml(text: str) -> Lines:
    """The lines of the tables and of the settings of a TOML file that has been read without an error. What stands inside of a value is on
    the line of the setting.
    """
    found: Lines = {(): 1}
    home: Path = ()
    counts: dict[Path, int] = {}
    for line, statement in _statements(text):
        if header := HEADER.match(statement):
            home = _resolved(_keys(header[2]), counts, is_element=header[1] == "[[")
            found.setdefault(home, line)
        elif setting := SETTING.match(statement):
            keys = _keys(setting[1])
            for depth in range(1, len(keys) + 1):
                found.setdefault((*home, *keys[:depth]), line)
    return found


def of_yaml(node: Any) -> Lines:
    """The lines of all values of a YAML file.

    Args:
        node: what `yaml.compose` makes of it.
    """
    found: Lines = {(): 1}

    def walk(node: Any, path: Path) -> None:
        found.setdefault(path, node.start_mark.line + 1)
        if isinstance(node.value, list):
            for at, one in enumerate(node.value):
                if isinstance(one, tuple):
                    inner = (*path, str(one[0].value))
                    found.setdefault(inner, one[0].start_mark.line + 1)
                    walk(one[1], inner)
                else:
                    walk(one, (*path, at))

    if node is not None:
        walk(node, ())
    return found


def line_of(path: Path, lines: Lines) -> int:
    """The line of a value, or of what it stands in."""
    while path not in lines:
        path = path[:-1]
    return lines[path]


def _statements(text: str) -> Iterable[tuple[int, str]]:
    """Each statement with the line where it begins: lines are joined where a string or a bracket is open."""
    blank = SKIPPED.sub(lambda match: re.sub(r"[^\n]", "_", match[0]), text)
    start, depth = 0, 0
    rows, shown = text.split("\n"), blank.split("\n")
    opened = _open_lines(text)
    for at, row in enumerate(shown):
        header = depth == 0 and HEADER.match(rows[at]) is not None
        if not header:
            depth += sum(map(row.count, "[{")) - sum(map(row.count, "]}"))
        if depth <= 0 and at not in opened:
            yield start + 1, "\n".join(rows[start : at + 1])
            start, depth = at + 1, 0


def _open_lines(text: str) -> set[int]:
    """The lines at whose end a string is open."""
    found: set[int] = set()
    for match in SKIPPED.finditer(text):
        first = text.count("\n", 0, match.start())
        found.update(range(first, first + match[0].count("\n")))
    return found


def _keys(words: str) -> tuple[str, ...]:
    return tuple(word.strip("\"'") for word in re.findall(KEY, words))


def _resolved(keys: tuple[str, ...], counts: dict[Path, int], *, is_element: bool) -> Path:
    """The path of a header: in a list of tables it is the last one that is meant, or a new one."""
    path: Path = ()
    for at, key in enumerate(keys):
        path = (*path, key)
        if is_element and at == len(keys) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path
