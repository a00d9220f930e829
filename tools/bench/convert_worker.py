"""One conversion from fp32 to mixed fp16 by one tool, in a process of its own, in that tool's environment.

    PYTHON tools/bench/convert_worker.py TOOL MODEL_FOLDER OUT.onnx

Prints a JSON object: `seconds` and `cpu` of the conversion (from a file to a file), `import` seconds before it, `peak` bytes of resident
memory with all imports, `versions`, and `error` where it failed: the last line of the exception. Needs nothing but the tool.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

Convert = Callable[[], Any]
"""Makes the file. What it returns is told beside the rest."""

Start = Callable[[Path, Path], Convert]
"""Imports a tool; from the folder of a model and the path to write."""


def autocast(folder: Path, out: Path, *, calibrated: bool = True) -> Convert:
    """NVIDIA ModelOpt AutoCast. A single .npz cannot hold the 0-d inputs of some models, so it is given the folder of them."""
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision  # type: ignore[import-not-found]

    data = str(folder / "calibration") if calibrated else None

    def convert() -> None:
        model = convert_to_mixed_precision(
            str(folder / "model.onnx"), low_precision_type="fp16", keep_io_types=True, calibration_data=data
        )
        onnx.save(model, out)

    return convert


def autocast_random(folder: Path, out: Path) -> Convert:
    """The same, with the random numbers that it calibrates with by itself."""
    return autocast(folder, out, calibrated=False)


def ort(folder: Path, out: Path) -> Convert:
    """ONNX Runtime's float16. Given a path it infers shapes itself, as it says it should; what saves the model puts the nodes in order."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    def convert() -> None:
        OnnxModel(convert_float_to_float16(str(folder / "model.onnx"), keep_io_types=True)).save_model_to_file(str(out))

    return convert


def common(folder: Path, out: Path) -> Convert:
    """onnxconverter-common's float16."""
    import onnx
    from onnxconverter_common.float16 import convert_float_to_float16  # type: ignore[import-not-found]

    def convert() -> None:
        onnx.save(convert_float_to_float16(onnx.load(folder / "model.onnx"), keep_io_types=True), out)

    return convert


def polygraphy(folder: Path, out: Path) -> Convert:
    """`polygraphy convert --fp-to-fp16`, run inside this process."""
    from polygraphy.tools import main

    def convert() -> None:
        words = ["convert", str(folder / "model.onnx"), "--fp-to-fp16", "--convert-to", "onnx", "-o", str(out)]
        sys.argv = ["polygraphy", *words]
        try:
            main()
        except SystemExit as left:
            if left.code:
                raise RuntimeError(f"polygraphy exits with {left.code}") from left

    return convert


def ours(folder: Path, out: Path, *, data: object = "calibration", static: bool = False) -> Convert:
    """This project, with the inputs that calibrate the others.

    Args:
        folder: of the model.
        out: the file to write.
        data: what calibrates it: the name of a folder in that one, None for random numbers, False for nothing.
        static: whether to convert for the usual shapes alone.
    """
    from torch2trt_onnx import Input, Options, convert

    ranges = json.loads((folder / "meta.json").read_text())["ranges"]
    inputs = {
        name: Input(usual, name=name) if static else Input(min_shape=least, opt_shape=usual, max_shape=most, name=name)
        for name, (least, usual, most) in ranges.items()
    }

    def run() -> dict[str, Any]:
        conversion = convert(
            str(folder / "model.onnx"),
            inputs,
            {"fp32", "fp16"},
            policy="auto",
            calibration=folder / data if isinstance(data, str) else data,
            backend="none",
            options=Options(compare=False),
        )
        conversion.save(out.parent)
        (out.parent / "model.onnx").rename(out)
        kept = [[n.name, n.op, n.reason] for n in conversion.plan.nodes if n.kept_by]
        return {"kept": kept, "steps": conversion.report.seconds}

    return run


def ours_random(folder: Path, out: Path) -> Convert:
    """The same, without inputs: it draws random numbers."""
    return ours(folder, out, data=None)


def ours_unmeasured(folder: Path, out: Path) -> Convert:
    """The same, measuring nothing."""
    return ours(folder, out, data=False)


def ours_static(folder: Path, out: Path) -> Convert:
    """With inputs, for the usual shapes alone."""
    return ours(folder, out, static=True)


TOOLS: dict[str, Start] = {
    f.__name__: f
    for f in (autocast, autocast_random, ort, common, polygraphy, ours, ours_random, ours_unmeasured, ours_static)
}
PACKAGES = ("nvidia-modelopt", "onnx", "onnxruntime", "onnxconverter-common", "polygraphy", "torch2trt_onnx", "numpy")


def main() -> None:
    """Convert, and tell."""
    tool, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    told: dict[str, Any] = {}
    channel = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        start = time.perf_counter()
        try:
            convert = TOOLS[tool](folder, out)
            told["import"] = time.perf_counter() - start
            start, spent = time.perf_counter(), cpu()
            told["result"] = convert()
            told |= {"seconds": time.perf_counter() - start, "cpu": cpu() - spent}
        except BaseException as error:  # whatever a tool raises, SystemExit and errors of its own included
            traceback.print_exc()
            told["error"] = line(error)
    told |= {"peak": peak(), "versions": versions()}
    channel.write(json.dumps(told))


def line(error: BaseException) -> str:
    """An exception in one line: its kind, the last line of what it says, and the function that raised it."""
    said = [text.strip() for text in str(error).splitlines() if text.strip()]
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"{type(error).__name__}: {said[-1][:250] if said else ''} (in {frames[-1].name if frames else 'no function'})"
    )


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak() -> int:
    """The largest resident memory, in bytes. Not ru_maxrss: that lives on from the parent through exec."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def versions() -> dict[str, str]:
    """Of the packages that matter, where they are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


if __name__ == "__main__":
    main()
