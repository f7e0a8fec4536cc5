"""Contact: whether the broker answers, as seen by a worker's threads, logged once."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from agentpipe.errors import AgentpipeError

log = logging.getLogger(__name__)


class BrokerContact:
    """Logs once that the broker is unreachable, and once that it answers again; thread-safe.

    Each thread that failed to reach the broker must get an answer before contact counts as
    restored.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing: dict[str, type[AgentpipeError] | None] = {}
        self._tries = 0

    @property
    def is_lost(self) -> bool:
        """Whether the broker does not answer, or answers with errors."""
        return bool(self._failing)

    def failed(self, who: str, error: AgentpipeError) -> None:
        """Note that the broker did not answer ``who``, or answered with an error."""
        with self._lock:
            said = type(error) in self._failing.values()
            self._failing[who] = type(error)
            self._tries += 1
        if said:
            return
        if isinstance(error, Unreachable):
            log.warning("the broker %s, the worker waits for it: %s", error.ailment, error)
        else:
            log.error("the broker answers with an error, the worker tries again: %s", error)

    def silent(self, who: str, silent_s: float, left_s: float | None) -> None:
        """Note that the broker has not answered a request of ``who`` for ``silent_s`` seconds.

        ``left_s``: how long the runs here continue without it; None if they do not end.
        """
        with self._lock:
            said, self._failing = bool(self._failing), {who: None, **self._failing}
            self._tries += not said
        if not said:
            ends = "" if left_s is None else f", until the lease is over in {max(0, left_s):.0f} s"
            log.warning(
                "the broker has not answered for %.0f s; the runs here go on%s", silent_s, ends
            )

    def answered(self, who: str) -> None:
        """Note that the broker answered ``who``."""
        with self._lock:
            if who not in self._failing:
                return
            del self._failing[who]
            if self._failing:
                return
            tries, self._tries = self._tries, 0
        log.warning("the broker answers again, after %d tries", tries)
