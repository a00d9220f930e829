"""The command `inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from torch2trt_onnx.commands.exits import fail
from torch2trt_onnx.errors import ConversionError

if TYPE_CHECKING:
    from torch2trt_onnx.selection import Only

SHOWN = ["layers", "casts", "precision", "weights", "bindings", "plan", "engine", "stats"]
DEFAULT, ALONE = ("bindings", "layers", "casts"), ("bindings", "engine")
"""What is shown where nothing is asked for; of an engine alone, whose nodes nobody knows, the latter."""
ORDERS = ["order", "name", "op", "precision", "module", "work", "bytes"]
FILE_HELP = "FILE is an ONNX file or a stage, a saved folder or the engine in one; or an engine alone, on the GPU that it was built for."
ONLY_HELP = (
    "Of the nodes these: FIELD is name, module, op or precision. Of a field any, of several all must match; repeatable."
)
PAGER = click.option("--pager/--no-pager", default=True, help="On a terminal, for what is longer than it. Default: on.")


def _conditions(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[Only]:
    """The conditions; what cannot be read is a usage error."""
    from torch2trt_onnx.selection import Only

    try:
        return [Only.parse(text) for text in texts]
    except ConversionError as error:
        raise click.BadParameter(str(error)) from None


@click.command(epilog=FILE_HELP)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--show", "what", type=click.Choice(SHOWN), multiple=True, help="Repeatable. Default: " + ", ".join(DEFAULT)
)
@click.option("--only", multiple=True, metavar="FIELD=GLOB", callback=_conditions, help=ONLY_HELP)
@click.option("--sort", "order", type=click.Choice(ORDERS), default="order", help="Default: as in the graph.")
@click.option("--all", "every", is_flag=True, help="Also nodes that compute with no float.")
@click.option("--json", "as_json", is_flag=True, help="The whole report, or what --show names.")
@PAGER
def inspect(file: Path, what: tuple[str, ...], only: list[Only], **how: Any) -> None:
    """Show what FILE is: its nodes with their precisions and where those come from, Casts, weights, bindings, engine.

    On a terminal long names lose their middle; in a pipe or a file each node is one whole line.
    """
    from torch2trt_onnx import facets
    from torch2trt_onnx.inspection import read
    from torch2trt_onnx.selection import select
    from torch2trt_onnx.views.screen import Screen
    from torch2trt_onnx.views.show import lines

    try:
        chosen = select(read(file), only, how["order"], every=how["every"] or how["as_json"])
    except ConversionError as error:
        fail(error)
    if how["as_json"]:
        click.echo(json.dumps(facets.data(chosen, what), indent=1))
        return
    screen = Screen.here()
    default = DEFAULT if chosen.report.nodes else ALONE
    screen.put(lines(chosen, what or default, screen), pager=how["pager"])
