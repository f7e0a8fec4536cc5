"""Each broker with each sink: from a task to its single result."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.project import Project

pytestmark = pytest.mark.every_broker(long=("rabbitmq",))


@pytest.fixture(params=["sqlite", "kafka", "rabbitmq"])
def sink_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    topic = f"test-{uuid.uuid4().hex[:8]}"
    if request.param == "kafka":
        return f"{request.getfixturevalue('kafka_server').url}/{topic}"
    if request.param == "rabbitmq":
        return f"{request.getfixturevalue('rabbitmq_server').url}?topic={topic}&stream=yes"
    return f"sqlite:///{tmp_path}/stream/results.db"


@pytest.mark.long
def test_each_task_has_its_one_result(project: Project) -> None:
    project.collection(number=3)
    ids = project.send(*["echo hi"] * 40, "raise no")
    project.burst("--processes", "2")
    results = project.by_id()
    assert set(results) == set(ids)
    assert sum(result["outcome"] == "ok" for result in results.values()) == 40
    assert project.stats()["outbox"] == 0
    group = ("--group", "trainer", "--limit", "41", "--timeout", "30")
    assert len(project.tail(*group)) == 41
    assert project.tail("--group", "trainer") == []
