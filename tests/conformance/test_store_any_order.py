"""Random operations: whatever happens, each task ends once."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.capabilities import Answer, ReadsTasks, TaskQuery
from agentpipe.brokers.records import (
    Claim,
    Offer,
    Queue,
    Settlement,
    Worker,
)
from tests.conformance.steps import (
    PATIENCE_S,
    balanced,
    claim,
    depths_needed,
    ids_needed,
    joined,
    unique,
)
from tests.stores import can
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.stores import AnyStore


class Chaos:
    """Random operations of several workers, checked against a ledger kept by the test."""

    def __init__(self, store: AnyStore, seed: int) -> None:
        self.store, self.random = store, random.Random(seed)
        self.collection = unique("collection")
        self.queues = [f"{self.collection}_{index}" for index in range(4)]
        self.group_limit = 2
        self.declare()
        # The worker with the short lease sometimes lets it lapse.
        self.workers = [joined(store, self.queues, lease_s) for lease_s in (60, 60, 0.03)]
        self.held: list[Claim] = []
        self.accepted: set[str] = set()
        self.answered: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.taken: list[tuple[Worker, Any]] = []

    def declare(self) -> None:
        """Declare four queues, of which three share a concurrency group."""
        groups = ["group", "group", "group", None]
        self.group_limit = self.random.randrange(self.group_limit, 4)
        self.store.declare(
            [
                Queue(
                    name,
                    self.collection,
                    6,
                    2,
                    concurrency_group=group,
                    concurrency_group_limit=self.group_limit,
                )
                for name, group in zip(self.queues, groups, strict=True)
            ]
        )

    def step(self) -> None:
        usual = [self.offer, self.claim, self.settle]
        rare = [self.take, self.drop, self.leave, self.heartbeat, self.declare]
        rare += [self.answer] if can(self.store, ReadsTasks) else []
        operation = self.random.choice(usual + usual + rare)
        operation()
        running = {}
        for depth in balanced(self.store).queues:
            running[depth.queue] = depth.running or 0
            assert running[depth.queue] <= depth.concurrency
        assert sum(running[queue] for queue in self.queues[:3]) <= self.group_limit

    def offer(self) -> None:
        ids = [f"t{self.random.randrange(400)}" for _ in range(self.random.randrange(1, 8))]
        batch = [
            Offer(task_id, b"{}", self.random.randrange(3), self.random.choice([0, 0, 0.01]))
            for task_id in ids
        ]
        verdicts = self.store.offer(self.collection, batch, round_robin=True).verdicts
        for task_id, verdict in zip(ids, verdicts, strict=True):
            assert (verdict == "duplicate") == (task_id in self.accepted)
            if verdict == "accepted":
                self.accepted.add(task_id)

    def claim(self) -> None:
        self.held += claim(self.store, self.random.choice(self.workers), 4)

    def settle(self) -> None:
        self.random.shuffle(self.held)
        batch = [
            Settlement(
                each,
                self.random.choice(
                    ["complete", "complete", "bury", "retry", "release", "crash", "cooldown"]
                ),
                each.task_id.encode(),
                "ok",
                delay_s=self.random.choice([0, 0.01]),
            )
            for each in self.held[:3]
        ]
        del self.held[:3]
        for settlement, done in zip(batch, self.store.settle(batch), strict=True):
            if done and settlement.action in ("complete", "bury"):
                self.answered[settlement.claim.task_id] += 1

    def take(self) -> None:
        worker = self.random.choice(self.workers)
        self.taken += [(worker, each) for each in self.store.take_outbox(worker, 3, 8)]

    def drop(self) -> None:
        for worker, record in self.taken[:2]:
            before = self.store.stats().delivered
            self.store.drop_outbox(worker, [record.number])
            if self.store.stats().delivered != before:
                self.delivered[record.payload.decode()] += 1
        del self.taken[:2]

    def answer(self) -> None:
        waiting = self.store.tasks(TaskQuery(queues=self.queues, limit=50))
        for entry in self.random.sample(waiting, min(1, len(waiting))):
            (done,) = self.store.answer([Answer(entry.task_id, entry.task_id.encode(), "stale")])
            self.answered[entry.task_id] += done

    def leave(self) -> None:
        worker = self.random.choice(self.workers)
        self.store.leave(worker)
        self.store.join(worker)

    def heartbeat(self) -> None:
        for worker in self.workers:
            if not self.store.heartbeat(worker):
                self.store.join(worker)

    def finish(self) -> None:
        for worker in self.workers:
            self.store.leave(worker)
        self.workers = [joined(self.store, self.queues)]
        self.taken.clear()
        wait_until(self._is_done, PATIENCE_S, "everything is answered and delivered")

    def _is_done(self) -> bool:
        self.claim()
        self.settle()
        self.take()
        self.drop()
        return self.store.stats().delivered == len(self.accepted)


@ids_needed
@depths_needed
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_each_task_is_answered_and_delivered_once(
    store: AnyStore, seed: int
) -> None:
    chaos = Chaos(store, seed)
    for _ in range(400):
        chaos.step()
    chaos.finish()
    assert chaos.answered == chaos.delivered == dict.fromkeys(chaos.accepted, 1)
    assert balanced(store).outbox == 0
