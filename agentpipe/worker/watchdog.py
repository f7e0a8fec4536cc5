"""Keeper: keeps a worker's lease, and watches over what could hold it up or leave it behind."""

from __future__ import annotations

import logging
import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS
from agentpipe.errors import AgentpipeError, TimeLimitExceeded
from agentpipe.sending.actor import AgentActor
from agentpipe.worker.consumer import TICK_S
from agentpipe.worker.heartbeat import Vitals

if TYPE_CHECKING:
    from collections.abc import Iterable

    import dramatiq

    from agentpipe.sending.broker import ClaimedMessage
    from agentpipe.worker.consumer import Consumer
    from agentpipe.worker.event_loop import LoopThread

# A loop that has not turned for so long is held up by an agent's code.
BLOCKED_AFTER_S = 5.0
# Many runs end before anybody could look: they would only make the report longer.
WORTH_TELLING_S = 1.0

log = logging.getLogger(__name__)


class Keeper(threading.Thread):
    """Keeps the lease, and watches over the loop and over those who started the process.

    No agent can block it. When an agent's code holds up the loop beyond its time limit, the
    keeper answers ``limit`` for it, gives everything else back, and ends the process, which
    its supervisor replaces: there is no other way to stop such code.
    """

    def __init__(self, consumer: Consumer, loop: LoopThread, supervisor_pid: int) -> None:
        super().__init__(name="agentpipe-keep", daemon=True)
        self._consumer, self._loop = consumer, loop
        self._supervisor_pid = supervisor_pid
        self._parent_pid = os.getppid()
        self._blocked_s = 0.0
        self._warned = False
        self._began_at = time.monotonic()

    def run(self) -> None:
        """Until the process ends."""
        lease_s = self._consumer.worker.lease_s
        next_beat = 0.0
        while True:
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + (lease_s / 3 if self._beat() else lease_s / 10)
            tick_s = min(TICK_S, lease_s / 10)
            time.sleep(tick_s)
            # Counted in our own ticks: a process that was frozen has no blocked loop.
            self._blocked_s = 0.0 if self._loop.ask_to_turn() else self._blocked_s + tick_s
            self._look_at_loop()
            self._look_at_end()
            self._look_at_parents()

    def _beat(self) -> bool:
        try:
            return self._consumer.keep(self._report())
        except AgentpipeError:
            return False  # The consumer says so; here the next try matters.

    def _report(self) -> bytes | None:
        try:
            return self._vitals().encode()
        except Exception:  # No lease shall be lost for want of it.
            log.exception("the keeper met a bug of agentpipe's; it goes on")
            return None

    def _vitals(self) -> Vitals:
        error, down_s = self._consumer.forwarder.failing or ("", None)
        return Vitals(
            lag_s=self._loop.take_lag_s(),
            rss_bytes=_rss_bytes(),
            sink_error=error[:MAX_LAST_ERROR_CHARS],
            sink_down_s=down_s,
            carrying_s=self._consumer.forwarder.carrying_s,
            oldest_s=_oldest_s(self._consumer.held),
            clock=time.time(),
            up_s=time.monotonic() - self._began_at,
        )

    def _look_at_loop(self) -> None:
        if self._blocked_s < BLOCKED_AFTER_S:
            self._warned = False
            return
        if not self._warned:
            self._warned = True
            log.warning(
                "an agent blocks the loop and with it all others in this process; give its "
                "collection `isolation: thread`. It is here:\n%s",
                self._loop.stack(),
            )
        late = [message for message in self._consumer.held if self._is_late(message)]
        culprit = self._loop.running()
        if culprit in late:
            late = [culprit]  # The others only waited for it: they are given back.
        if late:
            log.error("the loop is blocked beyond a time limit: the process ends to be replaced")
            self._end_process(late)

    def _is_late(self, message: ClaimedMessage) -> bool:
        limit_s = _limit_s(self._consumer.broker, message)
        return time.time() - message.started_at > limit_s + BLOCKED_AFTER_S

    def _look_at_end(self) -> None:
        if time.monotonic() > self._consumer.ends_by:
            log.error("runs go on long after they were told to end: the process ends without them")
            self._end_process([])

    def _end_process(self, late: list[ClaimedMessage]) -> None:
        broker, results = self._consumer.broker, self._consumer.results
        try:
            for message in late:
                error = TimeLimitExceeded(_limit_s(broker, message))
                results.after_process_message(broker, message, exception=error)
            broker.store.settle([message.settlement for message in late if message.settlement])
            self._consumer.leave()
        finally:
            os._exit(1)

    def _look_at_parents(self) -> None:
        orphaned = os.getppid() != self._parent_pid
        if not orphaned and self._supervisor_pid:
            orphaned = not _alive(self._supervisor_pid)
        if orphaned:
            log.warning("the process that started this worker is gone: it ends, too")
            self._supervisor_pid, self._parent_pid = 0, os.getppid()
            os.kill(os.getpid(), signal.SIGTERM)


def _oldest_s(held: Iterable[ClaimedMessage]) -> dict[str, float]:
    """How long the oldest run of each queue has been running; young ones are left out."""
    now = time.time()
    oldest: dict[str, float] = {}
    for message in held:
        queue, age_s = message.claim.queue, now - message.started_at
        if age_s > max(WORTH_TELLING_S, oldest.get(queue, 0.0)):
            oldest[queue] = round(age_s, 1)
    return oldest


def _rss_bytes() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # Not every system has it.
        return None
    return int(pages) * resource.getpagesize()


def _limit_s(broker: dramatiq.Broker, message: ClaimedMessage) -> float:
    actor = broker.actors.get(message.actor_name)
    return actor.collection.time_limit_s if isinstance(actor, AgentActor) else float("inf")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
