"""Declaring: encodes queues, sources, budgets and policies as script arguments.

A declaration of many queues is several calls, since a script stops the server for as long as it
runs. Each call declares the next positions of a collection, and removes from its round-robin group
what had these positions before. The number of the declaration tells two of the same time apart. A
process that ends halfway leaves a group whose first positions are new.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from agentpipe.brokers.records import Queue
    from agentpipe.brokers.redis.packing import Argument
    from agentpipe.core.budgets import Budget
    from agentpipe.core.policy import PolicySpec


# About 25 ms of the server.
QUEUES_AT_ONCE = 1_000


def declarations(queues: Collection[Queue]) -> Iterator[list[Argument]]:
    """Yield the arguments of each call of the script ``declare``, after its first two."""
    number = secrets.randbits(52) if len(queues) > QUEUES_AT_ONCE else ""
    placed = list(_placed(queues))
    ends = {queue.collection: index for index, (queue, _) in enumerate(placed)}
    for first in range(0, max(1, len(placed)), QUEUES_AT_ONCE):
        part = placed[first : first + QUEUES_AT_ONCE]
        complete = [name for name, last in ends.items() if name and last < first + QUEUES_AT_ONCE]
        yield _part_args(part, number, complete)


def _part_args(
    part: Sequence[tuple[Queue, int]], number: int | str, complete: Sequence[str]
) -> list[Argument]:
    queues = [queue for queue, _ in part]
    sources = {queue.collection: queue.source for queue in queues if queue.collection}
    known = {name: source for name, source in sources.items() if source}
    budgets = {queue.collection: queue.budget for queue in queues if queue.collection}
    policies = {queue.collection: queue.policy for queue in queues if queue.collection}
    args: list[Argument] = [len(known), len(budgets), _policy_args(policies)]
    args += (number, orjson.dumps(complete))
    for name, it in known.items():
        args += (name, int(it.serves), it.edited_us, it.config_us, it.fingerprint or "-", it.place)
    for name, budget in budgets.items():
        args += (name, *caps(budget))
    for queue, place in part:
        args += (queue.name, queue.max_waiting, queue.concurrency, queue.max_crashes)
        args += (place, queue.collection or "")
        args += (queue.concurrency_group or "", queue.concurrency_group_limit)
    return args


def caps(budget: Budget) -> tuple[float, int]:
    """Return the budget's caps in USD and tokens as script arguments; -1 for no cap."""
    return -1 if budget.usd is None else budget.usd, -1 if budget.tokens is None else budget.tokens


def _policy_args(policies: Mapping[str, PolicySpec | None]) -> bytes:
    """Encode each collection's policy for ``declare``; empty fields mean no policy."""
    rows = []
    for collection, it in policies.items():
        given = (it.name, it.encode(), listed(it.endpoints)) if it else ("", "", "")
        limits = (it.batch, it.max_staleness) if it else (None, None)
        rows.append((collection, *given, *("" if each is None else str(each) for each in limits)))
    return orjson.dumps(rows)


def listed(endpoints: Sequence[str]) -> str:
    """Encode endpoints for scripts."""
    return orjson.dumps(endpoints).decode()


def _placed(queues: Collection[Queue]) -> Iterator[tuple[Queue, int]]:
    """Yield each queue with its position in its collection; -1 without a collection."""
    positions: dict[str, int] = {}
    for queue in queues:
        place = -1
        if queue.collection is not None:
            place = positions.get(queue.collection, 0)
            positions[queue.collection] = place + 1
        yield queue, place
