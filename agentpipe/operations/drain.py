"""Drain: make workers finish what they run, take nothing new, and exit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import DrainsWorkers, NotesDrains, require
from agentpipe.core.did_you_mean import unknown
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.statistics import WorkerSeen

LOOK_EVERY_S = 0.5
# Long enough for a worker to reconnect after it lost its connection.
HEARD_WITHIN_S = 10.0


def workers_named(store: Store, names: Iterable[str]) -> tuple[str, ...]:
    """Check that these names are workers, and return them without duplicates.

    Raises:
        ConfigError: A name is not a worker of this broker.
    """
    known = [worker.name for worker in _workers(store)]
    problems = [
        Problem(unknown("worker", name, known, "on this broker", "see `agentpipe status`"))
        for name in names
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)
    return tuple(dict.fromkeys(names))


def workers_to_drain(store: Store, host: str | None = None) -> tuple[str, ...]:
    """All workers, or those of a host.

    Workers that are still starting are not included: they exit once they have started.
    """
    if isinstance(store, NotesDrains):  # First, so that a worker joining after the look sees it.
        store.note_drain(host)
    return tuple(it.name for it in _workers(store) if host in (None, it.host))


def _workers(store: Store) -> list[WorkerSeen]:
    return [worker for worker in store.stats().workers if worker.slots]  # Commands have no slots.


def drain(store: Store, names: Collection[str]) -> tuple[str, ...]:
    """Mark these workers; returns those that did not acknowledge the mark.

    They could not be reached, or run a version that does not drain.

    Raises:
        ConfigError: This broker cannot drain workers.
    """
    drains = require(store, DrainsWorkers, "drain workers")
    ends = time.monotonic() + HEARD_WITHIN_S
    left = tuple(names)
    while left:
        drains.drain(left)
        left = tuple(it.name for it in _left(store, names) if not it.draining)
        if time.monotonic() >= ends:
            break
        if left:
            time.sleep(LOOK_EVERY_S)
    return left


def wait_until_gone(
    store: Store,
    names: Collection[str],
    timeout_s: float | None,
) -> tuple[WorkerSeen, ...]:
    """Wait until these workers have exited; returns those still there when the time is over.

    A worker whose lease expired meanwhile may have lost its mark, so it is marked again.
    """
    ends = None if timeout_s is None else time.monotonic() + timeout_s
    while left := _left(store, names):
        if ends is not None and time.monotonic() >= ends:
            return left
        require(store, DrainsWorkers, "drain workers").drain(
            [worker.name for worker in left if not worker.draining]
        )
        time.sleep(LOOK_EVERY_S)
    return ()


def _left(store: Store, names: Collection[str]) -> tuple[WorkerSeen, ...]:
    return tuple(worker for worker in _workers(store) if worker.name in names)
