"""The command `torch2trt-onnx`: arguments in, tables and exit codes out; the work is done elsewhere.

Exit codes: 0 done; 1 the model could not be converted, or the file not read; 2 the command line is wrong; 3 the engine does not
prove the plan, where that was required; 4 converted and written, but the numbers differ from the model's beyond the tolerance, or `diff`
was asked to tell and found something; 5 some jobs of a batch went well, and some did not.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from torch2trt_onnx.commands.batch import batch
from torch2trt_onnx.commands.diff import diff
from torch2trt_onnx.commands.exits import DIFFERS, FAILED, UNPROVEN, fail
from torch2trt_onnx.commands.explain import explain
from torch2trt_onnx.commands.inspect import inspect
from torch2trt_onnx.commands.report import NAME as PAGE
from torch2trt_onnx.commands.report import report as report_command
from torch2trt_onnx.errors import ConversionError, ConversionWarning, InputError
from torch2trt_onnx.inputs import Input, Output

if TYPE_CHECKING:
    from torch2trt_onnx.limits import Limits
    from torch2trt_onnx.report import Report

WEIGHTLESS, FIDELITIES = ["inherit", "fp32", "free"], ["tensorrt", "pytorch"]
POLICIES = ["source", "auto"]
BACKENDS = ["rtx", "tensorrt", "tensorrt-strong", "tensorrt-weak", "none"]
FOLDER = click.Path(path_type=Path, file_okay=False)
INPUT_HELP = (
    "An input, once for each: x:1x3x224x224, ids:1x8..1x64..4x128:int64 (min..opt..max; several profiles with commas), "
    "img:1x3x32x32:float16:channels_last, size:2:int64:values=8x8..32x32..64x64 (a shape tensor)."
)
OUTPUT_HELP = "The type or format of an output, where the model's is not wanted: logits:float16, mask:uint8:HWC."

POLICY_HELP = "Who decides: auto lowers what the author did not type, where it is safe. Default: source, or auto where nothing is typed."
ERROR_HELP = (
    "How far outputs may be from fp32, by their largest value or cosine: 1e-2, logits:1e-2, logits:cosine:1e-3."
)


class Parsed(click.ParamType[Any]):
    """A value that a class reads from text; what it refuses is a usage error.

    Args:
        kind: the class, with `parse`.
        name: the form of the text, for the help.
    """

    def __init__(self, kind: type[Input] | type[Output], name: str) -> None:
        self.kind, self.name = kind, name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse, or fail as a usage error."""
        try:
            return value if isinstance(value, self.kind) else self.kind.parse(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


INPUT = Parsed(Input, "NAME:SHAPE[:DTYPE][:FORMAT]")
OUTPUT = Parsed(Output, "NAME[:DTYPE][:FORMAT]")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="torch2trt_onnx")
def main() -> None:
    """Convert PyTorch models to TensorRT, in the precisions that their authors chose.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the engine does not prove the plan, where that was required; 4 converted, but the numbers
    differ beyond the tolerance, or diff was asked to tell and found something; 5 some jobs of a batch went well, and some did not.
    """


def _asking(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say what is asked of the precisions, which `convert` and `plan` share."""
    options = [
        click.argument("model", type=click.Path(path_type=Path)),
        click.option("-i", "--input", "inputs", type=INPUT, multiple=True, help=INPUT_HELP),
        click.option(
            "-p", "--precisions", help="What the engine may use, such as fp32,fp16. Default: as the model is typed."
        ),
        click.option("--strict", is_flag=True, help="The precisions are exact, and the engine must prove each node's."),
        click.option(
            "--flags", help="A command line of trtexec or Polygraphy, or a file that holds one: what it asks for."
        ),
        click.option("--rules", type=click.Path(path_type=Path), help="A TOML file of precisions for single nodes."),
        click.option("--policy", type=click.Choice(POLICIES), help=POLICY_HELP),
        click.option(
            "--calibration",
            type=click.Path(path_type=Path),
            help="An .npz of real inputs, or a folder of them, to measure ranges and errors on. Default: random numbers.",
        ),
        click.option("--no-calibration", is_flag=True, help="Measure nothing; judge by the weights alone."),
        click.option("--max-error", "limits", multiple=True, help=ERROR_HELP),
        click.option(
            "--weightless",
            type=click.Choice(WEIGHTLESS),
            default="inherit",
            show_default=True,
            help="Nodes without weights: as the model types them, fp32, or what moves the fewest bytes.",
        ),
        click.option(
            "--fidelity",
            type=click.Choice(FIDELITIES),
            default="tensorrt",
            show_default=True,
            help="pytorch: Casts make nodes compute in fp32 inside where PyTorch does.",
        ),
        click.option(
            "--exporter", type=click.Choice(["torchscript", "dynamo"]), default="torchscript", show_default=True
        ),
        click.option("--opset", type=int, help="Default: 20, or 22 with bf16."),
        click.option(
            "--compute-capability", "capabilities", multiple=True, help="A GPU, repeatable. Default: 8.9 and 12.0."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_asking
@click.option("-o", "--output", type=FOLDER, required=True, help="For model.onnx, model.engine and report.json.")
@click.option(
    "--require-proof", is_flag=True, help="Exit with 3 where the engine does not prove each node's precision."
)
@click.option("--output-binding", "outputs", type=OUTPUT, multiple=True, help=OUTPUT_HELP)
@click.option("--backend", type=click.Choice(BACKENDS), help="none stops at the ONNX file. Default: what is installed.")
@click.option("--cache", type=FOLDER, help="A folder of earlier conversions: what was made before is taken from it.")
@click.option(
    "--keep-stages", type=FOLDER, help="Also write the graph before and after each pass, to this folder and OUT/stages."
)
@click.option("--tf32", is_flag=True, help="Let fp32 matrix products run in TF32.")
@click.option("--timeout", type=float, default=3600.0, show_default=True, help="Of the build, in seconds.")
@click.option("--memory-limit", type=float, help="Of the build, in GiB. Default: nine tenths of what is free.")
@click.option("--no-compare", is_flag=True, help="Do not run the graph in ONNX Runtime.")
@click.option("--tolerance", type=float, help="Of |a - b| / (1 + |b|). Default: fp32 1e-4, fp16 6e-3, bf16 4e-2.")
@click.option("--html", is_flag=True, help=f"Also write the report as a page, {PAGE}; see the command report.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def convert(**given: Any) -> None:
    """Convert MODEL, a TorchScript or ONNX file, and write the result to a folder."""
    from torch2trt_onnx import page
    from torch2trt_onnx.conversion import convert as run
    from torch2trt_onnx.options import Options
    from torch2trt_onnx.result import disk_errors
    from torch2trt_onnx.views.show import show

    try:
        _take_flags(given)
        limit = given["memory_limit"]
        options = Options(
            exporter=given["exporter"],
            opset=given["opset"],
            compute_capabilities=given["capabilities"] or Options.compute_capabilities,
            tf32=given["tf32"],
            timeout=given["timeout"],
            memory_limit=int(limit * 2**30) if limit else None,
            compare=not given["no_compare"],
            tolerance=given["tolerance"],
        )
        with _Progress() as progress, warnings.catch_warnings():
            warnings.simplefilter("ignore", ConversionWarning)  # they stand in the report
            conversion = run(
                given["model"],
                list(given["inputs"] or []) or None,
                given["precisions"],
                **{key: given[key] for key in ("strict", "rules", "weightless", "fidelity", "policy")},
                calibration=_calibration(given),
                max_error=_limits(given),
                outputs=list(given["outputs"] or []),
                backend=given["backend"],
                options=options,
                cache=given["cache"],
                progress=progress,
                keep_stages=given["keep_stages"],
            )
            folder = conversion.save(given["output"])
            if given["html"]:
                with disk_errors(folder):
                    page.write(folder / PAGE, page.render(conversion.report))
    except ConversionError as error:
        fail(error)
    report = conversion.report
    if given["as_json"]:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        show(report, ("layers",))
        click.echo(f"written to {given['output']}")
    if given["require_proof"]:
        _require_proof(report)
    if report.comparison is not None and report.comparison.made and not report.comparison.ok:
        sys.exit(DIFFERS)


@main.command()
@_asking
@click.option(
    "--weak", is_flag=True, help="As for a weakly typed TensorRT (8.6 to 10), which chooses where the model is silent."
)
@click.option("--dry-run", is_flag=True, help="List the rules only, and the nodes that each one matches.")
@click.option("--json", "as_json", is_flag=True)
def plan(**given: Any) -> None:
    """Show which precision each node of MODEL would run in, and why. Nothing is built or written."""
    from torch2trt_onnx.options import Options
    from torch2trt_onnx.plan import Asked
    from torch2trt_onnx.precision import parse_precisions
    from torch2trt_onnx.preview import preview
    from torch2trt_onnx.rules import parse_rules
    from torch2trt_onnx.tables import previewed

    options = Options(
        exporter=given["exporter"],
        opset=given["opset"],
        compute_capabilities=given["capabilities"] or Options.compute_capabilities,
    )
    try:
        _take_flags(given)
        asked = Asked(
            parse_precisions(given["precisions"]),
            given["strict"],
            given["policy"],
            rules=parse_rules(given["rules"]),
            weightless=given["weightless"],
            fidelity=given["fidelity"],
        )
        inputs, data, limits = list(given["inputs"] or []) or None, _calibration(given), _limits(given)
        found = preview(given["model"], inputs, asked, options, weak=given["weak"], calibration=data, limits=limits)
    except ConversionError as error:
        fail(error)
    if given["as_json"]:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        previewed(found, nodes=not given["dry_run"])
    if found.refusal is not None:
        fail(found.refusal)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-i", "--input", "inputs", type=INPUT, multiple=True, help=INPUT_HELP)
@click.option("-p", "--precision", type=click.Choice(["fp16", "bf16"]), default="fp16", show_default=True)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="An .npz of real inputs, or a folder of them. Default: random.",
)
@click.option("--tolerance", type=float, help="Of the largest |a - b| of a tensor by its largest |b|. Default: 0.05.")
@click.option("--exporter", type=click.Choice(["torchscript", "dynamo"]), default="torchscript", show_default=True)
@click.option("--opset", type=int, help="Default: 20, or 22 with bf16.")
@click.option("--json", "as_json", is_flag=True)
def debug(model: Path, inputs: tuple[Input, ...], as_json: bool, **given: Any) -> None:
    """Find the first node of MODEL that goes wrong in a reduced precision and not in fp32.

    MODEL is a TorchScript or ONNX file, or a saved folder. Exit with 0 where nothing is wrong, else with 4.
    """
    from torch2trt_onnx.diagnosis import NOTHING, TOLERANCE
    from torch2trt_onnx.diagnosis import debug as run
    from torch2trt_onnx.options import Options
    from torch2trt_onnx.tables import diagnosed

    try:
        found = run(
            model,
            list(inputs) or None,
            precision=given["precision"],
            calibration=given["calibration"],
            tolerance=given["tolerance"] if given["tolerance"] is not None else TOLERANCE,
            options=Options(exporter=given["exporter"], opset=given["opset"]),
        )
    except ConversionError as error:
        fail(error)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        diagnosed(found)
    if found.verdict != NOTHING:
        sys.exit(DIFFERS)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--for", "tool", type=click.Choice(["trtexec", "polygraphy", "polygraphy-script"]), required=True)
@click.option("-i", "--input", "inputs", type=INPUT, multiple=True, help=INPUT_HELP)
@click.option("--typing", type=click.Choice(["weak", "strong"]), default="weak", show_default=True)
@click.option(
    "--tensorrt-version", "version", default="10", show_default=True, help="Of the device, such as 8.6 or 11."
)
@click.option("--tf32", is_flag=True, help="Let fp32 matrix products run in TF32.")
@click.option("--skip", is_flag=True, help="Leave out layers whose names trtexec cannot be told.")
def flags(file: Path, tool: str, inputs: tuple[Input, ...], **how: Any) -> None:
    """Print FILE's plan, an ONNX file or a saved folder, as a command line of trtexec or Polygraphy, or as its script."""
    from torch2trt_onnx.inspection import read
    from torch2trt_onnx.interop import say

    model = file / "model.onnx" if file.is_dir() else file
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", ConversionWarning)
            report = read(file)
            how |= {"model": str(model), "engine": str(model.with_suffix(".engine"))}
            text = say(tool, report.plan, report.bindings, inputs, **how)
    except ConversionError as error:
        fail(error)
    for note in notes:
        click.echo(f"warning: {note.message}", err=True)
    click.echo(text)


def _calibration(given: Mapping[str, Any]) -> Path | bool | None:
    """What `--calibration` and `--no-calibration` say."""
    if given["calibration"] is not None and given["no_calibration"]:
        raise click.UsageError("--calibration and --no-calibration exclude each other")
    return False if given["no_calibration"] else given["calibration"]


def _limits(given: Mapping[str, Any]) -> Limits | None:
    """What `--max-error` says."""
    from torch2trt_onnx.limits import Limits

    return Limits.parse(given["limits"]) if given["limits"] else None


def _take_flags(given: dict[str, Any]) -> None:
    """Put what `--flags` asks for among the options; those on the command line win, and their rules come last."""
    text = given.pop("flags")
    if text is None:
        return
    from torch2trt_onnx.inspection import declared_bindings
    from torch2trt_onnx.interop import read
    from torch2trt_onnx.rules import parse_rules

    found = read(Path(text) if os.path.isfile(text) else text)  # noqa: PTH113 - may be longer than a path can be
    said = found.arguments(*declared_bindings(given["model"]))
    for key in ("precisions", "inputs", "outputs"):
        if key in given:
            given[key] = given[key] or said[key]
    given["strict"] = given["strict"] or said["strict"]
    given["rules"] = (*said["rules"], *parse_rules(given["rules"]))
    if "tf32" in given:
        given["tf32"] = given["tf32"] or found.tf32
    if found.typing and "backend" in given:
        given["backend"] = given["backend"] or f"tensorrt-{found.typing}"
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if found.ignored:
        click.echo(f"note: these flags are passed over: {' '.join(found.ignored)}", err=True)


@main.command()
@click.argument("folder", type=FOLDER)
@click.option("--device", help="A compute capability, such as 8.9. Default: that of the GPU, where there is one.")
@click.option("--json", "as_json", is_flag=True)
def check(folder: Path, device: str | None, as_json: bool) -> None:
    """Check a saved FOLDER against its manifest: files, hashes, TensorRT's version, GPU. Exit with 1 where something does not fit."""
    from torch2trt_onnx.backends import own_capability
    from torch2trt_onnx.manifest import Manifest

    try:
        manifest = Manifest.read(folder)
        device = device or next(iter(own_capability()), None)
        if as_json:
            found = manifest.mismatches(folder, device=device, every=True)
            click.echo(json.dumps([vars(mismatch) for mismatch in found], indent=1))
            sys.exit(FAILED if found else 0)
        manifest.check(folder, device=device, every=True)
    except ConversionError as error:
        fail(error)
    gpu = f"GPU {device}" if device else "no GPU was asked"
    click.echo(f"{folder}: {len(manifest.files)} files are as they were saved, and fit what is here ({gpu})")


@main.command()
@click.option("--json", "as_json", is_flag=True)
def doctor(as_json: bool) -> None:
    """Show what is installed, and what can be built."""
    from torch2trt_onnx.inspection import diagnose

    found = diagnose()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for name, text in found.items():
        click.echo(f"{name:<24} {text}")


def _require_proof(report: Report) -> None:
    """End with an exit code of its own where the engine does not prove the plan."""
    unproven = report.unproven()
    if not report.backend:
        click.echo("error: there is no engine, and so no proof; build one, with --backend rtx", err=True)
        sys.exit(UNPROVEN)
    for node in unproven:
        click.echo(
            f"error: {node.plan.op} {node.plan.name!r}, planned {node.plan.runs_in}, is {node.verdict}: {node.evidence}",
            err=True,
        )
    if unproven:
        sys.exit(UNPROVEN)


class _Progress:
    """How far a conversion is: a bar on a terminal, a line a step elsewhere. On standard error, so that output can be piped."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._last = ""
        if sys.stderr.isatty():
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)

    def __enter__(self) -> _Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Tell of a phase, or of a step in it."""
        phase, step, steps = str(event["phase"]), int(event["step"]), int(event["steps"])
        if self._bar is not None:
            self._bar.update(self._task, description=phase, completed=step, total=steps or None)
        elif phase != self._last and not steps:
            click.echo(phase, err=True)
        self._last = phase


main.add_command(batch)
main.add_command(diff)
main.add_command(inspect)
main.add_command(explain)
main.add_command(report_command)

if __name__ == "__main__":
    main()
