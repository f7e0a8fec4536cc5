"""ServerPool: a fresh session for each run, from servers that are started in advance."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING

from agentpipe.core.background import in_background
from agentpipe.engines.mcp.opening import Opening
from agentpipe.engines.mcp.start_gate import CORES

if TYPE_CHECKING:
    from agentpipe.engines.mcp.opening import ServerToOpen

# Maximum servers of each name to start in advance: as many as can start at once.
SPARES = max(2, CORES)
# Idle time in seconds after which these servers end, and sessions kept between runs, too.
IDLE_S = 300.0


class ServerPool:
    """Sessions that no run has used before, for one event loop.

    Servers are started in advance for a context only after one of its runs has used the server, and
    at most as many as its current runs use. Sessions over HTTP cost no start, so none are prepared.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._spares: defaultdict[object, deque[Opening]] = defaultdict(deque)
        self._ahead: Counter[str] = Counter()
        self._running: defaultdict[object, set[Opening]] = defaultdict(set)
        self._idle: dict[object, asyncio.TimerHandle] = {}

    async def take(self, target: ServerToOpen) -> Opening:
        """Return an open session that only the caller uses.

        Raises:
            InfraError: The server does not answer in time.
            AgentFailed: It cannot be started or reached, or refuses.
        """
        spare = self._pop(target)
        opening = spare if spare is not None else Opening(target)
        try:
            session = await opening.session()
            if spare is not None:
                await session.check()
        except Exception:
            await opening.close()
            if spare is None:
                raise
            return await self.take(target)  # A failed spare must not fail this run.
        except asyncio.CancelledError:
            await opening.close()
            raise
        self._running[target.key].add(opening)
        self._refill(target)
        return opening

    async def give_back(self, target: ServerToOpen, opening: Opening) -> None:
        """End a session, because its state must not reach the next run."""
        running = self._running[target.key]
        running.discard(opening)
        if not running:
            del self._running[target.key]
            self._end_when_idle(target)
        await opening.close()

    async def close(self) -> None:
        """End all sessions."""
        for handle in self._idle.values():
            handle.cancel()
        groups = (*self._spares.values(), *self._running.values())
        openings = [opening for group in groups for opening in group]
        self._spares.clear()
        self._running.clear()
        self._ahead.clear()
        await asyncio.gather(*(opening.close() for opening in openings))

    def _pop(self, target: ServerToOpen) -> Opening | None:
        """Take a spare that is ready or starting; skip those that still wait for the start gate."""
        spares = self._spares[target.key]
        for spare in list(spares):
            if spare.is_of_use and not spare.has_begun:
                continue
            spares.remove(spare)
            self._ahead[target.server.name] -= 1
            if spare.is_of_use:
                return spare
            in_background(spare.close())
        return None

    def _refill(self, target: ServerToOpen) -> None:
        if handle := self._idle.pop(target.key, None):
            handle.cancel()
        spares, name = self._spares[target.key], target.server.name
        wanted = len(self._running[target.key]) if target.is_process else 0
        while len(spares) < wanted and self._ahead[name] < SPARES:
            spares.append(Opening(target, ahead=True))
            self._ahead[name] += 1

    def _end_when_idle(self, target: ServerToOpen) -> None:
        loop = asyncio.get_running_loop()
        self._idle[target.key] = loop.call_later(self._idle_s, self._end_spares, target)

    def _end_spares(self, target: ServerToOpen) -> None:
        self._idle.pop(target.key, None)
        spares = self._spares.pop(target.key, deque())
        self._ahead[target.server.name] -= len(spares)
        for spare in spares:
            in_background(spare.close())
