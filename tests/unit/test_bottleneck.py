"""Which stage is the bottleneck, and the numbers shown beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentpipe.core.policy import PolicySpec, PolicyState
from agentpipe.monitoring import numbers
from agentpipe.monitoring.bottleneck import find_bottleneck
from agentpipe.monitoring.history import MAX_TOTALS, Rates, eta_s, queue_rates, rates_of, throughput
from tests.unit.fleets import MARKS, agent, fleet, history, worker

if TYPE_CHECKING:
    from agentpipe.brokers.statistics import Stats

BUSY = agent(waiting=5, running=2)
FREE = agent(waiting=5, running=1)
UP = (worker(slots=8, running=2),)
CASES: dict[str, tuple[Stats, str, str]] = {
    "no worker": (fleet(BUSY), "waiting", "no worker is running"),
    "a command has no slots": (fleet(BUSY, workers=(worker(slots=0),)), "waiting", "no worker"),
    "all at their limit": (fleet(BUSY, workers=UP), "running", "at its concurrency limit"),
    "the context is at its limit": (
        fleet(
            replace(FREE, group=("key", 3)),
            agent("crew_1", running=2, group=("key", 3)),
            workers=(worker(slots=3, running=3),),
        ),
        "running",
        "context key is at its limit of 3: more workers would not run more",
    ),
    "one of two contexts is at its limit": (
        fleet(
            replace(FREE, group=("key", 1)),
            agent("crew_1", waiting=1, group=("b", 3)),
            workers=(worker(slots=1, running=1),),
        ),
        "running",
        "all 1 slots busy",
    ),
    "all slots taken": (
        fleet(FREE, workers=(worker(slots=1, running=1),)),
        "running",
        "all 1 slots busy",
    ),
    "in cooldown": (
        fleet(replace(FREE, cooldown_s=40.0), workers=UP),
        "waiting",
        "in cooldown: 40 s left",
    ),
    "not served": (
        fleet(agent(waiting=5), workers=UP),
        "waiting",
        "check that they serve these agents",
    ),
    "outbox at its limit": (
        fleet(BUSY, workers=UP, outbox=10_000),
        "outbox",
        "outbox full",
    ),
    "outbox too large": (
        fleet(BUSY, workers=UP, outbox_bytes=2**30),
        "outbox",
        "outbox full",
    ),
    "sink down": (
        fleet(BUSY, workers=(worker(sink_down_s=75.0, sink_error="Down: gone"),)),
        "outbox",
        "sink down for 75 s: Down: gone",
    ),
    "sink slow": (fleet(FREE, workers=UP, outbox=9, undelivered_s=30.0), "outbox", "slower"),
    "retries": (fleet(agent(delayed=2), workers=UP), "waiting", "next try"),
    "policy ahead": (
        fleet(
            agent(delayed=2),
            workers=UP,
            policies=(PolicyState(PolicySpec("main", batch=3, max_staleness=0), accepted=3),),
        ),
        "waiting",
        "policy main lets none begin before its trainer's next version",
    ),
    "flowing": (fleet(FREE, workers=UP), "", "as they arrive"),
    "last ones": (fleet(agent(running=1), workers=UP), "", "running or done"),
    "idle": (fleet(agent(), workers=UP), "", "no tasks"),
}


@pytest.mark.parametrize(("stats", "stage", "words"), CASES.values(), ids=CASES)
def test_the_bottleneck_and_its_reason(stats: Stats, stage: str, words: str) -> None:
    now = history(stats).recent[-1]
    bottleneck = find_bottleneck(now, Rates(), MARKS)
    assert bottleneck.stage == stage
    assert words in bottleneck.reason


def test_rates_are_over_the_last_seconds() -> None:
    looks = [
        fleet(agent(), accepted=100 * n, outcomes={"ok": 10 * n}, delivered=5 * n)
        for n in range(60)
    ]
    seen = history(*looks)
    rates = rates_of(seen)
    assert (rates.sent, rates.ended, rates.delivered) == (100, 10, 5)
    assert throughput(seen, 5, 2.0) == [10.0] * 5
    assert len(seen.recent) < 10


def test_what_ended_between_two_distant_looks_is_spread_over_the_time_between_them() -> None:
    looks = [fleet(agent(), outcomes={"ok": 18 * n}) for n in (0, 1, 1)]
    assert throughput(history(*looks, every_s=9.0), 20, 2.0) == pytest.approx(
        [2.0] * 4 + [1.0] + [0.0] * 4
    )


def test_the_first_look_has_a_rate_where_the_broker_tells_of_the_last_seconds() -> None:
    assert rates_of(history(fleet(recent=25))).ended == 2.5
    assert rates_of(history(fleet())).ended is None


def test_rates_of_agents_need_two_looks() -> None:
    tally = agent().tally
    one, two = replace(tally, done=3), replace(tally, done=5, failed=2)
    assert queue_rates(history(fleet(agent(tally=one)))) == {}
    assert queue_rates(history(fleet(agent(tally=one)), fleet(agent(tally=two)))) == {"crew_0": 4.0}


def test_a_store_that_was_emptied_has_no_negative_rates() -> None:
    seen = history(fleet(accepted=90, outcomes={"ok": 80}, delivered=80), fleet())
    assert rates_of(seen) == Rates(0.0, 0.0, 0.0, 0.0)
    assert throughput(seen, 3, 2.0) == [0.0]


def test_nothing_ends_that_does_not_get_less() -> None:
    def end(first: int, last: int) -> float | None:
        seen = history(fleet(agent(waiting=first)), fleet(agent(waiting=last)))
        return eta_s(seen, rates_of(seen))

    assert end(10, 8) == 4.0
    assert end(8, 10) is None
    assert end(8, 8) is None
    assert end(1, 0) is None


def test_nothing_ends_while_nothing_moves_or_a_pause_holds_it() -> None:
    went = [fleet(agent(waiting=n)) for n in (10, 8)]
    stopped = history(*went, went[-1])
    assert rates_of(stopped).drained == 1.0
    assert eta_s(stopped, rates_of(stopped)) is None
    running = history(*went, fleet(agent(waiting=7, running=1)))
    assert eta_s(running, rates_of(running)) == 8.0
    held = history(*went, fleet(agent(waiting=2, running=1), agent("b", waiting=4, paused=True)))
    assert eta_s(held, rates_of(held)) is None


def test_the_history_is_bounded() -> None:
    seen = history(*[fleet()] * (MAX_TOTALS + 50))
    assert len(seen.totals) == MAX_TOTALS


def test_numbers_are_short_and_have_units() -> None:
    assert [numbers.count(n) for n in (None, 0, 99_999, 123_456, 12_345_678)] == [
        "?", "0", "99,999", "123k", "12.3M",
    ]  # fmt: skip
    assert [numbers.duration(s) for s in (None, 0.04, 59.6, 600, 7_300, 400_000)] == [
        "-", "0.0 s", "60 s", "10 min", "2.0 h", "5 d",
    ]  # fmt: skip
    assert [numbers.rate(r) for r in (None, 0, 123_456, 12.34, 0.5, 0.05, 0.001)] == [
        "-", "0/s", "123k/s", "12.3/s", "0.50/s", "3/min", "4/h",
    ]  # fmt: skip
    assert [numbers.lag(s) for s in (None, 0.0123, 3)] == ["-", "12 ms", "3.0 s"]
    assert [numbers.size(n) for n in (None, 64 << 20, 3 << 30)] == ["-", "64 MiB", "3.0 GiB"]
    assert [numbers.money(n) for n in (0.0, 0.0123, 1_234.5)] == ["$0.00", "$0.0123", "$1,234.50"]
    assert numbers.sparkline([0, 1, 50, 100]) == "▁▂▅█"
    assert numbers.sparkline([0, 0]) == "▁▁"
