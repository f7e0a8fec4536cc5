"""`doctor` against real servers: what it finds, what it advises, and that it shows no secret."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers import open_store
from agentpipe.finding import Examined
from agentpipe.settings import Settings
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from brokers.server_kafka import KafkaServer
    from brokers.server_rabbitmq import RabbitServer
    from tests.integration.project import Done, Project
    from tests.servers import OwnServer

# Nothing listens there: the port is reserved.
NOWHERE = "redis://someone:KANARIE@127.0.0.1:1/0"


def checks(done: Done) -> dict[str, dict[str, Any]]:
    found = {each["name"]: each for each in done.json["checks"]}
    assert len(found) == len(done.json["checks"])
    assert all(each.keys() == {"name", "status", "found", "advice"} for each in found.values())
    assert all(bool(each["advice"]) == (each["status"] != "ok") for each in found.values())
    return found


def test_the_embedded_stores_are_well(project: Project) -> None:
    done = project.ok("doctor", "--json")
    assert done.json["ok"]
    found = checks(done)
    assert found["Python"]["found"].startswith("3.")
    for name in ("agentpipe", "dramatiq", "redis", "pika", "kafka-python", "SQLite", "ulimit -n"):
        assert name in found
    for role in ("broker", "sink"):
        assert found[role]["found"].startswith("sqlite:///")
        assert "GiB free" in found[f"{role} disk space"]["found"]
        assert "ms until a write is on the disk" in found[f"{role} disk sync"]["found"]
    assert "broker: sqlite:///" in project.ok("doctor").out


def test_workers_and_their_clocks_are_told(project: Project) -> None:
    project.collection()
    project.work("--processes", "1").ready(1)
    project.send("echo hi")
    project.until(delivered=1)
    found = checks(project.ok("doctor", "--json"))
    assert found["broker workers"]["found"].startswith("1 on 1 machines")
    assert found["sink clocks of workers"]["found"] == "none is off, by 1 results"


def test_what_is_away_is_told_beside_all_the_rest(project: Project) -> None:
    done = project.run("doctor", "--json", "--broker", NOWHERE)
    assert (done.code, done.json["ok"]) == (4, False)
    found = checks(done)
    assert found["broker"]["status"] == "fail"
    assert found["sink"]["status"] == "ok"
    assert "KANARIE" not in done.out + done.err + project.run("doctor", "--broker", NOWHERE).out


def test_a_wrong_url_is_a_failure(project: Project) -> None:
    done = project.run("doctor", "--json", "--sink", "kafak://localhost/x")
    assert done.code == 1
    assert "did you mean 'kafka'" in checks(done)["sink"]["found"]


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


def test_a_rabbitmq_tells_by_its_management_api(
    project: Project, rabbitmq_server: RabbitServer
) -> None:
    url = f"{rabbitmq_server.url}?management={rabbitmq_server.management_url}"
    done = project.ok("doctor", "--json", "--broker", url)
    found = checks(done)
    assert found["broker server"]["found"].startswith("RabbitMQ ")
    assert found["broker alarms"]["found"].startswith("none; ")
    assert "against this machine" in found["broker clock"]["found"]
    assert "broker consumer_timeout" in found
    plain = checks(project.ok("doctor", "--json", "--broker", rabbitmq_server.url))
    assert "give ?management=" in plain["broker alarms"]["found"]
    wrong = project.ok("doctor", "--json", "--broker", f"{url.rpartition(':')[0]}:1")
    assert checks(wrong)["broker management API"]["status"] == "warn"
    secret = rabbitmq_server.management_url.partition("//")[2].partition("@")[0].partition(":")[2]
    assert f":{secret}@" not in done.out + done.err + wrong.out + wrong.err


def test_a_rabbitmq_as_the_sink(project: Project, rabbitmq_server: RabbitServer) -> None:
    found = checks(project.ok("doctor", "--json", "--sink", f"{rabbitmq_server.url}?topic=doc"))
    assert found["sink round trip"]["found"].endswith(" ms")


def test_a_kafka_tells_of_its_topic(project: Project, kafka_server: KafkaServer) -> None:
    url = f"{kafka_server.url}/doctor?partitions=2"
    found = checks(project.ok("doctor", "--json", "--sink", url))
    assert found["sink topic"]["found"].startswith("doctor: 2 partitions, 1 copies, 1 in sync")
    assert found["sink message size"]["status"] in ("ok", "warn")
    assert found["sink server"]["found"].startswith("Kafka ")
    assert "of no version" not in found["sink server"]["found"]


def test_a_clock_that_is_off_is_seen_in_results(project: Project) -> None:
    late = datetime.now(UTC) + timedelta(seconds=30)
    result = {"schema": 1, "task_id": "a", "worker": "w-1", "finished_at": late.isoformat()}
    from agentpipe.sinks import open_sink
    from agentpipe.sinks.sink import Record

    sink = open_sink(Settings.from_env(project.environ))
    sink.publish([Record("a", json.dumps({"outcome": "ok", **result}).encode())])
    sink.close()
    found = checks(project.ok("doctor", "--json"))
    assert found["sink clocks of workers"]["status"] == "warn"
    assert "w-1 is off by " in found["sink clocks of workers"]["found"]


@pytest.mark.every_broker
def test_each_store_of_ours_can_be_examined(project: Project) -> None:
    store = open_store(Settings.from_env(project.environ))
    assert isinstance(store, Examined)
    store.close()
