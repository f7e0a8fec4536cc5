"""A record that the sink refuses blocks no others: it is cut, or kept and delivered later."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from kafka.admin import ConfigResource, KafkaAdminClient

from agentpipe.brokers.records import OutboxRecord
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.worker.outbox.publishing import publish
from brokers.server_rabbitmq import RabbitServer
from tests.support import refuse_in_sqlite, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.sinks.base import Sink
    from brokers.server_kafka import KafkaServer
    from tests.integration.project import Project
    from tests.servers import OwnServer

PATIENCE_S = 30.0
RABBIT_LIMIT = 65_536


@pytest.mark.long
@pytest.mark.every_broker(long=["redis", "rabbitmq"])
def test_a_refused_result_is_kept_aside_listed_and_delivered_once_the_sink_is_mended(
    project: Project, sink_url: str
) -> None:
    if not sink_url.startswith("sqlite:"):
        pytest.skip("the embedded sink refuses here")
    project.collection(number=2)
    open_sink(Settings.from_env(project.environ)).close()
    file = next(project.folder.rglob("results.db"))
    refuse_in_sqlite(file, "records", "NEW.task_id = 'tasks-3'")
    project.send(*["echo hi"] * 10)
    done = project.burst("--processes", "1")
    assert "agentpipe dead list --undeliverable" in done.err
    assert sorted(project.by_id()) == [f"tasks-{n}" for n in range(10) if n != 3]

    status = project.ok("status", "--json").json
    assert (status["undeliverable"], status["outbox"], status["dead"]) == (1, 0, 0)
    assert "undeliverable 1: the sink refuses these results" in project.ok("status").out
    listed = project.ok("dead", "list", "--undeliverable", "--json").json
    ((entry,), total) = listed["undeliverable"], listed["total"]
    assert (entry["task_id"], entry["collection"], entry["outcome"], total) == (
        "tasks-3",
        "toys",
        "ok",
        1,
    )
    assert "refused by a trigger" in entry["reason"]
    assert "tasks-3" in project.ok("dead", "list", "--undeliverable").out
    assert project.ok("dead", "list", "--json").json["dead"] == []
    shown = project.ok("dead", "show", "--undeliverable", "tasks-3", "--json").json
    assert shown["undeliverable"][0]["result"]["task_id"] == "tasks-3"
    assert "the sink refuses 1 result" in project.run("doctor").out

    with closing(sqlite3.connect(file, timeout=30)) as db:
        db.execute("DROP TRIGGER picky_records")
        db.commit()
    again = project.ok("dead", "replay", "--undeliverable", "--all", "--yes", "--json").json
    assert (again["replayed"], again["task_ids"]) == (1, ["tasks-3"])
    project.burst("--processes", "1")
    assert len(project.by_id()) == 10
    assert project.ok("status", "--json").json["undeliverable"] == 0
    assert project.ok("dead", "list", "--undeliverable", "--json").json["undeliverable"] == []


@pytest.mark.long
def test_why_says_that_the_sink_refuses_it(project: Project, sink_url: str) -> None:
    if not sink_url.startswith("sqlite:"):
        pytest.skip("the embedded sink refuses here")
    project.collection()
    open_sink(Settings.from_env(project.environ)).close()
    refuse_in_sqlite(next(project.folder.rglob("results.db")), "records", "1")
    project.send("echo hi")
    project.burst("--processes", "1")
    why = project.run("why", "tasks-0")
    assert "the sink refuses its Result" in why.out
    assert "agentpipe dead replay --undeliverable tasks-0" in why.out


# Sinks on servers.


def record(number: int, **fields: Any) -> OutboxRecord:
    result = Result(task_id=f"t{number}", agent="crew_0", collection="crew", **fields)
    return OutboxRecord(number, f"t{number}", result.encode(Redactor(())))


def read(sink: Sink, number: int) -> dict[str, Result]:
    """The last Result of each task."""
    found: dict[str, Result] = {}
    reader = sink.follow("readers", "beginning")

    def read_more() -> bool:
        for each in reader.poll(100, 0.5):
            found[each.task_id] = Result.decode(each.payload)
        return len(found) >= number

    wait_until(read_more, PATIENCE_S, f"{number} records are read")
    reader.close()
    return found


def topic_limit(server: KafkaServer, topic: str, limit: int) -> None:
    client = KafkaAdminClient(bootstrap_servers=server.url.removeprefix("kafka://"))
    client.alter_configs([ConfigResource("TOPIC", topic, {"max.message.bytes": str(limit)})])
    client.close()


@pytest.fixture
def kafka(kafka_server: KafkaServer) -> Iterator[tuple[Sink, str]]:
    topic = f"test-{uuid.uuid4().hex[:8]}"
    url = f"{kafka_server.url}/{topic}?partitions=1&compression=none&max_bytes=50000000"
    sink = open_sink(Settings(sink=url))
    yield sink, topic
    sink.close()


@pytest.mark.server
def test_a_record_that_kafka_refuses_holds_up_no_other(
    kafka: tuple[Sink, str], kafka_server: KafkaServer
) -> None:
    """The limit in the URL is wrong, as after the topic's limit was lowered."""
    sink, topic = kafka
    records = [record(number, result=f"answer {number}") for number in range(30)]
    records[7] = record(7, result="answer 7", policy_version="v" * 1_500_000)
    records[8] = record(8, result="a" * 3_000_000)
    assert publish(sink, records) == []
    found = read(sink, 30)
    assert {found[f"t{n}"].result for n in range(30) if n != 8} == {
        f"answer {n}" for n in range(30) if n != 8
    }
    assert found["t7"].policy_version is None
    assert (found["t7"].truncated or {})["fields"] == ["policy_version"]
    assert found["t8"].result.startswith("a" * 100_000)
    assert (found["t8"].truncated or {})["fields"] == ["result"]

    topic_limit(kafka_server, topic, 500)
    small = record(50, result="x" * 2_000)
    # The server takes a moment to go by a new limit.
    (refused,) = wait_until(lambda: publish(sink, [small]), PATIENCE_S, "it is refused")
    assert refused.record is small
    assert "max.message.bytes" in refused.reason
    topic_limit(kafka_server, topic, 1_000_000)
    more = [small, record(51)]
    wait_until(lambda: publish(sink, more) == [], PATIENCE_S, "they are taken")


@pytest.mark.server
def test_a_batch_that_kafka_finds_too_large_arrives_in_parts(
    kafka: tuple[Sink, str], kafka_server: KafkaServer
) -> None:
    """The records are small; the limit was lowered after the producer had read it."""
    sink, topic = kafka
    sink.publish([])
    topic_limit(kafka_server, topic, 20_000)
    records = [record(number, result="x" * 2_000) for number in range(60)]
    assert publish(sink, records) == []
    assert set(read(sink, 60)) == {f"t{number}" for number in range(60)}


@pytest.mark.server
@pytest.mark.long
def test_a_record_that_rabbitmq_refuses_holds_up_no_other(own_server: OwnServer) -> None:
    server = own_server(RabbitServer, settings={"max_message_size": str(RABBIT_LIMIT)})
    with closing(open_sink(Settings(sink=f"{server.url}?topic=results&stream=yes"))) as sink:
        records = [record(number, result=f"answer {number}") for number in range(30)]
        records[7] = record(7, result="answer 7", trace=[{"text": "x" * 500}] * 1_000)
        records[8] = record(8, result="a" * 3_000_000)
        assert publish(sink, records) == []
        found = read(sink, 30)
        assert {found[f"t{n}"].result for n in range(30) if n != 8} == {
            f"answer {n}" for n in range(30) if n != 8
        }
        assert 50 < len(found["t7"].trace) < 150
        assert len(found["t8"].result) > RABBIT_LIMIT // 3
