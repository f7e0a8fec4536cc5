"""Local servers, as far as it can be tested without one."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from brokers import health, install, launch
from brokers.docker import Container
from brokers.errors import LaunchError
from brokers.ports import HOST, free_port, is_free
from brokers.process import Command, Process, birth_of
from brokers.server_kafka import KafkaServer
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer
from tests.servers import started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from brokers.server import Server

ROOT = Path(__file__).parents[2]
BROKERS = ROOT / "brokers"


class NowhereServer(RedisServer):
    """A server that cannot be installed."""

    def _commands(self) -> Sequence[Command]:
        raise install.NotInstalledError("redis-server is not installed, install it")


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port with a listener that never answers."""
    with socket.create_server((HOST, free_port())) as listener:
        yield listener.getsockname()[1]


def test_a_free_port_is_none_that_a_client_could_be_given() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {free_port() for _ in range(50)}
    assert len(ports) > 10
    assert all(1024 < port < first and is_free(port) for port in ports)


def test_a_port_with_a_listener_is_not_free(deaf_port: int) -> None:
    assert not is_free(deaf_port)


@pytest.mark.parametrize("server_class", [RedisServer, RabbitServer, KafkaServer])
def test_what_answers_nothing_is_no_server(
    server_class: type[Server], deaf_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_TIMEOUT_S", 0.05)
    server = server_class(tmp_path / "own", deaf_port, environ=os.environ)
    with pytest.raises(OSError, match="timed out"):
        server.answers()
    with pytest.raises(LaunchError, match=f"port {deaf_port} of {HOST} is taken by something"):
        server.start()
    assert not server.folder.exists()


def test_urls_are_what_agentpipe_reads(tmp_path: Path) -> None:
    rabbit = RabbitServer(tmp_path, 5672, environ={}, management=True, management_port=15672)
    assert RedisServer(tmp_path, 6379, environ={}).url == "redis://127.0.0.1:6379/0"
    assert rabbit.url == "amqp://guest:guest@127.0.0.1:5672/%2F"
    assert rabbit.management_url == "http://guest:guest@127.0.0.1:15672"
    assert KafkaServer(tmp_path, 9092, environ={}).url == "kafka://127.0.0.1:9092"


def test_a_process_is_known_again_by_its_birth(tmp_path: Path) -> None:
    command = Command([sys.executable, "-c", "input()"], os.environ)
    found = Process(os.getpid(), birth_of(os.getpid()))
    assert found.alive
    assert not Process(os.getpid(), "long ago").alive
    ended = Process.start(command, tmp_path, tmp_path / "log", detached=False)
    assert ended.ends_within(10)
    assert not birth_of(ended.pid)
    assert "EOFError" in (tmp_path / "log").read_text()


# Arguments of the command line.


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "6379.0"])
def test_a_port_is_a_number_of_a_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        launch.main(["start", "redis", f"--port={port}"])
    assert left.value.code == 2
    assert f"invalid port {port!r}: give a number from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["start"], ["start", "postgres"], ["status", "redis"]])
def test_nonsense_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        launch.main(argv)
    assert left.value.code == 2
    assert "usage: python -m brokers.launch" in capsys.readouterr().err


def test_ports_are_the_usual_ones() -> None:
    ports = {kind: server.default_port for kind, server in launch.SERVERS.items()}
    assert ports == {"redis": 6379, "rabbitmq": 5672, "kafka": 9092}


def test_what_never_ran_is_neither_stopped_nor_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for argv in (["stop", "redis"], ["drop", "rabbitmq"], ["status"]):
        assert launch.main(argv) == 0
    said = capsys.readouterr().err.splitlines()
    folder = f"{tmp_path}/.agentpipe/servers"
    assert said[0] == f"redis does not run in {folder}/redis"
    assert said[1] == f"rabbitmq has no data in {folder}/rabbitmq"
    assert said[2:] == ["redis is not here", "rabbitmq is not here", "kafka is not here"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_neither_used_nor_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    port = f"--port={free_port()}"
    assert launch.main(["start", "redis", port, f"--data={tmp_path}"]) == 1
    assert "has other files in it: choose an empty folder" in capsys.readouterr().err
    assert launch.main(["drop", "redis", f"--data={tmp_path}"]) == 1
    assert "is not a server's folder: nothing is removed" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_a_folder_belongs_to_one_kind_of_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "server.json").write_text('{"kind": "kafka", "ports": {}, "processes": []}')
    assert launch.main(["drop", "redis", f"--data={tmp_path}"]) == 1
    assert "is a folder of kafka: choose another one" in capsys.readouterr().err
    assert tmp_path.exists()


@pytest.mark.parametrize("kind", launch.SERVERS)
def test_make_starts_and_drops_each(kind: str) -> None:
    for target, command in ((kind, "start"), (f"drop{kind}", "drop")):
        dry = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert f"python3 -m brokers.launch {command} {kind}" in dry.stdout


# Servers that are missing.


def test_what_cannot_be_had_says_what_to_do(tmp_path: Path) -> None:
    server = NowhereServer(tmp_path / "own", environ={"PATH": ""})
    with pytest.raises(install.NotInstalledError) as refused:
        server.start()
    assert "install it\nOr start Docker, or give agentpipe the URL" in str(refused.value)


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_a_missing_server_fails_in_ci_and_is_skipped_elsewhere(
    ci: str, outcome: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="redis-server is not installed"):
        started(NowhereServer(tmp_path / "own", environ={"PATH": ""}))


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Make an environment whose PATH has only the given shell scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "env", "touch", "chmod", "cat", "true"):
        (folder / name).symlink_to(install.find(name, os.environ) or "")

    def make(**programs: str) -> dict[str, str]:
        for name, text in programs.items():
            file = folder / name.replace("_", "-")
            file.write_text(f'#!{folder}/sh\ncd {folder}\necho "$@" >>calls\n{text}\n')
            file.chmod(0o755)
        return {"PATH": str(folder), "HOME": str(tmp_path)}

    return make


APT = """case "$*" in
  *update) touch lists ;;
  *install*toy) cat lists >/dev/null && touch toyd && chmod +x toyd ;;
esac"""
SUDO = '[ "$1" = -n ] || exit 1; shift; exec "$@"'


def test_what_is_missing_is_installed(machine: Any, tmp_path: Path) -> None:
    environ = machine(apt_get=APT, sudo=SUDO)
    (tmp_path / "bin" / "lists").touch()
    assert install.program("toyd", "toy", environ) == f"{tmp_path}/bin/toyd"
    calls = (tmp_path / "bin" / "calls").read_text()
    assert re.search(r"-o DPkg::Lock::Timeout=300 install --yes .*toy\n", calls)
    assert "update" not in calls
    assert install.program("toyd", "toy", environ)
    assert (tmp_path / "bin" / "calls").read_text() == calls


def test_the_package_lists_are_fetched_when_the_package_cannot_be(
    machine: Any, tmp_path: Path
) -> None:
    assert install.program("toyd", "toy", machine(apt_get=APT, sudo=SUDO))
    calls = (tmp_path / "bin" / "calls").read_text()
    assert re.findall(r"300 (install|update)", calls) == ["install", "update", "install"]


def test_a_failed_installation_says_why(machine: Any) -> None:
    environ = machine(apt_get="echo E: no network; exit 100", sudo=SUDO)
    with pytest.raises(install.NotInstalledError, match="toy could not be installed:\nE: no net"):
        install.program("toyd", "toy", environ)


def test_installing_takes_root_or_a_sudo_that_asks_nothing(machine: Any, tmp_path: Path) -> None:
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", f"{tmp_path}/bin/apt-get"]
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    assert install.apt_command(machine(), root=True) is None
    assert install.apt_command(machine(apt_get=""), root=True) == [*apt, *wait]
    assert install.apt_command(machine(sudo="exit 1"), root=False) is None
    sudo = [f"{tmp_path}/bin/sudo", "-n"]
    assert install.apt_command(machine(sudo=SUDO), root=False) == [*sudo, *apt, *wait]


@pytest.mark.parametrize(("said", "version"), [("17.0.15", 17), ("1.8.0_292", 1), ("21", 21)])
def test_the_version_of_java_is_known(
    said: str, version: int, machine: Any, tmp_path: Path
) -> None:
    environ = machine(java=f"echo 'openjdk version \"{said}\" 2025-01-15' >&2")
    assert install._java_version(f"{tmp_path}/bin/java", environ) == version  # noqa: SLF001


# Containers.


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((BROKERS / "compose.yaml").read_text())
    return found


def test_a_container_is_named_bound_to_loopback_and_keeps_its_data(tmp_path: Path) -> None:
    container = Container(
        "redis:7", {7001: 6379}, (tmp_path / "c", "/c"), "/data", {"A": "b"}, ("x",)
    )
    argv = " ".join(container.command("toy", {}).argv)
    assert argv == (
        f"docker run --rm --name toy --volume toy:/data --volume {tmp_path}/c:/c:ro "
        "--publish 127.0.0.1:7001:6379 --env A=b redis:7 x"
    )


@pytest.mark.parametrize("kind", launch.SERVERS)
def test_compose_runs_what_the_launcher_runs(kind: str, tmp_path: Path) -> None:
    server_class = launch.SERVERS[kind]
    port = server_class.default_port
    options: dict[str, Any] = {"environ": {}}
    if server_class is RabbitServer:
        options |= {"management": True, "management_port": 15672}
    container = server_class(tmp_path, port, **options)._container()  # noqa: SLF001
    service = compose()["services"][kind]
    assert service["image"] == container.image
    assert service["ports"] == [f"127.0.0.1:{a}:{b}" for a, b in container.ports.items()]
    assert service.get("environment", {}) == container.variables
    assert service.get("command", []) == list(container.arguments)
    conf, data = service["volumes"]
    assert conf == f"./{(BROKERS / conf.split(':')[0]).relative_to(BROKERS)}:{container.conf[1]}:ro"
    assert (BROKERS / conf.split(":")[0]).is_file()
    assert data == f"{kind}:{container.data}"
    assert kind in compose()["volumes"]
    assert service["healthcheck"]["test"][0] == "CMD"


def test_settings_of_the_caller_come_last(tmp_path: Path) -> None:
    settings = {"appendfsync": "always", "requirepass": "secret"}
    server = RedisServer(tmp_path, environ={}, settings=settings)
    text = server._container().conf[0].read_text()  # noqa: SLF001
    assert text.endswith("\nappendfsync always\nrequirepass secret\n")
    assert text.startswith((BROKERS / "redis.conf").read_text())
