"""WaitWarnings: logs what keeps a loop waiting for groups."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentpipe.sinks.said_after import SAID_AFTER_S

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)


class WaitWarnings:
    """Logs each obstacle once per wait, at growing intervals."""

    def __init__(self, name: str) -> None:
        """Warn in the name of this loop."""
        self._name = name
        self.end_wait()

    def end_wait(self) -> None:
        """Begin anew with the next wait."""
        self._logged = set[str]()
        self._due_after_s = SAID_AFTER_S

    def is_due(self, waited_s: float) -> bool:
        """Whether to look for obstacles, after this many seconds of waiting."""
        if waited_s < self._due_after_s:
            return False
        self._due_after_s *= 2
        return True

    def log(self, obstacles: Iterable[str]) -> None:
        """Log the obstacles that were not logged in this wait."""
        for each in obstacles:
            if each not in self._logged:
                log.warning("loop %r waits for groups: %s", self._name, each)
            self._logged.add(each)
