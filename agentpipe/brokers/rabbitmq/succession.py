"""Succession: workers whose connection or channel has closed go on with their runs on the next.

The server delivers what ran again, to a new channel of the same connection as to a new connection.
It closes a channel alone if a queue is missing or of another kind, or a task is held for too long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.worker import RabbitWorker
from agentpipe.connections.amqp.channel import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from agentpipe.brokers.capabilities import NotesAhead
    from agentpipe.brokers.rabbitmq.services import Services

# Least time between two channels of a worker: a queue of another kind closes each of them.
AGAIN_S = 1.0

log = logging.getLogger(__name__)


async def replace_ended(
    workers: MutableMapping[str, RabbitWorker], services: Services, notes: NotesAhead | None
) -> None:
    """Join those of these workers again that have to be, with these services."""
    for name, worker in list(workers.items()):
        if worker.is_cut_off() or not worker.is_on(services):
            successor = await _successor_of(worker, services, notes)
            if workers.get(name) is worker:
                workers[name] = successor
            else:  # Its lease was over meanwhile, and it has joined again, or left.
                await successor.close()


async def _successor_of(
    worker: RabbitWorker, services: Services, notes: NotesAhead | None
) -> RabbitWorker:
    if worker.is_on(services):
        await _say_why(worker)
        await asyncio.sleep(worker.began_at + AGAIN_S - time.monotonic())
    successor = RabbitWorker(services, worker.worker, worker.wakeup, notes)
    successor.inherit(worker)
    await successor.open()
    await services.locks.hand_over(worker, successor)
    return successor


async def _say_why(worker: RabbitWorker) -> None:
    try:
        await worker.check()
    except ChannelClosed as error:
        log.warning("worker %s opens another channel: %s", worker.worker.name, error)
