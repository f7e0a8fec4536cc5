"""Scratch: an isolated space on a server in use, for trials that must not disturb it.

A store or sink class may have ``scratch(url, name)``, which does not connect yet. ``name`` has
letters, digits and hyphens, and must be unique.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from agentpipe.connections.url import with_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Detour:
    """How connections to a server go through a proxy on this machine.

    Attributes:
        servers: The hosts and ports that the proxy connects to.
        through: Maps the proxy's port to the URL of the space.
        by_name: Whether clients select one of several servers by SOCKS 5; otherwise there is one
            server.
    """

    servers: Callable[[], tuple[tuple[str, int], ...]]
    through: Callable[[int], str]
    by_name: bool = False


@dataclass(frozen=True, slots=True)
class Scratch:
    """An isolated space on the server or in the folder that a URL names.

    Attributes:
        url: The URL of the space.
        remove: Removes everything in the space; missing parts are not an error.
        detour: A proxy through which its connections can be cut.
        lock: For a file: blocks all other writers during the ``with`` block.
        uncut: Why there is neither a detour nor a lock.
    """

    url: str
    remove: Callable[[], None]
    detour: Detour | None = None
    lock: Callable[[], AbstractContextManager[None]] | None = None
    uncut: str = ""


@runtime_checkable
class MakesScratch(Protocol):
    """Optional: a store or sink class that provides scratch spaces."""

    @classmethod
    def scratch(cls, url: str, name: str) -> Scratch:
        """The space ``name`` on the server that ``url`` names."""


def scratch_on(
    url: str, remove: Callable[[], None], server: tuple[str, int], *, tls: bool = False
) -> Scratch:
    """A space on one server, reached through a proxy unless its clients expect TLS."""
    if tls:
        return Scratch(url, remove, uncut="a proxy has no certificate for TLS")
    return Scratch(url, remove, Detour(lambda: (server,), partial(with_server, url, LOOPBACK)))
