"""A plan as text for another tool, from what a report tells of the bindings and what the user adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch2trt_onnx.backends.layers import Binding
from torch2trt_onnx.errors import FlagError, InputError
from torch2trt_onnx.inputs import Input
from torch2trt_onnx.interop import polygraphy, trtexec
from torch2trt_onnx.interop.imported import Port
from torch2trt_onnx.plan import PrecisionPlan

TOOLS = ("trtexec", "polygraphy", "polygraphy-script")


def say(
    tool: str,
    plan: PrecisionPlan,
    bindings: Sequence[Binding],
    inputs: Sequence[Input] = (),
    *,
    model: str = "model.onnx",
    engine: str = "model.engine",
    script_path: str = "plan.py",
    tf32: bool = False,
    typing: str = "weak",
    version: str = "10",
    skip: bool = False,
) -> str:
    """A plan as a command line, quoted for a shell, or as a script.

    Args:
        tool: "trtexec", "polygraphy" (which runs the script that lies at `script_path`), or "polygraphy-script".
        plan: of the ONNX file.
        bindings: inputs and outputs, in the order of the network, as a report has them.
        inputs: by name, for dynamic shapes and formats that the bindings do not tell.
        model, engine, script_path: paths.
        tf32: whether fp32 products may run in TF32.
        typing: "weak" (8.6 to 10) or "strong" (from 9.1 on).
        version: of TensorRT, such as "8.6" or "10.13".
        skip: with trtexec leave out, with a warning, the layers whose names it cannot be told.

    Warns:
        ConversionWarning: what is not said of the plan.

    Raises:
        FlagError: no such tool, or one that cannot be told the plan.
        PrecisionError: that TensorRT cannot have the precisions.
        InputError: a shape that is not known, or an input that is not there.
    """
    if tool not in TOOLS:
        raise FlagError(f"{tool!r} is no tool", fix=f"use one of {', '.join(TOOLS)}")
    made = [Port.of(b) for b in bindings if b.mode == "Output"]
    if tool == "polygraphy-script":
        return polygraphy.script(plan, outputs=made)
    given = _given([b for b in bindings if b.mode == "Input"], inputs)
    if tool == "trtexec":
        flags = trtexec.write(
            plan,
            model=model,
            engine=engine,
            inputs=given,
            outputs=made,
            tf32=tf32,
            typing=typing,
            version=version,
            skip=skip,
        )
        return trtexec.text(flags)
    words = polygraphy.flags(
        plan, model=model, engine=engine, script_path=script_path, inputs=given, outputs=made, tf32=tf32, typing=typing, version=version
    )  # fmt: skip
    return polygraphy.text(words)


def _given(bindings: Sequence[Binding], inputs: Sequence[Input]) -> list[Port]:
    """What is known of each input.

    Raises:
        InputError: an input that the network has not, or a dynamic shape without a range.
    """
    told = {i.name: i for i in inputs}
    names = [b.name for b in bindings]
    strange = [name for name in told if name not in names]
    if strange:
        raise InputError(f"there is no input {strange[0]!r}", fix=f"the inputs are {', '.join(names)}")
    ports = []
    for binding in bindings:
        port = Port.of(binding)
        asked = told.get(binding.name)
        if asked is not None:
            kind = asked.dtype or port.dtype  # what channels_last is to TensorRT depends on it
            port = replace(Port.of(asked.bound_to(binding.name, kind) if kind else asked), dtype=port.dtype)
        if -1 in binding.dims and not port.profiles:
            raise InputError(
                f"the range of the shape {binding.dims} is not known",
                where=f"input {binding.name!r}",
                fix=f"give it with --input {binding.name}:MIN..OPT..MAX",
            )
        ports.append(port)
    return ports
