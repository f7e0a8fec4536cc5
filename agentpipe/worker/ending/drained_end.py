"""DrainedEnd: ends the process of a drained worker, as far as Dramatiq allows."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from agentpipe.engines.process.process_tree import children_of
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.settings import Settings

log = logging.getLogger(__name__)


class DrainedEnd:
    """Called repeatedly from one thread, once the worker has left the fleet.

    Dramatiq's master ends all of its workers when one of them ends. So a drained worker waits until
    the others are drained too. Then the one with the lowest pid ends, and the master ends the rest.
    A user's program that runs a worker continues.
    """

    def __init__(self, store: Store, settings: Settings, *, may_end: bool) -> None:
        self._store, self._settings, self._may_end = store, settings, may_end
        self._said = self._ends = False
        self._siblings: set[int] | None = None

    def __call__(self) -> None:
        """End the process, unless it must wait for other workers."""
        if self._ends:
            return
        if not self._may_end:
            self._ends = True
            log.info("the worker is drained; the program that runs it goes on")
        elif self._settings.supervisor_pid:  # The master is ours and has no other worker.
            self._ends = True
            os.kill(os.getppid(), signal.SIGTERM)
        elif self._is_last():
            self._ends = True
            os.kill(os.getpid(), signal.SIGTERM)

    def _is_last(self) -> bool:
        if self._siblings is None:  # Read once: as workers end, the lowest pid must not change.
            self._siblings = set(children_of(os.getppid()))
        try:
            serving = {worker.pid for worker in self._store.stats().workers} & self._siblings
        except AgentpipeError:  # Retried soon.
            return False
        if serving and not self._said:
            self._said = True
            log.info(
                "the worker is drained and idle: the other workers of this `dramatiq` would end "
                "with it, so it ends when they are drained"
            )
        return not serving and os.getpid() == min(self._siblings, default=os.getpid())
