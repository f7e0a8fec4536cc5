"""Drains: when all workers of a host, or of the fleet, were last drained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.drain_times import drain_times_us
from agentpipe.brokers.rabbitmq.shared_state import SharedState, values_of

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.connections.amqp.connection import Session


class Drains:
    """Drain times by host, in Unix microseconds; the fleet has an empty name."""

    def __init__(self, session: Session, topology: Topology) -> None:
        self._state = SharedState[int](session, topology.shared("drains"), max, values_of(int))

    async def note(self, host: str | None) -> None:
        """Record a drain; drops old ones."""

        def add(known: dict[str, int]) -> None:
            now_us, oldest_us = drain_times_us()
            for name in [name for name, noted_us in known.items() if noted_us < oldest_us]:
                del known[name]
            known[host or ""] = max(known.get(host or "", 0) + 1, now_us)

        await self._state.change(add)

    async def last(self, host: str) -> int:
        """The last drain that covers this host; 0 if there is no recent one."""
        known, (_, oldest_us) = await self._state.read(), drain_times_us()
        noted_us = max(known.get("", 0), known.get(host, 0))
        return noted_us if noted_us >= oldest_us else 0
