"""Draining: whether a worker finishes its runs, takes nothing new, and ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import DrainsWorkers, NotesDrains

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Worker
    from agentpipe.worker.watch.last_word import LastWord

log = logging.getLogger(__name__)


def last_drain(store: Store, host: str) -> int:
    """Number of the last drain of this host or of all hosts; 0 if the store keeps none."""
    return store.last_drain(host) if isinstance(store, NotesDrains) else 0


class Draining:
    """One worker's drain mark in the store; once seen, it stays set.

    Attributes:
        is_on: Whether the worker drains.
    """

    def __init__(self, store: Store, word: LastWord, before: int) -> None:
        self._store, self._drains = store, store if isinstance(store, DrainsWorkers) else None
        self._word, self.is_on = word, False
        self._before = before if before >= 0 else None

    def look_at_start(self, worker: Worker) -> None:
        """Check once, after joining and before claiming, for drains sent during startup.

        A drain is recorded before its command lists the workers: it either marks this worker or is
        seen here.
        """
        if self._before is None:
            return
        drained = last_drain(self._store, worker.host) > self._before
        self._before = None
        if drained:
            self._begin(worker)

    def look(self, worker: Worker) -> None:
        """Read the mark from the store; set it again if the worker rejoined without it."""
        if self._drains is None:
            return
        marked = self._drains.is_draining(worker)
        if self.is_on and not marked:
            self._drains.drain([worker.name])
        elif marked and not self.is_on:
            self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        self.is_on = True
        self._word.drain()
        log.info("worker %s drains: it finishes its runs, and ends", worker.name)
