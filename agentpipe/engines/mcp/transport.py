"""Transport: how messages get to an MCP server and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.engines.mcp.errors import McpServerFault

CLOSE_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears what the server sends.

    Attributes:
        receive: Called with each message, still encoded; raises ``UnreadableAnswer`` where the
            session is of no use any more.
        lost: Called once with the reason, when nothing will come any more.
    """

    receive: Callable[[bytes], None]
    lost: Callable[[McpServerFault], None]


class Transport(Protocol):
    """One connection, or child process; opened once, and closed by its session.

    Attributes:
        answers_at_once: ``send`` returns after the answer came, or without one.
    """

    answers_at_once: bool

    async def open(self, listener: Listener) -> None:
        """Connect.

        Raises:
            OSError: The program cannot be started.
            McpServerFault: The server cannot be reached, or refuses.
        """

    async def send(self, message: bytes) -> None:
        """Send one message.

        Raises:
            McpServerFault: It was refused, or the connection broke.
        """

    def use_version(self, version: str) -> None:
        """The protocol's version that both sides have agreed on."""

    def start_over(self) -> None:
        """The next message begins a new session at the same server."""

    async def last_words(self) -> str:
        """The end of the server's stderr, if it has one; else empty."""

    async def close(self) -> None:
        """Close it, and end a server that is our child; it raises nothing."""
