"""What a RabbitMQ worker has noted when it dies says nothing wrong of what had run."""

from __future__ import annotations

import uuid
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from agentpipe.brokers import open_store
from agentpipe.brokers.rabbitmq import RabbitStore, verdicts
from agentpipe.brokers.rabbitmq.ahead import unread
from agentpipe.brokers.records import Offer, Queue, Worker
from agentpipe.core.delivered import Delivered
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from tests.integration.proxy import Proxy
from tests.stores import claim_up_to
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from agentpipe.brokers.rabbitmq.deliveries import Deliveries
    from brokers.server_rabbitmq import RabbitServer

# Longer than any test: a task without a verdict would count a crash only after it.
LONG_S = 600.0
RUNS, READY = 2, 3
TASKS = RUNS + READY


class Notes:
    """Notes in the memory of the test.

    Attributes:
        laid: The current ones, by place.
        dropped: The earlier ones.
    """

    def __init__(self) -> None:
        self.laid, self.dropped = dict[int, Delivered](), list[Delivered]()

    def lay(self, delivered: Delivered) -> int:
        place = len(self.laid) + len(self.dropped)
        self.laid[place] = delivered
        return place

    def let_go(self, place: int) -> None:
        self.dropped.append(self.laid.pop(place))


@contextmanager
def working(url: str, notes: Notes) -> Iterator[tuple[RabbitStore, Worker]]:
    """A worker that dies at the end: it closes the connection without leaving."""
    with closing(open_store(Settings(broker=url))) as store:
        assert isinstance(store, RabbitStore)
        store.declare([Queue("one", None, 100, RUNS, max_crashes=5)])
        store.note_ahead(notes)
        worker = Worker(f"w-{uuid.uuid4().hex}", slots=RUNS, queues=frozenset({"one"}), lease_s=60)
        store.join(worker)
        yield store, worker


def claim_all(store: RabbitStore, worker: Worker, number: int) -> list[int]:
    """Claim this many tasks; returns their crashes."""
    found: list[int] = []

    def are_there() -> bool:
        found.extend(it.crashes for it in claim_up_to(TASKS, store, worker))
        return len(found) == number

    wait_until(are_there, 30, f"{number} claims")
    return found


def send(store: RabbitStore, number: int) -> None:
    offers = [Offer(f"t{number}", b"{}") for number in range(number)]
    store.offer("one", offers, round_robin=False)


def test_a_task_that_is_being_judged_was_not_unread_when_its_worker_dies(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a run that ended its worker counted no crash if the next worker died soon."""
    with working(rabbit_url, Notes()) as (store, worker):
        send(store, RUNS)
        claim_all(store, worker, RUNS)
    monkeypatch.setattr(verdicts, "PATIENCE_S", LONG_S)
    notes = Notes()
    with working(rabbit_url, notes) as (store, worker):
        agents = store._workers[worker.name]._deliveries.agents  # noqa: SLF001 - no public name shows it
        wait_until(lambda: "one" in agents and agents["one"].judging == RUNS, 30, "all wait")
        assert unread("one") not in notes.laid.values()
    monkeypatch.setattr(verdicts, "PATIENCE_S", 0.1)
    with working(rabbit_url, last := Notes()) as (store, worker):
        store.spare([*notes.laid.values()], [])  # As the watcher of the second worker does.
        assert claim_all(store, worker, RUNS) == [1] * RUNS
        wait_until(lambda: unread("one") in last.laid.values(), 30, "nothing is judged any more")


def test_what_a_worker_has_stays_noted_while_it_connects_again(
    rabbit_url: str, rabbitmq_server: RabbitServer
) -> None:
    """Regression: until it was delivered again, no verdict could name it."""
    notes = Notes()
    with Proxy(rabbitmq_server.port, odds=0.0) as proxy:
        url = rabbit_url.replace(f":{rabbitmq_server.port}", f":{proxy.port}")
        with working(url, notes) as (store, worker):
            send(store, TASKS)
            claim_all(store, worker, RUNS)
            before = store._workers[worker.name]._deliveries  # noqa: SLF001 - no public name shows it
            wait_until(lambda: len(before.ready()) == RUNS, 30, "it has more than it runs")
            tasks = {it for it in notes.laid.values() if it.is_task}
            proxy.refuse()
            proxy.accept()
            wait_until(lambda: resumed(store, worker, before), 30, "its runs go on")
            assert len(tasks) == 2 * RUNS
            assert tasks <= {*notes.laid.values()}
            assert tasks.isdisjoint(notes.dropped)


def resumed(store: RabbitStore, worker: Worker, before: Deliveries) -> bool:
    with suppress(Unreachable):  # Until the loss is noticed.
        assert store.heartbeat(worker)
    after = store._workers[worker.name]._deliveries  # noqa: SLF001 - no public name shows it
    if after is before:
        return False
    return len(after.held) == RUNS and len(after.ready()) == RUNS and not after.awaited
