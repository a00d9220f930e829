"""Numbers and types as people read them: in the page and in its Markdown twin."""

from __future__ import annotations

import re
from collections.abc import Sequence

TIMES = "\N{MULTIPLICATION SIGN}"
STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def share(part: float) -> str:
    """A part of 1 as a percentage; only all and nothing are told as 100% and 0%."""
    if part in (0, 1):
        return f"{part:.0%}"
    if not 0.001 <= part <= 0.999:
        return "<0.1%" if part < 0.001 else ">99.9%"
    return f"{part:.1%}"


def amount(number: float) -> str:
    """A large number, with three digits: 1.23 G."""
    size, unit = next(((size, unit) for size, unit in STEPS if number >= size), (1.0, ""))
    return f"{number / size:.3g} {unit}".strip()


def size(count: int) -> str:
    """A number of bytes."""
    return f"{amount(count)}B" if count >= 1000 else f"{count} B"


def error(number: float) -> str:
    """An error, with two digits."""
    return re.sub(r"e([-+])0+", r"e\1", f"{number:.2g}")


def counted(number: int, noun: str) -> str:
    """1 node, 2 nodes."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """a, b and c."""
    *before, last = items
    return f"{', '.join(before)} and {last}" if before else last


def shape(dims: Sequence[int]) -> str:
    """A shape; "?" where a dimension is dynamic."""
    return f" {TIMES} ".join("?" if d < 0 else str(d) for d in dims) or "scalar"
