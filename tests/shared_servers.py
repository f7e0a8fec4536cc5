"""One Redis, RabbitMQ and Kafka for all test processes; each starts on first use.

The servers live in the process that runs pytest and end with it. The pytest-xdist workers request
them over a Unix socket.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from brokers.errors import LaunchError
from brokers.install import NotInstalledError
from brokers.server_kafka import KafkaServer
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from brokers.server import Server

ADDRESS = "AGENTPIPE_TEST_SERVERS"


def server_in(folder: Path, kind: str) -> Server:
    """The server of this kind in this folder, whether it runs or not."""
    if kind == RabbitServer.kind:
        return RabbitServer(folder, environ=os.environ, management=True)
    return {it.kind: it for it in (RedisServer, KafkaServer)}[kind](folder, environ=os.environ)


def shared_server(kind: str) -> Server:
    """The running server of this kind.

    Raises:
        NotInstalledError: The server is missing and cannot be installed here.
        LaunchError: The server does not start.
    """
    with Client(os.environ[ADDRESS], "AF_UNIX") as connection:
        connection.send_bytes(kind.encode())
        reply = json.loads(connection.recv_bytes())
    if "missing" in reply:
        raise NotInstalledError(reply["missing"])
    if "broken" in reply:
        raise LaunchError(reply["broken"])
    return server_in(Path(reply["folder"]), kind)


class SharedServers:
    """Starts each server once, and sends other processes its folder, until closed."""

    def __init__(self) -> None:
        self._folder = Path(mkdtemp(prefix="agentpipe-servers-"))
        self._listener = Listener(str(self._folder / "socket"), "AF_UNIX", backlog=64)
        self._servers: dict[str, Server] = {}
        self._locks = {it.kind: threading.Lock() for it in (RedisServer, RabbitServer, KafkaServer)}
        threading.Thread(target=self._accept, name="shared servers", daemon=True).start()

    @property
    def address(self) -> str:
        """Path of the Unix socket."""
        return str(self._listener.address)

    def _accept(self) -> None:
        with suppress(OSError):  # Raised once the listener is closed.
            while True:
                connection = self._listener.accept()
                threading.Thread(target=self._reply, args=(connection,), daemon=True).start()

    def _reply(self, connection: Connection) -> None:
        with connection:
            kind = connection.recv_bytes().decode()
            connection.send_bytes(json.dumps(self._started(kind)).encode())

    def _started(self, kind: str) -> dict[str, str]:
        try:
            with self._locks[kind]:
                server = self._servers.get(kind) or server_in(self._folder / kind, kind)
                self._servers[kind] = server
                return {"folder": str(server.start().folder)}
        except NotInstalledError as error:
            return {"missing": str(error)}
        except LaunchError as error:
            return {"broken": str(error)}

    def close(self) -> None:
        """Stop all servers and remove their data."""
        for server in self._servers.values():
            server.drop()
        self._listener.close()
        self._folder.rmdir()
