"""Stands before stdout and stderr: nothing that a command prints can control a terminal.

Commands print by ``agentpipe.cli.common``, which escapes first. This covers all else: argparse,
warnings, libraries that log, tracebacks.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from agentpipe.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Both are harmless, and scripts and tables have them.
KEEP = "\n\t"


class GuardedStream:
    """A text stream that escapes what it writes; for all else, the stream behind it."""

    def __init__(self, behind: TextIO) -> None:
        self.behind = behind

    def write(self, text: str) -> int:
        """Write ``text`` with control characters as escapes."""
        self.behind.write(printable(text, KEEP))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


def unguarded(stream: TextIO) -> TextIO:
    """The stream behind the guard, for colours and bars of ours around text that is escaped."""
    return stream.behind if isinstance(stream, GuardedStream) else stream


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guard stdout and stderr, whatever stands behind them."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", GuardedStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
