"""When a sink counts as quick enough to get results directly."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agentpipe.brokers.rabbitmq import sink_speed
from agentpipe.brokers.rabbitmq.sink_speed import BATCH, MAX_REST_S, QUICK_S, REST_S, SinkSpeed


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sink_speed, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def is_quick_again(speed: SinkSpeed) -> bool:
    speed.confirmed(QUICK_S, 1)
    return speed.is_quick


def test_a_sink_is_quick_until_it_misses_and_once_it_confirms_quickly_again(clock: Clock) -> None:
    speed = SinkSpeed()
    assert speed.is_quick
    speed.missed()
    clock.now_s += 2 * REST_S
    for took_s, records in ((2 * QUICK_S, BATCH), (4 * QUICK_S, 3 * BATCH)):
        speed.confirmed(took_s, records)
        assert not speed.is_quick
    speed.confirmed(4 * QUICK_S, 4 * BATCH)
    assert speed.is_quick


def test_one_that_misses_again_soon_rests_twice_as_long(clock: Clock) -> None:
    speed, rest_s = SinkSpeed(), REST_S
    speed.missed()
    clock.now_s += 1.1 * REST_S
    while rest_s < MAX_REST_S:
        rest_s = min(MAX_REST_S, 2 * rest_s)
        assert is_quick_again(speed)
        speed.missed()
        speed.missed()  # Of the same time: counts once.
        clock.now_s += 0.9 * rest_s
        assert not is_quick_again(speed)
        clock.now_s += 0.2 * rest_s


def test_one_that_was_quick_for_longer_than_its_rest_rests_briefly(clock: Clock) -> None:
    speed = SinkSpeed()
    for _ in range(5):
        assert is_quick_again(speed)
        speed.missed()
        clock.now_s += MAX_REST_S
    assert is_quick_again(speed)
    clock.now_s += MAX_REST_S
    speed.missed()
    assert not is_quick_again(speed)
    clock.now_s += 1.1 * REST_S
    assert is_quick_again(speed)
