"""What was called on a double, as lines of a file: a build runs in a child process, so a file is how a test sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIABLE = "TENSORRT_DOUBLE_RECORD"


@dataclass(frozen=True)
class Call:
    """A call of a method, or the setting of an attribute.

    Args:
        object: a readable id: the class that declares the method, and the object's name where it has one ("ILayer conv1").
        cls: the class that declares the method or the attribute.
        call: the method; "" where an attribute was set.
        args: what it was given, enum members as "DataType.HALF", objects as their id.
        set: the attribute; "" where a method was called.
        value: what it was set to.
    """

    object: str
    cls: str
    call: str = ""
    args: list[Any] = field(default_factory=list)
    set: str = ""
    value: Any = None

    @property
    def name(self) -> str:
        """The object's own name; "" where it has none."""
        return self.object.partition(" ")[2]


def read(path: str | Path) -> list[Call]:
    """All that was recorded, in order; nothing where there is no file."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return [
        Call(**{("cls" if key == "class" else key): value for key, value in json.loads(line).items()}) for line in lines
    ]


def write(row: Mapping[str, Any]) -> None:
    """Append a line, where a recording is wanted."""
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps(row) + "\n")
