"""Notifications: when a claim may have become possible."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import redis

from agentpipe.brokers.redis.client import translated
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.brokers.redis.script_runner import ScriptRunner


class Subscription:
    """One subscription, on a connection of its own, for one thread.

    All hear of what is cancelled, and of what concerns all. Whether a claim may have become
    possible is told to one worker that is idle, or to all while others listen without being a
    worker.

    Attributes:
        workers: The names of those for whom it listens.

    Args:
        cancelled: Reads which running tasks are cancelled: messages may have been missed.
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
        """Return at a wake-up since the last call, at a possible one, or at the timeout.

        Raises:
            Unreachable: The server does not answer.
        """
        try:
            with translated(self._scripts.address):
                if not self._is_current():
                    self._subscribe()  # A message may be lost: do not wait.
                    self._cancelled.update(it.decode() for it in self._read_cancelled())
                else:
                    self._listen(timeout_s)
        except Exception as error:
            self._drop()
            if self._closed:  # By another thread: any error may follow.
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
        """The ids of tasks cancelled since the last call."""
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
        """A message is an id; a plain wake-up is empty."""
        self._cancelled.update([message[-1].decode()] if message[-1] else ())

    def close(self) -> None:
        """Close it; ends a wait in another thread."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.disconnect()
