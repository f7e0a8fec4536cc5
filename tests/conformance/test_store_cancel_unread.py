"""Stores that cannot read their tasks: marks cancel tasks, and a purge takes them out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import pytest

from agentpipe.brokers.capabilities import Answer, CancelsUnread, TaskFilter, TaskSeen
from tests.conformance.pace import PACE
from tests.conformance.steps import (
    MEBIBYTE,
    PATIENCE_S,
    claim,
    claimed_after_lapse,
    declared,
    heard,
    ids_of,
    joined,
    put,
    running_and_more,
    settle,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.records import Claim
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

    class UnreadStore(AnyStore, CancelsUnread): ...


@pytest.fixture
def unread(store: AnyStore) -> UnreadStore:
    """A store that cancels by marks, or a skip."""
    if not isinstance(store, CancelsUnread):
        pytest.skip("it reads its tasks")
    return cast("UnreadStore", store)


def by_id(claims: Sequence[Claim]) -> dict[str, bool]:
    """For each claimed task, whether it is cancelled."""
    return {each.task_id: each.cancelled for each in claims}


def answer(task: TaskSeen) -> Answer:
    return Answer(task.task_id, b"purged " + task.payload, "cancelled")


def purged_ids(store: AnyStore) -> list[str]:
    records = store.take_outbox(joined(store, []), 100, MEBIBYTE)
    assert all(it.payload == f"purged payload of {it.task_id}".encode() for it in records)
    return sorted(ids_of(records))


def test_a_waiting_task_that_is_cancelled_is_claimed_so_at_its_turn(unread: UnreadStore) -> None:
    (queue,) = declared(unread)
    put(unread, queue, "abc")
    assert unread.cancel(["b", "strange"]) == ["marked", "marked"]
    found = claim(unread, joined(unread, [queue]), 3)
    assert by_id(found) == {"a": False, "b": True, "c": False}


def test_a_task_that_a_worker_has_at_hand_is_marked_as_well(
    unread: UnreadStore, open_another: OpenStore
) -> None:
    """The task was prefetched to the worker."""
    queue, worker, claimed = running_and_more(unread)
    put(unread, queue, "b")
    PACE.settle(unread)
    assert open_another().cancel(["b"]) == ["marked"]
    assert settle(unread, claimed, "complete", result=b"{}", outcome="ok")
    assert by_id(claim(unread, worker, 1)) == {"b": True}


def test_a_delayed_task_that_is_cancelled_is_claimed_so_when_it_is_due(unread: UnreadStore) -> None:
    (queue,) = declared(unread)
    put(unread, queue, "a", delay_s=0.5)
    unread.cancel(["a"])
    assert by_id(claimed_after_lapse(unread, joined(unread, [queue]))) == {"a": True}


def test_a_filter_covers_queues_and_groups_and_what_was_sent_before(unread: UnreadStore) -> None:
    first, second, third = declared(unread, 3)
    for queue in (first, second, third):
        put(unread, queue, [f"{queue}-mine"], group_id="mine")
        put(unread, queue, [f"{queue}-other"], group_id="other")
        put(unread, queue, [f"{queue}-none"])
    assert unread.cancel_matching(TaskFilter([first, second], "mine")) == []
    assert unread.cancel_matching(TaskFilter([third])) == []
    time.sleep(0.002)  # The mark covers its whole millisecond.
    for queue in (first, third):
        put(unread, queue, [f"{queue}-late"], group_id="mine")
    found = by_id(claim(unread, joined(unread, [first, second, third]), 11))
    assert {task_id for task_id, cancelled in found.items() if cancelled} == {
        f"{first}-mine",
        f"{second}-mine",
        *(f"{third}-{name}" for name in ("mine", "other", "none")),
    }
    assert len(found) == 11


def test_a_filter_ends_what_runs_and_says_so(unread: UnreadStore, open_another: OpenStore) -> None:
    queue, other = declared(unread, 2)
    put(unread, queue, "a", group_id="mine")
    put(unread, queue, "b", group_id="other")
    put(unread, other, "c", group_id="mine")
    worker = joined(unread, [queue, other])
    claims = claim(unread, worker, 3)
    other_store = cast("UnreadStore", open_another())
    assert other_store.cancel_matching(TaskFilter([queue], "mine")) == ["a"]
    heard(unread, "a")
    assert unread.take_cancelled() == []
    (mine,) = (each for each in claims if each.task_id == "a")
    assert settle(unread, mine, "retry", reason="late")  # The group id stays with the task.
    (again,) = claimed_after_lapse(unread, worker)
    assert (again.task_id, again.cancelled) == ("a", True)


def test_a_mark_waits_for_workers_that_come_later(
    unread: UnreadStore, open_another: OpenStore
) -> None:
    (queue,) = declared(unread)
    put(unread, queue, "ab")
    canceller, later = open_another(), open_another()
    canceller.cancel(["a"])
    canceller.close()
    assert by_id(claim(later, joined(later, [queue]), 2)) == {"a": True, "b": False}


def test_a_purge_settles_what_is_unclaimed_and_leaves_what_runs(unread: UnreadStore) -> None:
    queue, worker, claimed = running_and_more(unread)
    put(unread, queue, "bc")
    put(unread, queue, "d", delay_s=60)
    PACE.settle(unread)  # The worker has prefetched some.
    assert unread.purge(None, answer) == 3
    stats = unread.stats()
    assert (stats.waiting, stats.delayed, stats.running) == (0, 0, 1)
    assert purged_ids(unread) == ["b", "c", "d"]
    assert unread.purge(None, answer) == 0
    assert settle(unread, claimed, "complete", result=b"{}", outcome="ok")
    assert claim(unread, worker) == []


def test_a_purge_leaves_other_queues_as_they_are(unread: UnreadStore) -> None:
    mine, other = declared(unread, 2)
    for queue, ids in ((mine, "ab"), (other, "xy")):
        put(unread, queue, ids[0])
        put(unread, queue, ids[1], delay_s=60)
    assert unread.purge([mine], answer) == 2
    assert purged_ids(unread) == ["a", "b"]
    stats = unread.stats()
    assert stats.waiting == 1
    wait_until(lambda: unread.stats().delayed == 1, PATIENCE_S, "the other delayed one is back")
    assert unread.purge([], answer) == 0
    (left,) = claim(unread, joined(unread, [other]), 1)
    assert (left.task_id, left.crashes) == ("x", 0)


def test_tasks_of_a_run_are_marked_by_its_name(unread: UnreadStore) -> None:
    (queue,) = declared(unread)
    put(unread, queue, ["v2/1", "v2", "v2x/1", "v2/2/0", "a"])
    assert unread.cancel_matching(TaskFilter([queue], run="v2")) == []
    found = by_id(claim(unread, joined(unread, [queue]), 5))
    assert {task_id for task_id, cancelled in found.items() if cancelled} == {"v2/1", "v2/2/0"}
