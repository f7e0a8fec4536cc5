"""KeepsLoops: one trainer at a time holds a loop; steps of others are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import CountsGroups, KeepsLoops, KeepsPolicies
from agentpipe.brokers.records import Group, Offer, Queue
from agentpipe.core.loop_holds import LoopHold
from agentpipe.core.policy import PolicyChange, PolicySpec
from agentpipe.errors import LoopTaken
from tests.conformance.steps import PATIENCE_S, unique
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.conformance.conftest import OpenStore
    from tests.stores import AnyStore

pytestmark = pytest.mark.capability(protocol=KeepsLoops)

LONG_S, SHORT_S = 600.0, 0.2


def two_trainers() -> tuple[LoopHold, LoopHold]:
    name = unique("loop")
    return LoopHold(name, "first"), LoopHold(name, "second")


def names(store: AnyStore) -> list[str]:
    return [it.name for it in store.loops()]


def take_once_free(store: AnyStore, hold: LoopHold) -> None:
    def taken() -> bool:
        return store.hold_loop(hold, b"{}", lease_s=LONG_S).token == hold.token

    wait_until(taken, PATIENCE_S, "the lease of the one before is over")


def test_a_loop_that_another_trainer_has_is_not_taken(
    store: AnyStore, open_another: OpenStore
) -> None:
    first, second = two_trainers()
    found = store.hold_loop(first, b'{"pid": 1}', lease_s=LONG_S)
    assert (found.name, found.token, found.said) == (first.name, "first", {"pid": 1})
    other = open_another()
    found = other.hold_loop(second, b"{}", lease_s=LONG_S)
    assert (found.token, found.said) == ("first", {"pid": 1})
    assert store.hold_loop(first, b"not JSON", lease_s=LONG_S).said == {}
    assert first.name in names(other)


def test_who_has_a_loop_is_told_as_it_was_found(
    store: AnyStore, open_another: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_trainers()
    store.hold_loop(first, b"{}", lease_s=LONG_S)
    other = open_another()
    looks = other.loops

    def after_its_end() -> object:
        store.drop_loop(first)
        return looks()

    monkeypatch.setattr(other, "loops", after_its_end)
    assert other.hold_loop(second, b"{}", lease_s=LONG_S).token == "first"


def test_a_loop_whose_trainer_is_silent_has_ended_or_lets_it_go_is_free(store: AnyStore) -> None:
    first, second = two_trainers()
    store.hold_loop(first, b"{}", lease_s=SHORT_S)
    take_once_free(store, second)
    assert store.hold_loop(first, b"{}", lease_s=LONG_S).token == "second"
    assert store.hold_loop(first, b"{}", lease_s=LONG_S, instead_of="other").token == "second"
    assert store.hold_loop(first, b"{}", lease_s=LONG_S, instead_of="second").token == "first"
    store.drop_loop(second)
    assert first.name in names(store)
    store.drop_loop(first)
    assert first.name not in names(store)
    assert store.hold_loop(second, b"{}", lease_s=LONG_S).token == "second"


def test_a_loop_that_is_kept_is_not_taken_again(store: AnyStore) -> None:
    first, second = two_trainers()
    assert store.keep_loop(first, b"{}", lease_s=LONG_S) is None
    store.hold_loop(first, b"{}", lease_s=SHORT_S)
    kept = store.keep_loop(first, b'{"step": 1}', lease_s=SHORT_S)
    assert kept is not None
    assert (kept.token, kept.said) == ("first", {"step": 1})
    take_once_free(store, second)
    found = store.keep_loop(first, b"{}", lease_s=LONG_S)
    assert found is not None
    assert (found.token, found.said) == ("second", {})
    store.drop_loop(second)
    assert store.keep_loop(first, b"{}", lease_s=LONG_S) is None
    assert first.name not in names(store)


def test_a_snapshot_has_the_loops(store: AnyStore) -> None:
    first, _ = two_trainers()
    store.hold_loop(first, b'{"step": 3}', lease_s=LONG_S)
    (found,) = (it for it in store.stats().loops if it.name == first.name)
    assert (found.token, found.said) == ("first", {"step": 3})
    assert 0 <= found.silent_s < LONG_S


@pytest.mark.capability(protocol=CountsGroups)
def test_groups_of_a_trainer_that_was_replaced_are_not_admitted(store: AnyStore) -> None:
    first, second = two_trainers()
    crew = unique("crew")
    store.declare([Queue(f"{crew}_0", crew)])

    def offered(name: str, hold: LoopHold) -> str:
        group = Group(f"{crew}/{name}", (Offer(f"{crew}/{name}/0", b""),), need=1)
        return store.offer_groups(crew, [group], hold).verdicts[0]

    with pytest.raises(LoopTaken, match="does not know"):
        offered("a", first)
    store.hold_loop(first, b"{}", lease_s=SHORT_S)
    assert offered("a", first) == "accepted"
    take_once_free(store, second)
    with pytest.raises(LoopTaken, match=first.name):
        offered("b", first)
    assert offered("a", second) == "duplicate"
    assert offered("b", second) == "accepted"


@pytest.mark.capability(protocol=KeepsPolicies)
def test_a_trainer_that_was_replaced_changes_no_policy(store: AnyStore) -> None:
    first, second = two_trainers()
    spec = PolicySpec(unique("policy"), endpoints=("http://here:8000/v1",))
    store.declare([Queue(f"of-{spec.name}_0", f"of-{spec.name}", policy=spec)])
    store.hold_loop(first, b"{}", lease_s=LONG_S)
    after = store.change_policy(spec.name, PolicyChange(version=1, hold=first))
    assert after is not None
    assert after.version == 1
    with pytest.raises(LoopTaken, match=second.name):
        store.change_policy(spec.name, PolicyChange(version=2, returned=1, hold=second))
    (state,) = (it for it in store.policies() if it.name == spec.name)
    assert state.version == 1
