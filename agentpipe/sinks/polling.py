"""Polling: treats an unreachable sink like a silent one, and waits for it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from agentpipe.sinks.base import Reader, Record

RECONNECT_PAUSE_S = 0.2

log = logging.getLogger(__name__)


class Polling:
    """Polls one reader, and logs once when it becomes unreachable.

    Attributes:
        outage: The current outage's error; None while the sink answers.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.outage: Unreachable | None = None

    def poll(self, limit: int, timeout_s: float) -> list[Record]:
        """Poll the reader; returns nothing during an outage."""
        try:
            records = self._reader.poll(limit, timeout_s)
        except Unreachable as error:
            if self.outage is None:
                log.warning("waiting for the stream: %s", error)
            self.outage = error
            time.sleep(min(timeout_s, RECONNECT_PAUSE_S))
            return []
        if self.outage is not None:
            log.warning("the stream is back")
            self.outage = None
        return records
