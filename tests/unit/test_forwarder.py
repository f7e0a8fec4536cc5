"""The forwarder empties the outbox before it ends, whatever the record sizes."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.settings import Settings
from agentpipe.worker.contact import Contact
from agentpipe.worker.outbox.forwarder import BATCH_BYTES, Forwarder
from tests.stores import claim_up_to, open_any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agentpipe.brokers.records import OutboxRecord
    from agentpipe.sinks.base import Record

PATIENCE_S = 20.0
WORKER = Worker("worker", slots=8, queues=frozenset(["queue"]), lease_s=60.0)


class Sizes:
    """A sink that records the sizes of what it receives."""

    def __init__(self) -> None:
        self.published: list[int] = []

    def publish(self, records: Sequence[Record]) -> None:
        self.published += [len(record.payload) for record in records]

    def close(self) -> None:
        pass


def test_a_large_result_behind_a_small_one_is_forwarded_before_the_end(tmp_path: Path) -> None:
    sizes = [10, BATCH_BYTES, 11, BATCH_BYTES, 12]
    settings, sink = Settings(broker=f"sqlite:///{tmp_path}/a.db?synchronous=normal"), Sizes()
    with closing(open_any(settings)) as store:
        store.declare([Queue("queue", concurrency=5)])
        store.offer("queue", [Offer(str(at), b"{}") for at in range(5)], round_robin=False)
        store.join(WORKER)
        claims = claim_up_to(5, store, WORKER)
        ends = [
            Settlement(claim, "complete", bytes(size), "ok")
            for claim, size in zip(claims, sizes, strict=True)
        ]
        store.settle(ends)
        forwarder = Forwarder(store, WORKER, lambda: sink, Contact())  # type: ignore[arg-type, return-value]
        forwarder.start()
        forwarder.stop(PATIENCE_S)
        assert sink.published == sizes


class Handing:
    """A store that would hand results over as soon as it may; it has none."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def hand_over(self, _hurry: Callable[[], None]) -> None:
        self._events.append("handing over")

    def take_outbox(self, _worker: Worker, _limit: int, _max_bytes: int) -> list[OutboxRecord]:
        return []


def test_results_are_handed_over_once_the_sink_is_open() -> None:
    """Before that, each would wait for the sink in vain."""
    events: list[str] = []

    def opened() -> Sizes:
        events.append("open")
        return Sizes()

    forwarder = Forwarder(Handing(events), WORKER, opened, Contact())  # type: ignore[arg-type]
    forwarder.start()
    forwarder.stop(PATIENCE_S)
    assert events == ["open", "handing over"]
