"""The command `explain`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from torch2trt_onnx.commands.exits import fail
from torch2trt_onnx.commands.inspect import FILE_HELP, PAGER
from torch2trt_onnx.errors import ConversionError


@click.command(epilog=FILE_HELP)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("node")
@click.option("--all", "every", is_flag=True, help="Of a module or a pattern each node in full.")
@click.option("--json", "as_json", is_flag=True, help="Each node in full, as plain data.")
@PAGER
def explain(file: Path, node: str, *, every: bool, as_json: bool, pager: bool) -> None:
    """Tell the whole story of a node of FILE: its source, weights, rules, plan, Casts, passes, engine layers and proof.

    NODE is the name of a node or a tensor, the path of a module, or a pattern of either as rules have it.
    """
    from torch2trt_onnx.explanation import Stories
    from torch2trt_onnx.inspection import read
    from torch2trt_onnx.views.screen import Screen
    from torch2trt_onnx.views.story import lines

    try:
        stories = Stories(read(file))
        found = stories.find(node)
    except ConversionError as error:
        fail(error)
    if as_json:
        told = [stories.tell(one).to_json() for one in found.nodes]
        click.echo(json.dumps({"asked": found.word, "kind": found.kind, "nodes": told}, indent=1))
        return
    screen = Screen.here()
    screen.put(lines(found, stories, screen, every=every), pager=pager)
