"""A coroutine reads workers' results from each sink, even if its task is cancelled."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from typing import TYPE_CHECKING

import pytest

from agentpipe.settings import Settings
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    from tests.integration.project import Project

PATIENCE_S = 120.0
TASKS = 30


@pytest.fixture(
    params=["sqlite", *(pytest.param(it, marks=pytest.mark.long) for it in ("kafka", "rabbitmq"))]
)
def settings(request: pytest.FixtureRequest, project: Project) -> Settings:
    """Settings of the project with each kind of sink."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    if request.param == "kafka":
        url = request.getfixturevalue("kafka_server").url
        project.environ["AGENTPIPE_SINK"] = f"{url}/{name}?partitions=2"
    elif request.param == "rabbitmq":
        url = request.getfixturevalue("rabbitmq_server").url
        project.environ["AGENTPIPE_SINK"] = f"{url}?topic={name}&stream=yes"
    return Settings.from_env(project.environ)


def test_a_cancelled_reader_hands_its_last_record_to_the_next(
    project: Project, settings: Settings
) -> None:
    project.collection(number=4)
    ids = project.send(*[f"echo {n}" for n in range(TASKS)])
    fleet = project.work("--processes", "2").ready(2)
    used: list[str] = []
    dropped: list[str] = []

    async def use(stop_after: int, reached: asyncio.Event) -> None:
        async with Stream.open(settings, group="g", start="beginning") as stream:
            async for result in stream:
                if len(used) == stop_after:
                    dropped.append(result.task_id)
                    reached.set()
                    await asyncio.Event().wait()
                used.append(result.task_id)
                if len(used) == TASKS:
                    stream.stop()

    async def main() -> None:
        reached = asyncio.Event()
        first = asyncio.create_task(use(5, reached))
        await asyncio.wait_for(reached.wait(), PATIENCE_S)
        os.kill(min(fleet.pids), signal.SIGKILL)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(use(-1, reached), PATIENCE_S)

    asyncio.run(main())
    assert sorted(used) == sorted(ids)
    assert dropped[0] in used
