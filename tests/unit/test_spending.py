"""Budgets: when they are spent, and what they report."""

from __future__ import annotations

import pytest

from agentpipe.core.budgets import Budget, Spending, budget_line, tokens_in


def spending(cap: Budget, usd: float = 0.0, tokens: int = 0) -> Spending:
    return Spending("collection", "crew", cap, usd, tokens)


@pytest.mark.parametrize(
    ("cap", "usd", "tokens", "spent"),
    [
        (Budget(), 9e9, 10**12, False),
        (Budget(usd=1.0), 0.999, 10**9, False),
        (Budget(usd=1.0), sum([0.1] * 10), 0, True),
        (Budget(usd=1.0), 1.0, 0, True),
        (Budget(tokens=10), 9e9, 9, False),
        (Budget(tokens=10), 0.0, 10, True),
        (Budget(1.0, 10), 0.5, 10, True),
        (Budget(1.0, 10), 1.5, 9, True),
    ],
)
def test_the_first_cap_that_is_reached_stops(
    cap: Budget, usd: float, tokens: int, *, spent: bool
) -> None:
    assert spending(cap, usd, tokens).is_spent is spent


def test_the_overshoot_is_what_is_beyond_each_cap() -> None:
    found = spending(Budget(1.0, 10), 1.25, 17)
    assert (found.overshoot_usd, found.overshoot_tokens) == (0.25, 7)
    assert spending(Budget(usd=1.0), 0.5, 99).overshoot_tokens == 0


def test_a_line_says_how_far_it_is_and_then_what_to_do() -> None:
    assert budget_line(spending(Budget(50.0, 5_000_000), 12.5, 1_000)) == (
        "$12.50 and 1,000 tokens of its budget of $50.00 and 5,000,000 tokens spent"
    )
    assert budget_line(spending(Budget(usd=0.5), 0.5012)) == (
        "the budget is spent: $0.5012 of $0.50, $0.0012 of it by what ran when the cap was "
        "reached; agentpipe resume crew --budget-usd USD allows more"
    )
    assert "agentpipe resume --run v1 --budget-tokens N" in budget_line(
        Spending("run", "v1", Budget(9.0, 10), 1.0, 10)
    )


def test_tokens_are_those_sent_and_received() -> None:
    usage = {"requests": 2, "input_tokens": 10, "output_tokens": 5, "cached_tokens": 4, "usd": 1.0}
    assert tokens_in(usage) == 15
    assert tokens_in({}) == 0
