"""Cells: texts of exactly so many columns of a terminal, and tables of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from agentpipe.core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GOOD, BAD, WARN, FAINT, STRONG = "green", "bold red", "bold yellow", "dim", "bold"
HEAD, CHOSEN = "bold underline", "reverse"


@dataclass(frozen=True, slots=True)
class Column:
    """One of a table; what is longer is cut."""

    title: str
    width: int
    align: Literal["left", "right"] = "right"


def plain(text: str, room: int) -> str:
    """Others' words, harmless and of one line."""
    return one_line(text, max(1, room))


def cell(text: str, column: Column) -> str:
    """As wide as the column, however wide its characters are."""
    if cell_len(text) > column.width:
        text = set_cell_size(text, column.width - 1) + "…" if column.width > 0 else ""
    pad = " " * (column.width - cell_len(text))
    return pad + text if column.align == "right" else text + pad


def row(columns: Sequence[Column], values: Iterable[tuple[str, str]]) -> Text:
    """A line of texts with their styles."""
    line = Text()
    for column, (text, style) in zip(columns, values, strict=True):
        if line:
            line.append(" ")
        line.append(cell(text, column), style)
    return line


def head(columns: Sequence[Column], note: str = "") -> Text:
    """The line of titles."""
    titles = " ".join(cell(column.title, column) for column in columns)
    line = Text(titles.rstrip(), HEAD)
    if note:
        line.append(f"  {note}", FAINT)
    return line


def filled(columns: Sequence[Column], title: str, width: int) -> list[Column]:
    """With one column more, for what is left of the width."""
    taken = sum(column.width + 1 for column in columns)
    return [*columns, Column(title, max(0, width - taken), "left")]


def choose(line: Text, width: int) -> None:
    """Show that it is the one the keys are for."""
    line.pad_right(max(0, width - line.cell_len))
    line.stylize(CHOSEN)


def cut(lines: list[Text], height: int, noun: str) -> list[Text]:
    """The first lines; the head tells how many more there are."""
    hidden = len(lines) - height
    if hidden <= 0 or height <= 0:
        return lines[: max(0, height)]
    return [Text.assemble(lines[0], (f"  {hidden:,} more {noun}", FAINT)), *lines[1:height]]


def part(total: int, at: int, room: int) -> range:
    """Which of so many rows are shown where there is not room for all, the chosen one in it."""
    first = max(0, min(at - room // 2, total - room))
    return range(first, min(total, first + max(0, room)))
