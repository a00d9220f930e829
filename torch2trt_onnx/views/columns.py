"""Words in aligned columns, each row one line: cut to a terminal's width, or whole for a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.style import Style

GAP = "  "
NARROW = 4  # a column is not cut further
LEGIBLE, PROSE = 32, 24  # a name, or the last column, that is cut further than this tells too little
DOTS = "…"


@dataclass(frozen=True)
class Styled:
    """Text with a style of rich's."""

    text: str
    style: str


Cell = str | Styled
Row = Sequence[Cell]


@dataclass(frozen=True)
class Listing:
    """A table.

    Args:
        title: above it.
        heads: of the columns.
        rows: as many cells each.
        numbers: the heads of the columns that are aligned to the right.
        spare: the heads of those that a narrow terminal does without, the first one first.
    """

    title: str
    heads: tuple[str, ...]
    rows: Sequence[Row]
    numbers: frozenset[str] = frozenset()
    spare: tuple[str, ...] = ()

    def lines(self, width: int | None, *, colour: bool) -> Iterator[str]:
        """The title, the heads, and a line a row.

        Args:
            width: of the terminal: what is too long loses its middle; None: all is told in full.
            colour: whether there are styles.
        """
        columns = [[_plain(cell) for cell in column] for column in zip(self.heads, *self.rows, strict=True)]
        widths = {head: max(map(cell_len, column)) for head, column in zip(self.heads, columns, strict=True)}
        if width is not None:
            widths = self._fitted(widths, width)
        yield _styled(self.title if width is None else shortened(self.title, width), "bold", colour)
        styles = [["dim"] * len(self.heads), *([_style(cell) for cell in row] for row in self.rows)]
        for words, kinds in zip(zip(*columns, strict=True), styles, strict=True):
            cells = zip(self.heads, words, kinds, strict=True)
            shown = (self._cell(head, word, kind, widths[head], colour) for head, word, kind in cells if head in widths)
            yield GAP.join(shown).rstrip()

    def _fitted(self, widths: dict[str, int], width: int) -> dict[str, int]:
        """The widths of the columns that a terminal has room for."""
        kept, spare = dict(widths), list(self.spare)
        while True:
            found = _fitting(list(kept.values()), width - len(GAP) * (len(kept) - 1))
            least = [LEGIBLE] * (len(kept) - 1) + [PROSE]
            fits = all(now >= min(need, whole) for now, need, whole in zip(found, least, kept.values(), strict=True))
            if fits or not spare:
                return dict(zip(kept, found, strict=True))
            del kept[spare.pop(0)]

    def _cell(self, head: str, word: str, style: str, width: int, colour: bool) -> str:
        text = shortened(word, width)
        space, shown = " " * (width - cell_len(text)), _styled(text, style, colour)
        return space + shown if head in self.numbers else shown + space


def shortened(text: str, width: int) -> str:
    """A text that is no wider; where it was, its middle is left out: the head and the tail of a path tell most."""
    if cell_len(text) <= width:
        return text
    head = max(width - 1, 0) // 2
    tail = max(width - 1 - head, 0)
    return f"{set_cell_size(text, head).rstrip()}{DOTS}{set_cell_size(text[::-1], tail).rstrip()[::-1]}"


def _fitting(widths: list[int], room: int) -> list[int]:
    """The widths that fit: the last column, which is prose most often, gives way first; then the widest ones are made alike."""
    widths = [*widths[:-1], min(widths[-1], max(room - sum(widths[:-1]), PROSE))]
    cap = max(widths)
    while cap > NARROW and sum(min(width, cap) for width in widths) > room:
        cap -= 1
    found = [min(width, cap) for width in widths]
    for place, width in enumerate(widths):  # what rounding leaves
        found[place] += min(width - found[place], max(room - sum(found), 0))
    return found


def printable(text: str) -> str:
    """A text on one line: a file may name its nodes as it likes, and a terminal obeys what is not printable."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _plain(cell: Cell) -> str:
    return printable(cell if isinstance(cell, str) else cell.text)


def _style(cell: Cell) -> str:
    return "" if isinstance(cell, str) else cell.style


def _styled(text: str, style: str, colour: bool) -> str:
    return Style.parse(style).render(text) if colour and style else text
