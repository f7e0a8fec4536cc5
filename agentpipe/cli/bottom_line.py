"""BottomLine: one line fixed in the terminal's last row while the others scroll above it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType

SAVE, RESTORE, ERASE = "\x1b7", "\x1b8", "\x1b[2K"
MIN_ROWS = 3


def has_rows(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal whose cursor can move."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class BottomLine:
    """Excludes the last row from scrolling, so that child processes can write to the terminal.

    A context manager; its exit releases the row. If the process is killed before that, the row
    stays reserved until the user runs ``reset``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._rows:
            self._write(f"{SAVE}\x1b[r{RESTORE}{SAVE}\x1b[{self._rows};1H{ERASE}{RESTORE}")

    def show(self, text: str) -> None:
        """Replace the line; cut it to the terminal's width."""
        columns, rows = shutil.get_terminal_size()
        if rows < MIN_ROWS:
            return
        if rows != self._rows:
            self._reserve(rows)
        self._write(f"{SAVE}\x1b[{rows};1H{ERASE}{text[: columns - 1]}{RESTORE}")

    def _reserve(self, rows: int) -> None:
        """Scroll once, in case the cursor is in the last row; limit scrolling to the rows above."""
        self._rows = rows
        self._write(f"\n{SAVE}\x1b[1;{rows - 1}r{RESTORE}\x1b[1A")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
