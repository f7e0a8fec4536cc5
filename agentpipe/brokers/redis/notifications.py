"""Notifications: wake-ups when a claim may be possible, and cancellations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import redis

from agentpipe.brokers.redis.server_errors import translated
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.brokers.redis.script_runner import ScriptRunner


class Subscription:
    """A subscription on its own connection. Not thread-safe, except ``close``.

    Every subscriber gets cancellations and broadcasts. A wake-up for a possible claim goes to one
    idle worker, or to every subscriber while any of them listens without being a worker.

    Attributes:
        workers: Names of the workers that it listens for.

    Args:
        cancelled: Reads which running tasks are cancelled, in case messages were missed.
    """

    def __init__(self, scripts: ScriptRunner, cancelled: Callable[[], list[bytes]]) -> None:
        self._scripts, self._read_cancelled = scripts, cancelled
        self._cancelled: set[str] = set()
        self._connection: Any = None
        self._pid = 0
        self.workers: frozenset[str] = frozenset()
        self._heard = self.workers
        self._closed = False

    def wait(self, timeout_s: float) -> None:
        """Block until a wake-up since the last call, or the timeout.

        Returns immediately after it subscribes, because a wake-up may have been missed.

        Raises:
            Unreachable: The server does not answer.
        """
        try:
            with translated(self._scripts.address):
                if not self._is_current():
                    self._subscribe()  # A message may have been missed: do not wait.
                    self._cancelled.update(it.decode() for it in self._read_cancelled())
                else:
                    self._listen(timeout_s)
        except Exception as error:
            self._drop()
            if self._closed:  # Another thread closed it, which can cause any error here.
                message = f"{self._scripts.address.url}: this store was closed"
                raise Unreachable(message) from error
            raise

    def _is_current(self) -> bool:
        if self._heard != self.workers:
            self._drop()
        return self._connection is not None and self._pid == os.getpid()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def take_cancelled(self) -> set[str]:
        """Return the ids of tasks cancelled since the last call."""
        taken, self._cancelled = self._cancelled, set()
        return taken

    def _subscribe(self) -> None:
        if self._closed:
            raise redis.ConnectionError("closed")
        connection = self._scripts.connection()
        self._connection, self._pid = connection, os.getpid()
        self._heard = self.workers
        channels = self._channels()
        connection.send_command("SUBSCRIBE", *channels)
        for _ in channels:
            connection.read_response()

    def _channels(self) -> list[str]:
        base = self._scripts.base
        own = [f"{base}:wake:{name}" for name in self._heard]
        return [f"{base}:wake", *([f"{base}:listening", *own] if own else ())]

    def _listen(self, timeout_s: float) -> None:
        connection = self._connection
        if connection.can_read(timeout=max(0.0, timeout_s)):
            self._receive(connection.read_response())
            while connection.can_read(timeout=0):
                self._receive(connection.read_response())

    def _receive(self, message: Sequence[bytes]) -> None:
        """Handle a message: the id of a cancelled task, or empty for a plain wake-up."""
        self._cancelled.update([message[-1].decode()] if message[-1] else ())

    def close(self) -> None:
        """Close the connection; interrupts a ``wait`` in another thread."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.disconnect()
