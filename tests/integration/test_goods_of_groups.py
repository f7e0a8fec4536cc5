"""What counts as good in a group, with real workers: stopped runs, and answers without ids."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.config.collection import load
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings
from agentpipe.training.group_stream import GroupStream
from tests.llm_stub import LlmStub, TokenIds, say
from tests.support import slowness, wait_until

if TYPE_CHECKING:
    from agentpipe.training.rollout_group import RolloutGroup
    from tests.integration.project import Project

COUNTING = pytest.mark.every_broker(but=("rabbitmq",), long=("redis",))
SLOW = """
import asyncio

class Slow:
    def __init__(self, journal):
        self.journal = journal

    async def execute(self, task, context):
        if task.sample_index == 1:
            await asyncio.sleep(600)
        return "yes"
"""
JUDGE = """
from pathlib import Path

HERE = Path(__file__).parent


def once_open(answer):
    (HERE / "asked").touch()
    if not (HERE / "open").exists():
        raise ConnectionError("the judge is away")
    return answer == "yes"
"""


def send_group(
    project: Project, task: dict[str, Any], n: int, spares: int = 0, **options: Any
) -> None:
    settings = Settings.from_env(project.environ)
    collections = load(project.folder / "collection.yaml")
    with closing(Dispatcher.open(collections, settings, results=False)) as dispatcher:
        sent = dispatcher.send_group("toys", task, n, spares=spares, **options)
    assert sent.accepted == n + spares


def ended_group(project: Project) -> RolloutGroup:
    """The only group in the stream, with any end."""
    settings = Settings.from_env(project.environ)
    with GroupStream.open(
        settings, group="trainer", timeout_s=1, min_good=0, keep=lambda _: True
    ) as stream:
        (group,) = stream
    return group


@COUNTING
@pytest.mark.parametrize("on_limit", [{}, {"on_limit": 0}])
def test_a_run_at_its_limit_is_worth_what_the_collection_says(
    project: Project, on_limit: dict[str, Any]
) -> None:
    project.agent("slow:Slow", SLOW)
    project.collection(time_limit=2 * slowness(), number=3, max_retries=0, **on_limit)
    judges = [{"func": "raw", "op": "=", "value": "yes", "name": "right"}]
    send_group(project, {"task_id": "g", "question": "q", "evaluators": judges}, 3)
    project.burst("--processes", "1")
    group = ended_group(project)
    worth = 0.0 if on_limit else None
    assert [it.outcome for it in group.results] == ["ok", "limit", "ok"]
    assert (group.status, group.rewards) == ("complete" if on_limit else "short", [1.0, worth, 1.0])
    assert group.results[1].rewards == ({"right": 0.0} if on_limit else {})
    total = project.ok("report", "--json").json
    assert (total["rewarded"], total["outcomes"]["limit"]) == (3 if on_limit else 2, 1)


@COUNTING
def test_a_kept_answer_without_its_ids_is_not_good_and_is_repaired(project: Project) -> None:
    """The answer was given before the collection required ids."""
    project.write("judge.py", JUDGE)
    task = {"task_id": "g", "question": "q", "evaluators": [{"func": "judge:once_open"}]}
    reply = replace(say("yes"), ids=TokenIds([1, 2, 3], [4, 5, 6]))
    with LlmStub([reply] * 2) as stub:
        config = {"model": "openai:gpt-4.1", "base_url": stub.url}
        document = {"kind": "agent", "spec": {"name": "asks", "type": "llm", "config": config}}
        project.write("llm.yaml", yaml.safe_dump(document))
        project.environ["OPENAI_API_KEY"] = "sk-test-0123456789"
        project.collection(config="./llm.yaml", max_retries=900, breaker=0)
        send_group(project, task, 1, repairs=1)
        fleet = project.work("--processes", "1")
        wait_until((project.folder / "asked").exists, 60, "the answer is kept")
        assert fleet.stop() == 0
        project.write("collection.yaml", "")
        project.collection(
            config="./llm.yaml", max_retries=900, breaker=0, record={"tokens": "require"}
        )
        project.write("open", "")
        project.burst("--processes", "1")
        assert len(stub.requests) == 2
    kept, repaired = (project.by_id()[name] for name in ("g/0", "g/0~1"))
    assert (kept["outcome"], kept["reward"]) == ("ok", 1)
    assert kept["rollout"]["gaps"] == [{"code": "unrecorded", "turn": 0}]
    assert (kept["rollout"]["required"], kept["rollout"]["exact"]) == (True, False)
    group = ended_group(project)
    assert (group.status, [it.task_id for it in group.results]) == ("complete", ["g/0~1"])
    assert [it.input_ids for it in group.samples()] == [[1, 2, 3, 4, 5, 6]]
    assert repaired["rollout"]["exact"] is True


@COUNTING
def test_a_report_says_that_spares_favour_quick_runs(project: Project) -> None:
    project.agent("slow:Slow", SLOW)
    project.collection(number=3)
    judged = {"question": "q", "evaluators": [{"func": "raw", "op": "=", "value": "yes"}]}
    send_group(project, {"task_id": "g", **judged}, 2, spares=1)
    project.burst("--processes", "1")
    spares = project.ok("report", "--json").json["spares"]
    assert (spares["groups"], spares["kept"], spares["cut"], spares["unbegun"]) == (1, 2, 1, 0)
    assert spares["cut_s"] > 0
    said = project.ok("report").out
    assert "1 group cut off 1 sample after" in said
    assert "are the quick ones" in said
    page = project.folder / "report.html"
    project.ok("report", "--html", str(page))
    assert "Spares: 1 group cut off 1 sample after" in page.read_text()
