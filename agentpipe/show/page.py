"""Page: lines of a given width, filled with untrusted text."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
from rich.cells import chop_cells
from rich.text import Text

from agentpipe.core.outside import json_text
from agentpipe.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_WIDTH = 20
_TAB = 4


class Page:
    """The lines drawn so far.

    Attributes:
        lines: Each fits into ``width`` cells, unless a margin leaves no room.
        full: Whether long texts are shown completely.
        cut: Whether a text was cut.
    """

    def __init__(self, width: int, *, full: bool = False) -> None:
        self.width, self.full = max(LEAST_WIDTH, width), full
        self.lines: list[Text] = []
        self.cut = False
        self._margin = ""

    @contextmanager
    def margin(self, more: str) -> Iterator[None]:
        """Also begin each line with ``more``."""
        before, self._margin = self._margin, self._margin + more
        try:
            yield
        finally:
            self._margin = before

    def gap(self) -> None:
        """Add an empty line."""
        self._put(Text(self._margin.rstrip()))

    def heading(self, title: str) -> None:
        """Add the name of a section, after a gap."""
        self.gap()
        self._put(Text(title, "bold"))

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Add one line of texts, each alone or with its style; cut at the page's width."""
        line = Text(self._margin)
        for part in parts:
            text, style = (part, "") if isinstance(part, str) else part
            line.append(printable(text[: self.width * 4], keep=""), style)
        line.truncate(self.width, overflow="ellipsis")
        self._put(line)

    def block(
        self,
        text: str,
        label: str = "",
        style: str = "",
        most: int = 12,
        *,
        label_style: str = "",
    ) -> None:
        """Add a text of any length, its first line after the label; ``most`` lines unless full."""
        label = printable(label, keep="")
        room = max(LEAST_WIDTH, self.width - len(self._margin) - len(label))
        shown = text if self.full else text[: most * room]
        lines = [part for line in shown.split("\n") for part in _parts(line, room)]
        is_cut = len(shown) < len(text)
        if not self.full and len(lines) > most:
            lines, is_cut = lines[:most], True
        before = Text(self._margin).append(label, label_style)
        for each in lines:
            self._put(before + Text(each, style) if style or label else Text(before.plain + each))
            before = Text(self._margin + " " * len(label))
        if is_cut:
            self.cut = True
            self._put(before + Text(f"... ({len(text):,} characters in all)", "dim"))

    def _put(self, line: Text) -> None:
        self.lines.append(line)


def as_text(value: Any, *, wide: bool = False) -> str:
    """A string unchanged, any other value as JSON; on several lines if ``wide``."""
    try:
        if wide and isinstance(value, (dict, list)):
            return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        return json_text(value)
    except (TypeError, ValueError, RecursionError):
        return "(not JSON)"


def _parts(line: str, width: int) -> list[str]:
    """Split a line into parts that fit."""
    safe = printable(line.rstrip("\r").expandtabs(_TAB), keep="")
    return [safe[start:end] for start, end in spans(safe, width)] or [""]


def spans(safe: str, width: int) -> Iterator[tuple[int, int]]:
    """Start and end of parts that fit, between words where a part is not half empty for that."""
    at = 0
    while at < len(safe):
        part = safe[at : at + width]
        if not part.isascii():
            part = (chop_cells(part, width) or [part])[0]  # Marks alone have no cells.
        end = at + len(part)
        if safe[end : end + 1] not in ("", " ") and (space := part.rfind(" ", width // 2)) > 0:
            end = at + space
        yield at, end
        at = end + safe.startswith(" ", end)
