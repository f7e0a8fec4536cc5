"""Watchdog: ends runs that must not continue, and a process that cannot continue."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from agentpipe.worker.loop.blocked_loop import BlockedLoop
from agentpipe.worker.times import SHUTDOWN_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.worker.claims.consumer import Consumer
    from agentpipe.worker.ending.cut_off import CutOff
    from agentpipe.worker.ending.process_end import ProcessEnd
    from agentpipe.worker.loop.blocked_loop import Blame
    from agentpipe.worker.loop.event_loop import EventLoop

LOOK_EVERY_S = 0.5


class Watchdog(threading.Thread):
    """Watches the event loop and the lease.

    An agent can block the watchdog only by holding the interpreter; then the supervisor or the
    guard ends the process, see ``Pulse``. When an agent's code blocks the loop for too long, the
    watchdog ends the process, which its supervisor replaces: there is no other way to stop such
    code.
    """

    def __init__(
        self,
        consumer: Consumer,
        loop: EventLoop,
        cut_off: CutOff,
        *,
        lease_s: float,
        blame: Blame,
        end_process: ProcessEnd,
        leaked: Callable[[], str],
    ) -> None:
        """``leaked`` names the resource that stays exhausted until a restart; empty if none."""
        super().__init__(name="agentpipe-watchdog", daemon=True)
        self._consumer, self._loop, self._end_process = consumer, loop, end_process
        self._tick_s = min(LOOK_EVERY_S, lease_s / 10)
        self._cut_off = cut_off
        self._blocked_loop = BlockedLoop(loop, lambda: consumer.held, blame, end_process)
        self._leaked = leaked
        self._stopped = threading.Event()

    def run(self) -> None:
        """Watch until ``stop``."""
        while not self._stopped.wait(self._tick_s):
            self._blocked_loop.look(self._tick_s)
            self._cut_off.look(self._tick_s)
            self._check_end()

    def stop(self) -> None:
        """End the thread once its worker has ended; a process can have several workers in turn."""
        self._stopped.set()
        self.join(SHUTDOWN_S)

    def _check_end(self) -> None:
        if time.monotonic() > self._consumer.ends_by:
            self._end_process("runs do not end long after their interruption")
        if self._loop.stray_s > SHUTDOWN_S and not self._consumer.held:
            # Otherwise two runs of the same agent would overlap.
            self._end_process("a run whose task went to another worker cannot be stopped")
        if (what := self._leaked()) and not self._consumer.held:
            self._end_process(f"runs that have ended hold all {what} of this worker")
