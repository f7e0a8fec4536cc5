"""Workers on Redis that end with many claims: no call of a script requeues all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import ClaimRequest, Settlement
from brokers.server_redis import RedisServer
from tests.integration.redis_calls import commands_of_calls, runs_of_scripts
from tests.integration.redis_crew import MANY, claim_all_of, offer, queues, worker_of
from tests.stores import ROOMY, claim_up_to

if TYPE_CHECKING:
    from tests.servers import OwnServer
    from tests.stores import AnyStore

PORTION = 500
LIMITS: dict[str, Any] = {"max_waiting": MANY, "concurrency": MANY}


@pytest.fixture
def redis_server(own_server: OwnServer) -> RedisServer:
    """A server for this test alone: what a call touches is counted there."""
    return own_server(RedisServer)


class Fleet:
    """A worker with ``MANY`` claims, and an idle one."""

    def __init__(self, store: AnyStore, **options: Any) -> None:
        self.store, crew = store, queues(10, **LIMITS, **options)
        store.declare(crew)
        self.large = worker_of(crew, "large", slots=2 * MANY)
        self.other = worker_of(crew, "other", slots=2 * MANY)
        for each in (self.large, self.other):
            store.join(each)
        offer(store, MANY)
        self.claims = claim_all_of(store, self.large, MANY)
        assert len(self.claims) == MANY

    @property
    def counts(self) -> tuple[int | None, int | None]:
        stats = self.store.stats()
        return stats.waiting, stats.running

    def lapse(self) -> None:
        self.store.heartbeat(replace(self.large, lease_s=0.0))

    def claim_all(self) -> list[Any]:
        return claim_all_of(self.store, self.other, MANY)


@pytest.fixture
def fleet(store: AnyStore) -> Fleet:
    return Fleet(store)


def first_part(store: Any, worker: str, *begun: str) -> None:
    """Begin to leave, in a process that is killed after the first call."""
    assert store._scripts.run("leave", worker, 0, 0, *begun) == [PORTION, 1]  # noqa: SLF001


def test_a_worker_leaves_with_many_claims_part_by_part(fleet: Fleet, raw: Any) -> None:
    with commands_of_calls(fleet.store, raw) as most, runs_of_scripts(fleet.store) as calls:
        assert fleet.store.leave(fleet.large) == MANY
    assert calls["leave"] == MANY // PORTION + 1
    assert most["leave"] < PORTION
    assert fleet.counts == (MANY, 0)
    assert [it.name for it in fleet.store.stats().workers] == ["other"]
    found = fleet.claim_all()
    assert sorted(it.task_id for it in found) == sorted(it.task_id for it in fleet.claims)
    assert {it.crashes for it in found} == {0}


def test_a_worker_that_is_killed_while_it_leaves_holds_the_rest(fleet: Fleet) -> None:
    first_part(fleet.store, "large")
    assert fleet.counts == (PORTION, MANY - PORTION)
    assert not fleet.store.heartbeat(fleet.large)
    assert fleet.store.claim(ClaimRequest(fleet.large, 5, ROOMY)) == []
    assert fleet.store.take_outbox(fleet.large, 5, 1_000) == []
    fleet.store.drain(["large", "other"])
    left = fleet.store.compare(fleet.large, [it.key for it in fleet.claims], ())
    assert (left.lost, left.returned) == (frozenset(), 0)


def test_what_a_leaving_worker_still_holds_can_end_once(fleet: Fleet) -> None:
    first_part(fleet.store, "large")
    done = fleet.store.settle([Settlement(it, "complete", b"{}", "ok") for it in fleet.claims])
    assert sum(done) == MANY - PORTION
    assert fleet.counts == (PORTION, 0)
    assert len(fleet.claim_all()) == PORTION


def test_the_rest_of_a_leave_counts_no_crash_when_the_lease_is_over(
    fleet: Fleet, raw: Any, prefix: str
) -> None:
    first_part(fleet.store, "large")
    raw.zadd(f"{{{prefix}}}:workers", {"large": 0})  # Its lease is over.
    found = fleet.claim_all()
    assert len(found) == MANY
    assert {it.crashes for it in found} == {0}
    assert not raw.exists(f"{{{prefix}}}:worker:large", f"{{{prefix}}}:held:large")


def test_a_worker_that_joins_again_holds_none_of_its_former_claims(fleet: Fleet) -> None:
    first_part(fleet.store, "large")
    with runs_of_scripts(fleet.store) as calls:
        fleet.store.join(fleet.large)
    assert calls["join"] > 2
    assert fleet.counts == (MANY, 0)
    assert fleet.store.heartbeat(fleet.large)
    assert len(claim_up_to(5, fleet.store, fleet.large)) == 5


def test_a_lease_that_expires_with_many_claims_is_ended_part_by_part(
    fleet: Fleet, raw: Any
) -> None:
    fleet.lapse()
    with commands_of_calls(fleet.store, raw) as most:
        fleet.store.cancel(["unknown"])
        assert fleet.counts == (PORTION, MANY - PORTION)
        assert not fleet.store.heartbeat(fleet.large)
        found = fleet.claim_all()
    assert most["cancel"] < PORTION
    assert len(found) == MANY
    assert {it.crashes for it in found} == {1}


def test_all_are_suspects_of_a_worker_that_died_with_many(store: AnyStore) -> None:
    fleet = Fleet(store, max_crashes=1)
    fleet.lapse()
    while fleet.counts != (MANY, 0):
        store.cancel(["unknown"])
    (suspect,) = claim_up_to(50, store, fleet.other)
    assert store.settle([Settlement(suspect, "complete", b"{}", "ok")]) == [True]
    assert len(claim_up_to(50, store, fleet.other)) == 1


def test_only_begun_runs_of_many_count_a_crash(fleet: Fleet) -> None:
    begun = [it.task_id for it in fleet.claims[: 3 * PORTION - 20]]
    with runs_of_scripts(fleet.store) as calls:
        any_store: Any = fleet.store
        any_store.bury(fleet.large, [*begun, *begun[:5]])
    assert calls["leave"] == 4
    found = {it.task_id: it.crashes for it in fleet.claim_all()}
    assert len(found) == MANY
    assert sorted(it for it, crashes in found.items() if crashes) == sorted(begun)
    assert set(found.values()) == {0, 1}


def test_what_a_restored_server_believes_a_worker_holds_returns_part_by_part(fleet: Fleet) -> None:
    kept = fleet.claims[:7]
    with runs_of_scripts(fleet.store) as calls:
        found = fleet.store.compare(fleet.large, [it.key for it in kept], ())
    assert calls["compare"] == MANY // PORTION + 1
    assert (found.returned, found.lost) == (MANY - 7, frozenset())
    assert fleet.counts == (MANY - 7, 7)
