"""KeptSessions: sessions that stay open between uses, until they are idle too long or lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentpipe.core.background import in_background
from agentpipe.engines.mcp.opening import Opening
from agentpipe.errors import InfraError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from agentpipe.engines.mcp.opening import ServerToOpen
    from agentpipe.engines.mcp.session import McpSession

    Key = tuple[object, object]


class KeptSession:
    """A session and its current users.

    Attributes:
        is_current: Whether the next user gets this session too.
    """

    def __init__(self, target: ServerToOpen) -> None:
        self.opening = Opening(target)
        self.users = 0
        self.is_current = True
        self.idle: asyncio.TimerHandle | None = None

    def stop_timer(self) -> None:
        """Stop the idle timer: the session is in use, or ends."""
        if self.idle is not None:
            self.idle.cancel()
            self.idle = None


class KeptSessions:
    """One session per server and owner, for one event loop.

    A session that failed, or lost its server, is replaced for its next user. It is closed once its
    current users have finished: a failure in one run must not fail the others.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._kept: dict[Key, KeptSession] = {}
        self._replaced: set[KeptSession] = set()

    @asynccontextmanager
    async def used(self, target: ServerToOpen, owner: object = None) -> AsyncIterator[McpSession]:
        """Use the owner's open session; it stays open during use unless its server ends.

        Raises:
            InfraError: The server does not answer in time.
            AgentFailed: It cannot be started or reached, or refuses.
        """
        key = (target.key, owner)
        kept = self._current(key, target)
        kept.users += 1
        kept.stop_timer()
        try:
            yield await kept.opening.session()
        except InfraError:
            # It may hang for all other users, too.
            self._replace(key, kept)
            raise
        finally:
            kept.users -= 1
            self._left(key, kept)

    async def keep_only(self, owner: object, targets: Collection[ServerToOpen] = ()) -> None:
        """End this owner's sessions, except those for ``targets``."""
        wanted = {target.key for target in targets}
        others = [key for key in self._kept if key[1] is owner and key[0] not in wanted]
        await asyncio.gather(*(self._end(self._kept[key], key) for key in others))

    async def close(self) -> None:
        """End all sessions."""
        kept = [*self._kept.items(), *((None, each) for each in self._replaced)]
        await asyncio.gather(*(self._end(each, key) for key, each in kept))

    def _current(self, key: Key, target: ServerToOpen) -> KeptSession:
        kept = self._kept.get(key)
        if kept is not None and kept.opening.is_of_use:
            return kept
        if kept is not None:
            self._replace(key, kept)
            self._left(key, kept)
        self._kept[key] = KeptSession(target)
        return self._kept[key]

    def _replace(self, key: Key, kept: KeptSession) -> None:
        if kept.is_current:
            kept.is_current = False
            kept.stop_timer()
            del self._kept[key]
            self._replaced.add(kept)

    def _left(self, key: Key, kept: KeptSession) -> None:
        if kept.users:
            return
        if kept.is_current:
            kept.stop_timer()
            loop = asyncio.get_running_loop()
            kept.idle = loop.call_later(self._idle_s, self._end_idle, key, kept)
        else:
            in_background(self._end(kept))

    def _end_idle(self, key: Key, kept: KeptSession) -> None:
        in_background(self._end(kept, key))

    async def _end(self, kept: KeptSession, key: Key | None = None) -> None:
        kept.stop_timer()
        kept.is_current = False
        if key is not None and self._kept.get(key) is kept:
            del self._kept[key]
        self._replaced.discard(kept)
        await kept.opening.close()
