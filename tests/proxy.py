"""A TCP proxy that loses answers: what was asked has been done, and nobody hears of it."""

from __future__ import annotations

import random
import select
import socket
import threading
from contextlib import suppress
from typing import Self

HOST = "127.0.0.1"


class Proxy:
    """Stands before the server on ``port`` until the block ends.

    Attributes:
        port: Where it listens.
        loss: The chance that an answer is lost, and its connection with it.
        lost: How many were.
    """

    def __init__(self, port: int, seed: int = 1) -> None:
        self._server_port = port
        self._random = random.Random(seed)
        self.loss = 0.0
        self.lost = 0
        self._ended = False
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: object, *args: socket.socket) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with self._listener:
            while not self._ended:
                with suppress(TimeoutError):
                    self._start(self._carry, self._listener.accept()[0])

    def _carry(self, client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),
            socket.create_connection((HOST, self._server_port)) as server,
        ):
            other = {client: server, server: client}
            while not self._ended:
                for one in select.select([client, server], [], [], 0.05)[0]:
                    data = one.recv(1 << 16)
                    if not data or (one is server and self._is_lost()):
                        return
                    other[one].sendall(data)

    def _is_lost(self) -> bool:
        lost = self._random.random() < self.loss
        self.lost += lost
        return lost
