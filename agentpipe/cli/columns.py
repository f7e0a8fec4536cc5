"""Tables in plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row: a name, then right-aligned cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_line(cells, widths) for cells in rows]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = cells
    aligned = (f"{it:>{width}}" for it, width in zip(numbers, widths[1:], strict=True))
    return "  ".join([f"  {name:<{widths[0]}}", *aligned])
