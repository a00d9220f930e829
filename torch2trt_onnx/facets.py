"""The parts of a report as plain data, of the selected nodes; `views` shows the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from torch2trt_onnx import tallies
from torch2trt_onnx.selection import Selection

PLAN = ("name", "op", "authored", "precision", "quantized", "origin", "kept_by", "reason")


def _layers(chosen: Selection) -> object:
    return [node.to_json() for node in chosen.nodes]


def _casts(chosen: Selection) -> object:
    return [node.to_json() for node in chosen.casts]


def _modules(chosen: Selection) -> object:
    return {path: asdict(tally) for path, tally in tallies.by_module(chosen.nodes).items()}


def _weights(chosen: Selection) -> object:
    return [{**vars(weight), "readers": chosen.readers[weight.name]} for weight in chosen.weights]


def _bindings(chosen: Selection) -> object:
    return [asdict(binding) for binding in chosen.report.bindings]


def _plan(chosen: Selection) -> object:
    return [{key: getattr(node.plan, key) for key in PLAN} for node in chosen.nodes]


def _engine(chosen: Selection) -> object:
    return [asdict(layer) for layer in chosen.layers]


def _stats(chosen: Selection) -> object:
    return tallies.stats(chosen.nodes, chosen.weights)


FACETS: dict[str, Callable[[Selection], object]] = {
    "layers": _layers,
    "casts": _casts,
    "precision": _modules,
    "weights": _weights,
    "bindings": _bindings,
    "plan": _plan,
    "engine": _engine,
    "stats": _stats,
}


def data(chosen: Selection, what: Iterable[str]) -> dict[str, Any]:
    """The parts that were asked for; the whole report, of the selected nodes, where none was."""
    found = {name: FACETS[name](chosen) for name in what}
    return found or {**chosen.report.to_json(), "nodes": _layers(chosen)}
