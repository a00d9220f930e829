"""How a command ends where it cannot do what was asked."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from torch2trt_onnx.errors import ConversionError, ProofError

FAILED, UNPROVEN, DIFFERS = 1, 3, 4
"""Exit codes; see `cli`."""


def fail(error: ConversionError) -> NoReturn:
    """Say what failed, and end."""
    click.echo(f"error: {error}", err=True)
    sys.exit(UNPROVEN if isinstance(error, ProofError) else FAILED)
