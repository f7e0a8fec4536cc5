"""Transport: moves messages to an MCP server and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.engines.mcp.errors import McpServerFault

CLOSE_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class ServerListener:
    """Callbacks for what the server sends.

    Attributes:
        receive: Called with each message, still encoded; raises ``UnreadableAnswer`` if the session
            can no longer be used.
        lost: Called once with the reason, when no more messages can come.
    """

    receive: Callable[[bytes], None]
    lost: Callable[[McpServerFault], None]


class Transport(Protocol):
    """A connection or child process; opened once, and closed by its session.

    Attributes:
        answers_at_once: Whether ``send`` only returns after the answer, or when there is none.
    """

    answers_at_once: bool

    async def open(self, listener: ServerListener) -> None:
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
        """Set the protocol version that both sides agreed on."""

    def start_over(self) -> None:
        """Make the next message open a new session with the same server."""

    async def last_words(self) -> str:
        """The end of the server's stderr; empty if there is none."""

    async def close(self) -> None:
        """Close it, and end a server that is our child process; never raises."""
