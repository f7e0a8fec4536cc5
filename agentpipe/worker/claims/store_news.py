"""StoreNews: waits in its own thread for the store's signals."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import CancelsTasks, KeepsPolicies
from agentpipe.worker.times import TICK_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from agentpipe.brokers.base import Store
    from agentpipe.engines.policies import LivePolicies


class StoreNews:
    """Passes on cancelled tasks and changed policies, and wakes the consumer.

    Args:
        cancelled: Called with the ids of cancelled tasks.
        wake_up: Called at each signal, and at least once per tick.
    """

    def __init__(
        self,
        store: Store,
        policies: LivePolicies,
        *,
        cancelled: Callable[[Collection[str]], None],
        wake_up: Callable[[], None],
    ) -> None:
        self._store, self._policies = store, policies
        self._cancels = store if isinstance(store, CancelsTasks) else None
        self._follows = store if policies and isinstance(store, KeepsPolicies) else None
        self._cancelled, self._wake_up = cancelled, wake_up
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="agentpipe-waiter", daemon=True)

    def start(self) -> None:
        """Start waiting."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current wait."""
        self._stopping = True

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._wait()
            except Exception:  # noqa: BLE001 - the consumer calls the same store, and logs it
                time.sleep(TICK_S)
            self._wake_up()

    def _wait(self) -> None:
        if self._follows is not None:
            self._policies.follow(self._follows.policies())
        self._store.wait(TICK_S)
        if self._cancels is not None and (cancelled := self._cancels.take_cancelled()):
            self._cancelled(cancelled)
