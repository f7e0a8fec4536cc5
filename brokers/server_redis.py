"""Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from brokers import health
from brokers.install import program
from brokers.ports import HOST
from brokers.process import Command
from brokers.server import HERE, Server

if TYPE_CHECKING:
    from collections.abc import Sequence


class RedisServer(Server):
    """Redis with an append-only file."""

    kind: ClassVar[str] = "redis"
    default_port: ClassVar[int] = 6379

    @property
    def url(self) -> str:  # noqa: D102 - the base speaks for it
        return f"redis://{HOST}:{self.port}/0"

    def answers(self) -> bool:  # noqa: D102 - the base speaks for it
        return health.redis(self.port)

    def _prepare(self) -> Sequence[Command]:
        server = program("redis-server", "redis-server", self._environ)
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        conf = self.folder / "redis.conf"
        own = {"bind": HOST, "port": str(self.port), "dir": str(data), **self._settings}
        lines = "".join(f"{name} {value}\n" for name, value in own.items())
        conf.write_text((HERE / "redis.conf").read_text() + lines)
        return [Command([server, str(conf)], self._environ)]
