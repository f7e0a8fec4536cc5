"""Fetch: takes snapshots in a thread of its own, so that a slow broker freezes no key."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from agentpipe.errors import AgentpipeError, Unreachable
from agentpipe.tui.history import History, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.base import Stats, Store

# Of a core, for looking. A look costs the broker about as much as it costs here, or so much for
# each request, as measured with RabbitMQ and its workers while they are looked at again and again
# (after a rest, each queue has to be woken, which costs more); a costly one is taken seldom. How
# far away the broker is does not count.
MAX_SHARE = 0.009
REQUEST_S = 45e-6
MAX_REST_S = 9.5
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
        self._cost_s = 0.0
        self._stopping = False
        self._woken = threading.Event()

    def run(self) -> None:
        """Until ``stop``."""
        while not self._stopping and self.problem is None:
            self._woken.clear()
            began = time.monotonic()
            self._look()
            self._changed()
            took_s = time.monotonic() - began
            rest_s = min(MAX_REST_S, self._cost_s / MAX_SHARE)
            self._woken.wait(max(self._interval_s, rest_s) - took_s)
        if self._store is not None:
            self._store.close()

    def _look(self) -> None:
        try:
            stats = self._stats()
        except Unreachable as error:
            self.history = self.history.failed(time.monotonic(), str(error))
        except AgentpipeError as error:
            self.problem = error
        else:
            self.history = self.history.seen(Snapshot(time.monotonic(), stats))

    def _stats(self) -> Stats:
        """A first look costs more than those that follow, and is not reckoned with."""
        if self._store is None:
            self._store = self._open_store()
            return self._store.stats()
        began_s = time.process_time()
        stats = self._store.stats()
        self._cost_s = max(time.process_time() - began_s, stats.requests * REQUEST_S)
        return stats

    def hurry(self) -> None:
        """Look now: something was done whose effect is waited for."""
        self._woken.set()

    def stop(self) -> None:
        """Look no more; one that is under way is not waited for very long."""
        self._stopping = True
        self._woken.set()
        self.join(GOODBYE_S)
