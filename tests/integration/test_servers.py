"""Real servers are started, stopped, killed and restarted, by hand and by the fixtures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pika
import pytest
import redis

from brokers import install
from brokers.errors import LaunchError
from brokers.ports import HOST, free_port, is_free
from brokers.process import birth_of
from brokers.server_kafka import KafkaServer
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer
from tests.servers import required, started
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.servers import OwnServer

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 180.0


def launch(*argv: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line and check its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "brokers.launch", *map(str, argv)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def pids(folder: Path) -> list[int]:
    return [pid for pid, _ in json.loads((folder / "server.json").read_text())["processes"]]


def gone(processes: list[int]) -> bool:
    return not any(birth_of(pid) for pid in processes)


def holds_queue(folder: Path, name: bytes) -> bool:
    """Whether RabbitMQ has written the queue's definition, which can follow its confirmation."""
    logs = (*folder.glob("data/*/*.LOG"), *folder.glob("data/*/rabbit_durable_queue.DC*"))
    return any(name in log.read_bytes() for log in logs)


def test_redis_comes_back_with_its_data(own_server: OwnServer) -> None:
    server = own_server(RedisServer)
    with redis.Redis.from_url(server.url) as client:
        client.set("stop", "kept")
        server.stop()
        assert is_free(server.port)
        server.stop()
        server.start().start()
        client.set("kill", "kept")
        server.kill()
        assert not server.running
        server.start()
        assert client.mget("stop", "kill") == [b"kept", b"kept"]
    server.drop()
    assert not server.folder.exists()
    server.drop()


def test_redis_takes_settings(own_server: OwnServer) -> None:
    server = own_server(RedisServer, settings={"requirepass": "s3cret", "appendfsync": "always"})
    with redis.Redis(port=server.port, password="s3cret", decode_responses=True) as client:
        assert client.config_get("append*")["appendfsync"] == "always"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_redis_by_hand(tmp_path: Path) -> None:
    folder, port = tmp_path / "redis", free_port()
    here = ("redis", "--data", folder)
    with required():
        install.program("redis-server", "redis-server", os.environ)
    try:
        first = launch("start", *here, "--port", port)
        assert first.stdout == f"export AGENTPIPE_BROKER=redis://{HOST}:{port}/0\n"
        assert first.stderr == f"redis runs: port {port}, folder {folder}\n"
        again = launch("start", *here)
        assert again.stdout == first.stdout
        assert again.stderr.startswith("redis runs already: ")
        other = launch("start", *here, "--port", free_port(), code=1)
        assert f"redis runs on port {port} already: stop it first" in other.stderr
        foreign = launch("start", "redis", "--data", tmp_path / "b", "--port", port, code=1)
        taken = f"redis: port {port} of {HOST} is taken by another one: use it (redis://{HOST}:"
        assert foreign.stderr.startswith(taken)
        assert not (tmp_path / "b").exists()
        assert "redis is stopped; its data are in" in launch("stop", *here).stderr
        assert is_free(port)
    finally:
        launch("drop", *here)
    assert not folder.exists()


@pytest.mark.long
def test_rabbitmq_by_hand_comes_back_with_its_data(tmp_path: Path) -> None:
    folder, port = tmp_path / "rabbitmq", free_port()
    here = ("rabbitmq", "--data", folder)
    with required():
        install.program("rabbitmq-server", "rabbitmq-server", os.environ)
    try:
        begun = launch("start", *here, "--port", port, "--management-port", free_port())
        url = f"amqp://guest:guest@{HOST}:{port}/%2F"
        assert begun.stdout == f"export AGENTPIPE_BROKER={url}\n"
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.queue_declare("kept", durable=True)
            channel.confirm_delivery()
            channel.basic_publish("", "kept", b"kept", pika.BasicProperties(delivery_mode=2))
        wait_until(lambda: holds_queue(folder, b"kept"), 30, "the queue is on disk")
        processes = pids(folder)
        RabbitServer(folder, environ=os.environ).kill()
        assert gone(processes)
        assert "rabbitmq runs: " in launch("start", *here, "--port", port).stderr
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            body: object = connection.channel().basic_get("kept", auto_ack=True)[2]
            assert body == b"kept"
        processes = pids(folder)
        launch("stop", *here)
        assert gone(processes)
    finally:
        launch("drop", *here)
    assert not folder.exists()


def test_rabbitmq_serves_its_management_api(rabbitmq_server: RabbitServer) -> None:
    port, management = rabbitmq_server.port, rabbitmq_server.management_port
    assert rabbitmq_server.management_url == f"http://guest:guest@{HOST}:{management}"
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, f"http://{HOST}:{management}", "guest", "guest")
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
    with opener.open(f"http://{HOST}:{management}/api/overview", timeout=30) as answer:
        listeners = json.load(answer)["listeners"]
    amqp = [each for each in listeners if each["protocol"] == "amqp"]
    assert [(each["ip_address"], each["port"]) for each in amqp] == [(HOST, port)]


@pytest.mark.long
def test_kafka_by_hand(tmp_path: Path) -> None:
    folder, port = tmp_path / "kafka", free_port()
    here = ("kafka", "--data", folder)
    with required():
        install.kafka_jars(install.java_program(os.environ), os.environ)
    try:
        begun = launch("start", *here, "--port", port)
        assert begun.stdout == f"export AGENTPIPE_SINK=kafka://{HOST}:{port}/agent-task-mq\n"
        assert KafkaServer(folder, environ=os.environ).answers()
        processes = pids(folder)
        launch("stop", *here)
        assert gone(processes)
        assert (folder / "data" / "meta.properties").exists()
    finally:
        launch("drop", *here)
    assert not folder.exists()


def test_a_server_that_ends_while_it_starts_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    with pytest.raises(LaunchError) as refused:
        started(RedisServer(folder, environ=os.environ, settings={"nonsense": "yes"}))
    said = str(refused.value)
    assert "redis ended during its start:" in said
    assert "nonsense yes" in said
    assert said.endswith(f"({folder}/server.log)")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot tie them")
def test_servers_end_with_the_process_that_started_them(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    assert redis_server.running
    code = """
        import os, sys, threading
        from pathlib import Path
        from brokers.server_redis import RedisServer
        server = RedisServer(Path(sys.argv[1]), environ=os.environ)
        thread = threading.Thread(target=server.start)  # It ends, and the server goes on.
        thread.start()
        thread.join()
        print(server._processes[-1].pid, flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "redis")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout
        pid = int(owner.stdout.readline())
        assert birth_of(pid)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not birth_of(pid), 10, "the server ends with its owner")
