"""``work --watch``: workers follow changes of the files."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Fleet, Project

AGENT = """
class Agent:
    def __init__(self, journal):
        pass

    async def execute(self, task, context):
        return {answer!r}
"""


def _worker_of(fleet: Fleet, earlier: set[int]) -> set[int]:
    """The new workers, once none of the earlier ones serves."""
    wait_until(
        lambda: bool(fleet.pids) and not fleet.pids & earlier, 90, "other workers serve alone"
    )
    return fleet.pids


def _answer(project: Project, task_id: str) -> str:
    project.send({"task_id": task_id, "question": "?"})
    wait_until(lambda: task_id in project.streamed(), 60, "it is answered")
    return str(project.by_id()[task_id]["result"])


@pytest.mark.long
def test_changed_code_and_configs_are_used_and_mistakes_change_nothing(project: Project) -> None:
    project.agent("mine:Agent", AGENT.format(answer="old"))
    project.collection()
    fleet = project.work("--watch", "--processes", "1").ready(1)
    first = fleet.pids
    assert _answer(project, "one") == "old"
    project.write("mine.py", AGENT.format(answer="a new one"))
    second = _worker_of(fleet, first)
    assert _answer(project, "two") == "a new one"

    good = (project.folder / "collection.yaml").read_text()
    project.write("collection.yaml", good + "  time_limitt: 3\n")
    wait_until(lambda: "collection.yaml:" in fleet.log, 60, "the mistake has its place")
    for words in ("time_limitt", "the workers stay as they are"):
        wait_until(lambda said=words: said in fleet.log, 60, words)  # type: ignore[misc]
    assert fleet.pids == second

    project.write("collection.yaml", good + "  time_limit: 30\n")
    _worker_of(fleet, second)
    assert _answer(project, "four") == "a new one"
    assert fleet.stop() == 0
    assert project.stats()["workers"] == []


@pytest.mark.long
def test_runs_of_the_earlier_workers_finish(project: Project) -> None:
    project.collection(number=2)
    project.environ["AGENTPIPE_GRACE_S"] = "60"
    fleet = project.work("--watch", "--processes", "1").ready(1)
    project.send("sleep 6")
    wait_until(lambda: project.journal("started"), 30, "it runs")
    project.write("other.py", "")
    project.until(delivered=1)
    assert fleet.stop() == 0
    (result,) = project.by_id().values()
    assert (result["outcome"], result["attempt"]) == ("ok", 1)
    assert len(project.journal("started")) == 1


def test_its_end_ends_the_workers(project: Project) -> None:
    project.collection()
    fleet = project.work("--watch", "--processes", "1").ready(1)
    os.kill(fleet.process.pid, signal.SIGKILL)
    wait_until(lambda: not fleet.pids, 60, "the workers have left")


@pytest.mark.long
def test_it_goes_on_until_a_signal_and_burst_does_not(project: Project) -> None:
    project.collection()
    done = project.run("work", "--watch", "--burst")
    assert (done.code, done.err.count("choose one")) == (2, 1)
    fleet = project.work("--watch", "--processes", "1").ready(1)
    fleet.signal(signal.SIGINT)
    assert fleet.end() == 130
