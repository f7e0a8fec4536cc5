"""Scratch: a space of its own on a server that is in use, for trials that must not disturb it.

A store's or sink's class may have ``scratch(url, name)``, which connects to nothing yet. ``name``
has letters, digits and hyphens, and is not used elsewhere.
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
        servers: Each host and port that the proxy connects to.
        through: From the proxy's port to the URL of the space.
        by_name: Clients name one of the servers, by SOCKS 5; otherwise there is one.
    """

    servers: Callable[[], tuple[tuple[str, int], ...]]
    through: Callable[[int], str]
    by_name: bool = False


@dataclass(frozen=True, slots=True)
class Scratch:
    """A space of its own beside what a URL names.

    Attributes:
        url: Names it.
        remove: Removes all that is in it; what is not there is no error.
        detour: How its connections can be cut.
        lock: For a file: keeps everybody from writing it for the time of the block.
        uncut: Why it has neither.
    """

    url: str
    remove: Callable[[], None]
    detour: Detour | None = None
    lock: Callable[[], AbstractContextManager[None]] | None = None
    uncut: str = ""


@runtime_checkable
class MakesScratch(Protocol):
    """Optional: a store's or sink's class that gives spaces of their own."""

    @classmethod
    def scratch(cls, url: str, name: str) -> Scratch:
        """The space ``name`` beside what ``url`` names."""


def scratch_on(
    url: str, remove: Callable[[], None], server: tuple[str, int], *, tls: bool = False
) -> Scratch:
    """A space on one server, which a proxy may stand before, unless its clients expect TLS."""
    if tls:
        return Scratch(url, remove, uncut="a proxy has no certificate for TLS")
    return Scratch(url, remove, Detour(lambda: (server,), partial(with_server, url, LOOPBACK)))
