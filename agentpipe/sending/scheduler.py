"""Scheduler: runs all schedules of a collection file, one step of each at a time."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from agentpipe.brokers.capabilities import KeepsSchedules, require
from agentpipe.errors import ConfigError
from agentpipe.sending.schedule import NAP_S, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.config.collection import Collection
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sending.firing import Fired

# A scheduler silent for this long was asleep.
ASLEEP = timedelta(seconds=300)


class Clock(Protocol):
    """The time as a scheduler sees it."""

    def now(self) -> datetime:
        """The time, with a time zone."""

    def wait(self, seconds: float) -> None:
        """Wait this long, or until ``stop``."""

    @property
    def is_stopped(self) -> bool:
        """Whether ``stop`` was called."""


class WallClock:
    """The machine's clock, until it is stopped."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def now(self) -> datetime:
        """The time."""
        return datetime.fromtimestamp(time.time(), UTC)

    def wait(self, seconds: float) -> None:
        """Wait this long, or until ``stop``."""
        self._stop.wait(seconds)

    def stop(self) -> None:
        """End this wait and all later ones."""
        self._stop.set()

    @property
    def is_stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stop.is_set()


class Scheduler:
    """Runs all schedules, one step of each in turn, so that none waits for another."""

    def __init__(self, schedules: Sequence[Schedule], clock: Clock) -> None:
        self._schedules, self._clock = schedules, clock

    def run(self, *, once: bool = False) -> None:
        """Run until the clock is stopped; with ``once``, until everything due now is sent."""
        watched_from = seen = self._clock.now()
        until = seen if once else None
        while not self._clock.is_stopped:
            now = self._clock.now()
            if now - seen > ASLEEP or now < watched_from:  # It slept, or the clock was set back.
                watched_from = now
            seen = now
            waits = [each.step(until or now, watched_from) for each in self._schedules]
            if once and all(each.is_idle for each in self._schedules):
                return
            self._clock.wait(min([NAP_S, *waits]))


def schedules_of(
    collections: Iterable[Collection],
    dispatcher: Dispatcher,
    store: Store,
    on_fired: Callable[[Fired], None],
) -> list[Schedule]:
    """Each schedule of the collections.

    Raises:
        ConfigError: There is none, or the store keeps no schedules.
    """
    progress = require(store, KeepsSchedules, "keep schedules")
    found = [
        Schedule(collection.name, spec, dispatcher, progress, on_fired)
        for collection in collections
        for spec in collection.schedule
    ]
    if not found:
        raise ConfigError("no collection of this file has a `schedule`: add one")
    return found
