"""Which settlements fit into messages of the size that the server takes."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.message_sizes import REMEDY, SAFE_BYTES
from agentpipe.errors import ResultTooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.rabbitmq.message_sizes import MessageSizes
    from agentpipe.brokers.rabbitmq.served_agent import Held
    from agentpipe.brokers.records import Settlement

log = logging.getLogger(__name__)


async def fitting(
    sizes: MessageSizes, pairs: Sequence[tuple[Settlement, Held]]
) -> list[tuple[Settlement, Held]]:
    """The same settlements, without new payloads that are too large for the server.

    Raises:
        ResultTooLarge: A result is too large; it would close the worker's channel, and all tasks
            running here would run twice.
    """
    largest = max((len(it.payload) + len(it.result) for it, _ in pairs), default=0)
    largest = max([largest, *(_dead_bytes(it) for it, _ in pairs if it.action == "bury")])
    limit = await sizes.limit_below(largest)
    if limit is None:
        return list(pairs)
    rooms = {it.claim.key: _room(it, limit) for it, _ in pairs}
    too_large = {it.claim.key for it, _ in pairs if len(it.result) > rooms[it.claim.key]}
    if too_large:
        raise ResultTooLarge({key: rooms[key] for key in too_large}, REMEDY)
    return [(_without_large_payload(it, limit), held) for it, held in pairs]


def _dead_bytes(settlement: Settlement) -> int:
    """The size of the dead letter, which holds task and Result."""
    return len(settlement.payload or settlement.claim.payload) + len(settlement.result)


def _room(settlement: Settlement, limit: int) -> int:
    """The maximum size of the result, so that it fits beside the task in a dead letter.

    If the task leaves too little room, the dead letter omits the result.
    """
    if settlement.action != "bury":
        return limit
    beside = limit - _dead_bytes(replace(settlement, result=b""))
    return beside if beside >= SAFE_BYTES else limit


def _without_large_payload(settlement: Settlement, limit: int) -> Settlement:
    """Drop a new payload that is too large: the task continues with its old one."""
    if len(settlement.payload) <= limit:
        return settlement
    log.warning(
        "task %s: its answer, or what it cost, is too large to be kept for a later run; %s",
        settlement.claim.task_id,
        REMEDY,
    )
    return replace(settlement, payload=b"")
