"""Tables of cells with an exact width in terminal columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from agentpipe.core.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GOOD, BAD, WARN, FAINT, STRONG = "green", "bold red", "bold yellow", "dim", "bold"
HEAD, CHOSEN = "bold underline", "reverse"


@dataclass(frozen=True, slots=True)
class Column:
    """Longer text is cut."""

    title: str
    width: int
    align: Literal["left", "right"] = "right"


def plain(text: str, room: int) -> str:
    """Foreign text as one harmless line."""
    return one_line(text, max(1, room))


def harmless(line: Text) -> Text:
    """The line itself, or without its styles if a part of it is foreign and was not ``plain``."""
    return line if line.plain.isprintable() else Text(printable(line.plain, keep=""))


def cell(text: str, column: Column) -> str:
    """As wide as the column, also with double-width characters."""
    if cell_len(text) > column.width:
        text = set_cell_size(text, column.width - 1) + "…" if column.width > 0 else ""
    pad = " " * (column.width - cell_len(text))
    return pad + text if column.align == "right" else text + pad


def row(columns: Sequence[Column], values: Iterable[tuple[str, str]]) -> Text:
    """``values`` are pairs of text and style."""
    line = Text()
    for column, (text, style) in zip(columns, values, strict=True):
        if line:
            line.append(" ")
        line.append(cell(text, column), style)
    return line


def header(columns: Sequence[Column], note: str = "") -> Text:
    """The line of titles, with a remark behind it."""
    titles = " ".join(cell(column.title, column) for column in columns)
    line = Text(titles.rstrip(), HEAD)
    if note:
        line.append(f"  {note}", FAINT)
    return line


def fill(columns: Sequence[Column], title: str, width: int) -> list[Column]:
    """Add a column that takes the rest of the width."""
    taken = sum(column.width + 1 for column in columns)
    return [*columns, Column(title, max(0, width - taken), "left")]


def highlight(line: Text, width: int) -> None:
    """Mark the selected line."""
    line.pad_right(max(0, width - line.cell_len))
    line.stylize(CHOSEN)


def cut(lines: list[Text], height: int, noun: str) -> list[Text]:
    """The first lines; the header says how many more there are."""
    hidden = len(lines) - height
    if hidden <= 0 or height <= 0:
        return lines[: max(0, height)]
    return [Text.assemble(lines[0], (f"  {hidden:,} more {noun}", FAINT)), *lines[1:height]]


def visible(total: int, at: int, room: int) -> range:
    """The rows to show where not all fit, row ``at`` among them."""
    first = max(0, min(at - room // 2, total - room))
    return range(first, min(total, first + max(0, room)))
