"""A broker URL that is wrong or leads elsewhere: one line names the mistake and the remedy."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers import open_store
from agentpipe.errors import AgentpipeError, ConfigError, Unreachable
from agentpipe.settings import Settings
from brokers.ports import HOST, free_port
from brokers.server_redis import RedisServer
from tests.servers import self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers.server_rabbitmq import RabbitServer
    from tests.integration.project import Project
    from tests.servers import OwnServer

PASSWORD = "geheim"
MISTYPED = {
    "an unknown parameter": ("redis://{host}:{redis}/0?prefx=a", "did you mean 'prefix'"),
    "a database that is not a number": ("redis://{host}:{redis}/first", "a number, not 'first'"),
    "a port that is not a number": ("redis://{host}:sixthousand/0", "sixthousand"),
    "a port that cannot be": ("redis://{host}:70000/0", "0-65535"),
    "no host": ("redis:///0", "the host is missing"),
    "no scheme": ("{host}:{redis}/0", "invalid URL of a broker"),
    "rabbit: an unknown parameter": ("amqp://{host}:{rabbit}/?prefx=a", "prefix"),
    "rabbit: a parameter without a value": ("amqp://{host}:{rabbit}/?prefix", "prefix"),
    "rabbit: a kind of queue that is none": ("amqp://{host}:{rabbit}/?queues=fast", "quorum"),
    "rabbit: a port that is not a number": ("amqp://{host}:many/", "many"),
    "rabbit: no CA file": ("amqps://{host}:{rabbit}/?cafile=/no/such", "/no/such"),
}
ELSEWHERE = {
    "nothing listens": ("redis://{host}:{free}/0", "nothing listens there"),
    "no such host": ("redis://no-such-host.invalid/0", "no such host"),
    "no such socket": ("unix:///no/such.sock", "correct the path"),
    "no password": ("redis://{host}:{redis}/0", "write USER:PASSWORD@"),
    "a wrong password": ("redis://:wrong@{host}:{redis}/0", "wrong user or password"),
    "no such database": ("redis://:{password}@{host}:{redis}/99", "no such database"),
    "a web server": ("redis://{host}:{web}/0", "no Redis"),
    "RabbitMQ": ("redis://{host}:{rabbit}/0", "Redis"),
    "TLS to a plain port": ("rediss://:{password}@{host}:{redis}/0", "with TLS?"),
    "plain to a TLS port": ("redis://:{password}@{host}:{tls}/0", "rediss://"),
    "a CA that nobody knows": ("rediss://:{password}@{host}:{tls}/0", "ssl_ca_certs"),
    "rabbit: nothing listens": ("amqp://{host}:{free}/", "nothing listens there"),
    "rabbit: no such host": ("amqp://no-such-host.invalid/", "host name is not known"),
    "rabbit: a wrong password": ("amqp://guest:wrong@{host}:{rabbit}/%2F", "user or password"),
    "rabbit: no such vhost": ("amqp://guest:guest@{host}:{rabbit}/none", "vhost"),
    "rabbit: a web server": ("amqp://{host}:{web}/", "AMQP"),
    "rabbit: Redis": ("amqp://{host}:{redis}/", "RabbitMQ"),
    "rabbit: TLS to a plain port": ("amqps://guest:guest@{host}:{rabbit}/%2F", "amqp://"),
    "rabbit: plain to a TLS port": ("amqp://guest:guest@{host}:{tls}/%2F", "amqps://"),
}


@dataclass(frozen=True, slots=True)
class Town:
    """Servers of all kinds, with their ports."""

    ports: dict[str, int]
    certificate: Path

    def url(self, pattern: str) -> str:
        return pattern.format(host=HOST, password=PASSWORD, **self.ports)


@pytest.fixture
def town(tmp_path: Path, own_server: OwnServer, rabbitmq_server: RabbitServer) -> Iterator[Town]:
    certificate, key = self_signed(tmp_path)
    tls = {
        "tls-port": str(free_port()),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-auth-clients": "no",
    }
    redis = own_server(RedisServer, settings=tls | {"requirepass": PASSWORD})
    with _web_server() as web:
        ports = {"redis": redis.port, "tls": int(tls["tls-port"]), "web": web}
        ports |= {"rabbit": rabbitmq_server.port, "free": free_port()}
        yield Town(ports, certificate)


class _Web(BaseHTTPRequestHandler):
    """Refuses every HTTP request."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def _web_server() -> Iterator[int]:
    with HTTPServer((HOST, 0), _Web) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.long
def test_a_url_that_is_mistyped_or_leads_elsewhere_is_told_in_one_line(town: Town) -> None:
    urls = {case: town.url(pattern) for case, (pattern, _) in (MISTYPED | ELSEWHERE).items()}
    with ThreadPoolExecutor(len(urls)) as pool:  # Some never answer: their clients time out.
        told = dict(zip(urls, pool.map(_refusal, urls.values()), strict=True))
    for kind, cases in ((ConfigError, MISTYPED), (Unreachable, ELSEWHERE)):
        for case, (_, word) in cases.items():
            assert isinstance(told[case], kind), (case, told[case])
            assert _tells(str(told[case]), urls[case], word), (case, told[case])
    trusted = town.url("rediss://:{password}@{host}:{tls}/0?ssl_ca_certs=") + str(town.certificate)
    open_store(Settings(broker=trusted)).close()


def _refusal(url: str) -> AgentpipeError | None:
    try:
        open_store(Settings(broker=url)).close()
    except AgentpipeError as error:
        return error
    return None


COMMANDS = ("status", "send toys hi", "send toys hi --on-full wait", "work", "work --burst")


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_commands_end_with_that_line(project: Project, scheme: str) -> None:
    project.collection()
    away = f"{scheme}://someone:{PASSWORD}@{HOST}:{free_port()}"
    for command in COMMANDS:
        done = project.run(*command.split(), env={"AGENTPIPE_BROKER": away}, timeout_s=20)
        assert (done.code, done.out) == (4, ""), (command, done)
        assert _tells(done.err.splitlines()[-1], away, "nothing listens there"), (command, done)
        assert len(done.err.splitlines()) <= 2, (command, done)
    mistyped = project.run("status", "--broker", f"{away}?prefx=a")
    assert (mistyped.code, mistyped.out) == (2, "")
    warning, line = mistyped.err.splitlines()
    assert "set AGENTPIPE_BROKER instead" in warning
    assert _tells(line, away, "prefix"), mistyped


@pytest.mark.parametrize(
    "sink",
    [
        "results.db",
        "sqlite:///toys.py",
        "kafak://localhost/topic",
        "kafka://localhost:9092/t?acks=5",
        "amqp://localhost/?bogus=1",
    ],
)
def test_no_worker_runs_tasks_whose_results_no_sink_can_take(project: Project, sink: str) -> None:
    project.collection()
    project.send("echo hi")
    environ = {"AGENTPIPE_SINK": sink}
    for command in (("work",), ("work", "--burst"), ("start-workers",)):
        done = project.run(*command, env=environ, timeout_s=20)
        assert (done.code, done.out) == (2, ""), done
        assert sink.rpartition("/")[2] in done.err or "kafak" in done.err
    assert project.stats()["waiting"] == 1


def _tells(line: str, url: str, word: str) -> bool:
    """Whether the line has the URL and the word, but no password and no second line."""
    shown = url.partition("?")[0].rpartition("@")[2]
    hidden = ("Traceback", PASSWORD, "wrong@", "\n")
    return word in line and shown in line and not any(each in line for each in hidden)
