"""SuspectRun: claims a suspect so that its mark covers exactly this run.

A suspect is claimed when nothing else runs, marked, and handed out once the mark is stored, all in
one claim. A mark on a task that only waited here would blame it for another task's crash.
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
        """Claim and mark the next suspect, if there is one and nothing runs.

        If marking fails, whether stored or not, the claim has no holder and is released as such.
        """
        claim = self._deliveries.claim_suspect()
        if claim is None:
            return []
        await self._suspects.mark(self._deliveries.held[claim.number].message)
        return [claim] if self._deliveries.find(claim) else []  # It can be given back by now.
