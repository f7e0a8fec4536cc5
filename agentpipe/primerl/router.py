"""Router: the connected clients, their requests, and the answers sent to them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.primerl.zmtp import Malformed, message, next_message, shake_hands

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HANDSHAKE_S = 10.0
MAX_CLIENTS = 1_000

log = logging.getLogger(__name__)


class Client:
    """One connection; a client that reconnects gets a new one."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    @property
    def is_connected(self) -> bool:
        """Whether messages can still be sent."""
        return not self._writer.is_closing()

    def send(self, *parts: bytes) -> None:
        """Send a message; it is kept in memory while the client is slow to read."""
        self._writer.writelines(message(parts))

    def close(self) -> None:
        """Drop the connection; the client reconnects by itself."""
        self._writer.transport.abort()


class Router:
    """Accepts clients in the running event loop.

    A client that sends a malformed message loses its connection; other clients are not affected.

    Attributes:
        clients: The clients connected now.
    """

    def __init__(
        self,
        take: Callable[[Client, Sequence[bytes]], None],
        greet: Callable[[Client], None],
    ) -> None:
        """``take`` is called for each message, ``greet`` for each new client."""
        self._take, self._greet = take, greet
        self.clients: set[Client] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start listening; returns the port.

        Raises:
            OSError: The address cannot be bound.
        """
        self._server = await asyncio.start_server(self._serve, host, port)
        listening: int = self._server.sockets[0].getsockname()[1]
        return listening

    def close(self) -> None:
        """Stop listening and drop all connections."""
        if self._server is not None:
            self._server.close()
        for client in tuple(self.clients):
            client.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(writer)
        if len(self.clients) >= MAX_CLIENTS:
            log.warning("a client was let go: %d are connected already", MAX_CLIENTS)
            client.close()
            return
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await shake_hands(reader, writer)
            self.clients.add(client)
            self._greet(client)
            while True:
                self._take(client, await next_message(reader, writer))
        except Malformed as error:
            log.warning("a client was let go: %s", error)
        except (asyncio.IncompleteReadError, OSError, TimeoutError):
            pass  # The client disconnected, or never completed the handshake.
        finally:
            self.clients.discard(client)
            with suppress(OSError):
                client.close()
