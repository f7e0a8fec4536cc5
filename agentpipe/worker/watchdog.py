"""Watchdog: sends heartbeats, and ends a process that cannot go on."""

from __future__ import annotations

import logging
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS
from agentpipe.engines.mcp.running import running_servers
from agentpipe.errors import AgentpipeError
from agentpipe.worker.blocked_loop import BlockedLoop
from agentpipe.worker.child_memory import ChildMemory
from agentpipe.worker.heartbeat import Heartbeat
from agentpipe.worker.times import SHUTDOWN_S, TICK_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agentpipe.worker.blocked_loop import Blame
    from agentpipe.worker.consumer import Consumer
    from agentpipe.worker.event_loop import EventLoop
    from agentpipe.worker.forwarder import Forwarder
    from agentpipe.worker.message import ClaimedMessage
    from agentpipe.worker.process_end import ProcessEnd

# Shorter runs end before anyone could look: they only make the report longer.
REPORTED_AFTER_S = 1.0

log = logging.getLogger(__name__)


class Watchdog(threading.Thread):
    """Keeps the lease, and watches the event loop.

    No agent can block it but by holding the interpreter; then the supervisor or the guard ends the
    process, see ``Pulse``. When an agent's code blocks the loop for too long, the watchdog ends
    the process, which its supervisor replaces: there is no other way to stop such code.

    ``also`` gives further fields of the heartbeat.
    """

    def __init__(
        self,
        consumer: Consumer,
        loop: EventLoop,
        forwarder: Forwarder,
        *,
        lease_s: float,
        blame: Blame,
        end_process: ProcessEnd,
        also: Callable[[], Mapping[str, Any]],
    ) -> None:
        super().__init__(name="agentpipe-watchdog", daemon=True)
        self._consumer, self._loop, self._forwarder = consumer, loop, forwarder
        self._lease_s, self._end_process = lease_s, end_process
        self._blocked_loop = BlockedLoop(loop, lambda: consumer.held, blame, end_process)
        self._also = also
        self._began_at = time.monotonic()
        self._child_memory = ChildMemory()
        self._stopped = threading.Event()

    def run(self) -> None:
        """Watch until ``stop``."""
        lease_s, next_beat = self._lease_s, 0.0
        while True:
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + (lease_s / 3 if self._beat() else lease_s / 10)
            tick_s = min(TICK_S, lease_s / 10)
            if self._stopped.wait(tick_s):
                return
            self._blocked_loop.look(tick_s)
            self._check_end()

    def stop(self) -> None:
        """End it, now that its worker has ended; a process may have had more than one."""
        self._stopped.set()
        self.join(SHUTDOWN_S)

    def _beat(self) -> bool:
        try:
            return self._consumer.heartbeat(self._report())
        except AgentpipeError:
            return False  # The consumer logs it; here the next try matters.

    def _report(self) -> bytes | None:
        try:
            return self._heartbeat().encode()
        except Exception:  # A lease must not be lost for want of a report.
            log.exception("unexpected error in the watchdog; continuing")
            return None

    def _heartbeat(self) -> Heartbeat:
        error, down_s = self._forwarder.failing or ("", None)
        return Heartbeat(
            lag_s=self._loop.turns.take_longest_s(),
            rss_bytes=_rss_bytes(),
            servers=running_servers(),
            children_bytes=self._child_memory.bytes(),
            sink_error=error[:MAX_LAST_ERROR_CHARS],
            sink_down_s=down_s,
            carrying_s=self._forwarder.carrying_s,
            oldest_s=_oldest_s(self._consumer.held),
            clock=time.time(),
            up_s=time.monotonic() - self._began_at,
            **self._also(),
        )

    def _check_end(self) -> None:
        if time.monotonic() > self._consumer.ends_by:
            self._end_process("runs do not end long after their interruption")
        if self._loop.stray_s > SHUTDOWN_S and not self._consumer.held:
            # Else its agent would run twice.
            self._end_process("a run whose task went to another worker cannot be stopped")


def _oldest_s(held: Iterable[ClaimedMessage]) -> dict[str, float]:
    """The age of the oldest run of each queue; short runs are left out."""
    now = time.time()
    oldest: dict[str, float] = {}
    for message in held:
        queue, age_s = message.claim.queue, now - message.started_at
        if age_s > max(REPORTED_AFTER_S, oldest.get(queue, 0.0)):
            oldest[queue] = round(age_s, 1)
    return oldest


def _rss_bytes() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # Not every system has it.
        return None
    return int(pages) * resource.getpagesize()
