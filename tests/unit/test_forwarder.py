"""The forwarder empties the outbox before it ends, whatever the record sizes."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from agentpipe.worker.contact import BrokerContact
from agentpipe.worker.outbox import forwarder as forwarding
from agentpipe.worker.outbox.forwarder import BATCH_BYTES, RETURN_AFTER, Forwarder
from tests.stores import claim_up_to, open_any
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import OutboxRecord
    from agentpipe.sinks.base import Record
    from tests.stores import AnyStore

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


def outbox_of(store: Store, sizes: Sequence[int]) -> None:
    """Put results of these sizes into the outbox."""
    number = len(sizes)
    store.declare([Queue("queue", concurrency=number)])
    store.offer("queue", [Offer(str(at), b"{}") for at in range(number)], round_robin=False)
    store.join(WORKER)
    claims = claim_up_to(number, store, WORKER)
    store.settle(
        [
            Settlement(claim, "complete", bytes(size), "ok")
            for claim, size in zip(claims, sizes, strict=True)
        ]
    )


def test_a_large_result_behind_a_small_one_is_forwarded_before_the_end(tmp_path: Path) -> None:
    sizes = [10, BATCH_BYTES, 11, BATCH_BYTES, 12]
    settings, sink = Settings(broker=f"sqlite:///{tmp_path}/a.db?synchronous=normal"), Sizes()
    with closing(open_any(settings)) as store:
        outbox_of(store, sizes)
        forwarder = Forwarder(store, WORKER, lambda: sink, BrokerContact())  # type: ignore[arg-type, return-value]
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

    forwarder = Forwarder(Handing(events), WORKER, opened, BrokerContact())  # type: ignore[arg-type]
    forwarder.start()
    forwarder.stop(PATIENCE_S)
    assert events == ["open", "handing over"]


class Failing(Sizes):
    """A sink that fails while ``fails``, and notes how many records it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.fails, self.given = True, list[int]()

    def publish(self, records: Sequence[Record]) -> None:
        self.given.append(len(records))
        if self.fails:
            raise Unreachable("gone")
        super().publish(records)


class Refusing(Failing):
    """A sink that answers, as it takes no records, but fails for each record."""

    def publish(self, records: Sequence[Record]) -> None:
        if records:
            super().publish(records)
        else:
            self.given.append(0)


class OpenBeside(Protocol):
    def __call__(
        self, sink: Failing, results: int
    ) -> AbstractContextManager[tuple[Forwarder, AnyStore, Worker]]: ...


@pytest.fixture
def open_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenBeside:
    """Starts a forwarder that takes all results for a sink, beside another worker."""
    monkeypatch.setattr(forwarding, "PAUSE_S", 0.01)
    monkeypatch.setattr(forwarding, "MAX_PAUSE_S", 0.01)
    settings = Settings(broker=f"sqlite:///{tmp_path}/a.db?synchronous=normal")
    other = Worker("other", slots=1, queues=frozenset(), lease_s=60.0)

    @contextmanager
    def opened(sink: Failing, results: int) -> Iterator[tuple[Forwarder, AnyStore, Worker]]:
        with closing(open_any(settings)) as store:
            outbox_of(store, [2] * results)
            store.join(other)
            forwarder = Forwarder(store, WORKER, lambda: sink, BrokerContact())  # type: ignore[arg-type, return-value]
            forwarder.start()
            wait_until(lambda: results in sink.given, PATIENCE_S, "it has them all")
            yield forwarder, store, other

    return opened


def test_results_that_a_failing_sink_refuses_are_lent_to_others_until_it_works_again(
    open_beside: OpenBeside,
) -> None:
    with open_beside(sink := Failing(), results=8) as (forwarder, store, other):
        taken: list[OutboxRecord] = wait_until(
            lambda: store.take_outbox(other, 5, 10**6), PATIENCE_S, "others can take them"
        )
        wait_until(lambda: sink.given[-1:] == [1], PATIENCE_S, "one is tried at a time")
        assert forwarder.failing
        sink.fails = False
        wait_until(lambda: not forwarder.failing, PATIENCE_S, "the sink works again")
        store.return_outbox(other, [each.number for each in taken])
        forwarder.stop(PATIENCE_S)
        assert sum(map(bool, sink.published)) == 8
        assert sink.given[: RETURN_AFTER + 2] == [0, *[8] * RETURN_AFTER, 1]


def test_a_worker_whose_results_others_delivered_sees_that_its_sink_works_again(
    open_beside: OpenBeside,
) -> None:
    with open_beside(sink := Failing(), results=1) as (forwarder, store, other):
        taken: list[OutboxRecord] = wait_until(
            lambda: store.take_outbox(other, 5, 10**6), PATIENCE_S, "others can take it"
        )
        store.drop_outbox(other, [each.number for each in taken])
        sink.fails = False
        wait_until(lambda: not forwarder.failing, PATIENCE_S, "the sink works again")
        forwarder.stop(PATIENCE_S)
        assert sink.published == []


def test_a_sink_that_only_answers_is_no_sink_that_takes_results(
    open_beside: OpenBeside, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise whole batches are taken from the others again and again, and logged each time."""
    taken: list[int] = []

    def took_all() -> bool:
        taken.extend(each.number for each in store.take_outbox(other, 8, 10**6))
        return len(taken) == 8

    with open_beside(sink := Refusing(), results=8) as (forwarder, store, other):
        wait_until(took_all, PATIENCE_S, "others can take them")
        wait_until(lambda: sink.given[-1] == 0, PATIENCE_S, "it looks whether the sink answers")
        wait_until(lambda: not forwarder.failing, PATIENCE_S, "nothing waits here")
        store.return_outbox(other, taken)
        forwarder.notify()
        wait_until(lambda: sink.given[-3:] == [1] * 3, PATIENCE_S, "one is tried at a time")
        assert forwarder.failing
        assert sink.given.count(8) == RETURN_AFTER
        sink.fails = False
        wait_until(lambda: not forwarder.failing, PATIENCE_S, "the sink works again")
        forwarder.stop(PATIENCE_S)
        assert sink.published == [2] * 8
        assert [it.msg.split(" %")[0] for it in caplog.records] == [
            "results wait in the outbox:",
            "the sink takes results again, after",
        ]
