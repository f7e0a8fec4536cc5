"""Readers of the stream see an id that is sent again, on each broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.settings import Settings
from agentpipe.sinks.stream import Stream
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_an_id_that_is_used_again_is_seen_again(project: Project) -> None:
    """So does a group that has read the first result, and a stream that stays open."""
    project.environ["AGENTPIPE_RETENTION_S"] = "0"
    project.collection()
    settings = Settings(sink=project.environ["AGENTPIPE_SINK"])
    with Stream.open(settings, start="beginning", timeout_s=60) as stream:
        results = (result.result for result in stream if result.task_id == "daily")
        for turn in ("one", "two"):
            _send(project, {"task_id": "daily", "question": f"echo {turn}"})
            project.burst()
            assert next(results) == turn
            assert _daily(project, "--group", "trainer") == [turn]
    assert _daily(project) == ["one", "two"]


def _daily(project: Project, *options: str) -> list[str]:
    found = project.tail(*options)
    return [result["result"] for result in found if result["task_id"] == "daily"]


def _send(project: Project, task: dict[str, str]) -> None:
    """Send a task once its id is forgotten, which takes claims of other tasks."""
    file = project.tasks(task)

    def is_accepted() -> bool:
        if project.ok("send", "toys", "--file", file, "--json").json["accepted"]:
            return True
        project.ok("send", "toys", "echo another")
        project.burst()
        return False

    wait_until(is_accepted, 60, "it is accepted")
