"""AgentPipeline as MCP-Universe's users call it, on the embedded store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe import AgentPipeline, Settings, TaskConfig
from agentpipe.brokers.capabilities import TaskQuery
from agentpipe.core.task import Task
from agentpipe.errors import ConfigError, TaskError
from tests.stores import open_any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.brokers.capabilities import TaskSeen


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        broker=f"sqlite:///{tmp_path}/broker.db?synchronous=normal", sink="kafka://127.0.0.1:1/t"
    )


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    (tmp_path / "agent.yaml").write_text("nobody reads it")
    path = tmp_path / "collection.yaml"
    path.write_text("kind: collection\nspec: {name: mine, config: agent.yaml, number: 2}\n")
    return path


@pytest.fixture
def pipeline(collection: Path, settings: Settings) -> Iterator[AgentPipeline]:
    with AgentPipeline(collection, 3, settings=settings) as made:
        yield made


def waiting(settings: Settings) -> list[TaskSeen]:
    store = open_any(settings)
    found = store.tasks(TaskQuery(limit=100))
    store.close()
    return found


def sent(settings: Settings) -> Task:
    (entry,) = waiting(settings)
    return Task.decode(json.loads(entry.payload))


def test_a_task_is_taken_until_every_queue_is_full(
    pipeline: AgentPipeline, settings: Settings
) -> None:
    answers = [pipeline.send_task("mine", {"question": str(n)}) for n in range(8)]
    assert answers == [True] * 6 + [False] * 2
    assert [entry.queue for entry in waiting(settings)].count("mine_1") == 3


def test_a_bound_in_the_file_counts_more_than_the_argument(
    collection: Path, settings: Settings
) -> None:
    text = collection.read_text().replace("number: 2", "number: 2, max_queue_size: 1")
    collection.write_text(text)
    with AgentPipeline(str(collection), 50, settings=settings) as pipeline:
        assert [pipeline.send_task("mine", "q") for _ in range(3)] == [True, True, False]


class PydanticLike:
    """The part of MCP-Universe's TaskConfig that agentpipe uses."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return {"question": "Q", "category": "c", "evaluators": [{"func": "raw", "op": "="}]}


@pytest.mark.parametrize(
    "task",
    [
        Task(question="Q"),
        {"question": "Q"},
        '{"question": "Q"}',
        "Q",
        PydanticLike(),
        TaskConfig(task_name="an example", question="Q"),
    ],
    ids=["Task", "dict", "JSON", "text", "pydantic", "TaskConfig"],
)
def test_a_task_may_come_in_any_form(
    pipeline: AgentPipeline, settings: Settings, task: Any
) -> None:
    assert pipeline.send_task("mine", task, metadata={"run": 7})
    assert (sent(settings).question, sent(settings).metadata) == ("Q", {"run": 7})


def test_a_task_may_be_a_file(pipeline: AgentPipeline, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text('{"question": "Q", "metadata": {"a": 1}}')
    assert pipeline.send_task("mine", str(path), metadata={"b": 2})
    assert sent(settings).metadata == {"a": 1, "b": 2}
    with pytest.raises(TaskError, match=r"missing\.json"):
        pipeline.send_task("mine", Path("missing.json"))
    path.write_text("{")
    with pytest.raises(TaskError, match="not JSON"):
        pipeline.send_task("mine", path)


def test_what_is_wrong_raises_and_is_never_false(pipeline: AgentPipeline, collection: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        pipeline.send_task("mime", "q")
    with pytest.raises(TaskError, match="question"):
        pipeline.send_task("mine", {"question": 7})
    with pytest.raises(ConfigError, match=r"unknown mq_type .nats.: use kafka or rabbitmq"):
        AgentPipeline(collection, mq_type="nats")


def test_all_that_waits_can_be_deleted_while_the_sink_is_away(
    pipeline: AgentPipeline, settings: Settings
) -> None:
    for _ in range(4):
        pipeline.send_task("mine", "q")
    assert pipeline.delete_all_tasks() == 4
    assert waiting(settings) == []
    store = open_any(settings)
    assert store.stats().outbox == 4
    store.close()


@pytest.mark.parametrize(
    ("environ", "mq_type", "sink"),
    [
        ({}, "kafka", "sqlite"),
        ({"REDIS_HOST": "r"}, "kafka", "sqlite"),
        ({"KAFKA_HOST": "k", "RABBITMQ_HOST": "q"}, "kafka", "kafka"),
        ({"KAFKA_HOST": "k", "RABBITMQ_HOST": "q"}, "rabbitmq", "amqp"),
        ({}, "rabbitmq", "amqp"),
        ({"AGENTPIPE_SINK": "sqlite:///x.db"}, "rabbitmq", "sqlite"),
    ],
)
def test_the_environment_says_where_and_the_type_chooses(
    monkeypatch: pytest.MonkeyPatch,
    collection: Path,
    environ: dict[str, str],
    mq_type: str,
    sink: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    pipeline = AgentPipeline(collection, mq_type=mq_type)
    assert pipeline.settings.sink.startswith(sink)
