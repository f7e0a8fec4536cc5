"""Takes over the terminal, redraws changed lines, and restores it."""

from __future__ import annotations

import os
import re
import select
import termios
import tty
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console

if TYPE_CHECKING:
    from rich.text import Text

# Alternate screen, no cursor, no wrapping: a character can be wider than we assume.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
# The rest of an escape sequence arrives at once, except over a slow connection.
_REST_S = 0.05
_UNFINISHED = re.compile(rb"\x1b(\[[0-9;?]*|O)?\Z|[\xc0-\xff][\x80-\xbf]{0,2}\Z")


class Terminal:
    """A context manager over the terminal's file descriptors."""

    def __init__(self, keys_fd: int, screen_fd: int) -> None:
        self.keys_fd, self._screen_fd = keys_fd, screen_fd
        self._before: list[Any] = []
        self._shown: list[Text] = []
        self._console = console()

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self.keys_fd)
        tty.setcbreak(self.keys_fd)
        self._write(_ENTER)
        self._shown = []
        return self

    def __exit__(self, *_: object) -> None:
        self._write(_LEAVE)
        termios.tcsetattr(self.keys_fd, termios.TCSADRAIN, self._before)

    def size(self) -> tuple[int, int]:
        """The numbers of columns and lines."""
        return os.get_terminal_size(self._screen_fd)

    def forget(self) -> None:
        """Clear the screen; the next frame is drawn in full."""
        self._write("\x1b[0m\x1b[2J")
        self._shown = []

    def paint(self, lines: list[Text], width: int) -> None:
        """Draw changed lines in one write."""
        changed = [
            f"\x1b[{number + 1};1H{self._ansi(line, width)}"
            for number, line in enumerate(lines)
            if number >= len(self._shown) or line != self._shown[number]
        ]
        if changed:
            self._write("".join(changed))
        self._shown = lines

    def _ansi(self, line: Text, width: int) -> str:
        """The line with the rest erased, except a full line, which would lose its last column."""
        with self._console.capture() as capture:
            self._console.print(line, end="")
        return capture.get() + ("\x1b[K" if line.cell_len < width else "")

    def read(self) -> bytes:
        """Read what was typed, in complete escape sequences."""
        data = os.read(self.keys_fd, 1024)
        while _UNFINISHED.search(data) and _has_more(self.keys_fd):
            data += os.read(self.keys_fd, 1024)
        return data

    def _write(self, text: str) -> None:
        left = text.encode(errors="replace")
        while left:
            left = left[os.write(self._screen_fd, left) :]


class _Console(Console):
    """Leaves a closed pipe to the command; rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(file: TextIO | None = None) -> Console:
    """A console for lines that already fit.

    To a file it prints no escapes without a terminal, or with ``NO_COLOR``. Without a file, for
    frames, ``NO_COLOR`` leaves bold and reversed text, which shows the selection.
    """
    is_plain = file is not None and (os.environ.get("NO_COLOR") or not file.isatty())
    return _Console(
        file=file,
        color_system=None if is_plain else "auto",
        soft_wrap=True,
        highlight=False,
        markup=False,
        emoji=False,
    )


def _has_more(fd: int) -> bool:
    return bool(select.select([fd], [], [], _REST_S)[0])
