"""The form of a manifest, as a JSON Schema: what the reader holds a manifest to, and what `manifest.schema.json` publishes for editors.
Run as a program, this prints the latter.

`check` knows the words of JSON Schema that stand here, and no others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

WORD: dict[str, Any] = {"type": "string", "minLength": 1}
WORDS: dict[str, Any] = {"type": "array", "items": WORD}
AMOUNT: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0}
PRECISIONS = ["fp32", "fp16", "bf16", "int8", "fp8", "int4"]
BACKENDS = ["rtx", "tensorrt", "tensorrt-strong", "tensorrt-weak", "none"]

Path = tuple[str | int, ...]
"""The way to a value: keys, and numbers of elements from 0."""


def _table(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": list(required)} if required else found


def _list(items: dict[str, Any], about: str = "") -> dict[str, Any]:
    found = {"type": "array", "minItems": 1, "items": items}
    return {**found, "description": about} if about else found


RULE = _table(
    {"precision": {"enum": PRECISIONS[:3]}, **dict.fromkeys(("name", "module", "op", "tensor"), WORD)}, "precision"
)
SETTINGS: dict[str, dict[str, Any]] = {
    "inputs": {**WORDS, "description": "NAME:SHAPE[:DTYPE][:FORMAT], as --input takes it."},
    "outputs": {**WORDS, "description": "NAME[:DTYPE][:FORMAT], as --output-binding takes it."},
    "precisions": _list({"enum": PRECISIONS}, "What the engine may use. Default: as the model is typed."),
    "policy": {"enum": ["source", "auto"], "description": "As --policy."},
    "rules": {
        "anyOf": [WORD, {"type": "array", "items": RULE}],
        "description": "A TOML file of rules, or the rules themselves.",
    },
    "calibration": {
        "anyOf": [WORD, {"type": "boolean"}],
        "description": "An .npz of real inputs or a folder of them; false: measure nothing. Default, and true: random numbers.",
    },
    "max_error": {
        "anyOf": [AMOUNT, WORD, WORDS],
        "description": 'As --max-error: 1e-2, "logits:cosine:1e-3", or a list of those.',
    },
    "strict": {"type": "boolean", "description": "As --strict."},
    "weightless": {"enum": ["inherit", "fp32", "free"], "description": "As --weightless."},
    "fidelity": {"enum": ["tensorrt", "pytorch"], "description": "As --fidelity."},
    "backend": {"enum": BACKENDS, "description": "Default: what is installed."},
    "compute_capabilities": _list(
        {"type": "string", "pattern": r"^[0-9]+\.[0-9]$"},
        'The GPUs of one engine: ["8.9", "12.0"]. For an engine each, write targets.',
    ),
    "exporter": {"enum": ["torchscript", "dynamo"], "description": "As --exporter."},
    "opset": {"type": "integer", "minimum": 7, "description": "As --opset."},
    "tf32": {"type": "boolean", "description": "As --tf32."},
    "compare": {"type": "boolean", "description": "false: do not run the graph in ONNX Runtime."},
    "tolerance": {"type": "number", "minimum": 0, "description": "As --tolerance."},
    "files": {**WORDS, "description": "What else the model is made from: the weights that a function loads."},
    "timeout": {**AMOUNT, "description": "Of a whole job, in seconds. Default: 3600."},
    "memory": {**AMOUNT, "description": "The most that a job may hold, in GiB. Default: its share of what is free."},
    "retries": {"type": "integer", "minimum": 0, "description": "After failures that can pass. Default: 2."},
    "resources": {
        "type": "object",
        "additionalProperties": AMOUNT,
        "description": "What a job needs of a cluster's worker, such as GPU = 1.",
    },
}
"""What can be set for all models, for one, for one target of it, and for jobs by name."""

NAME = {**WORD, "description": "Of the jobs. Default: the file without its ending, or the function."}
TARGET_NAME = {**WORD, "description": "Default: the back end with the compute capabilities."}
MODEL = {
    **WORD,
    "description": "A path, a glob, a URL that fsspec reads, or module:function, which returns a model.",
}
MATCH = {**WORD, "description": "A glob of names of jobs."}
TARGETS = _list(_table({"name": TARGET_NAME, **SETTINGS}), "One job for each. Default: one.")
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A manifest of torch2trt-onnx batch, in TOML or YAML",
    "description": "What a target says goes over its model, a model over defaults, overrides over all. Paths are relative to the file.",
    **_table(
        {
            "defaults": _table({**SETTINGS, "targets": TARGETS}),
            "models": _list(_table({"model": MODEL, "name": NAME, **SETTINGS, "targets": TARGETS}, "model")),
            "overrides": {"type": "array", "items": _table({"match": MATCH, **SETTINGS}, "match")},
        },
        "models",
    ),
}

KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
CALLED = {
    "object": "a table",
    "array": "a list",
    "string": "a word",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
}


def check(value: Any, form: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, str]]:
    """What is wrong with a value: where, and in words."""
    if "anyOf" in form:
        found = [list(check(value, one, path)) for one in form["anyOf"]]
        if all(found):
            # Of one that failed inside, what is wrong there says more than that it is none of all.
            inside = next((f for f in found if f[0][0] != path), None)
            yield from inside or [(path, " or ".join(dict.fromkeys(text for f in found for _, text in f)))]
        return
    if "enum" in form:
        if value not in form["enum"] or isinstance(value, bool):
            yield path, f"{value!r} is none of {', '.join(form['enum'])}"
        return
    kind: str = form["type"]
    has_kind: bool = isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
    if not has_kind:
        yield path, f"{value!r:.60} is not {CALLED[kind]}"
    elif kind == "object":
        yield from _table_problems(value, form, path)
    elif kind == "array":
        if len(value) < form.get("minItems", 0):
            yield path, "the list is empty"
        for at, one in enumerate(value):
            yield from check(one, form["items"], (*path, at))
    elif kind == "string":
        if len(value) < form.get("minLength", 0):
            yield path, "the word is empty"
        if not re.search(form.get("pattern", ""), value):
            yield path, f"{value!r} does not have the form {form['pattern']}"
    elif kind in ("integer", "number"):
        low, above = form.get("minimum"), form.get("exclusiveMinimum")
        if (low is not None and not value >= low) or (above is not None and not value > above):
            yield path, f"{value!r} is not {f'at least {low}' if low is not None else f'above {above}'}"


def _table_problems(value: dict[Any, Any], form: dict[str, Any], path: Path) -> Iterator[tuple[Path, str]]:
    known, others = form.get("properties", {}), form.get("additionalProperties")
    for key in form.get("required", ()):
        if key not in value:
            yield path, f"it has no {key}"
    for key, one in value.items():
        if key in known:
            yield from check(one, known[key], (*path, key))
        elif others:
            yield from check(one, others, (*path, str(key)))
        else:
            yield (*path, str(key)), f"there is no such key; known are {', '.join(known)}"


if __name__ == "__main__":
    print(json.dumps(SCHEMA, indent=1))
