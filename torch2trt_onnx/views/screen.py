"""Where lines go: a terminal of some size, or a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import click
from rich.console import Console

LONG = 100_000
"""Columns, more than any line has."""


@dataclass(frozen=True)
class Screen:
    """Standard output.

    Args:
        width: of the terminal; None: it is none, and lines are as long as they are.
        height: likewise.
        colour: whether it has colours.
    """

    width: int | None = None
    height: int | None = None
    colour: bool = False

    @classmethod
    def here(cls) -> Screen:
        """Standard output as it is now; see rich on FORCE_COLOR, NO_COLOR and COLUMNS."""
        console = Console()
        return cls(console.width, console.height, not console.no_color) if console.is_terminal else cls()

    def drawn(self, draw: Callable[[Console], object]) -> list[str]:
        """What is printed on a console of rich's, as lines."""
        console = Console(width=self.width or LONG, force_terminal=self.colour, no_color=not self.colour)
        with console.capture() as captured:
            draw(console)
        return [line.rstrip() for line in captured.get().splitlines()]

    def put(self, lines: Iterable[str], *, pager: bool) -> None:
        """Print lines.

        Args:
            lines: without their ends.
            pager: whether what is longer than the terminal goes through one.
        """
        found = list(lines)
        text = "\n".join(found) + "\n"
        if pager and self.height is not None and len(found) > self.height:
            click.echo_via_pager(text, color=self.colour)
        else:
            click.echo(text, nl=False, color=self.colour)
