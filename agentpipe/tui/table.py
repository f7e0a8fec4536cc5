"""Tables whose cells have an exact width in terminal columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from agentpipe.core.text import one_line, printable
from agentpipe.show.tones import tone_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.show.tones import Tone

GOOD, BAD, WARN, FAINT, STRONG = "green", "bold red", "bold yellow", "dim", "bold"
HEAD, CHOSEN = "bold underline", "reverse"
_TONES: Mapping[Tone, str] = {"good": GOOD, "fair": WARN, "bad": BAD, "faint": FAINT}


@dataclass(frozen=True, slots=True)
class Column:
    """A column; text that is wider is cut."""

    title: str
    width: int
    align: Literal["left", "right"] = "right"


def outcome_style(outcome: str) -> str:
    """The style of an outcome's name."""
    return _TONES[tone_of(outcome)]


def plain(text: str, room: int) -> str:
    """Untrusted text as one line without control characters."""
    return one_line(text, max(1, room))


def harmless(line: Text) -> Text:
    """The line; if it still has control characters, escaped and without styles."""
    return line if line.plain.isprintable() else Text(printable(line.plain, keep=""))


def cell(text: str, column: Column) -> str:
    """The text, cut or padded to the column's width; counts double-width characters as two."""
    if cell_len(text) > column.width:
        text = set_cell_size(text, column.width - 1) + "…" if column.width > 0 else ""
    pad = " " * (column.width - cell_len(text))
    return pad + text if column.align == "right" else text + pad


def row(columns: Sequence[Column], values: Iterable[tuple[str, str]]) -> Text:
    """One row of cells; ``values`` are pairs of text and style."""
    line = Text()
    for column, (text, style) in zip(columns, values, strict=True):
        if line:
            line.append(" ")
        line.append(cell(text, column), style)
    return line


def header(columns: Sequence[Column], note: str = "") -> Text:
    """The line of titles, followed by a note."""
    titles = " ".join(cell(column.title, column) for column in columns)
    line = Text(titles.rstrip(), HEAD)
    if note:
        line.append(f"  {note}", FAINT)
    return line


def fill(columns: Sequence[Column], title: str, width: int) -> list[Column]:
    """Add a column that takes the remaining width."""
    taken = sum(column.width + 1 for column in columns)
    return [*columns, Column(title, max(0, width - taken), "left")]


def highlight(line: Text, width: int) -> None:
    """Highlight the selected line over the whole width."""
    line.pad_right(max(0, width - line.cell_len))
    line.stylize(CHOSEN)


def visible(total: int, at: int, room: int) -> range:
    """The range of ``room`` rows to show of ``total``, including row ``at``."""
    first = max(0, min(at - room // 2, total - room))
    return range(first, min(total, first + max(0, room)))
