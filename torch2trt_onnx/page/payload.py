"""What the page's scripts work on: nodes, weights, layers and changes as columns, with each text once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch2trt_onnx.report import Report


def encode(report: Report) -> str:
    """The data as JSON that may stand between script tags, whatever names the model has."""
    data, texts = report.to_json(), _Texts()
    tables = {name: _table(data[name], texts) for name in ("nodes", "weights", "layers", "bindings", "stages")}
    changes = [dict(zip(("pass", "node", "action", "why"), change, strict=True)) for change in data["changes"]]
    found = {**tables, "changes": _table(changes, texts), "texts": texts.all}
    # Without "<" no text ends the script or starts a comment in it; ASCII has no U+2028.
    return json.dumps(found, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


class _Texts:
    """Texts by number; JSON repeats no name that many nodes share."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text, which is added where it is new."""
        if text not in self._numbers:
            self._numbers[text] = len(self.all)
            self.all.append(text)
        return self._numbers[text]


def _table(rows: Sequence[Mapping[str, Any]], texts: _Texts) -> dict[str, Any]:
    """Rows as columns: `text` has numbers of texts, or lists of such; `plain` is as it is."""
    columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
    text = {key: column for key, column in columns.items() if all(map(_is_text, column))}
    plain = {key: column for key, column in columns.items() if key not in text}
    numbered = {key: [_numbers(value, texts) for value in column] for key, column in text.items()}
    return {"length": len(rows), "text": numbered, "plain": plain}


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(one, str) for one in value))


def _numbers(value: str | Sequence[str], texts: _Texts) -> int | list[int]:
    return texts.number(value) if isinstance(value, str) else [texts.number(one) for one in value]
