"""A large crew of agents on Redis, its tasks and its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import Offer, Queue, Worker
from tests.stores import claim_up_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.stores import AnyStore

# More than two parts of any script.
MANY = 2_100


def queues(number: int = MANY, collection: str = "crew", **options: Any) -> list[Queue]:
    return [Queue(f"{collection}_{place}", collection, **options) for place in range(number)]


def worker_of(declared: Sequence[Queue], name: str = "w", slots: int = 32) -> Worker:
    return Worker(name, lease_s=600.0, slots=slots, queues=frozenset(it.name for it in declared))


def offer(
    store: AnyStore, number: int, target: str = "crew", name: str = "t", **options: Any
) -> None:
    for first in range(0, number, 500):
        offers = [
            Offer(f"{name}-{place}", b"{}", **options)
            for place in range(first, min(first + 500, number))
        ]
        assert set(store.offer(target, offers, round_robin=True).verdicts) == {"accepted"}


def claim_all_of(store: AnyStore, worker: Worker, number: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < number and (more := claim_up_to(number - len(found), store, worker)):
        found += more
    return found
