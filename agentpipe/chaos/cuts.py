"""Cuts: ways to disconnect workers from a server for a while."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentpipe.chaos.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.connections.scratch import Scratch


class Cut:
    """A cut that does nothing, for servers that cannot be cut off.

    Attributes:
        url: URL by which workers reach the server.
        why_not: Why no cut is possible; empty if it is.
    """

    why_not = ""

    def __init__(self, url: str, why_not: str = "") -> None:
        self.url, self.why_not = url, why_not

    def cut(self, for_s: float) -> None:
        """Block all access for this long."""


class ProxyCut(Cut):
    """Closes all connections, and rejects new ones for a while."""

    def __init__(self, url: str, proxy: Proxy) -> None:
        super().__init__(url)
        self._proxy = proxy

    def cut(self, for_s: float) -> None:
        """See ``Cut``."""
        self._proxy.refuse()
        time.sleep(for_s)
        self._proxy.accept()


class LockCut(Cut):
    """Locks a file for a while, as another program can."""

    def __init__(self, scratch: Scratch) -> None:
        super().__init__(scratch.url)
        self._scratch = scratch

    def cut(self, for_s: float) -> None:
        """See ``Cut``."""
        assert self._scratch.lock is not None
        with self._scratch.lock():
            time.sleep(for_s)


@contextmanager
def cut_of(scratch: Scratch) -> Iterator[Cut]:
    """Yield the cut for this scratch space."""
    if scratch.detour is not None:
        detour = scratch.detour
        with Proxy(detour.servers(), by_name=detour.by_name) as proxy:
            yield ProxyCut(detour.through(proxy.port), proxy)
    elif scratch.lock is not None:
        yield LockCut(scratch)
    else:
        yield Cut(scratch.url, scratch.uncut)
