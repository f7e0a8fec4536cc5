"""Policies of a large store on Redis: no call of a script grows with parked tasks and units."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.capabilities import Answer
from agentpipe.brokers.records import Group, MemberEnd, Offer, Queue, Settlement, Worker
from agentpipe.core.policy import PolicyChange, PolicySpec
from brokers.server_redis import RedisServer
from tests.integration.redis_calls import commands_of_calls
from tests.integration.redis_crew import MANY
from tests.stores import claim_up_to

if TYPE_CHECKING:
    import redis

    from tests.servers import OwnServer
    from tests.stores import AnyStore

PORTION = 500
# More than a script needs for a handful of tasks, and far fewer than for MANY.
FEW_COMMANDS = 150


@pytest.fixture
def redis_server(own_server: OwnServer) -> RedisServer:
    """A server for this test alone: what a call touches is counted there."""
    return own_server(RedisServer)


class Crew:
    """Agents that follow a policy, and their worker."""

    def __init__(self, store: AnyStore, raw: redis.Redis, prefix: str, batch: int = 1) -> None:
        self.store, self.raw, self.base = store, raw, f"{{{prefix}}}"
        self.declare(PolicySpec("p", ("http://here/v1",), batch=batch, max_staleness=0))
        self.worker = Worker("w", lease_s=600.0, slots=10_000, queues=frozenset(["crew_0"]))
        store.join(self.worker)

    def declare(self, policy: PolicySpec | None) -> None:
        self.store.declare([Queue("crew_0", "crew", 10_000, 10_000, policy=policy)])

    def offer(self, number: int) -> None:
        for first in range(0, number, PORTION):
            numbers = range(first, min(first + PORTION, number))
            # Not in the order of their ids.
            offers = [Offer(f"t-{it * 7919 % 10_007:05}-{it}", b"{}") for it in numbers]
            self.store.offer("crew", offers, round_robin=True)

    def claim(self) -> list[Any]:
        """Claim until nothing waits and nothing is left to apply."""
        found: list[Any] = []
        while (more := claim_up_to(100, self.store, self.worker)) or self.is_claimable():
            found += more
        return found

    def is_claimable(self) -> bool:
        due = self.raw.zcount(f"{self.base}:delayed", 0, 0)
        return bool(due or self.is_changing() or self.store.stats().waiting)

    def is_changing(self) -> bool:
        return bool(self.raw.exists(f"{self.base}:policy_changes"))

    def parked(self) -> int:
        """How many tasks are parked; the index has just these."""
        parked = sum(it.parked for it in self.store.stats().queues)
        assert self.raw.hlen(f"{self.base}:parked") == parked
        assert self.raw.zcard(f"{self.base}:parked:p") == parked
        return parked

    def publish(self, version: int) -> None:
        self.store.change_policy("p", PolicyChange(version=version))


@pytest.fixture
def crew(store: AnyStore, raw: redis.Redis, prefix: str) -> Crew:
    return Crew(store, raw, prefix)


def places(claims: list[Any]) -> list[int]:
    """When each was sent, as a number from 0."""
    return [int(it.task_id.rpartition("-")[2]) for it in claims]


def test_a_version_reads_no_task_that_stays_parked(crew: Crew) -> None:
    crew.offer(MANY)
    assert places(crew.claim()) == [0]
    assert crew.parked() == MANY - 1
    with commands_of_calls(crew.store, crew.raw) as most:
        crew.publish(3)
    assert most["change_policy"] < FEW_COMMANDS
    assert places(crew.claim()) == [1, 2, 3]
    assert crew.parked() == MANY - 4


def test_a_run_that_fails_reads_no_task_that_stays_parked(crew: Crew) -> None:
    crew.offer(MANY)
    (claim,) = crew.claim()
    with commands_of_calls(crew.store, crew.raw) as most:
        crew.store.settle([Settlement(claim, "complete", b"{}", "agent_error")])
    assert most["settle"] < FEW_COMMANDS
    assert places(crew.claim()) == [1]


def test_runs_that_fail_together_are_replaced_by_as_many(
    store: AnyStore, raw: redis.Redis, prefix: str
) -> None:
    crew = Crew(store, raw, prefix, batch=100)
    crew.offer(MANY)
    claims = crew.claim()
    assert len(claims) == 100
    store.settle([Settlement(it, "complete", b"{}", "agent_error") for it in claims[:60]])
    assert crew.parked() == MANY - 160
    store.settle([Settlement(it, "complete", b"{}", "ok") for it in claims[60:90]])
    store.settle([Settlement(it, "complete", b"{}", "limit") for it in claims[90:]])
    assert crew.parked() == MANY - 170
    assert sorted(places(crew.claim())) == list(range(100, 170))
    assert crew.parked() == MANY - 170


def test_a_version_for_many_units_unparks_them_part_by_part(crew: Crew) -> None:
    crew.offer(MANY)
    crew.claim()
    crew.publish(1_201)
    # The trainer can be killed now: claims go on.
    assert crew.parked() == MANY - 1 - PORTION
    assert crew.is_changing()
    assert sorted(places(crew.claim())) == list(range(1, 1_202))
    assert crew.parked() == MANY - 1_202
    assert not crew.is_changing()


def test_a_later_version_counts_instead_of_the_rest_of_an_earlier(crew: Crew) -> None:
    crew.offer(MANY)
    crew.claim()
    crew.publish(1_201)
    crew.store.change_policy("p", PolicyChange(version=2, back=True))
    assert not crew.is_changing()
    assert len(crew.claim()) == 2
    assert crew.parked() == MANY - 3


def test_a_file_without_limits_unparks_all_part_by_part(crew: Crew) -> None:
    crew.offer(MANY)
    crew.claim()
    with commands_of_calls(crew.store, crew.raw) as most:
        crew.declare(PolicySpec("p", ("http://here/v1",)))
    assert max(most.values()) < 6 * PORTION
    assert crew.parked() == 0
    assert len(crew.claim()) == MANY - 1


@pytest.mark.parametrize("policy", [None, PolicySpec("p", ("http://here/v1",))])
def test_claims_unpark_what_a_killed_sender_left(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, policy: PolicySpec | None
) -> None:
    crew.offer(MANY)
    crew.claim()
    monkeypatch.setattr(crew.store, "_apply_changes", lambda _more: None)
    crew.declare(policy)
    assert crew.parked() > PORTION
    assert len(crew.claim()) == MANY - 1
    assert crew.parked() == 0


def test_a_changed_limit_parks_again_what_may_not_begin(crew: Crew) -> None:
    crew.offer(MANY)
    crew.claim()
    crew.declare(PolicySpec("p", ("http://here/v1",), batch=3, max_staleness=0))
    assert len(crew.claim()) == 2
    assert crew.parked() == MANY - 3


def test_what_a_worker_of_an_older_version_parked_begins_in_turn(crew: Crew) -> None:
    crew.offer(20)
    crew.claim()
    crew.raw.delete(f"{crew.base}:parked", f"{crew.base}:parked:p")
    crew.publish(2)
    assert places(crew.claim()) == [1, 2]
    assert crew.parked() == 17


def test_what_a_worker_of_an_older_version_unparked_is_left_alone(crew: Crew) -> None:
    crew.offer(20)
    crew.claim()
    second = str(crew.raw.zrange(f"{crew.base}:parked:p", 0, 0)[0])[16:]
    crew.raw.zadd(f"{crew.base}:delayed", {second: 1e11})
    crew.publish(2)
    assert places(crew.claim()) == [2, 3]
    assert crew.raw.zscore(f"{crew.base}:delayed", second) == 1e11


def test_others_begin_in_place_of_what_is_cancelled_before_it_began(crew: Crew) -> None:
    """Regression: its room was lost until the next version."""
    crew.offer(20)
    crew.claim()
    crew.publish(4)
    opened = [str(it) for it in crew.raw.zrange(f"{crew.base}:delayed", 0, 3)]
    assert crew.parked() == 15
    assert all(crew.store.answer([Answer(it, b"{}", "cancelled") for it in opened]))
    assert places(crew.claim()) == [5, 6, 7, 8]
    assert crew.parked() == 11


@pytest.mark.parametrize("stale", ["answered", "unparked"])
@pytest.mark.parametrize("follows", [True, False])
def test_what_workers_of_an_older_version_parked_begins_beside_stale_entries(
    crew: Crew, stale: str, *, follows: bool
) -> None:
    """Regression: as many tasks as there were stale entries stayed parked."""
    crew.offer(20)
    crew.claim()
    members = [str(it) for it in crew.raw.zrange(f"{crew.base}:parked:p", 0, -1)]
    for member in members[2:4]:  # An older version does not index what it parks,
        crew.raw.hdel(f"{crew.base}:parked", member[16:])
        crew.raw.zrem(f"{crew.base}:parked:p", member)
    gone = [member[16:] for member in members[:2]]
    if stale == "unparked":  # nor remove what it unparks.
        crew.raw.zadd(f"{crew.base}:delayed", dict.fromkeys(gone, 0))
    else:
        entries: dict[Any, Any] = {it: crew.raw.hget(f"{crew.base}:parked", it) for it in gone}
        assert all(crew.store.answer([Answer(it, b"{}", "cancelled") for it in gone]))
        crew.raw.hset(f"{crew.base}:parked", mapping=entries)
        crew.raw.zadd(f"{crew.base}:parked:p", dict.fromkeys(members[:2], 0))
    if follows:
        crew.publish(100)
    else:
        crew.declare(None)
    expected = {*range(1, 20)} - ({1, 2} if stale == "answered" else set())
    assert {*places(crew.claim())} == expected
    assert crew.raw.hlen(f"{crew.base}:parked") == 0


def test_answered_tasks_leave_the_index(crew: Crew) -> None:
    crew.offer(20)
    crew.claim()
    ids = [str(it)[16:] for it in crew.raw.zrange(f"{crew.base}:parked:p", 0, 1)]
    assert crew.store.answer([Answer(it, b"{}", "cancelled") for it in ids]) == [True, True]
    assert crew.parked() == 17


def test_moved_tasks_stay_parked(crew: Crew) -> None:
    crew.offer(20)
    crew.claim()
    spec = PolicySpec("p", ("http://here/v1",), batch=1, max_staleness=0)
    crew.store.declare([Queue("crew_1", "crew", 10_000, 10_000, policy=spec)])
    assert crew.store.move("crew", ["crew_0"], 100) == 19
    assert crew.parked() == 19


def send_groups(crew: Crew, number: int, size: int) -> None:
    for first in range(0, number, 50):
        names = [f"g{it}" for it in range(first, min(first + 50, number))]
        groups = [
            Group(it, tuple(Offer(f"{it}/{n}", b"{}", group_id=it) for n in range(size)), size)
            for it in names
        ]
        assert set(crew.store.offer_groups("crew", groups).verdicts) == {"accepted"}


def test_many_groups_that_are_too_old_are_cancelled_part_by_part(
    store: AnyStore, raw: redis.Redis, prefix: str
) -> None:
    crew = Crew(store, raw, prefix, batch=300)
    send_groups(crew, 300, 6)
    claims = crew.claim()
    assert len(claims) == 1_800
    ended = MemberEnd(good=True, versions=(0,))
    firsts = [it for it in claims if it.task_id.endswith("/0")]
    store.settle([Settlement(it, "complete", b"{}", "ok", member=ended) for it in firsts])
    with commands_of_calls(store, raw) as most:
        crew.publish(1)
    assert most["change_policy"] < 12 * PORTION
    assert crew.is_changing()
    crew.claim()
    assert not crew.is_changing()
    (state,) = store.policies()
    assert (state.stale, state.running) == (300, 300)
    assert raw.hlen(f"{crew.base}:notes") == 1_500


def test_members_of_groups_are_unparked_together(
    store: AnyStore, raw: redis.Redis, prefix: str
) -> None:
    crew = Crew(store, raw, prefix, batch=100)
    send_groups(crew, 300, 8)
    assert Counter(it.task_id.partition("/")[0] for it in crew.claim()) == {
        f"g{n}": 8 for n in range(100)
    }
    crew.publish(1)
    assert crew.parked() == 1_600 - 504
    assert len(crew.claim()) == 800
    assert crew.parked() == 800
