"""KeepsPolicies: what trainers publish and workers read, one step each."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import KeepsPolicies
from agentpipe.brokers.records import Queue, Source
from agentpipe.core.policy import PolicyChange, PolicySpec, PolicyState
from tests.conformance.steps import signals_needed, sources_needed, unique

if TYPE_CHECKING:
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=KeepsPolicies)

HERE, THERE = ("http://here:8000/v1",), ("http://there:8000/v1", "http://beside:8000/v1")


def followed(
    store: AnyStore, name: str = "", source: Source | None = None, **spec: object
) -> PolicySpec:
    """Declare a collection that follows a new policy, or this one."""
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
