"""Code of MCP-Universe's users works after changing only the import."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from agentpipe import ConfigError, MQFactory
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from tests.integration.project import Project
    from tests.servers import OwnServer

# As many processes as it starts without a number.
CORES = os.cpu_count() or 1
# The seed's examples; only the imports differ.
SEND = """
from agentpipe import TaskConfig
from agentpipe import AgentPipeline

pipeline = AgentPipeline(config_path="collection.yaml")
task_config = TaskConfig(
    task_name="example_task",
    question="echo What is the capital of France?",
)
success = pipeline.send_task(
    agent_collection_name="toys",
    task_config=task_config
)
if success:
    print("Task submitted successfully")
else:
    print("Task submission failed (queue full)")
"""
PULL = """
from agentpipe import AgentPipeline

pipeline = AgentPipeline(config_path="collection.yaml")
for result in pipeline.pull_task_outputs(limit=1, timeout=30):
    print(f"Result: {result['result']}")
    print(f"Evaluation: {result['evaluation_results']}")
    print(f"Trace: {result['trace'][0]['trace_id']}")
"""


@pytest.fixture(params=["kafka", "rabbitmq"])
def mq_type(request: pytest.FixtureRequest, project: Project, own_server: OwnServer) -> str:
    """Only the seed's variables, with real servers; they cannot set a prefix for Redis."""
    kind: str = request.param
    del project.environ["AGENTPIPE_BROKER"], project.environ["AGENTPIPE_SINK"]
    redis = urlsplit(own_server(RedisServer).url)
    queue = urlsplit(request.getfixturevalue(f"{kind}_server").url)
    project.environ |= {
        "REDIS_HOST": str(redis.hostname),
        "REDIS_PORT": str(redis.port),
        f"{kind.upper()}_HOST": str(queue.hostname),
        f"{kind.upper()}_PORT": str(queue.port),
        "MQ_TOPIC": f"topic-{uuid.uuid4().hex[:8]}",
    }
    return kind


@pytest.mark.long
def test_the_seeds_examples_run_on_real_servers(project: Project, mq_type: str) -> None:
    project.collection(number=2)
    send, pull = (text.replace('.yaml")', f'.yaml", mq_type="{mq_type}")') for text in (SEND, PULL))
    assert project.ok("-c", send).out == "Task submitted successfully\n"
    verb = ("--agent-collection", "collection.yaml", "--mq-type", mq_type)
    fleet = project.work(*verb, command=("start-workers",))
    printed = project.ok("-c", pull).out
    assert "Result: What is the capital of France?" in printed
    assert "Evaluation: []" in printed
    assert fleet.stop() == 0
    assert project.ok("clean-tasks", *verb, "--json").json == {"purged": 0}


@pytest.mark.parametrize("mq_type", ["kafka", "rabbitmq"])
def test_bare_producers_and_consumers_are_made_by_the_factory(
    request: pytest.FixtureRequest, mq_type: str
) -> None:
    server = urlsplit(request.getfixturevalue(f"{mq_type}_server").url)
    where = {"host": server.hostname, "port": server.port}
    topic = f"topic-{uuid.uuid4().hex[:8]}"
    with MQFactory.create_producer(mq_type, topic, **where) as producer:
        assert producer.send({"n": 1})
        assert producer.send("text", key="k")
    with MQFactory.create_producer(mq_type, topic, value_serializer=repr_bytes, **where) as other:
        other.send([3])
        other.flush()
    consumer = MQFactory.create_consumer(mq_type, topic, value_deserializer=bytes.decode, **where)
    found = list(consumer.consume_messages(max_messages=3))
    assert sorted(found) == ["[3]", "text", '{"n":1}']
    consumer.close()
    with MQFactory.create_producer(mq_type, topic, **where) as producer:
        producer.send(b"new")
    with MQFactory.create_consumer(mq_type, topic, **where) as again:  # Others were consumed.
        assert list(again.consume_messages(max_messages=1)) == [b"new"]


def repr_bytes(value: object) -> bytes:
    return repr(value).encode()


def test_a_kind_that_nobody_knows_is_told() -> None:
    with pytest.raises(ConfigError, match="use kafka or rabbitmq"):
        MQFactory.create_producer("nats", "topic")


def test_the_verbs_options_count_more_than_the_variables(project: Project) -> None:
    project.collection(number=1)
    for option in ("--kafka-port", "--redis-port"):
        wrong = ["clean-tasks", "--agent-collection", "collection.yaml", option, "1"]
        environ = {"AGENTPIPE_BROKER": "", "AGENTPIPE_SINK": "", "REDIS_HOST": "127.0.0.1"}
        done = project.run(*wrong, env=environ)
        assert done.code in (0, 4)
        named = "redis://127.0.0.1:1/" if "redis" in option else "kafka://localhost:1/"
        assert named in done.err


@pytest.mark.long
def test_the_bound_given_to_start_workers_reaches_them(project: Project) -> None:
    project.collection(number=1)
    options = ("--agent-collection", "collection.yaml", "--max-queue-size", "7")
    fleet = project.work(*options, command=("start-workers",)).ready(CORES)
    assert [agent["limit"] for agent in project.stats()["agents"]] == [7]
    assert fleet.stop() == 0


@pytest.mark.long
def test_clean_cancels_what_waits_before_the_workers_start(project: Project) -> None:
    project.collection(number=1)
    project.send("echo old", "echo older")
    options = ("--agent-collection", "collection.yaml", "--clean")
    fleet = project.work(*options, command=("start-workers",)).ready(CORES)
    assert fleet.stop() == 0
    assert {result["outcome"] for result in project.results()} == {"cancelled"}
    assert project.journal("started") == []


@pytest.mark.long
def test_consume_outputs_goes_on_where_it_left_off(project: Project) -> None:
    project.collection(number=1)
    project.send("echo a", "echo b", "echo c")
    project.burst("--processes", "1")
    consume = ("consume-outputs", "--agent-collection", "collection.yaml", "--json")
    first = project.ok(*consume, "--max-messages", "2").lines
    rest = project.ok(*consume, "--timeout", "0").lines
    assert sorted(result["result"] for result in first + rest) == ["a", "b", "c"]
    assert len(first) == 2


@pytest.mark.long
def test_a_stream_may_be_read_from_a_moment(project: Project) -> None:
    project.collection(number=1)
    project.send("echo a")
    project.burst("--processes", "1")
    (result,) = project.results()
    tail = ("tail", "--timeout", "0", "--json")
    assert len(project.ok(*tail, "--from", result["started_at"]).lines) == 1
    assert project.ok(*tail, "--from", "2100-01-01T00:00:00Z").lines == []
    done = project.run(*tail, "--from", "yesterday")
    assert (done.code, "ISO 8601" in done.err) == (2, True)
    assert "Traceback" not in done.err
