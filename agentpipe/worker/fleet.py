"""Fleet: a collection file's workers on this machine, from the first look at it to their end."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers import open_store
from agentpipe.brokers.statistics import is_done
from agentpipe.config.collection import load
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.worker.broker import make_runners
from agentpipe.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from pathlib import Path

    from agentpipe.brokers.base import Store
    from agentpipe.settings import Settings

SURE_AFTER_S = 0.5

log = logging.getLogger(__name__)


def serve(
    path: Path, settings: Settings, *, processes: int | None = None, burst: bool = False
) -> int:
    """Run workers until told to end, or with ``burst`` until all is done; the exit code.

    The collection is checked first, so that a mistake is one message and not one a worker.

    Raises:
        ConfigError: With everything that is wrong with it.
        Unreachable: The broker does not answer.
    """
    collections = load(path, settings.max_queue_size)
    make_runners(collections, os.environ)
    settings = replace(settings, collection_file=path.absolute())
    queues = frozenset(agent.queue for each in collections for agent in each.agents)
    store = open_store(settings)
    try:
        Dispatcher(store).declare(collections)
        done = _Burst(store, queues).is_done if burst else None
        return Supervisor(settings, os.environ, processes or os.cpu_count() or 1, done).run()
    finally:
        store.close()


class _Burst:
    """Looks whether all is done, and tells how far it is: often at first, then seldom."""

    def __init__(self, store: Store, queues: frozenset[str]) -> None:
        self._store, self._queues = store, queues
        self._started = time.monotonic()
        self._tell_at = self._started + 1.0
        self._done_at: float | None = None

    def is_done(self) -> bool:
        stats = self._store.stats()
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + max(1.0, (now - self._started) / 10)
            open_tasks = (stats.waiting or 0) + (stats.delayed or 0) + (stats.running or 0)
            log.info("%d tasks to go, %d delivered", open_tasks, stats.delivered or 0)
        if not is_done(stats, self._queues):
            self._done_at = None
            return False
        self._done_at = self._done_at or now
        # Where the store keeps no ledger, a task may be on its way back from a dead worker.
        return stats.accepted is not None or now - self._done_at >= SURE_AFTER_S
