"""ScriptRunner: runs scripts on the server and recovers from broken connections."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import NoScriptError, ResponseError

from agentpipe.brokers.redis.client import greet, open_client
from agentpipe.brokers.redis.packing import NOTHING, Commands, command_of, transaction
from agentpipe.brokers.redis.scripts import Scripts
from agentpipe.brokers.redis.server_errors import translated
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.brokers.redis.address import RedisAddress
    from agentpipe.brokers.redis.packing import Argument, Packed
    from agentpipe.brokers.redis.scripts import Script

# How often to load a missing script: it can be flushed again before it is called.
LOADS = 3


class ScriptRunner:
    """Runs scripts for one process. Thread-safe.

    Every script is idempotent. After a broken connection it is repeated once on a new connection;
    an error is raised only if that fails too.

    Attributes:
        losses: Number of lost connections; the server may have restarted each time.
    """

    def __init__(self, address: RedisAddress) -> None:
        self.address = address
        self.base = f"{{{address.prefix}}}"
        self.key = f"{self.base}:store"
        self._scripts = Scripts(self.base)
        self._client = open_client(address)
        # Not the library's pool: it checks each connection with a system call before every use,
        # and the command itself detects a dead connection anyway.
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()
        self._closed = False
        self.losses = 0
        # When the last script that recorded the server's time was sent.
        self._noted_at: float | None = None
        try:
            greet(self._client, address, f"{self.base}:hello")
        finally:
            self._client.close()

    def run(
        self,
        name: str,
        *args: Argument,
        more: Packed = NOTHING,
        before: Sequence[list[bytes]] = (),
        sent: Callable[[], None] | None = None,
    ) -> Any:
        """Run a script with these arguments, followed by ``more``; returns its reply.

        ``before`` has encoded commands: they and the script are one transaction. It has the
        script's text, since on a server without the script the commands would be carried out
        alone. ``sent`` is called once everything is sent.

        Raises:
            Unreachable: The server does not answer, or refuses everything for now.
            StoreError: The server returned another error.
        """
        script = self._scripts[name]
        begun = _since_boot()
        # Formatted as a key of this store, so that clusters and ACLs accept it. Nothing is stored
        # under it.
        waited = "" if self._noted_at is None else f"{begun - self._noted_at:.3f}"
        keys = (self.key, f"{self.base}:waited:{waited}")
        how = ("EVAL", script.text) if before else ("EVALSHA", script.sha)
        command = command_of((*how, len(keys), *keys, *args), more)
        commands = transaction((*before, command)) if before else Commands(command)
        answer = self._answer_of(script, commands, sent)
        if script.notes_time:
            self._noted_at = max(begun, self._noted_at or begun)
        return answer

    def _answer_of(
        self, script: Script, commands: Commands, sent: Callable[[], None] | None
    ) -> Any:
        for _ in range(LOADS):
            try:
                return self._answer(commands, sent)
            except NoScriptError:
                sent = None
                self._load(script)
        return self._answer(commands)

    def _load(self, script: Script) -> None:
        if not script.ends_workers:
            self.call("SCRIPT", "LOAD", script.text)
            return
        # The server restarted: meanwhile no worker could send its heartbeat.
        self.call("EVAL", self._scripts["grace"].text, 1, self.key)
        for each in self._scripts.ending():  # Load all: a missing one must mean a new restart.
            self.call("SCRIPT", "LOAD", each.text)

    def call(self, *command: Argument) -> Any:
        """Run an idempotent command; returns its reply. See ``run``."""
        return self._answer(Commands(command_of(command)))

    def _answer(self, commands: Commands, sent: Callable[[], None] | None = None) -> Any:
        if self._closed:
            raise Unreachable(f"{self.address.url}: this store has been closed")
        with translated(self.address):
            try:
                return self._answer_once(commands, sent)
            except redis.TimeoutError:
                self.losses += 1
                raise
            except redis.ConnectionError:
                self.losses += 1
                self._drop_idle()
                return self._answer_once(commands)

    def _answer_once(self, commands: Commands, sent: Callable[[], None] | None = None) -> Any:
        connection, pieces, replies = self._connection(), commands.pieces, commands.replies
        try:
            connection.send_packed_command(pieces, check_health=False)
            if sent is not None:
                sent()
            answer = connection.read_response() if replies == 1 else _executed(connection, replies)
        except ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)
        if self._closed:
            self._drop_idle()
        return answer

    def _connection(self) -> Any:
        if self._pid != os.getpid():  # After a fork the connections belong to the parent.
            self._idle, self._pid = deque(), os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return self.connection()

    def connection(self) -> Any:
        """Open a new connection; the caller closes it."""
        pool = self._client.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        return connection

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._closed = True
        self._drop_idle()
        self._client.close()


def _executed(connection: Any, replies: int) -> Any:
    """Read a transaction's replies; return that of its last command, or raise the first error."""
    errors, answers = [], []
    for _ in range(replies):
        try:
            answers = connection.read_response()
        except ResponseError as error:
            errors.append(error)
    errors += [each for each in answers if isinstance(each, ResponseError)]
    if errors:
        raise errors[0]
    return answers[-1]


def _since_boot() -> float:
    """Return seconds of a monotonic clock that keeps running while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
