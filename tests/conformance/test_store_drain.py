"""DrainsWorkers: workers that finish what they run, and end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import DrainsWorkers
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
