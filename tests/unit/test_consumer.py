"""The consumer: what it claims while its worker loses its lease."""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from agentpipe.worker.claims.consumer import Consumer
from agentpipe.worker.claims.exchange import Exchange
from agentpipe.worker.claims.held import HeldClaims
from agentpipe.worker.contact import BrokerContact
from agentpipe.worker.running.capacity import Capacity
from agentpipe.worker.watch.last_word import LastWord
from tests.stores import open_any
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentpipe.brokers.records import Claim, ClaimRequest
    from agentpipe.worker.running.message import ClaimedMessage
    from tests.stores import AnyStore

QUEUES = ("queue", "second", "third")
WORKER = Worker("worker", slots=4, queues=frozenset(QUEUES))


def put(store: AnyStore, queue: str) -> None:
    store.offer(queue, [Offer(f"task of {queue}", b"{}")], round_robin=False)


@contextmanager
def declared(folder: Path, *with_tasks: str) -> Iterator[tuple[AnyStore, Settings]]:
    """A store with all queues, and a task in each of these."""
    settings = Settings(broker=f"sqlite:///{folder}/a.db?synchronous=normal")
    with closing(open_any(settings)) as store:
        store.declare([Queue(queue) for queue in QUEUES])
        for queue in with_tasks:
            put(store, queue)
        yield store, settings


class Racing:
    """A store; once the worker has lost its lease, a heartbeat runs just before a claim."""

    def __init__(self, store: AnyStore) -> None:
        self._store = store
        self.rival: threading.Thread | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def claim(self, request: ClaimRequest) -> list[Claim]:
        if self.rival is not None and self.rival.ident is None:
            self.rival.start()
            self.rival.join(0.5)  # Let the heartbeat finish before the claim, if it can.
            for queue in QUEUES[1:]:  # Raise the worker's even share above its load.
                put(self._store, queue)
        return self._store.claim(request)


class Loop:
    """Starts runs that never end."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.interrupted: list[str] = []
        self.turns = SimpleNamespace(turn_s=0.0)
        self.stray_s, self.is_paused = 0.0, False

    def start_runs(self, messages: list[ClaimedMessage]) -> None:
        self.started += [message.claim.task_id for message in messages]

    def interrupt(self, messages: list[ClaimedMessage]) -> None:
        self.interrupted += [message.claim.task_id for message in messages]


def consumer_of(store: Any, settings: Settings, notify: Callable[[], None]) -> Consumer:
    forwarder: Any = SimpleNamespace(
        notify=notify, stop=lambda _: None, forwarding=lambda: nullcontext([])
    )
    return Consumer(
        store,
        settings,
        lambda message: message.settlement,  # type: ignore[arg-type, return-value]
        forwarder,
        Capacity(),
        word=LastWord.of(""),
        contact=BrokerContact(),
    )


def test_a_task_is_not_claimed_again_while_its_lost_run_goes_on(tmp_path: Path) -> None:
    with declared(tmp_path, "queue") as (store, settings):
        loop, racing = Loop(), Racing(store)
        consumer = consumer_of(racing, settings, lambda: None)
        consumer.begin(WORKER, loop)  # type: ignore[arg-type]
        wait_until(lambda: loop.started == ["task of queue"], 20, "it runs")
        heartbeat = threading.Thread(target=lambda: consumer.membership.heartbeat(whole=False))
        racing.rival = heartbeat
        store.leave(WORKER)  # As other workers do when a lease lapses.
        wait_until(lambda: loop.interrupted == ["task of queue"], 20, "the lost run is interrupted")
        wait_until(lambda: not heartbeat.is_alive(), 20, "it has a lease")
        consumer.stop()
        consumer.join(20)
        assert loop.started == ["task of queue"]


class Stumbling:
    """A store that is unreachable for the first claim after a settlement."""

    def __init__(self, store: AnyStore) -> None:
        self._store = store
        self.has_settled = self.was_away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def settle(self, settlements: list[Settlement]) -> list[bool]:
        done = self._store.settle(settlements)
        self.has_settled = True
        return done

    def settle_and_claim(
        self, settlements: list[Settlement], request: ClaimRequest
    ) -> tuple[list[bool], list[Claim] | None]:
        assert request.limit
        return self.settle(settlements), None

    def claim(self, request: ClaimRequest) -> list[Claim]:
        if self.has_settled and not self.was_away:
            self.was_away = True
            raise Unreachable("away for a moment")
        return self._store.claim(request)


class HeldLoop(Loop):
    """Keeps the messages that it starts."""

    def __init__(self, begun: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.messages: list[ClaimedMessage] = []
        self._begun = begun

    def start_runs(self, messages: list[ClaimedMessage]) -> None:
        self._begun()
        self.messages += messages


def test_what_a_turn_settled_is_made_durable_although_its_claim_failed(tmp_path: Path) -> None:
    with declared(tmp_path, "queue") as (store, settings):
        loop, stumbling, synced = HeldLoop(), Stumbling(store), threading.Event()
        consumer = consumer_of(stumbling, settings, synced.set)
        consumer.begin(WORKER, loop)  # type: ignore[arg-type]
        wait_until(lambda: bool(loop.messages), 20, "it runs")
        (message,) = loop.messages
        message.settlement = Settlement(message.claim, "complete", b"{}", "ok")
        consumer.settle_soon([message])
        wait_until(lambda: stumbling.was_away, 20, "the claim fails")
        wait_until(synced.is_set, 5, "it is on the disk")
        consumer.stop()
        consumer.join(20)


class Pausing:
    """A store; Dramatiq pauses the consumer during a claim."""

    def __init__(self, store: AnyStore) -> None:
        self._store = store
        self.pause: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def claim(self, request: ClaimRequest) -> list[Claim]:
        claims = self._store.claim(request)
        if claims:
            self.pause()
        return claims


def test_a_consumer_is_paused_only_once_what_it_claimed_has_begun(tmp_path: Path) -> None:
    with declared(tmp_path, "queue") as (store, settings):
        pausing, was_paused = Pausing(store), list[bool]()
        consumer = consumer_of(pausing, settings, lambda: None)
        pausing.pause = consumer.pause
        loop = HeldLoop(lambda: was_paused.append(consumer.paused_event.is_set()))
        consumer.begin(WORKER, loop)  # type: ignore[arg-type]
        wait_until(consumer.paused_event.is_set, 20, "it is paused")
        assert was_paused == [False]
        consumer.stop()
        consumer.join(20)


class Awaiting:
    """A store that has not found some claims again since it was away."""

    def __init__(self, store: AnyStore) -> None:
        self._store = store
        self.awaited: frozenset[tuple[str, int]] = frozenset()
        self.refusals = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def settle(self, settlements: list[Settlement]) -> list[bool]:
        self._refuse(settlements)
        return self._store.settle(settlements)

    def settle_and_claim(
        self, settlements: list[Settlement], _request: ClaimRequest
    ) -> tuple[list[bool], list[Claim] | None]:
        return self.settle(settlements), None

    def _refuse(self, settlements: list[Settlement]) -> None:
        if not self.awaited.isdisjoint(each.claim.key for each in settlements):
            self.refusals += 1
            raise Unreachable("one was not found yet")


def test_a_run_that_the_store_has_not_found_yet_holds_up_no_other(tmp_path: Path) -> None:
    """Regression: what ended with it was not settled, and nothing was claimed."""
    with declared(tmp_path) as (store, settings):
        loop, awaiting = HeldLoop(), Awaiting(store)
        consumer = consumer_of(awaiting, settings, lambda: None)
        consumer.begin(replace(WORKER, slots=2), loop)  # type: ignore[arg-type]
        for queue in QUEUES[:2]:
            put(store, queue)
        wait_until(lambda: len(loop.messages) == 2, 20, "both run")
        ended = [*loop.messages]
        awaiting.awaited = frozenset({ended[0].claim.key})
        for message in ended:
            message.settlement = Settlement(message.claim, "complete", b"{}", "ok")
        for queue in (ended[1].claim.queue, QUEUES[2]):  # The awaited one has no slot, either.
            store.offer(queue, [Offer(f"next of {queue}", b"{}")], round_robin=False)
        consumer.settle_soon(ended)
        wait_until(lambda: len(loop.messages) == 4, 20, "the next ones run")
        assert ended[1] not in consumer.held
        assert ended[0] in consumer.held
        awaiting.awaited = frozenset()
        wait_until(lambda: ended[0] not in consumer.held, 20, "it is settled")
        consumer.stop()
        consumer.join(20)


def test_a_consumer_that_stops_settles_what_the_store_finds_at_last(tmp_path: Path) -> None:
    with declared(tmp_path, "queue") as (store, settings):
        loop, awaiting = HeldLoop(), Awaiting(store)
        consumer = consumer_of(awaiting, settings, lambda: None)
        consumer.begin(WORKER, loop)  # type: ignore[arg-type]
        (message,) = wait_until(lambda: loop.messages, 20, "it runs")
        awaiting.awaited = frozenset({message.claim.key})
        message.settlement = Settlement(message.claim, "complete", b"{}", "ok")
        consumer.settle_soon([message])
        consumer.stop()
        wait_until(lambda: awaiting.refusals, 20, "it tries")
        awaiting.awaited = frozenset()
        consumer.join(20)
        assert store.stats().outbox == 1


class FoundMeanwhile(Awaiting):
    """It finds all claims while the first ones are settled."""

    def settle(self, settlements: list[Settlement]) -> list[bool]:
        done = super().settle(settlements)
        self.awaited = frozenset()
        return done


def test_what_follows_a_run_that_is_found_at_the_very_end_is_sent(tmp_path: Path) -> None:
    """Regression: only its result was stored, and its pipeline ended there."""
    with declared(tmp_path, *QUEUES[:2]) as (store, settings):
        store.join(WORKER)
        awaiting, held = FoundMeanwhile(store), HeldClaims(LastWord.of(""))
        exchange = Exchange(
            awaiting,  # type: ignore[arg-type]
            settings.outbox_limits,
            lambda message: message.settlement,  # type: ignore[arg-type, return-value]
            held,
            Capacity(),
            settled=lambda: None,
        )
        first, second = exchange.turn(WORKER, Loop(), share=False)  # type: ignore[arg-type]
        for message in (first, second):
            message.settlement = Settlement(message.claim, "complete", b"{}", "ok")
        first.follow_ups = [("third", Offer("next", b"{}"))]
        awaiting.awaited = frozenset({first.claim.key})
        exchange.settle_soon([first, second])
        exchange.settle_ended()
        assert len(held) == 0
        assert store.stats().waiting == 1


class Counting(Awaiting):
    """Fails to settle once; counts what is offered."""

    def __init__(self, store: AnyStore) -> None:
        super().__init__(store)
        self.offered: list[str] = []

    def offer(self, queue: str, offers: list[Offer], *, round_robin: bool) -> Any:
        self.offered.append(queue)
        return self._store.offer(queue, offers, round_robin=round_robin)

    def _refuse(self, _settlements: list[Settlement]) -> None:
        self.refusals += 1
        if self.refusals == 1:
            raise Unreachable("away for a moment")


def test_what_follows_a_run_is_sent_once(tmp_path: Path) -> None:
    """Regression: with each settlement that failed; RabbitMQ, which knows no ids, ran all."""
    with declared(tmp_path, "queue") as (store, settings):
        loop, counting = HeldLoop(), Counting(store)
        consumer = consumer_of(counting, settings, lambda: None)
        consumer.begin(WORKER, loop)  # type: ignore[arg-type]
        (message,) = wait_until(lambda: loop.messages, 20, "it runs")
        message.settlement = Settlement(message.claim, "complete", b"{}", "ok")
        message.follow_ups = [("second", Offer("follows", b"{}"))]
        consumer.settle_soon([message])
        wait_until(lambda: message not in consumer.held, 20, "it is settled")
        consumer.stop()
        consumer.join(20)
        assert counting.refusals > 1
        assert counting.offered == ["second"]
