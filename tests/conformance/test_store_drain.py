"""DrainsWorkers: workers finish their runs, then end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import DrainsWorkers, NotesDrains
from tests.conformance.steps import PATIENCE_S, claim, declared, joined, put, settle
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=DrainsWorkers)


def draining(store: AnyStore) -> dict[str, bool]:
    return {worker.name: worker.draining for worker in store.stats().workers if worker.slots}


def test_a_mark_from_another_process_is_of_one_worker_and_goes_with_it(
    store: AnyStore, open_another: OpenStore
) -> None:
    (queue,) = declared(store)
    first, second = joined(store, [queue]), joined(store, [queue])
    assert (store.is_draining(first), store.is_draining(second)) == (False, False)
    operator = open_another()
    operator.drain([first.name, "nobody"])
    operator.drain([first.name])
    assert (store.is_draining(first), store.is_draining(second)) == (True, False)
    assert draining(operator) == {first.name: True, second.name: False}
    store.leave(first)
    store.join(first)
    assert not store.is_draining(first)


def test_a_draining_worker_settles_what_it_has_and_the_others_take_the_rest(
    store: AnyStore, open_another: OpenStore
) -> None:
    (queue,) = declared(store)
    put(store, queue, "ab")
    first = joined(store, [queue])
    (held,) = claim(store, first, 1)
    store.drain([first.name])
    assert store.heartbeat(first)
    assert settle(store, held, "complete", result=b"{}", outcome="ok")
    other = open_another()
    second = joined(other, [queue])
    found: list[str] = []

    def takes() -> bool:
        found.extend(it.task_id for it in claim(other, second))
        return found == ["b"]

    wait_until(takes, PATIENCE_S, "the other worker has the rest")


@pytest.mark.capability(protocol=NotesDrains)
def test_a_drain_of_a_host_or_of_all_is_noted_for_workers_that_start(
    store: AnyStore, open_another: OpenStore
) -> None:
    operator = open_another()
    first, other = store.last_drain("first"), store.last_drain("other")
    operator.note_drain("first")
    assert store.last_drain("first") > first
    assert store.last_drain("other") == other
    first = store.last_drain("first")
    operator.note_drain("first")
    assert store.last_drain("first") > first
    for host in ("first", "other"):
        before = store.last_drain(host)
        operator.note_drain(None)
        assert store.last_drain(host) > before


@pytest.mark.capability(protocol=NotesDrains)
def test_drains_of_long_ago_are_forgotten(store: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.note_drain("first")
    assert store.last_drain("first") > 0
    with monkeypatch.context() as later:
        for place in ("drain_times", "redis.operations"):
            later.setattr(f"agentpipe.brokers.{place}.DRAIN_NOTED_S", -1.0)
        assert store.last_drain("first") == 0  # Even if no drain was noted since.
        store.note_drain("other")
    assert store.last_drain("first") == 0
    assert store.last_drain("other") > 0
