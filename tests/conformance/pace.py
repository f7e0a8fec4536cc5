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
    """Timing of the store or sink under test.

    Attributes:
        lease_s: A short lease, long enough to claim within it.
        patience_s: A claim can find nothing for this long although tasks wait.
        more_s: After some tasks, a claim can find no more for this long although more wait.
        rest_s: Pause between two claims, which leaves the core to other processes.
        quiet_s: A sink that returns nothing to a reader for this long has nothing for it.
    """

    lease_s: float = 0.2
    patience_s: float = 0.0
    more_s: float = 0.0
    rest_s: float = 0.01
    quiet_s: float = 0.5

    def settle(self, store: Store) -> None:
        """Wait until a server that pushes tasks has pushed all that it has now."""
        ends = time.monotonic() + self.patience_s
        while (now := time.monotonic()) < ends:
            store.wait(QUIET_S)
            if time.monotonic() - now >= QUIET_S:
                break

    def rest(self) -> None:
        """Leave the core to other processes between two claims."""
        time.sleep(self.rest_s)


PACE = Pace()
