"""Ear: hears when a claim may have become possible."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import redis

from agentpipe.brokers.redis.client import translated
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.brokers.redis.script_runner import Link


class Ear:
    """One subscription, on a connection of its own, for one thread.

    Args:
        told: The tasks that were cancelled, for who may have missed the message that said so.
    """

    def __init__(self, link: Link, told: Callable[[], list[str]]) -> None:
        self._link, self._told = link, told
        self._connection: Any = None
        self._pid = 0
        self._closed = False

    def wait(self, timeout_s: float) -> list[str]:
        """Return when it was woken since the last call, or may have been; or at the timeout.

        Returns the tasks that were cancelled.

        Raises:
            Unreachable: The server does not answer.
        """
        try:
            with translated(self._link.address):
                if self._connection is None or self._pid != os.getpid():
                    self._subscribe()  # It may have missed something: no wait.
                    return self._told()
                return self._listen(timeout_s)
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

    def _listen(self, timeout_s: float) -> list[str]:
        connection, heard = self._connection, list[str]()
        deadline = time.monotonic() + timeout_s
        if connection.can_read(timeout=max(0.0, deadline - time.monotonic())):
            heard += _ids_in(connection.read_response())
            while connection.can_read(timeout=0):
                heard += _ids_in(connection.read_response())
        return heard

    def close(self) -> None:
        """End a wait in another thread, too."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.disconnect()


def _ids_in(message: Sequence[bytes]) -> list[str]:
    """A message that only wakes has none."""
    return message[-1].decode().split("\n") if message[-1] else []
