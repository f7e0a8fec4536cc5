"""RabbitMQ."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from brokers import health
from brokers.docker import Container
from brokers.install import program
from brokers.ports import HOST, free_port
from brokers.process import Command
from brokers.server import HERE, Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_USER = "guest"
_PASSWORD = "guest"  # noqa: S105 - RabbitMQ's default, which only this machine can use


class RabbitServer(Server):
    """RabbitMQ with the user ``guest`` and the vhost ``/``.

    Args:
        management: Also serve the management API, at ``management_url``; stopping takes 5 s longer.
        management_port: Its port; by default a free one.
    """

    kind: ClassVar[str] = "rabbitmq"
    default_port: ClassVar[int] = 5672

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        environ: Mapping[str, str],
        settings: Mapping[str, str] | None = None,
        detached: bool = False,
        management: bool = False,
        management_port: int | None = None,
    ) -> None:
        super().__init__(folder, port, environ=environ, settings=settings, detached=detached)
        running = self._ports_now.get("management port")
        self.management_port = running or ((management_port or free_port()) if management else None)
        self._node_port, self._names_port = free_port(), free_port()

    @property
    def url(self) -> str:
        return f"amqp://{_USER}:{_PASSWORD}@{HOST}:{self.port}/%2F"

    @property
    def management_url(self) -> str:
        """The management API's URL."""
        return f"http://{_USER}:{_PASSWORD}@{HOST}:{self.management_port}"

    def answers(self) -> bool:
        return health.rabbitmq(self.port, _USER, _PASSWORD) and (
            self.management_port is None
            or health.management(self.management_port, _USER, _PASSWORD)
        )

    @property
    def _ports(self) -> Mapping[str, int]:
        management = {"management port": self.management_port} if self.management_port else {}
        return {"port": self.port, **management}

    def _commands(self) -> Sequence[Command]:
        server = program("rabbitmq-server", "rabbitmq-server", self._environ)
        names = program("epmd", "erlang-base", self._environ)
        for name in ("home", "data", "log"):
            (self.folder / name).mkdir(exist_ok=True)
        own = {"listeners.tcp.1": f"{HOST}:{self.port}"}
        if self.management_port:
            own |= {"management.tcp.ip": HOST, "management.tcp.port": str(self.management_port)}
        self._write_conf(own)
        environ = self._server_environ()
        return [
            # Erlang's node name server; RabbitMQ would start one that outlives it.
            Command([names, "-port", str(self._names_port), "-address", HOST], environ),
            Command([server, "-noinput"], environ),
        ]

    def _container(self) -> Container:
        management = {self.management_port: 15672} if self.management_port else {}
        return Container(
            image=f"rabbitmq:4{'-management' if management else ''}",
            ports={self.port: self.default_port, **management},
            conf=(self._write_conf({}), "/etc/rabbitmq/conf.d/20-agentpipe.conf"),
            data="/var/lib/rabbitmq",
            # Data are stored under the node's name, which by default contains the host's name.
            variables={"RABBITMQ_NODENAME": "rabbit@localhost"},
        )

    def _write_conf(self, own: dict[str, str]) -> Path:
        plugins = "rabbitmq_management" if self.management_port else ""
        (self.folder / "plugins").write_text(f"[{plugins}].\n")
        return self._configure(HERE / "rabbitmq.conf", own, " = ")

    def _server_environ(self) -> dict[str, str]:
        folder = self.folder
        inherited = {
            name: value
            for name, value in self._environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        return inherited | {
            "HOME": str(folder / "home"),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._names_port),
            # Makes the script exec the server instead of waiting for it; hence `-noinput` above.
            "RABBITMQ_ALLOW_INPUT": "yes",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "no-rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
