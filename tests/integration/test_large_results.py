"""RabbitMQ limits the message size: a larger result is truncated before publishing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from brokers.server_rabbitmq import RabbitServer

if TYPE_CHECKING:
    from tests.integration.project import Project
    from tests.servers import OwnServer

pytestmark = [pytest.mark.server, pytest.mark.long]
LIMIT = 400_000
AGENT = """
from toys import Toy

import agentpipe


class Talker(Toy):
    async def execute(self, task, context):
        self.journal.note("started", task, context)
        verb, _, size = task.question.partition(" ")
        if verb == "give-up":
            raise agentpipe.InfraError("x" * int(size), permanent=True)
        if verb == "trace":
            agentpipe.trace.record_spans([{"type": "words", "text": "x" * int(size)}])
        return "y" * int(size) if verb == "say" else "short"
"""


@pytest.fixture
def broker_url(own_server: OwnServer) -> str:
    return own_server(RabbitServer, settings={"max_message_size": str(LIMIT)}).url


@pytest.fixture
def project(project: Project) -> Project:
    project.agent("talker:Talker", AGENT)
    project.collection(number=2, concurrency=8)
    return project


def test_a_result_beyond_the_servers_limit_is_cut_and_no_run_is_repeated(project: Project) -> None:
    large = [f"say {size}" for size in (LIMIT + 1, LIMIT * 3, LIMIT * 3, 20 * LIMIT)]
    project.send(*large, f"trace {2 * LIMIT}", *["say 10"] * 11, *[f"say {LIMIT // 2}"] * 4)
    done = project.burst("--processes", "1", "--slots", "8")
    results = project.by_id()
    assert len(results) == 20
    assert Counter(each["outcome"] for each in results.values()) == {"ok": 20}
    assert Counter(Counter(e["task_id"] for e in project.journal("started")).values()) == {1: 20}
    cut = {task_id for task_id, each in results.items() if each["truncated"]}
    assert cut == {f"tasks-{index}" for index in range(5)}
    assert results["tasks-0"]["truncated"]["fields"][-1] == "result"
    assert len(results["tasks-3"]["result"]) > LIMIT // 2
    assert results["tasks-4"]["result"] == "short"
    assert f"the broker takes {LIMIT}" in done.err
    assert "max_message_size" in results["tasks-0"]["truncated"]["remedy"]


def test_a_dead_letter_has_room_for_task_and_result(project: Project) -> None:
    metadata = {"notes": "z" * (LIMIT - 100_000)}
    tight = {"task_id": "tight", "metadata": {"notes": "z" * (LIMIT - 3_000)}}
    project.send(
        {"task_id": "roomy", "question": f"give-up {2 * LIMIT}", "metadata": metadata},
        {**tight, "question": f"give-up {2 * LIMIT}"},
        *["say 10"] * 4,
    )
    project.burst("--processes", "1", "--slots", "8")
    outcomes = {task_id: each["outcome"] for task_id, each in project.by_id().items()}
    assert (outcomes.pop("roomy"), outcomes.pop("tight")) == ("infra_error", "infra_error")
    assert set(outcomes.values()) == {"ok"}
    assert len(project.journal("started")) == 6
    shown = [
        project.ok("dead", "show", name, "--json").json["dead"][0] for name in ("roomy", "tight")
    ]
    assert [len(each["task"]["metadata"]["notes"]) for each in shown] == [
        LIMIT - 100_000,
        LIMIT - 3_000,
    ]
    assert shown[0]["result"]["outcome"] == "infra_error"


def test_a_task_beyond_the_servers_limit_is_refused_by_name(project: Project) -> None:
    lines = [{"task_id": "small", "question": "say 1"}]
    lines.append({"task_id": "huge", "question": "say " + "1" * LIMIT})
    done = project.run("send", "toys", "--file", project.tasks(*lines))
    assert done.code == 2
    assert "huge" in done.err
    assert f"this server takes {LIMIT:,}" in done.err
