"""The command `diff`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from torch2trt_onnx.commands.exits import DIFFERS, fail
from torch2trt_onnx.errors import ConversionError

MODEL_HELP = (
    "A and B are ONNX files or saved folders; of the stages that --keep-stages wrote, a number or the name of a pass will do: "
    "out/stages/00 out/stages/Retype. Between two stages of one conversion each line tells the pass that did it, and why."
)


@click.command(epilog=MODEL_HELP)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True)
@click.option("--exit-code", is_flag=True, help="Exit with 4 where anything differs.")
@click.option("--pager/--no-pager", default=True, help="On a terminal, for what is longer than it. Default: --pager.")
def diff(a: Path, b: Path, *, as_json: bool, exit_code: bool, pager: bool) -> None:
    """Show what differs from A to B: nodes, Casts, types, plans, weights, and how much moved from one precision to another."""
    from torch2trt_onnx.graph import paused_gc
    from torch2trt_onnx.reasons import difference
    from torch2trt_onnx.views.difference import lines
    from torch2trt_onnx.views.screen import Screen

    with paused_gc():
        try:
            found = difference(a, b)
        except ConversionError as error:
            fail(error)
        if as_json:
            click.echo(json.dumps(found.to_json(), indent=1))
        else:
            screen = Screen.here()
            screen.put(lines(found, screen), pager=pager)
    if exit_code and found.lines:
        sys.exit(DIFFERS)
