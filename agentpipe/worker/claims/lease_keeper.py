"""LeaseKeeper: renews the worker's lease, and reports the worker's state."""

from __future__ import annotations

import heapq
import logging
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS
from agentpipe.core.masking import masked, shorten
from agentpipe.core.outside import valid_text
from agentpipe.core.text import one_line
from agentpipe.engines.mcp.running import running_servers
from agentpipe.errors import AgentpipeError
from agentpipe.worker.claims.heartbeat import Heartbeat, RunSeen
from agentpipe.worker.times import RENEW_EVERY_S, SHUTDOWN_S
from agentpipe.worker.watch.child_memory import ChildMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agentpipe.worker.claims.consumer import Consumer
    from agentpipe.worker.contact import BrokerContact
    from agentpipe.worker.loop.event_loop import EventLoop
    from agentpipe.worker.outbox.forwarder import Forwarder
    from agentpipe.worker.running.message import ClaimedMessage

# Shorter runs end before anyone could look; they would only lengthen the report.
REPORTED_AFTER_S = 1.0
# Per process; a fleet has many, and each snapshot carries all their reports.
MAX_REPORTED_RUNS = 10
MAX_ACTIVITY_CHARS = 60

log = logging.getLogger(__name__)


class LeaseKeeper(threading.Thread):
    """Renews in its own thread: a broker that does not answer blocks nothing else.

    It renews often enough to notice within seconds that the broker is away. At every third of the
    lease, the heartbeat carries a report and compares held claims.
    """

    def __init__(
        self,
        consumer: Consumer,
        loop: EventLoop,
        forwarder: Forwarder,
        contact: BrokerContact,
        *,
        lease_s: float,
        also: Callable[[], Mapping[str, Any]],
    ) -> None:
        """``also`` returns further fields of the heartbeat."""
        super().__init__(name="agentpipe-lease", daemon=True)
        self._consumer, self._loop, self._forwarder = consumer, loop, forwarder
        self._contact, self._lease_s, self._also = contact, lease_s, also
        self._began_at = time.monotonic()
        self._report_at = 0.0
        self._child_memory = ChildMemory()
        self._is_stopped = False
        self._woken = threading.Event()

    def run(self) -> None:
        """Renew until ``stop``."""
        while not self._is_stopped:
            self._woken.clear()
            pause_s = min(self._lease_s / (3 if self._renew() else 10), RENEW_EVERY_S)
            self._woken.wait(pause_s)

    def report_soon(self) -> None:
        """Renew at once, with a report that a caller waits for; thread-safe."""
        self._report_at = 0.0
        self._woken.set()

    def stop(self) -> None:
        """End the thread once its worker has ended; a process can have several workers in turn."""
        self._is_stopped = True
        self._woken.set()
        self.join(SHUTDOWN_S)

    def _renew(self) -> bool:
        reports = time.monotonic() >= self._report_at
        if reports:
            self._report_at = time.monotonic() + self._lease_s / 3
        try:
            report = self._report() if reports else None
            renewed = self._consumer.membership.heartbeat(report, whole=reports)
        except AgentpipeError as error:
            self._contact.failed("lease", error)
            self._report_at = 0.0 if reports else self._report_at
            return False
        except Exception:  # Without this thread the lease would be lost.
            log.exception("unexpected error while the lease is renewed; continuing")
            return False
        if renewed:
            self._contact.answered("lease")
        elif reports:
            self._report_at = 0.0
        return renewed

    def _report(self) -> bytes | None:
        try:
            return self._heartbeat().encode()
        except Exception:  # A missing report must not cost the lease.
            log.exception("unexpected error in a worker's report; continuing")
            return None

    def _heartbeat(self) -> Heartbeat:
        error, down_s = self._forwarder.failing or ("", None)
        held = self._consumer.held
        return Heartbeat(
            lag_s=self._loop.turns.take_longest_s(),
            rss_bytes=_rss_bytes(),
            servers=running_servers(),
            children_bytes=self._child_memory.bytes(),
            sink_error=shorten(error, MAX_LAST_ERROR_CHARS),
            sink_down_s=down_s,
            carrying_s=self._forwarder.carrying_s,
            oldest_s=_oldest_s(held),
            runs=oldest_runs(held),
            clock=time.time(),
            up_s=time.monotonic() - self._began_at,
            **self._also(),
        )


def _oldest_s(held: Iterable[ClaimedMessage]) -> dict[str, float]:
    """Age of the oldest run of each queue; short runs are left out."""
    now = time.time()
    oldest: dict[str, float] = {}
    for message in held:
        queue, age_s = message.claim.queue, now - message.started_at
        if age_s > max(REPORTED_AFTER_S, oldest.get(queue, 0.0)):
            oldest[queue] = round(age_s, 1)
    return oldest


def oldest_runs(held: Iterable[ClaimedMessage]) -> list[RunSeen]:
    """The oldest runs with their activity; short runs are left out."""
    oldest = heapq.nsmallest(MAX_REPORTED_RUNS, held, key=lambda message: message.started_at)
    now = time.time()
    return [
        RunSeen(
            message.claim.queue,
            valid_text(message.claim.task_id),
            round(now - message.started_at, 1),
            one_line(masked(message.tracer.activity if message.tracer else ""), MAX_ACTIVITY_CHARS),
        )
        for message in oldest
        if now - message.started_at > REPORTED_AFTER_S
    ]


def _rss_bytes() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # Not every system has procfs.
        return None
    return int(pages) * resource.getpagesize()
