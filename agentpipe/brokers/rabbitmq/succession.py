"""Succession: the workers of a lost connection go on with their runs on the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.worker import RabbitWorker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.capabilities import NotesAhead
    from agentpipe.brokers.rabbitmq.services import Services


async def successors_of(
    workers: Mapping[str, RabbitWorker], services: Services, notes: NotesAhead | None
) -> dict[str, RabbitWorker]:
    """The workers, joined again on the connection of these services."""
    found = {}
    for name, worker in workers.items():
        found[name] = RabbitWorker(services, worker.worker, worker.wakeup, notes)
        found[name].inherit(worker)
        await found[name].open()
    return found
