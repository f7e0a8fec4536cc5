"""Wraps stdout and stderr, so that nothing a command prints can control the terminal.

Commands print with ``agentpipe.cli.output``, which escapes first. The guard covers all other
output: argparse, warnings, logging libraries, tracebacks.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from agentpipe.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Not escaped: both are harmless, and scripts and tables contain them.
KEEP = "\n\t"


class GuardedStream:
    """A text stream that escapes what it writes, and delegates the rest to the stream behind it."""

    def __init__(self, behind: TextIO) -> None:
        self.behind = behind

    def write(self, text: str) -> int:
        """Write ``text`` with control characters escaped."""
        self.behind.write(printable(text, KEEP))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


class GuardedMessages(GuardedStream):
    """Guards stderr: a command whose messages cannot be read goes on, and drops them."""

    def write(self, text: str) -> int:
        """Write ``text`` with control characters escaped, if anybody reads it."""
        with self._dropping():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if anybody reads it."""
        with self._dropping():
            self.behind.flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # A non-blocking pipe is full; its reader will make room.
            return
        except OSError:  # Its reader is gone, or its disk is full.
            drop_output(self.behind)


def drop_output(stream: TextIO) -> None:
    """Discard what is still buffered, and what follows; Python would fail to flush it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def unguarded(stream: TextIO) -> TextIO:
    """The stream behind the guard, for our own colours and bars around escaped text."""
    return stream.behind if isinstance(stream, GuardedStream) else stream


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guard the current stdout and stderr; restore them on exit."""
    before = sys.stdout, sys.stderr
    guards = GuardedStream(sys.stdout), GuardedMessages(sys.stderr)
    sys.stdout, sys.stderr = (cast("TextIO", guard) for guard in guards)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
