"""KeepsSchedules: marks that only increase, and outlive connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import KeepsSchedules
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.conformance.conftest import OpenStore


pytestmark = pytest.mark.capability(protocol=KeepsSchedules)


def test_a_mark_only_rises(open_another: OpenStore) -> None:
    store = open_another()
    assert store.progress("nightly", 0) == 0
    assert store.progress("nightly", 1_790_000_000_999_999) == 1_790_000_000_999_999
    assert store.progress("nightly", 5) == 1_790_000_000_999_999
    assert store.progress("nightly", 0) == 1_790_000_000_999_999
    assert store.progress("hourly", 7) == 7
    assert store.progress("nightly", 1_790_000_060_000_000) == 1_790_000_060_000_000


def test_marks_outlive_the_connection(open_another: OpenStore) -> None:
    first = open_another()
    assert first.progress("nightly", 1_790_000_000_000_000) == 1_790_000_000_000_000
    first.close()
    second = open_another()
    # A server can take a moment to notice a closed connection.
    wait_until(
        lambda: second.progress("nightly", 0) == 1_790_000_000_000_000, 10, "the mark is there"
    )


@pytest.mark.needs("remembers_ids")
def test_two_may_hold_a_schedule_where_ids_are_known(open_another: OpenStore) -> None:
    one, other = open_another(), open_another()
    assert one.progress("nightly", 3) == other.progress("nightly", 0) == 3


def test_where_they_are_not_only_one_may(open_another: OpenStore) -> None:
    one, other = open_another(), open_another()
    if (taken := other.progress("nightly", 0)) is not None:
        if one.progress("nightly", 0) is not None:
            pytest.skip("it knows ids")
        other.close()
        wait_until(lambda: one.progress("nightly", 4) == 4, 10, "the other takes over")
    assert taken == 0
