"""A worker that loses its claims ends their runs before it claims the tasks again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import CancelsTasks
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Fleet, Project

AGENTS = """
import asyncio
import os
import time

from toys import Toy


class Stubborn(Toy):
    '''The first run goes on until a file says that it may end; later runs wait to be cancelled.'''

    async def execute(self, task, context):
        self.journal.note("started", task, context)
        while self.journal.starts(task.task_id) == 1 and not os.path.exists("release"):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                self.journal.note("asked to end", task, context)
        self.journal.note("finished", task, context)
        if self.journal.starts(task.task_id) > 1:
            await asyncio.sleep(60)


class StubbornThread(Toy):
    '''The same in a thread.'''

    def execute(self, task, context):
        self.journal.note("started", task, context)
        while True:
            try:
                if self.journal.starts(task.task_id) > 1 or os.path.exists("release"):
                    break
                time.sleep(0.01)
            except BaseException:
                self.journal.note("asked to end", task, context)
        self.journal.note("finished", task, context)
        while self.journal.starts(task.task_id) > 1:
            time.sleep(0.01)
"""


@pytest.mark.long
@pytest.mark.parametrize("agent", ["Stubborn", "StubbornThread"])
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_worker_that_claims_its_own_task_again_waits_for_the_old_run(
    project: Project, agent: str
) -> None:
    fleet = _running(project, agent)
    pid = project.journal("started")[0]["pid"]
    _lose_lease(project, fleet, pid)
    wait_until(lambda: project.journal("asked to end"), 30, "the old run is interrupted")
    wait_until(lambda: pid in fleet.pids, 30, "the worker joins again")
    assert len(project.journal("started")) == 1
    project.write("release", "")
    wait_until(lambda: len(project.journal("started")) == 2, 60, "the new run")
    kinds = [entry["event"] for entry in project.journal() if entry["event"] != "asked to end"]
    assert kinds[:3] == ["started", "finished", "started"]
    project.ok("cancel", "one")
    project.until(delivered=1)
    fleet.stop()
    (result,) = project.results()
    assert result["outcome"] == "cancelled"


@pytest.mark.long
def test_a_lost_run_that_does_not_end_ends_its_process(project: Project) -> None:
    fleet = _running(project, "Stubborn")
    pid = project.journal("started")[0]["pid"]
    _lose_lease(project, fleet, pid)
    wait_until(lambda: len(project.journal("started")) == 2, 60, "the new run")
    assert project.journal("started")[1]["pid"] != pid
    assert "cannot be stopped: this process ends" in fleet.log
    fleet.stop()


def _running(project: Project, agent: str) -> Fleet:
    project.environ["AGENTPIPE_LEASE_S"] = "1"
    project.write("stubborn.py", AGENTS)
    config = f"{{class: 'stubborn:{agent}', journal: '{project.journal_file}'}}"
    project.write("agent.yaml", f"kind: agent\nspec: {{name: toy, type: python, config: {config}}}")
    project.collection(number=1, concurrency=1)
    project.send({"task_id": "one", "question": "stay"})
    fleet = project.work("--processes", "1", "--slots", "4")
    wait_until(lambda: project.journal("started"), 60, "the task runs")
    return fleet


def _lose_lease(project: Project, fleet: Fleet, pid: int) -> None:
    """Freeze the worker until its task has been returned."""
    fleet.freeze(pid)
    wait_until(lambda: not project.stats()["workers"], 60, "its lease lapses")
    store = project.open_store()
    if isinstance(store, CancelsTasks):
        store.cancel(["any"])  # Detects the lapse without claiming.
    store.close()
    fleet.thaw(pid)
