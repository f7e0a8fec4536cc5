"""ReadsTasks: unsettled tasks are listed, and unclaimed ones can be answered."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import Answer, ReadsTasks, TaskQuery
from tests.conformance.steps import (
    MEBIBYTE,
    balanced,
    claim,
    declared,
    depths_needed,
    ids_needed,
    ids_of,
    joined,
    put,
)

if TYPE_CHECKING:
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=ReadsTasks)


def test_peek_shows_what_waits_or_is_delayed_and_nothing_else(store: AnyStore) -> None:
    (queue,) = declared(store, concurrency=1)
    before = time.time()
    put(store, queue, "abc")
    put(store, queue, "d", delay_s=60)
    claim(store, joined(store, [queue]), 1)
    seen = store.tasks(TaskQuery(limit=100))
    assert ids_of(seen) == ["b", "c", "d"]
    assert [entry.number for entry in seen] == sorted({entry.number for entry in seen})
    assert {entry.queue for entry in seen} == {queue}
    assert seen[0].payload == b"payload of b"
    assert before - 0.01 <= seen[0].submitted_at <= time.time() + 0.01


def test_peek_goes_through_the_asked_queues_page_by_page(store: AnyStore) -> None:
    mine, also_mine, other = declared(store, 3)
    for index in range(5):
        put(store, mine, [f"m{index}"])
        put(store, other, [f"o{index}"])
        put(store, also_mine, [f"n{index}"])
    found, after = [], -1
    while page := store.tasks(TaskQuery(queues=[mine, also_mine], after=after, limit=3)):
        assert len(page) <= 3
        found += ids_of(page)
        after = page[-1].number
    assert sorted(found) == sorted([f"{letter}{index}" for letter in "mn" for index in range(5)])
    assert store.tasks(TaskQuery(queues=[])) == []


@depths_needed
def test_an_unclaimed_task_can_be_answered(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "abc")
    put(store, queue, "d", delay_s=60)
    worker = joined(store, [queue])
    claim(store, worker, 1)
    answers = [Answer(task_id, b"{}", "cancelled") for task_id in ("a", "b", "d", "strange", "b")]
    assert store.answer(answers) == [False, True, True, False, False]
    stats = balanced(store)
    assert (stats.waiting, stats.delayed, stats.running, stats.outbox) == (1, 0, 1, 2)
    assert stats.outcomes == {"cancelled": 2}
    assert ids_of(store.take_outbox(worker, 10, MEBIBYTE)) == ["b", "d"]
    assert ids_of(claim(store, worker)) == ["c"]


@ids_needed
def test_an_answered_id_is_a_duplicate(store: AnyStore) -> None:
    (queue,) = declared(store)
    put(store, queue, "a")
    assert store.answer([Answer("a", b"{}", "cancelled")]) == [True]
    assert put(store, queue, "a").verdicts == ("duplicate",)
