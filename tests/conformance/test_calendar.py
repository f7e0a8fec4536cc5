"""What a scheduler needs of a store: marks that only rise, and are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import KeepsSchedules
from tests.support import wait_until

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from tests.conformance.conftest import OpenStore


def calendar(store: Store) -> KeepsSchedules:
    if not isinstance(store, KeepsSchedules):
        pytest.skip("it has no calendar")
    return store


def test_a_mark_only_rises(open_another: OpenStore) -> None:
    store = calendar(open_another())
    assert store.progress("nightly", 0) == 0
    assert store.progress("nightly", 1_790_000_000_999_999) == 1_790_000_000_999_999
    assert store.progress("nightly", 5) == 1_790_000_000_999_999
    assert store.progress("nightly", 0) == 1_790_000_000_999_999
    assert store.progress("hourly", 7) == 7
    assert store.progress("nightly", 1_790_000_060_000_000) == 1_790_000_060_000_000


def test_marks_outlive_the_connection(open_another: OpenStore) -> None:
    first = open_another()
    assert calendar(first).progress("nightly", 1_790_000_000_000_000) == 1_790_000_000_000_000
    first.close()
    second = calendar(open_another())
    # A server may need a moment to see that a connection is gone.
    wait_until(
        lambda: second.progress("nightly", 0) == 1_790_000_000_000_000, 10, "the mark is there"
    )


@pytest.mark.needs("remembers_ids")
def test_two_may_have_the_calendar_where_ids_are_known(open_another: OpenStore) -> None:
    one, other = calendar(open_another()), calendar(open_another())
    assert one.progress("nightly", 3) == other.progress("nightly", 0) == 3


def test_where_they_are_not_only_one_may(open_another: OpenStore) -> None:
    one, other = open_another(), open_another()
    if (taken := calendar(other).progress("nightly", 0)) is not None:
        if calendar(one).progress("nightly", 0) is not None:
            pytest.skip("it knows ids")
        other.close()
        wait_until(lambda: calendar(one).progress("nightly", 4) == 4, 10, "the other takes over")
    assert taken == 0
