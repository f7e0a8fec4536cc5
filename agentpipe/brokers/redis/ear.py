"""Ear: hears when a claim may have become possible."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import redis

from agentpipe.brokers.redis.connect import translated
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from agentpipe.brokers.redis.link import Link


class Ear:
    """One subscription, on a connection of its own, for one thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._connection: Any = None
        self._pid = 0
        self._closed = False

    def wait(self, timeout_s: float) -> None:
        """Return when it was woken since the last call, or may have been; or at the timeout.

        Raises:
            Unreachable: The server does not answer.
        """
        try:
            with translated(self._link.address):
                if self._connection is None or self._pid != os.getpid():
                    self._subscribe()  # It may have missed something: no wait.
                else:
                    self._listen(timeout_s)
        except Exception as error:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.disconnect()
            if self._closed:  # Under our feet, which shows in any way it likes.
                raise Unreachable(f"{self._link.address.url}: this store was closed") from error
            raise

    def _subscribe(self) -> None:
        if self._closed:
            raise redis.ConnectionError("closed")
        connection = self._link.connection()
        self._connection, self._pid = connection, os.getpid()
        connection.send_command("SUBSCRIBE", f"{self._link.base}:wake")
        connection.read_response()

    def _listen(self, timeout_s: float) -> None:
        connection = self._connection
        deadline = time.monotonic() + timeout_s
        if connection.can_read(timeout=max(0.0, deadline - time.monotonic())):
            connection.read_response()
            while connection.can_read(timeout=0):
                connection.read_response()

    def close(self) -> None:
        """End a wait in another thread, too."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.disconnect()
