"""A claim reads what it needs once, however many queues its worker serves."""

from __future__ import annotations

from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING
from unittest import mock

from agentpipe.brokers import open_store
from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Worker
from agentpipe.brokers.sqlite.lanes import Lanes
from agentpipe.settings import OutboxLimits, Settings

if TYPE_CHECKING:
    from pathlib import Path

    from agentpipe.brokers.base import Store

NUMBERS = count()


def test_lanes_are_read_again_when_queues_are_declared_or_served(tmp_path: Path) -> None:
    with closing(open_store(Settings(broker=f"sqlite:///{tmp_path}/broker.db"))) as store:
        store.declare([Queue("a", concurrency=9), Queue("b")])
        worker = Worker("w", "host", slots=9, queues=frozenset({"a"}))
        store.join(worker)
        with mock.patch.object(Lanes, "read", wraps=Lanes.read) as read:
            assert claimed(store, worker, "a", "b") == ["a"]
            assert claimed(store, worker, "a") == ["a"]
            assert read.call_count == 1
            wider = Worker("w", "host", slots=9, queues=frozenset({"a", "b"}))
            assert claimed(store, wider) == ["b"]
            assert read.call_count == 2
            store.declare([Queue("a", "crowd", concurrency=9)])
            assert claimed(store, wider, "a") == ["a"]
            assert read.call_count == 3


def test_sets_of_queues_are_not_compared_at_each_claim(tmp_path: Path) -> None:
    class Counted(frozenset[str]):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += other is not None
            return super().__eq__(other)

        def __ne__(self, other: object) -> bool:
            Counted.compared += other is not None
            return super().__ne__(other)

        __hash__ = frozenset.__hash__

    with closing(open_store(Settings(broker=f"sqlite:///{tmp_path}/broker.db"))) as store:
        store.declare([Queue("a", concurrency=9)])
        worker = Worker("w", "host", slots=9, queues=Counted({"a"}))
        store.join(worker)
        for _ in range(3):
            assert claimed(store, worker, "a") == ["a"]
    assert Counted.compared == 0


def claimed(store: Store, worker: Worker, *queues: str) -> list[str]:
    """Offer one more task to each queue, claim, and return the queues of the claimed tasks."""
    for queue in queues:
        store.offer(queue, [Offer(f"t{next(NUMBERS)}", b"{}")], round_robin=False)
    request = ClaimRequest(worker, 10, OutboxLimits(10**6, 10**9))
    return [each.queue for each in store.claim(request)]
