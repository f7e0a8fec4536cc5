"""Functions that the conformance suites run in separate processes."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.capabilities import Answer, ReadsTasks, TaskQuery
from agentpipe.brokers.records import MemberEnd, Offer, Settlement, Worker
from agentpipe.sinks import open_sink
from tests.stores import can, claim_up_to, open_any

if TYPE_CHECKING:
    from agentpipe.settings import Settings


def offer_one_by_one(
    settings: Settings, target: str, ids: list[str], group: Any, verdicts: Any
) -> None:
    """Offer tasks round-robin, concurrently with the other members of the barrier ``group``."""
    store = open_any(settings)
    group.wait(60)
    found: dict[str, int] = {}
    for task_id in ids:
        offer = Offer(task_id, b"{}")
        (verdict,) = store.offer(target, [offer], round_robin=True).verdicts
        found[verdict] = found.get(verdict, 0) + 1
    verdicts.put(found)
    store.close()


def claim_and_answer(
    settings: Settings, queues: frozenset[str], name: str, *, group: Any, left: Any, claimed: Any
) -> None:
    """Claim and answer concurrently until no task is ``left``; record when each ran."""
    store = open_any(settings)
    worker = Worker(name, queues=queues, lease_s=60)
    store.join(worker)
    group.wait(60)
    held = []
    ends = time.monotonic() + 60
    while left.value and time.monotonic() < ends:
        for claim in claim_up_to(2, store, worker):
            begun = time.monotonic()
            time.sleep(0.002)  # Stands for the run.
            held.append((claim.queue, begun, time.monotonic(), claim.task_id))
            store.settle([Settlement(claim, "complete", b"{}", "ok")])
            with left.get_lock():
                left.value -= 1
        store.wait(0.01)
    claimed.put(held)
    store.close()


def claim_until_cancelled(
    settings: Settings, queues: frozenset[str], name: str, *, group: Any, left: Any, outcomes: Any
) -> None:
    """Claim until no task is ``left``; answer cancelled ones, and finish others after a moment."""
    store = open_any(settings)
    worker = Worker(name, queues=queues, lease_s=60)
    store.join(worker)
    group.wait(60)
    cancelled_ids, found = set[str](), Counter[str]()
    ends = time.monotonic() + 60
    while left.value and time.monotonic() < ends:
        for claim in claim_up_to(2, store, worker):
            store.wait(0.01)  # Stands for the run.
            cancelled_ids.update(store.take_cancelled())
            cancelled = claim.cancelled or claim.task_id in cancelled_ids
            outcome = "cancelled" if cancelled else "ok"
            if store.settle([Settlement(claim, "complete", outcome.encode(), outcome)]) == [True]:
                found[outcome] += 1
                with left.get_lock():
                    left.value -= 1
        store.wait(0.01)
        cancelled_ids.update(store.take_cancelled())
    outcomes.put(found)
    store.leave(worker)
    store.close()


def cancel_one_by_one(
    settings: Settings, ids: list[str], *, group: Any, left: Any, outcomes: Any
) -> None:
    """Cancel tasks while other processes run them."""
    store = open_any(settings)
    reads_tasks = can(store, ReadsTasks)
    group.wait(60)
    found = Counter[str]()
    for task_id in ids:
        store.cancel([task_id])
        if not reads_tasks:
            continue  # The worker that claims it answers it as cancelled.
        answers = [
            Answer(it.task_id, b"cancelled", "cancelled")
            for it in store.tasks(TaskQuery(task_ids=[task_id]))
        ]
        done = sum(store.answer(answers)) if answers else 0
        found["cancelled"] += done
        with left.get_lock():
            left.value -= done
    outcomes.put(found)
    store.close()


def read_and_hang(settings: Settings, group: str, limit: int, polled: Any) -> None:
    """Read records, commit the first, and hold the others until the process is killed."""
    sink = open_sink(settings)
    reader = sink.follow(group, "beginning")
    records = reader.poll(limit, 30)
    reader.commit(records[0])
    polled.put((os.getpid(), [record.task_id for record in records]))
    time.sleep(600)


def spend_until_nothing_comes(
    settings: Settings, queues: frozenset[str], name: str, *, group: Any, spent: Any, found: Any
) -> None:
    """Pay 1 for each task, and count claims that begin after the budget is ``spent``.

    ``spent`` is the sum of all settlements so far; a claim that begins once it reached the budget
    is late.
    """
    store = open_any(settings)
    worker = Worker(name, queues=queues, lease_s=60)
    store.join(worker)
    group.wait(60)
    paid = late = empty = 0
    while empty < 20:
        was_spent = spent.value >= 20
        claims = claim_up_to(2, store, worker)
        late += len(claims) if was_spent else 0
        empty = 0 if claims else empty + 1
        for claim in claims:
            store.settle([Settlement(claim, "complete", b"{}", "ok", usd=1.0)])
            paid += 1
            with spent.get_lock():
                spent.value += 1
        store.wait(0.01)
    found.put((paid, late))
    store.close()


def begin_and_end(settings: Settings, queues: list[str]) -> None:
    """Claim and complete group members, up to three at a time, until the process is terminated."""
    store = open_any(settings)
    worker = Worker(f"worker-{os.getpid()}", queues=frozenset(queues), lease_s=60)
    store.join(worker)
    member = MemberEnd(good=True, versions=(0,))
    while True:
        claims = claim_up_to(3, store, worker)
        store.settle([Settlement(it, "complete", b"{}", "ok", member=member) for it in claims])
        store.wait(0.01)
