"""`doctor` against real servers: findings, advice, and no secret in its output."""

from __future__ import annotations

import json
import re
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis
from kafka.admin import ConfigResource, KafkaAdminClient

from agentpipe.brokers import open_store
from agentpipe.connections.health import Examined
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from brokers.server_redis import RedisServer
from tests.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from brokers.server_kafka import KafkaServer
    from brokers.server_rabbitmq import RabbitServer
    from tests.integration.project import Done, Project
    from tests.servers import OwnServer

# A reserved port, on which no server listens.
NOWHERE = "redis://someone:KANARIE@127.0.0.1:1/0"


def checks(done: Done) -> dict[str, dict[str, Any]]:
    found = {each["name"]: each for each in done.json["checks"]}
    assert len(found) == len(done.json["checks"])
    assert all(each.keys() == {"name", "status", "found", "advice"} for each in found.values())
    assert all((each["advice"] is None) == (each["status"] == "ok") for each in found.values())
    return found


def test_the_embedded_stores_are_well(project: Project) -> None:
    open_sink(Settings.from_env(project.environ)).close()
    done = project.ok("doctor", "--json")
    assert done.json["ok"]
    found = checks(done)
    assert found["Python"]["found"].startswith("3.")
    for name in (
        "agentpipe",
        "dramatiq",
        "redis",
        "pika",
        "kafka-python",
        "SQLite",
        "ulimit -n",
        "ulimit -u",
    ):
        assert name in found
    for role in ("broker", "sink"):
        assert found[role]["found"].startswith("sqlite:///")
        assert "GiB free" in found[f"{role} disk space"]["found"]
        assert "ms until a write is on the disk" in found[f"{role} disk sync"]["found"]


def test_it_is_read_in_eighty_columns_and_searched_by_lines(project: Project) -> None:
    lines = project.run("doctor", "--broker", NOWHERE, env={"COLUMNS": "80"}).out.splitlines()
    assert [line for line in lines if len(line) > 80 and len(line.split()[-1]) < 50] == []
    assert [line for line in lines if " " not in line] == ["broker", "sink"]
    at = lines.index("broker")
    assert lines[at + 1].startswith("FAIL  reached                redis://someone:***@127.0.0.1:1")
    assert any(line.startswith(" " * 26 + "-> correct it") for line in lines[at:])
    assert lines[-1].startswith("1 failed, 1 warnings, of ")  # The warning: a password without TLS.
    whole = project.run("doctor", "--broker", NOWHERE).out.splitlines()
    (failed,) = [line for line in whole if line.startswith("FAIL")]
    assert "nothing listens there: start Redis, or correct the URL" in failed


def test_no_worker_is_no_fault(project: Project) -> None:
    assert checks(project.ok("doctor", "--json"))["broker workers"]["found"].startswith("none")


# Python reads it at startup: processes with AHEAD_S in their environment get a wrong clock.
WRONG_CLOCK = """
import os, time
right, ahead_s = time.time, float(os.environ.get("AHEAD_S", 0))
time.time = lambda: right() + ahead_s
"""


@pytest.mark.long
@pytest.mark.every_broker
def test_workers_are_told_and_whose_clock_is_off(project: Project) -> None:
    project.write("sitecustomize.py", WRONG_CLOCK)
    project.collection()
    wrong = {"PYTHONPATH": str(project.folder), "AHEAD_S": "-40"}
    project.work("--processes", "1")
    project.work("--processes", "1", env=wrong).ready(2)
    found: dict[str, dict[str, Any]] = {}

    def both_have_told() -> bool:
        found.update(checks(project.ok("doctor", "--json")))
        return "of 2 off" in found["broker clocks of workers"]["found"]

    wait_until(both_have_told, 20, "the second worker has told of its clock")
    assert found["broker workers"]["found"].startswith("2 workers on 1 machine, ")
    clocks = found["broker clocks of workers"]
    assert clocks["status"] == "warn"
    assert re.match(r"1 of 2 off: \S+ on \S+ by -(39|40|41)\.", clocks["found"])
    assert clocks["advice"] == f"run an NTP client on {socket.gethostname()}"


def test_clocks_that_are_right_are_told_to_be(project: Project) -> None:
    project.collection()
    project.work("--processes", "2").ready(2)
    project.send("echo hi")
    project.until(delivered=1)
    found: dict[str, dict[str, Any]] = {}

    def told_exactly() -> re.Match[str] | None:
        """What both have told, once no report took long to arrive."""
        found.update(checks(project.ok("doctor", "--json")))
        told = found["broker clocks of workers"]["found"]
        return re.fullmatch(r"2 workers, at most ([+-][.\d]+) s against .* within 0\.\d+ s", told)

    ahead = wait_until(told_exactly, 20, "each worker has told of its clock")
    assert ahead
    assert abs(float(ahead[1])) < 0.5
    assert found["sink clocks in results"]["found"] == "plausible in 1 result in the last hour"


@pytest.mark.long
def test_what_is_away_is_told_beside_all_the_rest(project: Project) -> None:
    done = project.run("doctor", "--json", "--broker", NOWHERE)
    assert (done.code, done.json["ok"]) == (4, False)
    found = checks(done)
    assert found["broker"]["status"] == "fail"
    assert found["sink"]["status"] == "ok"
    assert "KANARIE" not in done.out + done.err + project.run("doctor", "--broker", NOWHERE).out


def test_a_wrong_url_is_a_failure(project: Project) -> None:
    done = project.run("doctor", "--json", "--sink", "kafak://localhost/x")
    assert done.code == 2
    assert "did you mean 'kafka'" in checks(done)["sink"]["found"]
    # An invalid URL takes precedence over an outage, as in `check`.
    both = project.run("doctor", "--json", "--sink", "kafak://localhost/x", "--broker", NOWHERE)
    assert both.code == 2


def test_a_redis_that_is_set_up_well(project: Project, own_server: OwnServer) -> None:
    server = own_server(RedisServer, settings={"appendfsync": "always"})
    found = checks(project.ok("doctor", "--json", "--broker", server.url))
    assert {each["status"] for name, each in found.items() if "broker" in name} == {"ok"}
    assert "appendfsync always" in found["broker persistence"]["found"]
    assert "noeviction" in found["broker maxmemory-policy"]["found"]
    assert found["broker server"]["found"].startswith("Redis 7")
    assert found["broker round trip"]["found"].endswith(" ms")
    assert "against this machine" in found["broker clock"]["found"]


def test_a_redis_that_may_lose_tasks(project: Project, own_server: OwnServer) -> None:
    settings = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru", "appendonly": "no"}
    server = own_server(RedisServer, settings=settings)
    done = project.run("doctor", "--json", "--broker", server.url)
    assert done.code == 1
    found = checks(done)
    assert found["broker maxmemory-policy"]["status"] == "fail"
    assert found["broker persistence"]["status"] == "warn"
    assert "appendonly yes" in found["broker persistence"]["advice"]


@pytest.mark.long
def test_a_replica_and_a_snapshot_that_fails_are_failures(
    project: Project, own_server: OwnServer, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    server = own_server(RedisServer, settings={"appendonly": "no", "dir": str(gone)})
    url = server.url
    with redis.Redis.from_url(url) as client:
        project.ok("doctor", "--broker", url)
        gone.rmdir()
        client.bgsave()
        wait_until(
            lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", 20, "it fails"
        )
        done = project.run("doctor", "--json", "--broker", url)
        assert done.code == 1
        assert "snapshot" in checks(done)["broker persistence"]["found"]
        client.replicaof("127.0.0.1", 1)
        done = project.run("doctor", "--json", "--broker", url)
        assert done.code in (1, 4)
        assert "a replica" in done.out


def test_a_user_with_few_rights_is_told_what_could_not_be_seen(
    project: Project, own_server: OwnServer
) -> None:
    server = own_server(RedisServer)
    rules = ["+@all", "-info", "-time", "-config", "~*", "&*"]
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "few", "on", ">KANARIE", *rules)
    place = server.url.partition("://")[2]
    for password, code in (("KANARIE", 0), ("KANARIEN", 4)):
        done = project.run("doctor", "--json", "--broker", f"redis://few:{password}@{place}")
        assert (done.code, "KANARIE" in done.out + done.err) == (code, False)
        found = checks(done)
        if code:
            assert "wrong user or password" in found["broker"]["found"]
        else:
            assert found["broker server"]["advice"].startswith("allow the user INFO")
            assert found["broker clock"]["advice"].startswith("allow the user TIME")


def test_a_rabbitmq_tells_by_its_management_api(
    project: Project, rabbitmq_server: RabbitServer
) -> None:
    url = f"{rabbitmq_server.url}?management={rabbitmq_server.management_url}"
    done = project.ok("doctor", "--json", "--broker", url)
    found = checks(done)
    assert found["broker server"]["found"].startswith("RabbitMQ ")
    assert found["broker alarms"]["found"].startswith("none; ")
    skew = re.match(r"([+-][.\d]+) s against this machine", found["broker clock"]["found"])
    assert skew
    assert abs(float(skew[1])) <= 1.1
    assert found["broker clock"]["status"] == "ok"
    told = found["broker consumer_timeout"]
    version = found["broker server"]["found"].split()[1]
    if [int(part) for part in version.split(".")[:2]] < [3, 12]:
        assert "set consumer_timeout in rabbitmq.conf above twice" in told["advice"]
    else:
        assert "7 days" in told["found"]
    plain = checks(project.ok("doctor", "--json", "--broker", rabbitmq_server.url))
    assert "add ?management=" in plain["broker alarms"]["found"]
    assert "add ?management=" in plain["broker clock"]["found"]
    wrong = project.ok("doctor", "--json", "--broker", f"{url.rpartition(':')[0]}:1")
    assert checks(wrong)["broker management API"]["status"] == "warn"
    secret = rabbitmq_server.management_url.partition("//")[2].partition("@")[0].partition(":")[2]
    assert f":{secret}@" not in done.out + done.err + wrong.out + wrong.err
    assert found["broker"]["found"].startswith("amqp://")
    assert rabbitmq_server.url.rpartition("@")[2] in found["broker"]["found"]


def test_a_rabbitmq_as_the_sink(project: Project, rabbitmq_server: RabbitServer) -> None:
    found = checks(project.ok("doctor", "--json", "--sink", f"{rabbitmq_server.url}?topic=doc"))
    assert found["sink round trip"]["found"].endswith(" ms")
    assert "sink consumer_timeout" in found
    place = rabbitmq_server.url.rpartition("@")[2]
    done = project.run("doctor", "--json", "--sink", f"amqp://guest:KANARIE@{place}?topic=doc")
    assert (done.code, "KANARIE" in done.out + done.err) == (4, False)
    assert "refuses this user or password" in checks(done)["sink"]["found"]


@pytest.mark.long
def test_a_kafka_tells_of_its_topic(project: Project, kafka_server: KafkaServer) -> None:
    url = f"{kafka_server.url}/doctor?partitions=2"
    found = checks(project.ok("doctor", "--json", "--sink", url))
    told = found["sink topic"]["found"]
    assert told == "doctor: 2 partitions, 1 of each, 1 in sync"
    assert found["sink message size"]["found"] == "1,048,588 bytes per record"
    assert found["sink message size"]["advice"].endswith("--add-config max.message.bytes=16777216")
    assert found["sink retention"]["found"] == "7 days"
    assert found["sink server"]["found"].startswith("Kafka ")
    assert "of unknown version" not in found["sink server"]["found"]
    admin = KafkaAdminClient(bootstrap_servers=kafka_server.url.partition("://")[2])
    configs = {"max.message.bytes": "16777216", "retention.ms": "-1", "min.insync.replicas": "2"}
    admin.alter_configs([ConfigResource("TOPIC", "doctor", configs)])
    admin.close()
    done = project.run("doctor", "--json", "--sink", url)
    assert done.code == 1
    found = checks(done)
    assert found["sink message size"] == {
        "name": "sink message size",
        "status": "ok",
        "found": "16,777,216 bytes per record",
        "advice": None,
    }
    assert found["sink retention"]["found"] == "for ever"
    assert found["sink topic"]["found"].endswith("1 in sync, and min.insync.replicas is 2")
    done = project.run("doctor", "--json", "--sink", f"{url}&max_bytes=16777217")
    assert checks(done)["sink message size"]["status"] == "fail"


def test_a_clock_that_is_off_is_seen_in_results(project: Project) -> None:
    late = datetime.now(UTC) + timedelta(seconds=30)
    result = {"schema": 1, "task_id": "a", "worker": "w-1", "finished_at": late.isoformat()}
    from agentpipe.sinks import open_sink
    from agentpipe.sinks.base import Record

    sink = open_sink(Settings.from_env(project.environ))
    sink.publish([Record("a", json.dumps({"outcome": "ok", **result}).encode())])
    sink.close()
    found = checks(project.ok("doctor", "--json"))
    assert found["sink clocks in results"]["status"] == "warn"
    assert "w-1, or the sender of its tasks, is off by " in found["sink clocks in results"]["found"]


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_each_store_of_ours_can_be_examined(project: Project) -> None:
    store = open_store(Settings.from_env(project.environ))
    assert isinstance(store, Examined)
    store.close()
