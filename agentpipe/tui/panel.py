"""Panel: a table that draws only the rows that there is space for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.tui.table import header, row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.text import Text

    from agentpipe.tui.table import Column

    Cells = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Panel:
    """A header and rows.

    Attributes:
        noun: What the rows are, such as ``workers``.
        rows: Each makes its cells, pairs of text and style, when it is drawn. A fleet can have tens
            of thousands; a screen shows a few.
    """

    noun: str
    columns: Sequence[Column]
    rows: Sequence[Callable[[], Cells]]

    @property
    def height(self) -> int:
        """How many lines the whole panel has."""
        return 1 + len(self.rows)

    def lines(self, height: int) -> list[Text]:
        """The first ``height`` lines; the header says how many rows are hidden."""
        hidden = self.height - height
        first = header(self.columns, f"{hidden:,} more {self.noun}" if hidden > 0 else "")
        drawn = [row(self.columns, cells()) for cells in self.rows[: max(0, height - 1)]]
        return [first, *drawn] if height > 0 else []
