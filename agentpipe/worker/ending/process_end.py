"""ProcessEnd: ends a process that cannot continue, after settling and releasing what it can."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from agentpipe.core.logs import Bound
from agentpipe.worker.times import SHUTDOWN_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.records import Settlement
    from agentpipe.worker.claims.consumer import Consumer
    from agentpipe.worker.running.message import ClaimedMessage

log = logging.getLogger(__name__)


class ProcessEnd:
    """Ends the process once, from whichever thread asks first; its supervisor replaces it."""

    def __init__(
        self, consumer: Consumer, released: Callable[[ClaimedMessage], Settlement]
    ) -> None:
        """``released`` settles a run that has an answer but whose evaluators are cut off."""
        self._consumer, self._released = consumer, released
        self._once = threading.Lock()

    def __call__(
        self, why: str, settlements: Sequence[Settlement] = (), *, gives_back: bool = True
    ) -> None:
        """Log why, carry out these settlements, release the rest, and exit.

        Without ``gives_back`` it exits at once: the broker does not answer.
        """
        if not self._once.acquire(blocking=False):
            return
        try:
            # Neither a broker that does not answer nor a log without a reader may delay the exit.
            timer = threading.Timer(2 * SHUTDOWN_S, os._exit, (1,))
            timer.daemon = True
            timer.start()
            runs = [Bound(each.claim.task_id, each.claim.queue) for each in settlements]
            bound = runs[0] if len(runs) == 1 else None
            log.error("%s: this process ends and is replaced", why, extra={"bound": bound})
            if gives_back:
                self._consumer.leave_with([*settlements, *self._answers(settlements)])
        finally:
            os._exit(1)

    def _answers(self, settlements: Sequence[Settlement]) -> Iterator[Settlement]:
        """Settlements of other runs that have an answer and only await their evaluators."""
        settled = {settlement.claim.key for settlement in settlements}
        for message in self._consumer.held:
            known = message.settlement is not None or message.claim.key in settled
            if message.answered is not None and not known:
                yield self._released(message)
