"""Declaring: encodes queues, sources, budgets and policies as script arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Queue
    from agentpipe.brokers.redis.packing import Argument
    from agentpipe.core.budgets import Budget
    from agentpipe.core.policy import PolicySpec


def declare_args(queues: Collection[Queue]) -> list[Argument]:
    """Return the arguments of the script ``declare``."""
    sources = {queue.collection: queue.source for queue in queues if queue.collection}
    known = {name: source for name, source in sources.items() if source}
    budgets = {queue.collection: queue.budget for queue in queues if queue.collection}
    policies = {queue.collection: queue.policy for queue in queues if queue.collection}
    args: list[Argument] = [len(known), len(budgets), _policy_args(policies)]
    for name, it in known.items():
        args += (name, int(it.serves), it.edited_us, it.config_us, it.fingerprint or "-", it.place)
    for name, budget in budgets.items():
        args += (name, *caps(budget))
    return [*args, *_queue_args(queues)]


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


def _queue_args(queues: Iterable[Queue]) -> Iterable[str | int]:
    """Yield the arguments for queues; positions count per collection."""
    positions: dict[str, int] = {}
    for queue in queues:
        place = -1
        if queue.collection is not None:
            place = positions.get(queue.collection, 0)
            positions[queue.collection] = place + 1
        yield from (queue.name, queue.max_waiting, queue.concurrency, queue.max_crashes)
        yield from (place, queue.collection or "")
        yield from (queue.concurrency_group or "", queue.concurrency_group_limit)
