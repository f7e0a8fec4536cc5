"""Kafka."""

from __future__ import annotations

import base64
import subprocess
import uuid
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from brokers import health, install
from brokers.docker import Container
from brokers.errors import LaunchError
from brokers.ports import HOST, free_port
from brokers.process import Command
from brokers.server import HERE, Server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FORMAT_TIMEOUT_S = 120.0


class KafkaServer(Server):
    """Kafka with one node, which creates topics at their first use.

    A start after ``kill`` takes about 10 s longer than after ``stop``: the old session must expire.
    """

    kind: ClassVar[str] = "kafka"
    default_port: ClassVar[int] = 9092

    @cached_property
    def _controller_port(self) -> int:
        return free_port()

    @property
    def url(self) -> str:
        return f"kafka://{HOST}:{self.port}"

    def answers(self) -> bool:
        return health.kafka(self.port)

    def _commands(self) -> Sequence[Command]:
        java = install.java_program(self._environ)
        jars = install.kafka_jars(java, self._environ)
        controller = f"{HOST}:{self._controller_port}"
        conf = self._write_conf(
            {
                "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{controller}",
                "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
                "controller.quorum.voters": f"1@{controller}",
                "log.dirs": str(self.folder / "data"),
            }
        )
        run = [java, "-cp", f"{jars}/*", "-Xmx512m"]
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(run, conf)
        return [Command([*run, "kafka.Kafka", str(conf)], self._environ)]

    def _container(self) -> Container:
        conf = self._write_conf({"advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}"})
        return Container(
            image=f"apache/kafka:{install.kafka_version()}",
            ports={self.port: 9092},
            conf=(conf, "/mnt/shared/config/server.properties"),
            data="/var/lib/kafka/data",
        )

    def _write_conf(self, own: dict[str, str]) -> Path:
        return self._configure(HERE / "kafka" / "server.properties", own, "=")

    def _format(self, run: Sequence[str], conf: Path) -> None:
        """Format the folder: Kafka refuses an unformatted one."""
        cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        arguments = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(conf)]
        with self.log.open("ab") as log:
            done = subprocess.run(
                [*run, "-XX:TieredStopAtLevel=1", *arguments],
                env=self._environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_FORMAT_TIMEOUT_S,
                check=False,
            )
        if done.returncode:
            raise LaunchError(f"kafka cannot format its folder:\n{self._tail()}")
