"""Fetch: takes snapshots in a thread of its own, so that a slow broker freezes no key."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from agentpipe.errors import AgentpipeError, Unreachable
from agentpipe.top.history import History, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.store import Store

# A look that takes long is taken seldom: no more than this part of the time is spent on looking.
MAX_SHARE = 0.03
GOODBYE_S = 0.5


class Fetcher(threading.Thread):
    """Looks at the store again and again; a broker that is away is tried until it is back.

    Args:
        changed: Called in this thread after each look.

    Attributes:
        history: What has been seen; replaced as a whole, and never changed.
        problem: What cannot get better by trying again; nothing is looked at any more.
    """

    def __init__(
        self, open_store: Callable[[], Store], interval_s: float, changed: Callable[[], None]
    ) -> None:
        super().__init__(name="agentpipe-top-fetch", daemon=True)
        self.history = History()
        self.problem: AgentpipeError | None = None
        self._open_store, self._interval_s, self._changed = open_store, interval_s, changed
        self._store: Store | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until ``stop``."""
        while not self._stopping.is_set() and self.problem is None:
            began = time.monotonic()
            self._look()
            took_s = time.monotonic() - began
            self._changed()
            self._stopping.wait(max(self._interval_s, took_s / MAX_SHARE) - took_s)
        if self._store is not None:
            self._store.close()

    def _look(self) -> None:
        try:
            if self._store is None:
                self._store = self._open_store()
            stats = self._store.stats()
        except Unreachable as error:
            self.history = self.history.failed(time.monotonic(), str(error))
        except AgentpipeError as error:
            self.problem = error
        else:
            self.history = self.history.seen(Snapshot(time.monotonic(), stats))

    def stop(self) -> None:
        """Look no more; one that is under way is not waited for very long."""
        self._stopping.set()
        self.join(GOODBYE_S)
