"""SuspectRun: how a worker claims a suspect, so that its mark is true of it and of no other task.

A suspect is claimed when nothing runs, marked, and handed out when the mark is stored. In between
nothing else is claimed: a mark on what only lay there would blame it for another one's crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.deliveries import Deliveries, Prefetched
    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
    from agentpipe.brokers.records import Claim


class SuspectRun:
    """The suspect that runs next in one worker.

    Attributes:
        claim: Made, and not handed out yet.
    """

    def __init__(self, channel: WorkerChannel, deliveries: Deliveries) -> None:
        self.claim: Claim | None = None
        self._is_marked = False
        self._channel, self._deliveries = channel, deliveries

    def begin(self, suspect: Prefetched) -> None:
        """Claim and mark it, if nothing else runs."""
        for claim in self._deliveries.claim_alone(suspect):
            self.claim, self._is_marked = claim, False
            self._channel.begin(self._mark(suspect))

    async def _mark(self, suspect: Prefetched) -> None:
        try:
            await self._channel.services.suspects.mark(suspect.message)
        except BaseException:  # Stored or not: as a claim that nobody holds, it is released.
            self.claim = None
            raise
        self._is_marked = True
        self._channel.wake()

    def hand_out(self) -> list[Claim]:
        """Its claim, once it is marked, unless it was given back meanwhile."""
        if self.claim is None or not self._is_marked:
            return []
        claim, self.claim = self.claim, None
        return [claim] if self._deliveries.find(claim) else []
