"""Signals: how a command that runs for long ends."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentpipe.cli.exit_codes import INTERRUPTED, OK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Heard:
    """The signals that a command has received."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    @property
    def exit_code(self) -> int:
        """The exit code of a command that these have ended, or that has ended by itself."""
        return INTERRUPTED if signal.SIGINT in self.numbers else OK


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[Heard]:
    """In the block, SIGTERM and SIGINT call ``stop``; a second one ends the process at once."""
    heard = Heard()

    def hear(number: int, _frame: object) -> None:
        heard.numbers.append(number)
        signal.signal(number, signal.SIG_DFL)
        stop()

    with handled_by(hear, signal.SIGTERM, signal.SIGINT):
        yield heard


@contextmanager
def ending() -> Iterator[None]:
    """In the block, SIGTERM ends the command with exit code 0.

    The first process of a container gets no signal without a handler.
    """
    with handled_by(lambda *_: sys.exit(OK), signal.SIGTERM):
        yield


@contextmanager
def handled_by(handler: Callable[[int, Any], Any], *numbers: int) -> Iterator[None]:
    """Handle these signals in the block, and restore their handlers after it."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
