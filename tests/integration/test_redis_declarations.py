"""Declarations of many queues on Redis, which take several calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import Offer, Queue, Worker
from agentpipe.brokers.redis.declaring import QUEUES_AT_ONCE, declarations
from tests.stores import claim_up_to

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import redis

    from tests.stores import AnyStore

MANY = 2 * QUEUES_AT_ONCE + QUEUES_AT_ONCE // 2


def queues(numbers: Sequence[int], collection: str = "crew") -> list[Queue]:
    return [Queue(f"{collection}_{number}", collection, 10, 1) for number in numbers]


def scripts_of(store: Any) -> Any:
    """The store's scripts, for tests that interrupt one operation."""
    return store._scripts  # noqa: SLF001 - nothing public runs a part of an operation


def begin(store: AnyStore, crew: list[Queue], parts: int | None = None) -> Iterator[None]:
    """Declare part by part; ends after ``parts``."""
    for args in list(declarations(crew))[:parts]:
        scripts_of(store).run("declare", 3, 0, *args)
        yield


def ring(raw: redis.Redis, prefix: str, collection: str = "crew") -> list[str]:
    return list(map(str, raw.zrange(f"{{{prefix}}}:ring:{collection}", 0, -1)))


def names(numbers: Sequence[int]) -> list[str]:
    return [f"crew_{number}" for number in numbers]


def test_many_queues_are_declared_in_several_calls(
    store: AnyStore, raw: redis.Redis, prefix: str
) -> None:
    store.declare(queues(range(MANY)))
    assert ring(raw, prefix) == names(range(MANY))
    assert len(list(declarations(queues(range(MANY))))) == 3
    assert not raw.hexists(f"{{{prefix}}}:store", "declaring:crew")


@pytest.mark.parametrize(
    "then",
    [
        range(5),
        range(QUEUES_AT_ONCE),
        range(QUEUES_AT_ONCE + 7),
        range(3, MANY, 2),
        range(MANY)[::-1],
    ],
    ids=["few", "one part", "two parts", "other positions", "reversed"],
)
def test_only_what_was_declared_last_is_in_the_group(
    store: AnyStore, raw: redis.Redis, prefix: str, then: range
) -> None:
    store.declare(queues(range(MANY)))
    store.declare(queues(then))
    assert ring(raw, prefix) == names(then)
    left = {queue.queue for queue in store.stats().queues if queue.removed}
    assert not left & set(names(then))


def test_a_queue_that_left_keeps_its_tasks_and_gets_no_new_ones(store: AnyStore) -> None:
    store.declare(queues(range(MANY)))
    last = f"crew_{MANY - 1}"
    store.offer(last, [Offer("kept", b"{}")], round_robin=False)
    store.declare(queues(range(QUEUES_AT_ONCE + 1)))
    offers = [Offer(f"more-{number}", b"{}") for number in range(QUEUES_AT_ONCE + 2)]
    assert set(store.offer("crew", offers, round_robin=True).verdicts) == {"accepted"}
    found = {queue.queue: queue for queue in store.stats().queues}
    assert (found[last].waiting, found[last].removed) == (1, True)


def test_of_two_declarations_at_once_the_later_one_counts(
    store: AnyStore, raw: redis.Redis, prefix: str
) -> None:
    first, second = range(MANY), range(MANY, 2 * MANY)
    one, other = begin(store, queues(first)), begin(store, queues(second))
    next(one)
    next(other)
    for each in (*one, *other):
        assert each is None
    assert ring(raw, prefix) == names(second)
    # Its own worker can serve what only the first one declared.
    known = raw.hkeys(f"{{{prefix}}}:queues")
    assert set(known) == {*names(first), *names(second)}


def test_a_short_declaration_ends_a_long_one_before_it(
    store: AnyStore, raw: redis.Redis, prefix: str
) -> None:
    long = begin(store, queues(range(MANY)))
    next(long)
    store.declare(queues(range(3)))
    for each in long:
        assert each is None
    assert ring(raw, prefix) == names(range(3))


def test_what_was_declared_halfway_takes_tasks_and_is_completed_by_the_next_one(
    store: AnyStore, raw: redis.Redis, prefix: str
) -> None:
    store.declare(queues(range(MANY, 2 * MANY)))
    for each in begin(store, queues(range(MANY)), parts=1):
        assert each is None
    offers = [Offer(f"task-{number}", b"{}") for number in range(100)]
    assert set(store.offer("crew", offers, round_robin=True).verdicts) == {"accepted"}
    store.declare(queues(range(MANY)))
    assert ring(raw, prefix) == names(range(MANY))


def test_collections_lie_across_parts(store: AnyStore, raw: redis.Redis, prefix: str) -> None:
    crews = [queues(range(700), name) for name in ("crew", "team", "band")]
    store.declare([queue for crew in crews for queue in crew])
    store.declare([queue for each in zip(*crews, strict=True) for queue in each])
    for name in ("crew", "team", "band"):
        assert ring(raw, prefix, name) == [f"{name}_{number}" for number in range(700)]


def crew_worker(name: str, numbers: Sequence[int]) -> Worker:
    return Worker(name, lease_s=60.0, slots=4, queues=frozenset(names(numbers)))


def claimed_of(store: AnyStore, worker: Worker, queue: str) -> list[str]:
    store.offer(queue, [Offer(f"in-{queue}", b"{}")], round_robin=False)
    return [claim.task_id for claim in claim_up_to(1, store, worker)]


def test_a_worker_of_many_queues_serves_each_of_them(store: AnyStore) -> None:
    store.declare(queues(range(MANY)))
    worker = crew_worker("w", range(MANY))
    store.join(worker)
    for queue in (names(range(MANY))[place] for place in (0, QUEUES_AT_ONCE, MANY - 1)):
        assert claimed_of(store, worker, queue) == [f"in-{queue}"]


def test_a_worker_joins_while_the_last_one_with_its_queues_leaves(
    store: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.declare(queues(range(MANY)))
    leaving, joining = crew_worker("leaving", range(MANY)), crew_worker("joining", range(MANY))
    store.join(leaving)
    scripts = scripts_of(store)
    run = scripts.run

    def leaves_first(name: str, *args: Any, **options: Any) -> Any:
        if name == "join":
            monkeypatch.undo()
            store.leave(leaving)
        return run(name, *args, **options)

    monkeypatch.setattr(scripts, "run", leaves_first)
    store.join(joining)
    last = names(range(MANY))[-1]
    assert claimed_of(store, joining, last) == [f"in-{last}"]


def test_names_that_no_worker_followed_expire(
    store: AnyStore, raw: redis.Redis, prefix: str
) -> None:
    store.declare(queues(range(3)))
    scripts_of(store).run("serve", "abc", "crew_0")
    assert raw.ttl(f"{{{prefix}}}:serves:abc") > 0
    store.join(crew_worker("w", range(3)))
    (kept,) = {*map(str, raw.keys(f"{{{prefix}}}:serves:*"))} - {f"{{{prefix}}}:serves:abc"}
    assert raw.ttl(kept) == -1
