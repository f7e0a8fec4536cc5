"""Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from brokers import health
from brokers.docker import Container
from brokers.install import program
from brokers.ports import HOST
from brokers.process import Command
from brokers.server import HERE, Server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class RedisServer(Server):
    """Redis with an append-only file."""

    kind: ClassVar[str] = "redis"
    default_port: ClassVar[int] = 6379

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def answers(self) -> bool:
        return health.redis(self.port)

    def _commands(self) -> Sequence[Command]:
        server = program("redis-server", "redis-server", self._environ)
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        conf = self._write_conf({"bind": HOST, "port": str(self.port), "dir": str(data)})
        return [Command([server, str(conf)], self._environ)]

    def _container(self) -> Container:
        path = "/usr/local/etc/redis/redis.conf"
        return Container(
            image="redis:7",
            ports={self.port: self.default_port},
            conf=(self._write_conf({}), path),
            data="/data",
            arguments=("redis-server", path),
        )

    def _write_conf(self, own: dict[str, str]) -> Path:
        return self._configure(HERE / "redis.conf", own, " ")
