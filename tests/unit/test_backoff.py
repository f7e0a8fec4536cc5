"""How long to wait before a retry."""

from __future__ import annotations

from agentpipe.core.backoff import delay_s


def test_it_doubles_up_to_its_bound() -> None:
    assert [delay_s(attempt, 0.1, 0.5) for attempt in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.5]


def test_an_outage_of_days_does_not_overflow() -> None:
    assert delay_s(1_000_000, 0.1, 2.0) == 2.0
