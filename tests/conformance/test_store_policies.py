"""KeepsPolicies: trainers publish policies and workers read them, in atomic steps."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import Answer, CountsGroups, KeepsPolicies, LocatesTasks
from agentpipe.brokers.records import Claim, Group, MemberEnd, Offer, Queue, Source
from agentpipe.core.policy import PolicyChange, PolicySpec, PolicyState
from agentpipe.errors import Unreachable
from tests.conformance.processes import begin_and_end
from tests.conformance.steps import (
    PATIENCE_S,
    SPAWN,
    collection_of,
    joined,
    offers,
    settle,
    signals_needed,
    sources_needed,
    unique,
)
from tests.stores import claim_up_to
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.settings import Settings
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=KeepsPolicies)

HERE, THERE = ("http://here:8000/v1",), ("http://there:8000/v1", "http://beside:8000/v1")


def followed(
    store: AnyStore, name: str = "", source: Source | None = None, **spec: object
) -> PolicySpec:
    """Declare a collection that follows a policy: a new one, or the one named."""
    made = PolicySpec(**{"name": name or unique("policy"), "endpoints": HERE, **spec})  # type: ignore[arg-type]
    collection = f"of-{made.name}"
    store.declare([Queue(f"{collection}_0", collection, policy=made, source=source)])
    return made


def state_of(store: AnyStore, name: str) -> PolicyState:
    (state,) = (it for it in store.policies() if it.name == name)
    return state


def test_a_declared_policy_begins_at_version_0(store: AnyStore) -> None:
    spec = followed(store, model="m", batch=4, max_staleness=1, hold_s=2.5)
    assert state_of(store, spec.name) == PolicyState(spec)
    assert PolicyState(spec) in store.stats().policies


def test_all_connections_see_a_change(store: AnyStore, open_another: OpenStore) -> None:
    spec = followed(store)
    change = PolicyChange(version=3, endpoints=THERE, paused=True)
    after = open_another().change_policy(spec.name, change)
    assert after == PolicyState(replace(spec, endpoints=THERE), 3, paused=True, pauses=1)
    assert state_of(store, spec.name) == after


def test_what_is_not_given_stays(store: AnyStore) -> None:
    spec = followed(store)
    store.change_policy(spec.name, PolicyChange(version=3))
    store.change_policy(spec.name, PolicyChange(paused=True))
    assert state_of(store, spec.name) == PolicyState(spec, 3, paused=True, pauses=1)


def test_a_version_that_goes_back_changes_nothing(store: AnyStore) -> None:
    spec = followed(store)
    store.change_policy(spec.name, PolicyChange(version=3))
    before = state_of(store, spec.name)
    after = store.change_policy(spec.name, PolicyChange(version=2, endpoints=THERE, paused=True))
    assert after == state_of(store, spec.name) == before


def test_the_same_version_again_may_move_the_servers(store: AnyStore) -> None:
    spec = followed(store)
    store.change_policy(spec.name, PolicyChange(version=3))
    store.change_policy(spec.name, PolicyChange(version=3, endpoints=THERE))
    assert state_of(store, spec.name).spec.endpoints == THERE


def test_a_version_may_go_back_where_that_is_meant(store: AnyStore) -> None:
    spec = followed(store)
    store.change_policy(spec.name, PolicyChange(version=3))
    store.change_policy(spec.name, PolicyChange(version=1, back=True))
    assert state_of(store, spec.name).version == 1


def test_pauses_are_counted_once_each(store: AnyStore) -> None:
    spec = followed(store)
    for paused in (True, True, False, False, True):
        store.change_policy(spec.name, PolicyChange(paused=paused))
    assert state_of(store, spec.name) == PolicyState(spec, 0, paused=True, pauses=2)


def test_a_change_is_made_once_where_the_store_is_away_behind_it(
    store: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, change = followed(store), PolicyChange(returned=1, unused="flat")
    store.change_policy(spec.name, PolicyChange(accepted=5))

    def is_away() -> tuple[PolicyState, ...]:
        raise Unreachable("away")

    with monkeypatch.context() as outage, suppress(Unreachable):
        outage.setattr(store, "policies", is_away)
        store.change_policy(spec.name, change)
        return  # The store changes and reads the state in one request.
    assert store.change_policy(spec.name, change) == state_of(store, spec.name)
    assert state_of(store, spec.name).accepted == 4
    store.change_policy(spec.name, change)
    assert state_of(store, spec.name).accepted == 3


def test_nobody_changes_an_unknown_policy(store: AnyStore) -> None:
    assert store.change_policy(unique("policy"), PolicyChange(version=1)) is None


def test_published_endpoints_stay_until_a_file_has_others(store: AnyStore) -> None:
    spec = followed(store, batch=4, max_staleness=0)
    store.change_policy(spec.name, PolicyChange(version=5, endpoints=THERE))
    followed(store, spec.name, batch=4, max_staleness=0)
    assert state_of(store, spec.name).spec.endpoints == THERE
    again = followed(store, spec.name, batch=8, max_staleness=0)
    assert state_of(store, spec.name) == PolicyState(again, 5)


@sources_needed
def test_an_older_file_changes_nothing(store: AnyStore) -> None:
    old, new = Source("a", "here", 1, 1), Source("b", "there", 2, 2)
    spec = followed(store, source=new, batch=4, max_staleness=0)
    followed(store, spec.name, source=old, batch=9, max_staleness=9)
    assert state_of(store, spec.name) == PolicyState(spec)


class Gated:
    """Agents that follow a policy; the defaults admit two groups a version, none stale."""

    def __init__(self, store: AnyStore, batch: int = 2, max_staleness: int = 0) -> None:
        self.store = store
        self.spec = PolicySpec(unique("policy"), HERE, batch=batch, max_staleness=max_staleness)
        self.collection, self.queues = collection_of(store, 3, policy=self.spec)
        self.worker = joined(store, self.queues)

    def send(self, *groups: str, size: int = 2, need: int | None = None) -> None:
        made = [
            Group(
                name,
                tuple(Offer(f"{name}/{n}", b"{}", group_id=name) for n in range(size)),
                need or size,
            )
            for name in groups
        ]
        verdicts = self.store.offer_groups(self.collection, made).verdicts
        assert set(verdicts) == {"accepted"}

    def claim(self) -> dict[str, Claim]:
        """Claim all that can be claimed now, including tasks that a claim makes claimable."""
        claims: dict[str, Claim] = {}
        for _ in range(3):
            claims |= {it.task_id: it for it in claim_up_to(50, self.store, self.worker)}
        return claims

    def end(self, claim: Claim, outcome: str = "ok", *versions: int) -> None:
        member = MemberEnd(good=outcome == "ok", versions=versions)
        assert settle(self.store, claim, "complete", result=b"{}", outcome=outcome, member=member)

    @property
    def state(self) -> PolicyState:
        return state_of(self.store, self.spec.name)

    def counts(self) -> tuple[int, int]:
        return self.state.accepted, self.state.running


def groups_of(claims: Iterable[str]) -> dict[str, int]:
    return dict(Counter(task_id.partition("/")[0] for task_id in claims))


def both(store: AnyStore) -> None:
    if not isinstance(store, CountsGroups):
        pytest.skip("counts no groups")


def test_no_more_groups_begin_than_the_version_allows(store: AnyStore) -> None:
    both(store)
    crew = Gated(store)
    crew.send("a", "b", "c", "d")
    first = crew.claim()
    assert groups_of(first) == {"a": 2, "b": 2}
    assert crew.counts() == (0, 2)
    for claim in first.values():
        crew.end(claim)
    assert crew.counts() == (2, 0)
    assert not crew.claim()
    store.change_policy(crew.spec.name, PolicyChange(version=1))
    assert groups_of(crew.claim()) == {"c": 2, "d": 2}
    assert crew.counts() == (2, 2)


def test_members_of_what_has_begun_are_never_kept_back(store: AnyStore) -> None:
    both(store)
    crew = Gated(store, batch=1)
    crew.send("a", "b", size=6)
    begun: dict[str, Claim] = {}
    for _ in range(20):
        begun |= {it.task_id: it for it in claim_up_to(1, store, crew.worker)}
    assert groups_of(begun) == {"a": 6}
    for claim in begun.values():
        assert settle(store, claim, "release")
    assert groups_of(crew.claim()) == {"a": 6}
    assert crew.counts() == (0, 1)


def test_what_ends_short_gives_its_room_to_the_next(store: AnyStore) -> None:
    both(store)
    crew = Gated(store, batch=1)
    crew.send("a", "b")
    for claim in crew.claim().values():
        crew.end(claim, "agent_error")
    assert crew.counts() == (0, 0)
    assert groups_of(crew.claim()) == {"b": 2}


def test_what_a_trainer_gives_back_gives_room(store: AnyStore) -> None:
    both(store)
    crew = Gated(store, batch=1)
    crew.send("a", "b")
    for claim in crew.claim().values():
        crew.end(claim)
    assert not crew.claim()
    store.change_policy(crew.spec.name, PolicyChange(returned=1, unused="flat"))
    store.change_policy(crew.spec.name, PolicyChange(returned=0, unused=""))
    assert crew.counts() == (0, 0)
    groups = store.stats().groups
    assert groups is not None
    assert (groups.flat, groups.stale, groups.counted) == (1, 0, 2)
    assert groups_of(crew.claim()) == {"b": 2}


def test_tasks_in_no_group_count_by_themselves(store: AnyStore) -> None:
    crew = Gated(store)
    store.offer(crew.collection, offers("abc"), round_robin=True)
    first = crew.claim()
    assert sorted(first) == ["a", "b"]
    for claim in first.values():
        assert settle(store, claim, "complete", result=b"{}", outcome="ok")
    assert crew.counts() == (2, 0)
    assert not crew.claim()
    store.change_policy(crew.spec.name, PolicyChange(version=1, accepted=3, back=True))
    assert sorted(crew.claim()) == ["c"]


def test_a_task_that_is_tried_again_has_begun(store: AnyStore) -> None:
    crew = Gated(store, batch=1)
    store.offer(crew.collection, offers("ab"), round_robin=True)
    (claim,) = crew.claim().values()
    assert settle(store, claim, "retry", delay_s=0.0)
    (again,) = crew.claim().values()
    assert (again.task_id, again.failures, crew.counts()) == ("a", 1, (0, 1))


def test_what_waits_for_a_version_counts_as_delayed_and_why_says_it(store: AnyStore) -> None:
    crew = Gated(store, batch=1)
    store.offer(crew.collection, offers("abc"), round_robin=True)
    assert sorted(crew.claim()) == ["a"]
    stats = store.stats()
    assert (stats.waiting, stats.delayed, stats.running) == (0, 2, 1)
    assert sum(depth.parked for depth in stats.queues) == 2
    location = store.locate("b")
    assert (location.place, location.due_at) == ("delayed", None)
    assert location.policy == crew.state
    assert crew.state.room == 0


def test_what_waits_for_a_version_can_be_answered(store: AnyStore) -> None:
    crew = Gated(store, batch=1)
    store.offer(crew.collection, offers("ab"), round_robin=True)
    assert sorted(crew.claim()) == ["a"]
    assert store.answer([Answer("b", b"{}", "cancelled")]) == [True]
    stats = store.stats()
    assert (stats.delayed, sum(depth.parked for depth in stats.queues)) == (0, 0)
    assert crew.counts() == (0, 1)


def test_a_file_without_limits_lets_all_begin(store: AnyStore) -> None:
    crew = Gated(store, batch=1)
    store.offer(crew.collection, offers("abc"), round_robin=True)
    assert sorted(crew.claim()) == ["a"]
    spec = PolicySpec(crew.spec.name, HERE)
    store.declare(
        [Queue(name, crew.collection, concurrency=100, policy=spec) for name in crew.queues]
    )
    assert sorted(crew.claim()) == ["b", "c"]


def test_a_collection_that_follows_no_more_is_not_kept_back(store: AnyStore) -> None:
    crew = Gated(store, batch=1)
    store.offer(crew.collection, offers("abc"), round_robin=True)
    assert sorted(crew.claim()) == ["a"]
    store.declare([Queue(name, crew.collection, concurrency=100) for name in crew.queues])
    assert sorted(crew.claim()) == ["b", "c"]


def test_groups_that_are_too_old_are_cancelled_where_they_go_on(store: AnyStore) -> None:
    both(store)
    crew = Gated(store, batch=2)
    crew.send("old", "new", size=3)
    claims = crew.claim()
    crew.end(claims["old/0"], "ok", 0)
    crew.end(claims["new/0"], "ok", 1)
    assert settle(store, claims["old/1"], "release")
    store.change_policy(crew.spec.name, PolicyChange(version=1))
    assert crew.state.stale == 1
    again = crew.claim()
    assert again["old/1"].cancelled
    assert not any(it.cancelled for name, it in again.items() if name.startswith("new"))
    assert store.take_cancelled() is not None
    crew.end(again["old/1"], "cancelled")
    crew.end(claims["old/2"], "cancelled")
    assert crew.counts() == (0, 1)


@pytest.mark.race
def test_the_gate_holds_while_8_processes_claim_and_versions_rise(
    store: AnyStore, store_settings: Settings
) -> None:
    """The workers use up exactly what a version allows."""
    crew = Gated(store, batch=4, max_staleness=1)
    both(store)
    crew.send(*(f"g{n}" for n in range(40)), size=3)
    workers = [
        SPAWN.Process(target=begin_and_end, args=(store_settings, crew.queues)) for _ in range(8)
    ]
    for each in workers:
        each.start()
    try:
        for version in range(10):
            allowed = 4 * (version + 2)
            wait_until(
                lambda: crew.state.accepted == min(40, allowed),  # noqa: B023 - called at once
                PATIENCE_S * 3,
                f"version {version} is used up",
            )
            assert crew.counts() == (min(40, allowed), 0)
            store.change_policy(crew.spec.name, PolicyChange(version=version + 1))
    finally:
        for each in workers:
            each.terminate()
            each.join()
    assert crew.counts() == (40, 0)


@signals_needed
def test_a_change_wakes_who_waits(store: AnyStore, open_another: OpenStore) -> None:
    spec = followed(store)
    other = open_another()
    store.wait(0)
    waiting = threading.Thread(target=store.wait, args=(60.0,))
    waiting.start()
    while waiting.is_alive():
        other.change_policy(spec.name, PolicyChange(paused=True))
        waiting.join(0.1)


def test_a_run_whose_requests_a_pause_holds_is_told(store: AnyStore) -> None:
    if not isinstance(store, LocatesTasks):
        pytest.skip("locates no tasks")
    crew = Gated(store)
    store.offer(crew.collection, offers("ab"), round_robin=True)
    first, _ = crew.claim()
    assert store.locate(first).held_by == ""
    store.change_policy(crew.spec.name, PolicyChange(paused=True))
    assert store.locate(first).held_by == crew.spec.name
    store.change_policy(crew.spec.name, PolicyChange(paused=False))
    assert store.locate(first).held_by == ""
