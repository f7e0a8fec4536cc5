"""How quickly the store or the sink under test responds; set by the fixture that opens it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store

QUIET_S = 0.3


@dataclass(slots=True)
class Pace:
    """Times of what is under test.

    Attributes:
        lease_s: A short lease, long enough to claim within it.
        patience_s: A claim may find nothing for this long although tasks wait.
        more_s: After some tasks, a claim may find no more for this long although there are.
        rest_s: How long to leave the core to other processes between two claims.
        quiet_s: A sink that gives a reader nothing for this long has nothing for it.
    """

    lease_s: float = 0.2
    patience_s: float = 0.0
    more_s: float = 0.0
    rest_s: float = 0.01
    quiet_s: float = 0.5

    def settle(self, store: Store) -> None:
        """Where the server pushes tasks, wait until it has pushed what it has now."""
        ends = time.monotonic() + self.patience_s
        while (now := time.monotonic()) < ends:
            store.wait(QUIET_S)
            if time.monotonic() - now >= QUIET_S:
                break

    def rest(self) -> None:
        """Between two claims, leave the core to other processes."""
        time.sleep(self.rest_s)


PACE = Pace()
