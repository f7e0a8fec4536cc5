"""SuspectRun: how a worker claims a suspect, so that its mark is true of it and of no other task.

A suspect is claimed when nothing runs, marked, and handed out as soon as the mark is stored, all in
one claim: a mark on what only lay there would blame it for another one's crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.deliveries import Deliveries
    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
    from agentpipe.brokers.records import Claim


class SuspectRun:
    """Claims the suspects of one worker."""

    def __init__(self, channel: WorkerChannel, deliveries: Deliveries) -> None:
        self._suspects, self._deliveries = channel.services.suspects, deliveries

    async def claim(self) -> list[Claim]:
        """Claim and mark the next one, if there is one and nothing runs.

        Where this fails, stored or not: as a claim without a holder, it is released.
        """
        claim = self._deliveries.claim_suspect()
        if claim is None:
            return []
        await self._suspects.mark(self._deliveries.held[claim.number].message)
        return [claim] if self._deliveries.find(claim) else []  # It may be given back by now.
