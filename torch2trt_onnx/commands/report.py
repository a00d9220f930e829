"""The command `report`."""

from __future__ import annotations

from pathlib import Path

import click

from torch2trt_onnx.commands.exits import fail
from torch2trt_onnx.errors import ConversionError

NAME = "report.html"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help=f"Default: {NAME} in the folder, or beside the ONNX file."
)
@click.option(
    "--markdown", is_flag=True, help="The summary as Markdown, for a pull request; printed where there is no --output."
)
def report(file: Path, output: Path | None, *, markdown: bool) -> None:
    """Write what FILE is, a saved folder or an ONNX file, as one HTML page that opens without a network."""
    from torch2trt_onnx import page
    from torch2trt_onnx.inspection import read
    from torch2trt_onnx.page.markdown import summarize
    from torch2trt_onnx.result import disk_errors

    try:
        found = read(file)
        if markdown and output is None:
            click.echo(summarize(found))
            return
        target = output or (file if file.is_dir() else file.parent) / NAME
        with disk_errors(target):
            page.write(target, summarize(found) if markdown else page.render(found))
    except ConversionError as error:
        fail(error)
    click.echo(f"written to {target}")
