"""IdleEnd: ends a stopping process that holds nothing, although its broker is away."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from agentpipe.worker.times import SHUTDOWN_S, TICK_S

if TYPE_CHECKING:
    from agentpipe.worker.claims.consumer import Consumer
    from agentpipe.worker.contact import BrokerContact
    from agentpipe.worker.loop.event_loop import EventLoop

log = logging.getLogger(__name__)


class IdleEnd(threading.Thread):
    """Starts when the worker is asked to end, and ends with the process.

    A worker whose runs are settled needs the broker only to say goodbye, which it tries for
    ``SHUTDOWN_S``. Without it the others wait for the lease, unless the supervisor reports the end.
    """

    def __init__(self, consumer: Consumer, loop: EventLoop, contact: BrokerContact) -> None:
        super().__init__(name="agentpipe-idle-end", daemon=True)
        self._consumer, self._loop, self._contact = consumer, loop, contact

    def run(self) -> None:
        """Wait until the runs have ended, then watch the farewell: its calls cannot be ended."""
        self._loop.join()
        time.sleep(SHUTDOWN_S)
        while self._consumer.held or not self._contact.is_lost:
            time.sleep(TICK_S)
        log.warning("the broker does not answer: this worker holds nothing, and ends without it")
        os._exit(0)
