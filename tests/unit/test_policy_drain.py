"""How long a trainer waits for the open requests of a policy that it paused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from agentpipe.core.policy import PolicySpec, PolicyState
from agentpipe.errors import Unreachable
from agentpipe.operations import policies
from agentpipe.sending import patience
from agentpipe.training.policy import Policy

STATE = PolicyState(PolicySpec("main", ("http://h/v1",)), paused=True, pauses=1)


class Clock:
    """Time passes only in sleeps and outages."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Broker:
    """A broker with one policy and never-ending requests; unreachable during ``outages``."""

    def __init__(self, clock: Clock, *outages: tuple[float, float], heard_at: float = 0.0) -> None:
        self._clock, self._outages, self._heard_at = clock, outages, heard_at

    def policies(self) -> list[PolicyState]:
        return [STATE]

    def change_policy(self, *_: Any) -> PolicyState:
        return STATE

    def stats(self) -> Any:
        for start, end in self._outages:
            if start <= self._clock.now < end:
                self._clock.now += 1.0
                raise Unreachable("away")
        pauses = int(self._clock.now >= self._heard_at)
        report = orjson.dumps({"policies": {"main": [pauses, 3]}})
        return SimpleNamespace(workers=(SimpleNamespace(report=report),))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(policies, "time", found)
    monkeypatch.setattr(patience, "time", found)
    return found


def left(clock: Clock, broker: Any, drain_s: float) -> tuple[int, float]:
    found = Policy(broker, "main").pause(drain_s=drain_s)
    return found, clock.now


def test_a_drain_takes_its_time_and_no_more(clock: Clock) -> None:
    found, passed_s = left(clock, Broker(clock), 10.0)
    assert found == 3
    assert 10.0 <= passed_s < 10.5


def test_outages_are_part_of_a_drain(clock: Clock) -> None:
    found, passed_s = left(clock, Broker(clock, (3.0, 5.0), (8.0, 9.0)), 10.0)
    assert found == 3
    assert 10.0 <= passed_s < 10.5


def test_after_an_outage_workers_still_get_the_time_to_hear_of_the_pause(clock: Clock) -> None:
    found, passed_s = left(clock, Broker(clock, (0.0, 20.0), heard_at=22.0), 10.0)
    assert found == 3
    assert 22.0 <= passed_s < 23.0
