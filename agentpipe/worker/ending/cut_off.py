"""CutOff: a worker that cannot renew its lease logs it, and ends its runs when the lease ends.

From then on other workers can claim its tasks, and its runs cannot be settled: they would run
beside those of the others, beyond ``concurrency``.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from agentpipe.worker.times import SHUTDOWN_S

if TYPE_CHECKING:
    from agentpipe.worker.claims.consumer import Consumer
    from agentpipe.worker.contact import BrokerContact
    from agentpipe.worker.ending.process_end import ProcessEnd
    from agentpipe.worker.loop.event_loop import EventLoop
    from agentpipe.worker.running.message import ClaimedMessage

# After this long without an answer, a worker logs it.
SILENT_AFTER_S = 3.0
# How long code of an interrupted run can continue beside the runs of other workers.
STRAY_S = 1.0

log = logging.getLogger(__name__)


class CutOff:
    """Checks the lease from the watchdog's thread."""

    def __init__(
        self,
        consumer: Consumer,
        loop: EventLoop,
        contact: BrokerContact,
        end_process: ProcessEnd,
        lease_s: float,
        *,
        lapses: bool,
    ) -> None:
        """Without ``lapses``, the lease holds while the broker is away."""
        self._consumer, self._loop, self._contact = consumer, loop, contact
        self._end_process, self._lease_s, self._lapses = end_process, lease_s, lapses
        self._renewed_at: float | None = None
        self._silent_s = self._over_s = 0.0

    def look(self, tick_s: float) -> None:
        """Check the lease, ``tick_s`` after the last check.

        Silence is counted in ticks. After the process was stopped, the lease can be over although
        the broker answers; the next heartbeat then shows who owns the tasks.
        """
        renewed_at = self._consumer.membership.renewed_at
        if renewed_at is None or renewed_at != self._renewed_at:
            self._renewed_at, self._silent_s, self._over_s = renewed_at, 0.0, 0.0
            return
        self._silent_s += tick_s
        left_s = renewed_at + self._lease_s - time.monotonic()
        if self._silent_s >= SILENT_AFTER_S:
            self._contact.silent("lease", self._silent_s, left_s if self._lapses else None)
        if (
            self._lapses
            and left_s <= 0
            and self._silent_s >= min(SILENT_AFTER_S, self._lease_s / 2)
        ):
            self._end_runs()
            self._over_s += tick_s

    def _end_runs(self) -> None:
        running = [message for message in self._consumer.held if message.settlement is None]
        if self._over_s == 0 and running:
            log.warning(
                "the lease is over, and other workers may have the tasks: %d runs end here, and "
                "the worker waits for the broker",
                len(running),
            )
        self._loop.interrupt(running)
        if self._goes_on(running):
            why = "the lease is over, and a run cannot be stopped"
            self._end_process(why, gives_back=False)

    def _goes_on(self, running: list[ClaimedMessage]) -> bool:
        """Whether a run continues beyond its cleanup; other runs can still be in theirs."""
        return self._over_s > SHUTDOWN_S if running else self._loop.stray_s > STRAY_S
