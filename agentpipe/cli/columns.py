"""Tables in plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TITLE_CHARS, _NAME_CHARS = 40, 60


def pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    """One line per row: a name and its value."""
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}   {value}" for name, value in rows]


def divided(field: str, titles: Sequence[str], parts: Mapping[str, Sequence[str]]) -> list[str]:
    """A line of titles, and one line per value of ``field``: its name, then right-aligned cells."""
    rows = [(one_line(field, _TITLE_CHARS), *titles)]
    rows += [(one_line(name, _NAME_CHARS), *cells) for name, cells in parts.items()]
    widths = _widths(rows)
    return [_divided_line(cells, widths) for cells in rows]


def _divided_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = cells
    aligned = (f"{it:>{width}}" for it, width in zip(numbers, widths[1:], strict=True))
    return "  ".join([f"  {name:<{widths[0]}}", *aligned])


def listing(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row of left-aligned cells."""
    widths = _widths(rows)
    return ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in rows]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]
