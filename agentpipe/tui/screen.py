"""Screen: waits for keys, snapshots and signals, and has the frame drawn that follows."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.tui.frame import draw
from agentpipe.tui.keys import names_of, press
from agentpipe.tui.state import View, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.tui.actions import Doer
    from agentpipe.tui.fetch import Fetcher
    from agentpipe.tui.frame import Scene
    from agentpipe.tui.state import Action
    from agentpipe.tui.terminal import Terminal

# Ages are drawn anew so often.
TICK_S = 1.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HEARD = (*ENDING, signal.SIGWINCH, signal.SIGTSTP)


class Wake:
    """A pipe that ends a wait, from any thread and any signal."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        for end in (self.fd, self._writer):
            os.set_blocking(end, False)

    def ring(self) -> None:
        """End the wait; many rings are one."""
        with suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def take(self) -> bytes:
        """What has rung: the numbers of signals, or 0."""
        with suppress(BlockingIOError):
            return os.read(self.fd, 4096)
        return b""

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Have signals ring, and do nothing else, for the length of a block."""
        before = {number: signal.signal(number, _nothing) for number in HEARD}
        fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd)
            for number, handler in before.items():
                signal.signal(number, handler)


class Screen:
    """One terminal, for as long as somebody looks at it."""

    def __init__(
        self, terminal: Terminal, fetcher: Fetcher, doer: Doer, scene: Scene, wake: Wake
    ) -> None:
        self._terminal, self._fetcher, self._doer = terminal, fetcher, doer
        self._scene, self._wake = scene, wake
        self._view = View()
        self._ended_by = 0
        self._quits = False

    def run(self) -> int:
        """Until it is quit; the signal that ended it, or 0."""
        with self._wake.signals(), self._terminal:
            while not (self._quits or self._ended_by or self._fetcher.problem):
                self._draw()
                self._wait()
        return self._ended_by

    def _draw(self) -> None:
        width, height = self._terminal.size()
        clock = time.strftime("%H:%M:%S")
        scene = replace(self._scene, now=time.monotonic(), clock=clock)
        self._view = self._doer.take(self._view)
        lines = draw(self._fetcher.history, self._view, scene, width, height)
        self._terminal.paint(lines, width)

    def _wait(self) -> None:
        keys_fd = self._terminal.keys_fd
        ready, _, _ = select.select([keys_fd, self._wake.fd], [], [], TICK_S)
        if self._wake.fd in ready:
            self._hear(self._wake.take())
        if keys_fd in ready and not self._ended_by:
            self._type(self._terminal.read())

    def _hear(self, rung: bytes) -> None:
        self._ended_by = next((number for number in ENDING if number in rung), 0)
        if signal.SIGWINCH in rung:
            self._terminal.forget()
        if signal.SIGTSTP in rung:
            self._suspend()

    def _suspend(self) -> None:
        """Give the terminal back until the shell continues us."""
        self._terminal.__exit__()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._terminal.__enter__()

    def _type(self, data: bytes) -> None:
        self._quits = not data  # The terminal is gone.
        for name in names_of(data):
            if name == "redraw":
                self._terminal.forget()
            rows = rows_of(self._fetcher.history, self._view)
            self._view, action = press(self._view, name, rows)
            if action is not None:
                self._begin(action)

    def _begin(self, action: Action) -> None:
        if action.verb == "quit":
            self._quits = True
        else:
            self._doer.begin(action)


def _nothing(*_: object) -> None:
    """Being called is all: the number is in the pipe."""
