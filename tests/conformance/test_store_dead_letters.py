"""KeepsDeadLetters: dead letters are listed, filtered, paged, read and dropped."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.capabilities import KeepsDeadLetters
from agentpipe.brokers.dead_letter import DeadFilter, DeadSummary
from agentpipe.brokers.records import (
    Offer,
    Queue,
    Settlement,
)
from agentpipe.errors import ConfigError
from tests.conformance.steps import (
    MEBIBYTE,
    PATIENCE_S,
    balanced,
    claim,
    collection_of,
    depths_needed,
    ids_of,
    joined,
    put,
    settle,
    unique,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=KeepsDeadLetters)


def listed(store: AnyStore, limit: int = 500, **wanted: Any) -> list[str]:
    """The ids of all matching dead letters, read page by page."""
    letters: list[DeadSummary] = []
    after = ""
    while True:
        page = store.dead_letters(DeadFilter(**wanted), after, limit)
        assert len(page.letters) <= limit
        letters += page.letters
        if page.after is None:
            return ids_of(letters)
        after = page.after


def bury(store: AnyStore, collection: str, queue: str, ids: Iterable[str]) -> None:
    store.declare([Queue(queue, collection)])
    worker = joined(store, [queue])
    for task_id in ids:
        put(store, queue, [task_id])
        (claimed,) = claim(store, worker, 1)
        settle(store, claimed, "bury", result=b"{}", outcome="crashed", reason="it died")
    store.leave(worker)


def buried(store: AnyStore, queue: str, ids: Sequence[str], **fields: str) -> None:
    """Create dead letters that died in the same settlement."""
    put(store, queue, ids)
    worker = joined(store, [queue])
    claims = {each.task_id: each for each in claim(store, worker, len(ids))}
    told = {"outcome": "crashed", "reason": "it died", "result": b"{}", **fields}
    assert all(store.settle([Settlement(claims[each], "bury", **told) for each in ids]))  # type: ignore[arg-type]
    store.leave(worker)


def test_dead_letters_are_listed_oldest_first_and_read_by_id(store: AnyStore) -> None:
    one, two = unique("one"), unique("two")
    bury(store, one, f"{one}_0", ["a", "b"])
    bury(store, two, f"{two}_0", ["c"])
    bury(store, one, f"{one}_0", ["d"])
    assert listed(store) == ["a", "b", "c", "d"]
    assert listed(store, collection=one) == ["a", "b", "d"]
    assert ids_of(store.read_dead(["d", "c", "strange", "d"])) == ["c", "d"]
    assert store.read_dead([]) == []
    (summary, *_) = store.dead_letters(DeadFilter(), "", 10).letters
    (letter,) = store.read_dead(["a"])
    assert summary == DeadSummary(*(getattr(letter, each.name) for each in fields(DeadSummary)))


def test_dead_letters_are_filtered_by_all_that_is_asked_for(store: AnyStore) -> None:
    one, (queue,) = collection_of(store, 1)
    other, (another,) = collection_of(store, 1)
    buried(store, queue, ["a"], outcome="infra_error", reason="ReadTimeout: 100% of \u00c4gypten")
    buried(store, queue, ["b"])
    buried(store, another, ["c"], outcome="infra_error", reason="DNS: no such host")
    assert listed(store, outcome="infra_error") == ["a", "c"]
    assert listed(store, outcome="infra_error", collection=other) == ["c"]
    assert listed(store, error="readtimeout") == ["a"]
    assert listed(store, error="100% OF") == ["a"]
    assert listed(store, error="\u00c4") == ["a"]
    assert listed(store, error="%") == ["a"]
    assert listed(store, error="d", collection=one, outcome="crashed") == ["b"]
    assert listed(store, error="nothing of the kind") == []
    assert listed(store, collection="strange") == []


def test_dead_letters_are_filtered_by_the_time_of_their_death(store: AnyStore) -> None:
    _, (queue,) = collection_of(store, 1)
    before = time.time()
    buried(store, queue, ["a"])
    wait_until(lambda: time.time() > before + 0.01, PATIENCE_S, "time passes")
    buried(store, queue, ["b"])
    died = {each.task_id: each.died_at for each in store.read_dead(["a", "b"])}
    assert before - 0.01 <= died["a"] < died["b"] <= time.time() + 0.01
    assert listed(store, since=died["b"]) == ["b"]
    assert listed(store, until=died["b"]) == ["a"]
    assert listed(store, since=died["a"], until=died["b"], error="DIED") == ["a"]
    assert listed(store, since=died["b"] + 1) == []
    assert store.count_dead(DeadFilter(since=died["b"])) in (1, None)


def test_pages_give_each_dead_letter_once_whatever_is_dropped_between(
    store: AnyStore, open_another: OpenStore
) -> None:
    _, (queue,) = collection_of(store, 1)
    ids = [f"task-{number:02}" for number in range(20)]
    buried(store, queue, ids, reason="odd ones")
    assert sorted(listed(store, 3)) == ids
    assert sorted(listed(store, 20)) == ids
    assert store.count_dead(DeadFilter()) == 20
    first = store.dead_letters(DeadFilter(), "", 6)
    rest = [each for each in ids if each not in ids_of(first.letters)]
    assert first.after is not None
    store.close()
    later = open_another()
    second = later.dead_letters(DeadFilter(error="ODD"), first.after, 4)
    assert set(ids_of(second.letters)) <= set(rest)
    assert second.after is not None
    assert later.drop_dead(ids_of(first.letters)) == 6
    third = later.dead_letters(DeadFilter(), first.after, 20)
    assert sorted(ids_of(third.letters)) == rest
    assert third.after is None
    assert later.drop_dead(ids_of(second.letters)) == 4
    assert later.drop_dead(ids) == 10
    assert listed(later) == []
    assert later.count_dead(DeadFilter()) == 0


def test_a_place_that_no_page_gave_is_refused(store: AnyStore) -> None:
    with pytest.raises(ConfigError, match="does not come from a page"):
        store.dead_letters(DeadFilter(), "nowhere", 1)


def test_a_page_holds_no_payloads(store: AnyStore) -> None:
    _, (queue,) = collection_of(store, 1)
    store.offer(queue, [Offer("large", b"x" * 9_000_000)], round_robin=False)
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    settle(store, claimed, "bury", result=b"{}", outcome="crashed", reason="it died")
    store.leave(worker)  # Some stores allow one worker at a time per queue.
    buried(store, queue, ["small"])
    assert listed(store, 1) == ["large", "small"]
    assert [len(each.payload) for each in store.read_dead(["large", "small"])] == [9_000_000, 16]


@depths_needed
def test_dropped_dead_letters_are_gone_and_their_answers_stay(store: AnyStore) -> None:
    one = unique("one")
    bury(store, one, f"{one}_0", ["a", "b"])
    assert store.drop_dead(["a", "strange"]) == 1
    assert store.drop_dead(["a"]) == 0
    assert listed(store) == ["b"]
    stats = balanced(store)
    assert (stats.dead, stats.outbox) == (1, 2)


@depths_needed
def test_a_burial_answers_and_keeps_the_task_as_it_was_sent(store: AnyStore) -> None:
    collection, (queue,) = collection_of(store, 1)
    put(store, queue, "a")
    worker = joined(store, [queue])
    (claimed,) = claim(store, worker, 1)
    before = time.time()
    assert settle(
        store, claimed, "bury", result=b'{"bad":1}', outcome="infra_error", reason="no luck"
    )
    stats = balanced(store)
    assert (stats.dead, stats.outbox, stats.outcomes) == (1, 1, {"infra_error": 1})
    (letter,) = store.read_dead(["a", "strange"])
    assert (letter.task_id, letter.queue, letter.collection) == ("a", queue, collection)
    assert (letter.payload, letter.result) == (b"payload of a", b'{"bad":1}')
    assert (letter.outcome, letter.reason) == ("infra_error", "no luck")
    assert before - 0.01 <= letter.died_at <= time.time() + 0.01
    assert ids_of(store.take_outbox(worker, 10, MEBIBYTE)) == ["a"]


def test_letters_of_a_run_are_those_whose_ids_begin_with_its_name(store: AnyStore) -> None:
    collection, queue = unique("c"), unique("q")
    bury(store, collection, queue, ["v2/1", "v2", "v2x/1", "v2/2", "a/v2/1"])
    assert listed(store, run="v2") == ["v2/1", "v2/2"]
    assert listed(store, run="v3") == []
    assert listed(store, 1, run="v2", collection=collection) == ["v2/1", "v2/2"]
    assert store.count_dead(DeadFilter(run="v2")) in (2, None)
