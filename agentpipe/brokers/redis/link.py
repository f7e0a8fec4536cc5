"""Link: runs the scripts on the server, over whatever connections last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import NoScriptError, ResponseError

from agentpipe.brokers.redis.connect import greet, open_client, translated
from agentpipe.brokers.redis.scripts import load_scripts
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from agentpipe.brokers.redis.address import Address
    from agentpipe.brokers.redis.scripts import Script


class Link:
    """One process's way to the server; from any thread.

    Every script may be run twice without harm, so that a broken connection costs one repetition
    on a fresh one and is told only when that fails, too.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.base = f"{{{address.prefix}}}"
        self._scripts = load_scripts(self.base)
        self._closed = False
        self._client = open_client(address)
        try:
            greet(self._client, address)
        except BaseException:
            self._client.close()
            raise

    def run(self, name: str, *args: str | bytes | float) -> Any:
        """What the script answers.

        Raises:
            Unreachable: The server does not answer, or refuses.
        """
        script = self._scripts[name]
        try:
            return self._call("EVALSHA", script.sha, 1, self.base, *args)
        except NoScriptError:
            self._load(script)
            return self._call("EVALSHA", script.sha, 1, self.base, *args)

    def _load(self, script: Script) -> None:
        if script.ends_workers:
            # The server has restarted, and could not be told that the workers live.
            self._call("EVAL", self._scripts["grace"].text, 1, self.base)
        self._call("SCRIPT LOAD", script.text)

    def read(self, *command: str) -> Any:
        """What a plain command answers."""
        return self._call(*command)

    def _call(self, *command: str | bytes | float) -> Any:
        with translated(self.address):
            try:
                return self._call_once(command)
            except redis.TimeoutError:
                raise
            except redis.ConnectionError:
                return self._call_once(command)

    def _call_once(self, command: tuple[str | bytes | float, ...]) -> Any:
        """Less than the library's own way does, which takes twice as long."""
        if self._closed:
            raise Unreachable(f"{self.address.url}: this store has been closed")
        pool = self._client.connection_pool
        connection: Any = pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def ear(self) -> Any:
        """A connection of its own, not yet connected."""
        return self._client.connection_pool.make_connection()

    def close(self) -> None:
        """Once is enough."""
        self._closed = True
        self._client.close()
        self._client.connection_pool.disconnect()
