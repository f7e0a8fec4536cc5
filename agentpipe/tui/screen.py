"""The event loop: waits for keys, snapshots and signals, then draws a frame."""

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
from agentpipe.tui.selection import screen_rows
from agentpipe.tui.state import Command
from agentpipe.tui.task_rows import task_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.monitoring.fetch import Fetcher
    from agentpipe.tui.actions import ActionThread
    from agentpipe.tui.frame import Display
    from agentpipe.tui.state import ScreenState
    from agentpipe.tui.terminal import Terminal

# How often ages on the screen are redrawn.
TICK_S = 1.0
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNALS = (*END_SIGNALS, signal.SIGWINCH, signal.SIGTSTP)


class WakePipe:
    """A pipe that wakes the event loop from any thread or signal."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        for end in (self.fd, self._writer):
            os.set_blocking(end, False)

    def wake(self) -> None:
        """Wake the event loop."""
        with suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def drain(self) -> bytes:
        """Read one byte per wake-up: the number of a signal, or 0."""
        with suppress(BlockingIOError):
            return os.read(self.fd, 4096)
        return b""

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within the block, signals only wake the event loop."""
        before = {number: signal.signal(number, _ignore) for number in SIGNALS}
        fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd)
            for number, handler in before.items():
                signal.signal(number, handler)


class Screen:
    """Shows the fleet on a terminal and runs the user's commands."""

    def __init__(
        self,
        terminal: Terminal,
        fetcher: Fetcher,
        actions: ActionThread,
        display: Display,
        wake: WakePipe,
        *,
        state: ScreenState,
    ) -> None:
        self._terminal, self._fetcher, self._actions = terminal, fetcher, actions
        self._display, self._wake = display, wake
        self._state = state
        self._listed: list[tuple[str, int, int, int | None]] = []
        self._ended_by = 0
        self._quits = False

    def run(self) -> int:
        """Run until the user quits; return the number of the signal that ended it, or 0."""
        with self._wake.signals(), self._terminal:
            while not (self._quits or self._ended_by or self._fetcher.fatal_error):
                self._draw()
                self._wait()
        return self._ended_by

    def _draw(self) -> None:
        width, height = self._terminal.size()
        clock = time.strftime("%H:%M:%S")
        display = replace(self._display, now=time.monotonic(), clock=clock, clock_s=time.time())
        self._state = self._actions.apply_results(self._state)
        self._follow()
        lines = draw(self._fetcher.history, self._state, display, width, height)
        self._terminal.paint(lines, width)

    def _follow(self) -> None:
        """Fetch the ended tasks of the listed agent again if its counts have changed."""
        now, state = self._fetcher.history.now, self._state
        if now is None or state.mode != "tasks" or state.ended is None:
            return
        listed = [
            (each.queue, each.tally.done, each.tally.failed, each.running)
            for each in now.stats.queues
            if each.queue == state.agent
        ]
        if self._listed and self._listed != listed:
            self._actions.submit(Command("tasks", (state.agent,), state.agent))
        self._listed = listed

    def _wait(self) -> None:
        keys_fd = self._terminal.keys_fd
        ready, _, _ = select.select([keys_fd, self._wake.fd], [], [], TICK_S)
        if self._wake.fd in ready:
            self._handle(self._wake.drain())
        if keys_fd in ready and not self._ended_by:
            self._type(self._terminal.read())

    def _handle(self, signals: bytes) -> None:
        self._ended_by = next((number for number in END_SIGNALS if number in signals), 0)
        if signal.SIGWINCH in signals:
            self._terminal.forget()
        if signal.SIGTSTP in signals:
            self._suspend()

    def _suspend(self) -> None:
        """Restore the terminal, stop, and take it over again when the shell continues us."""
        self._terminal.__exit__()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._terminal.__enter__()

    def _type(self, data: bytes) -> None:
        self._quits = not data  # The terminal is gone.
        for name in names_of(data):
            if name == "redraw":
                self._terminal.forget()
            history = self._fetcher.history
            rows = screen_rows(history, self._state)
            tasks = task_rows(history.now, self._state, time.time())
            self._state, command = press(self._state, name, rows, tasks)
            if command is not None:
                self._execute(command)

    def _execute(self, command: Command) -> None:
        if command.verb == "quit":
            self._quits = True
        else:
            self._actions.submit(command)


def _ignore(*_: object) -> None:
    """Do nothing: the wakeup fd gets the signal's number, which SIG_IGN would prevent."""
