"""How quickly the store under test answers; set by the fixture that chooses it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store

QUIET_S, REST_S = 0.3, 0.01


@dataclass(slots=True)
class Pace:
    """What the tests of a store go by.

    Attributes:
        lease_s: Short, and long enough to claim within it.
        patience_s: For so long a claim may find nothing though there is something.
    """

    lease_s: float = 0.2
    patience_s: float = 0.0

    def settle(self, store: Store) -> None:
        """Where the server pushes tasks, wait until it has pushed for the present."""
        ends = time.monotonic() + self.patience_s
        while (now := time.monotonic()) < ends:
            store.wait(QUIET_S)
            if time.monotonic() - now >= QUIET_S:
                break

    def rest(self) -> None:
        """Between two looks, leave the core to who else needs it."""
        time.sleep(REST_S)


PACE = Pace()
