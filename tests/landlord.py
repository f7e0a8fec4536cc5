"""Landlord: keeps the servers that all tests share, however many processes pytest has.

It lives in the process that was started by hand, so that the servers end with that one. The
others ask it by a socket; a server starts when the first of them asks for it.
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

ADDRESS = "AGENTPIPE_TEST_LANDLORD"


def attached(kind: str, folder: Path) -> Server:
    """The server in this folder, running or to be started."""
    if kind == RabbitServer.kind:
        return RabbitServer(folder, environ=os.environ, management=True)
    return {it.kind: it for it in (RedisServer, KafkaServer)}[kind](folder, environ=os.environ)


def rented(kind: str) -> Server:
    """The shared server of this kind, running.

    Raises:
        NotInstalledError: It cannot be had here.
        LaunchError: It does not start.
    """
    with Client(os.environ[ADDRESS], "AF_UNIX") as connection:
        connection.send_bytes(kind.encode())
        answer = json.loads(connection.recv_bytes())
    if "missing" in answer:
        raise NotInstalledError(answer["missing"])
    if "broken" in answer:
        raise LaunchError(answer["broken"])
    return attached(kind, Path(answer["folder"]))


class Landlord:
    """Starts each server once; whoever makes it closes it."""

    def __init__(self) -> None:
        self._folder = Path(mkdtemp(prefix="agentpipe-servers-"))
        self._listener = Listener(str(self._folder / "landlord"), "AF_UNIX", backlog=64)
        self._servers: dict[str, Server] = {}
        self._locks = {it.kind: threading.Lock() for it in (RedisServer, RabbitServer, KafkaServer)}
        threading.Thread(target=self._open, name="landlord", daemon=True).start()

    @property
    def address(self) -> str:
        """Where to ask."""
        return str(self._listener.address)

    def _open(self) -> None:
        with suppress(OSError):  # It is closed.
            while True:
                self._meet(self._listener.accept())

    def _meet(self, connection: Connection) -> None:
        threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        with connection:
            kind = connection.recv_bytes().decode()
            connection.send_bytes(json.dumps(self._let(kind)).encode())

    def _let(self, kind: str) -> dict[str, str]:
        try:
            with self._locks[kind]:
                server = self._servers.get(kind) or attached(kind, self._folder / kind)
                self._servers[kind] = server
                return {"folder": str(server.start().folder)}
        except NotInstalledError as error:
            return {"missing": str(error)}
        except LaunchError as error:
            return {"broken": str(error)}

    def close(self) -> None:
        """End all servers, and remove what they wrote."""
        for server in self._servers.values():
            server.drop()
        self._listener.close()
        self._folder.rmdir()
