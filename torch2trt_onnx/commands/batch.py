"""The command `batch`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from torch2trt_onnx.commands.exits import FAILED, fail
from torch2trt_onnx.errors import ConversionError
from torch2trt_onnx.views.columns import Listing
from torch2trt_onnx.views.screen import Screen

if TYPE_CHECKING:
    from torch2trt_onnx.batch.job import Job
    from torch2trt_onnx.batch.request import Batch
    from torch2trt_onnx.batch.result import Summary

EXITS = (
    "Exit codes: 0 all jobs went well; 1 none did, or the manifest is wrong, or the results cannot be written; 2 wrong usage; "
    "5 some went well, and some did not."
)


@click.command(epilog=EXITS)
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the results. It may hold earlier ones.",
)
@click.option("--check", is_flag=True, help="Only read the manifest, and tell all that is wrong with it.")
@click.option("--dry-run", is_flag=True, help="Only list the jobs.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="How many at a time. Default: by cores and free memory.")
@click.option("--only", metavar="GLOB", help="Only jobs of such names.")
@click.option("--retry-failed", is_flag=True, help="Also try jobs again that failed, and would so again.")
@click.option("--cluster", metavar="ADDRESS", help="Have the workers of a Dask scheduler do the jobs: tcp://host:8786.")
@click.option(
    "--exchange",
    metavar="URL",
    help="For workers that do not see these files: a place that fsspec reaches from here and there, such as s3://bucket/batch.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print each event as a line of JSON, and the summary as the last one."
)
def batch(manifest: Path, output: Path | None, **given: Any) -> None:
    """Convert all models of MANIFEST, a TOML or YAML file, each in a process of its own.

    What was done before is not done again. After Ctrl-C, a crash or a full disk the same command goes on.
    """
    from torch2trt_onnx.batch import batch as run
    from torch2trt_onnx.batch.request import read
    from torch2trt_onnx.batch.watch import watch

    try:
        found = read(manifest)
        wanted = found.called(given["only"])
        if not wanted and found.jobs:
            raise click.UsageError(
                f"no job is called like {given['only']!r}: {', '.join(job.name for job in found.jobs[:5])}, ..."
            )
        if given["check"]:
            _check(found, as_json=given["as_json"])
        if given["dry_run"]:
            _list(wanted, as_json=given["as_json"])
        if given["check"] or given["dry_run"]:
            return
        if output is None:
            raise click.UsageError("give the folder of the results: -o FOLDER")
        how = {name: given[name] for name in ("jobs", "cluster", "exchange", "retry_failed", "only")}
        with watch(as_json=given["as_json"]) as on_event:
            summary = run(found, output, on_event=on_event, **how)
    except ConversionError as error:
        fail(error)
    if given["as_json"]:
        told = {"counts": summary.counts, "seconds": round(summary.seconds, 3), "interrupted": summary.interrupted}
        click.echo(json.dumps({"event": "summary", **told, "notes": list(summary.notes), "code": summary.code}))
    else:
        _show(summary, output)
    sys.exit(summary.code)


def _check(found: Batch, *, as_json: bool) -> None:
    """Tell what would go wrong, and end where something would."""
    from torch2trt_onnx.page.words import counted

    problems = found.problems()
    if as_json:
        click.echo(json.dumps({"jobs": len(found.jobs), "problems": problems}, indent=1))
    else:
        for problem in problems:
            click.echo(f"error: {problem}", err=True)
        click.echo(f"{found.path}: {counted(len(found.jobs), 'job')}, {counted(len(problems), 'problem')}")
    if problems:
        sys.exit(FAILED)


def _list(jobs: Sequence[Job], *, as_json: bool) -> None:
    """The jobs, one a line."""
    from torch2trt_onnx.page.words import counted

    if as_json:
        click.echo(json.dumps([job.to_json() for job in jobs], indent=1))
        return
    rows = [(job.name, job.model, job.backend or "", ",".join(job.precisions), " ".join(job.inputs)) for job in jobs]
    screen = Screen.here()
    listing = Listing(counted(len(jobs), "job"), ("job", "model", "back end", "precisions", "inputs"), rows)
    screen.put(listing.lines(screen.width, colour=screen.colour), pager=True)


def _show(summary: Summary, output: Path) -> None:
    from torch2trt_onnx.batch import overview, table

    screen = Screen.here()
    screen.put(table.lines(summary, screen), pager=False)
    if (page := output / overview.NAME).is_file():
        click.echo(f"overview: {page}")
    for note in summary.notes:
        click.echo(f"note: {note}", err=True)
    if summary.interrupted:
        click.echo("stopped; the same command goes on with what is left", err=True)
    elif any(not result.ok and result.is_final for result in summary.results):
        click.echo(
            "what failed for good is not tried again, unless something of it changes, or with --retry-failed", err=True
        )
