"""CountsGroups: groups are accepted whole, counted as members settle, and end once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import Answer, CountsGroups, LocatesTasks
from agentpipe.brokers.records import Group, MemberEnd, Offer, Refusal, Settlement
from agentpipe.brokers.statistics import GroupCounts
from agentpipe.core.groups import GroupEnd, is_group_record
from tests.conformance.steps import (
    PATIENCE_S,
    claim,
    collection_of,
    joined,
    offers,
    settle,
    unique,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.records import Claim, Worker
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=CountsGroups)
GOOD = MemberEnd(good=True, versions=(7, 7))


def group_of(size: int, need: int, repairs: int = 0, name: str = "") -> Group:
    name = name or unique("group")
    return Group(name, tuple(offers(f"{name}/{index}" for index in range(size))), need, repairs)


def sent(store: AnyStore, group: Group, **limits: int) -> tuple[str, Worker]:
    collection, queues = collection_of(store, 2, **limits)
    assert store.offer_groups(collection, [group]).verdicts == ("accepted",)
    return collection, joined(store, queues)


def all_claimed(store: AnyStore, worker: Worker, number: int) -> list[Claim]:
    """Claim in several calls: one call takes an equal share of each queue, which can be too few."""
    claims: list[Claim] = []

    def attempt() -> bool:
        claims.extend(claim(store, worker, number - len(claims)))
        return len(claims) == number

    wait_until(attempt, PATIENCE_S, f"{number} claims")
    return claims


def ends(store: AnyStore, worker: Worker) -> list[GroupEnd]:
    """Groups that have ended since the last call; empties the outbox."""
    taken = store.take_outbox(worker, 1_000, 10**9)
    store.drop_outbox(worker, [record.number for record in taken])
    return [GroupEnd.decode(it.payload) for it in taken if is_group_record(it.payload)]


def cancelled_now(store: AnyStore) -> list[str]:
    store.wait(0.01)
    return list(store.take_cancelled())


def end(store: AnyStore, claimed: Claim, outcome: str, member: MemberEnd) -> None:
    assert settle(store, claimed, "complete", result=b"{}", outcome=outcome, member=member)


def test_a_group_is_accepted_whole_and_its_resend_is_a_duplicate(store: AnyStore) -> None:
    collection, _ = collection_of(store, 2, max_waiting=3)
    first, second, third = group_of(4, 4), group_of(4, 4), group_of(2, 2)
    admission = store.offer_groups(collection, [first, second, third])
    assert admission.verdicts == ("accepted", "refused", "accepted")
    assert (admission.depth, admission.bound) == (6, 6)
    assert store.offer_groups(collection, [first, third]).verdicts == ("duplicate",) * 2
    assert store.stats().waiting == 6


def test_a_group_that_ended_is_known_by_its_members(store: AnyStore) -> None:
    group = group_of(2, 2)
    collection, queues = collection_of(store, 2)
    store.offer_groups(collection, [group])
    assert store.stats().groups == GroupCounts(open=1)
    worker = joined(store, queues)
    for each in all_claimed(store, worker, 2):
        end(store, each, "agent_error", MemberEnd())
    assert store.offer_groups(collection, [group]).verdicts == ("duplicate",)
    assert store.stats().groups == GroupCounts(short=1, records=1, wasted=2)


def test_a_member_that_waits_for_its_next_run_is_cancelled_too(store: AnyStore) -> None:
    _, worker = sent(store, group_of(2, 1))
    first, second = all_claimed(store, worker, 2)
    assert settle(store, first, "retry", delay_s=3_600)
    end(store, second, "ok", GOOD)
    (again,) = all_claimed(store, worker, 1)
    assert (again.task_id, again.cancelled) == (first.task_id, True)
    assert again.failures == 1


def test_members_that_are_settled_together_are_counted_one_by_one(store: AnyStore) -> None:
    group = group_of(5, 2, repairs=1)
    _, worker = sent(store, group)
    claims = all_claimed(store, worker, 4)
    repair = Offer(f"{claims[0].task_id}~1", b"again")
    members = [MemberEnd(repair=repair), GOOD, GOOD, GOOD]
    together = [
        Settlement(each, "complete", b"{}", "ok", member=member)
        for each, member in zip(claims, members, strict=True)
    ]
    assert store.settle(together) == [True] * 4
    left = all_claimed(store, worker, 2)
    assert all(each.cancelled for each in left)
    for each in left:
        end(store, each, "cancelled", MemberEnd())
    (ended,) = ends(store, worker)
    assert (ended.status, ended.good, len(ended.members)) == ("complete", 3, 5)
    # Wasted: the repaired member, and the cancelled repair and fifth member.
    assert store.stats().groups == GroupCounts(complete=1, counted=3, wasted=3)


def test_a_record_that_the_sink_refuses_counts_as_no_result(store: AnyStore) -> None:
    _, worker = sent(store, group_of(1, 1))
    (claimed,) = all_claimed(store, worker, 1)
    end(store, claimed, "ok", GOOD)
    taken = store.take_outbox(worker, 10, 10**9)
    (record,) = [it for it in taken if is_group_record(it.payload)]
    store.set_aside(worker, [Refusal(record, "", None, "infra_error", "refused")])
    stats = store.stats()
    assert (stats.outbox, stats.undeliverable, stats.groups) == (
        1,
        0,
        GroupCounts(complete=1, counted=1),
    )
    assert store.deliver_again([record.task_id]) == 1
    stats = store.stats()
    assert (stats.outbox, stats.undeliverable) == (1, 0)
    assert stats.groups == GroupCounts(complete=1, records=1, counted=1)


def test_a_group_with_one_known_member_is_a_duplicate_whole(store: AnyStore) -> None:
    collection, _ = collection_of(store, 1)
    store.offer(collection, offers(["known/1"]), round_robin=True)
    assert store.offer_groups(collection, [group_of(3, 3, name="known")]).verdicts == ("duplicate",)
    assert store.stats().waiting == 1


def test_the_last_member_ends_the_group_once(store: AnyStore) -> None:
    group = group_of(3, 3)
    _, worker = sent(store, group)
    first, *others = all_claimed(store, worker, 3)
    end(store, first, "ok", GOOD)
    assert ends(store, worker) == []
    assert not settle(store, first, "complete", result=b"{}", outcome="ok", member=GOOD)
    end(store, others[0], "ok", MemberEnd(good=True, versions=(8, 9)))
    end(store, others[1], "ok", GOOD)
    members = tuple(offer.task_id for offer in group.offers)
    stats = store.stats()
    assert (stats.outbox, stats.groups) == (2, GroupCounts(complete=1, records=1, counted=3))
    assert ends(store, worker) == [GroupEnd(group.group_id, "complete", 3, members, (7, 9))]
    stats = store.stats()
    assert (stats.delivered, stats.outbox, stats.groups) == (
        3,
        0,
        GroupCounts(complete=1, counted=3),
    )


def test_at_its_need_the_rest_is_cancelled(store: AnyStore) -> None:
    group = group_of(6, 2)
    _, worker = sent(store, group)
    first, second, runs = all_claimed(store, worker, 3)
    end(store, first, "ok", GOOD)
    assert cancelled_now(store) == []
    end(store, second, "ok", GOOD)
    wait_until(lambda: cancelled_now(store) == [runs.task_id], PATIENCE_S, "the signal")
    waited = all_claimed(store, worker, 3)
    assert [each.cancelled for each in waited] == [True] * 3
    for each in (runs, *waited):
        end(store, each, "cancelled", MemberEnd())
    (ended,) = ends(store, worker)
    assert (ended.status, ended.good, len(ended.members)) == ("complete", 2, 6)


def test_only_the_member_without_judgement_is_repaired(store: AnyStore) -> None:
    group = group_of(2, 2, repairs=1)
    _, worker = sent(store, group)
    first, second = all_claimed(store, worker, 2)
    again = Offer(f"{first.task_id}~1", b"again")
    end(store, first, "infra_error", MemberEnd(repair=again))
    end(store, second, "ok", GOOD)
    (repaired,) = claim(store, worker, 1)
    assert (repaired.task_id, repaired.payload) == (again.task_id, b"again")
    end(store, repaired, "crashed", MemberEnd(repair=Offer(f"{first.task_id}~2", b"")))
    (ended,) = ends(store, worker)
    assert (ended.status, ended.good) == ("short", 1)
    assert set(ended.members) == {again.task_id, second.task_id}


def test_a_group_ends_whose_repair_has_the_id_of_another_task(store: AnyStore) -> None:
    group = group_of(2, 2, repairs=1)
    collection, worker = sent(store, group)
    first, second = all_claimed(store, worker, 2)
    known = f"{first.task_id}~1"
    store.offer(collection, [Offer(known, b"{}")], round_robin=True)
    end(store, first, "ok", GOOD)
    end(store, second, "infra_error", MemberEnd(repair=Offer(known, b"again")))
    (ended,) = ends(store, worker)
    assert (ended.status, ended.good) == ("short", 1)


def test_a_member_that_an_operator_answers_counts_as_cancelled(store: AnyStore) -> None:
    group = group_of(2, 2)
    _, worker = sent(store, group)
    answers = [Answer(offer.task_id, b"{}", "cancelled") for offer in group.offers]
    assert store.answer(answers) == [True, True]
    (ended,) = ends(store, worker)
    assert (ended.status, ended.good) == ("cancelled", 0)


@pytest.mark.parametrize("seed", range(4))
def test_any_walk_ends_every_group_once(store: AnyStore, seed: int) -> None:
    """Members end good, bad or unjudged, and workers leave with open claims."""
    chance = random.Random(seed)
    groups = [group_of(chance.randint(2, 5), 2, chance.randint(0, 2)) for _ in range(8)]
    collection, queues = collection_of(store, 3)
    assert set(store.offer_groups(collection, groups).verdicts) == {"accepted"}
    reader = joined(store, [])
    found: list[GroupEnd] = []
    while len(found) < len(groups):
        worker = joined(store, queues)
        claims = claim(store, worker, chance.randint(1, 6))
        store.settle(_settlements(chance, claims))
        store.leave(worker)
        found += ends(store, reader)
    assert sorted(it.group_id for it in found) == sorted(it.group_id for it in groups)
    stats = store.stats()
    assert (stats.waiting, stats.running, stats.outbox) == (0, 0, 0)
    assert stats.accepted == stats.delivered


def _settlements(chance: random.Random, claims: Sequence[Claim]) -> list[Settlement]:
    settlements = []
    for each in claims[: chance.randint(0, len(claims))]:
        repair = Offer(f"{each.task_id}~", b"")
        member = chance.choice([GOOD, MemberEnd(), MemberEnd(repair=repair)])
        outcome = "cancelled" if each.cancelled else "ok"
        settlements.append(Settlement(each, "complete", b"{}", outcome, member=member))
    return settlements


def test_what_a_group_waits_for_is_seen(store: AnyStore) -> None:
    if not isinstance(store, LocatesTasks):
        pytest.skip("locates no tasks")
    group = group_of(5, 3, repairs=1)
    name = group.group_id
    _, worker = sent(store, group)
    claims = {it.task_id: it for it in all_claimed(store, worker, 4)}
    (waits,) = {offer.task_id for offer in group.offers} - claims.keys()
    first, second, third, fourth = claims.values()
    end(store, first, "ok", GOOD)
    repair = Offer(f"{second.task_id}~1", b"again")
    end(store, second, "crashed", MemberEnd(repair=repair))
    assert settle(store, third, "retry", delay_s=3_600)
    blocked = sorted([waits, repair.task_id, third.task_id])
    for task_id in (name, waits, fourth.task_id, third.task_id, repair.task_id):
        seen = store.locate(task_id).group
        assert seen is not None
        assert (seen.group_id, seen.need, seen.good, seen.repairs, seen.other) == (name, 3, 1, 0, 0)
        assert (seen.waiting, seen.delayed, seen.running) == (2, 1, 1)
        assert (sorted(seen.open[:3]), seen.open[3:]) == (blocked, (fourth.task_id,))
    end(store, fourth, "agent_error", MemberEnd())
    seen = store.locate(name).group
    assert seen is not None
    assert (seen.running, seen.other, len(seen.open)) == (0, 1, 3)
    assert store.locate(first.task_id).group is None
    assert store.locate("elsewhere").group is None
