"""Draining: whether a worker is to finish what it runs, take nothing new, and end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import DrainsWorkers

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Worker
    from agentpipe.worker.watch.last_word import LastWord

log = logging.getLogger(__name__)


class Draining:
    """The mark of one worker, as its store has it; once it is seen it holds.

    Attributes:
        is_on: Whether the worker drains.
    """

    def __init__(self, store: Store, word: LastWord) -> None:
        self._store = store if isinstance(store, DrainsWorkers) else None
        self._word, self.is_on = word, False

    def look(self, worker: Worker) -> None:
        """Ask the store; set the mark again where the worker has joined anew without it."""
        if self._store is None:
            return
        marked = self._store.is_draining(worker)
        if self.is_on and not marked:
            self._store.drain([worker.name])
        elif marked and not self.is_on:
            self.is_on = True
            self._word.drain()
            log.info("worker %s drains: it finishes its runs, and ends", worker.name)
