"""What a job says, as `convert` takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch2trt_onnx.batch.job import Job
from torch2trt_onnx.inputs import Input, Output
from torch2trt_onnx.limits import Limits
from torch2trt_onnx.options import Options
from torch2trt_onnx.plan import Asked
from torch2trt_onnx.precision import parse_precisions
from torch2trt_onnx.rules import parse_rules

OPTIONS = ("exporter", "opset", "tf32", "compare", "tolerance")
"""Of `Options`, what a job can set."""

ARGUMENTS = ("strict", "weightless", "fidelity")
"""Of `convert`, likewise."""


def arguments(job: Job) -> dict[str, Any]:
    """The arguments of `convert`, but for the model. Limits of the build are left wide: those of the job are kept from outside.

    Raises:
        ConversionError: a word is wrong, or the file of rules cannot be read.
    """
    asked = asking(job)
    return {
        "inputs": [Input.parse(word) for word in job.inputs] or None,
        "precisions": asked.precisions,
        "policy": asked.policy,
        "rules": asked.rules,
        **{name: getattr(asked, name) for name in ARGUMENTS},
        "outputs": [Output.parse(word) for word in job.outputs],
        "calibration": Path(job.calibration) if isinstance(job.calibration, str) else job.calibration,
        "max_error": Limits.parse(job.max_error) if job.max_error else None,
        "backend": job.backend,
        "options": Options(
            **{name: value for name, value in job.options.items() if name in OPTIONS},
            compute_capabilities=job.compute_capabilities or Options.compute_capabilities,
            timeout=2 * job.timeout,
            memory_limit=2 * job.memory if job.memory else None,
        ),
    }


def asking(job: Job) -> Asked:
    """What a job asks of the precisions.

    Raises:
        ConversionError: a word is wrong, or the file of rules cannot be read.
    """
    return Asked(
        parse_precisions(job.precisions or None),
        policy=job.policy,
        rules=parse_rules(job.rules),
        **{name: value for name, value in job.options.items() if name in ARGUMENTS},
    )


TRIALS: dict[str, Callable[[Job], object]] = {
    "inputs": lambda job: [Input.parse(word) for word in job.inputs],
    "outputs": lambda job: [Output.parse(word) for word in job.outputs],
    "max_error": lambda job: Limits.parse(job.max_error) if job.max_error else None,
    "rules": lambda job: parse_rules(job.rules) if not isinstance(job.rules, str) else None,
    "precisions": lambda job: asking(replace(job, rules=None)),
}
"""By key of a manifest what reads its words, and refuses those that are wrong. Files are not read."""
