"""Rounds: how often a RabbitMQ worker has looked for agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.worker import RabbitWorker


class Rounds:
    """Counts how often a worker looks for agents to take over."""

    def __init__(self, worker: RabbitWorker) -> None:
        self.number, self._balance = 0, worker._balance  # noqa: SLF001 - no public name shows it
        worker._balance = self._count  # type: ignore[method-assign] # noqa: SLF001

    async def _count(self) -> None:
        await self._balance()
        self.number += 1
