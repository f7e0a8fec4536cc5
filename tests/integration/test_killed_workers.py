"""Workers that die, freeze or are made to crash: every task is answered, once."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Fleet, Project

TASKS, KILLS = 300, 20


def test_300_tasks_survive_20_kills_and_none_runs_after_its_result(project: Project) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "1"
    project.collection(number=8, max_crashes=KILLS + 1)
    project.send(*["sleep 0.1"] * TASKS)
    with project.ledger_watched() as looks:
        fleet = project.work("--processes", "4", "--slots", "2")
        _kill_some(project, fleet)
        project.until(delivered=TASKS)
        fleet.stop()
    assert len(looks) > 100
    results = project.by_id()
    assert len(results) == TASKS
    assert {result["outcome"] for result in results.values()} == {"ok"}
    _assert_nothing_ran_after_its_result(project, results)


def _kill_some(project: Project, fleet: Fleet) -> None:
    rng, killed = random.Random(20), set[int]()
    for kill in range(KILLS):

        def living(kill: int = kill) -> list[int]:
            busy = len(project.journal("started")) > 12 * kill
            return sorted(fleet.pids - killed) if busy else []

        pid = rng.choice(wait_until(living, 30, f"a worker for kill {kill}"))
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)


def _assert_nothing_ran_after_its_result(
    project: Project, results: dict[str, dict[str, Any]]
) -> None:
    """A run that was killed before it settled may have finished: only a Result ends it."""
    runs = Counter(entry["task_id"] for entry in project.journal("started"))
    for task_id, result in results.items():
        assert 1 <= runs[task_id] <= result["attempt"]
    for entry in project.journal("started"):
        finished_at = datetime.fromisoformat(results[entry["task_id"]]["finished_at"])
        assert entry["wall"] <= finished_at.timestamp()
    ended = Counter(entry["task_id"] for entry in project.journal("finished"))
    assert set(ended) == set(results)


def test_a_frozen_workers_run_does_not_count(project: Project) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "1"
    project.collection()
    (task_id,) = project.send("sleep-at-first 2")
    frozen = project.work("--processes", "1").ready(1)
    (pid,) = frozen.pids
    wait_until(lambda: project.journal("started"), 10, "the task runs")
    os.kill(pid, signal.SIGSTOP)
    other = project.work("--processes", "1")
    project.until(delivered=1)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: "the lease was lost" in frozen.log, 10, "the frozen worker notices")
    assert (frozen.stop(), other.stop()) == (0, 0)
    (result,) = project.results()
    assert (result["task_id"], result["attempt"], result["outcome"]) == (task_id, 2, "ok")
    assert len(project.journal("started")) == 2
    assert len(project.journal("finished")) == 1


def test_a_task_that_kills_its_worker_ends_among_the_dead_letters(project: Project) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "0.5"
    project.collection(number=2, max_crashes=2)
    poison = {"task_id": "poison", "question": "kill", "deadline": "2099-01-01T00:00:00Z"}
    project.send(poison, {"task_id": "clumsy", "question": "crash-at-first"}, *["echo hi"] * 20)
    # With more slots its neighbours would crash with it, and count that as theirs.
    project.burst("--processes", "2", "--slots", "1")
    results = project.by_id()
    outcomes = Counter(result["outcome"] for result in results.values())
    assert outcomes == {"ok": 21, "crashed": 1}
    assert results["poison"]["outcome"] == "crashed"
    assert results["poison"]["attempt"] == 2
    assert "died 2 times" in results["poison"]["error"]["message"]
    assert results["clumsy"]["attempt"] == 2
    starts = Counter(entry["task_id"] for entry in project.journal("started"))
    assert starts.pop("poison") == 2
    assert starts.pop("clumsy") == 2
    assert set(starts.values()) == {1}
    _assert_dead_letters_work(project)


def _assert_dead_letters_work(project: Project) -> None:
    (listed,) = project.ok("dead", "list", "--json").json["dead"]
    assert (listed["task_id"], listed["outcome"]) == ("poison", "crashed")
    assert "poison" in project.ok("dead", "list").out
    (shown,) = project.ok("dead", "show", "poison", "--json").json["dead"]
    assert shown["task"]["question"] == "kill"
    assert shown["result"]["outcome"] == "crashed"
    assert project.run("dead", "replay").code == 2
    assert project.run("dead", "show", "nobody").code == 1
    (replay,) = project.ok("dead", "replay", "poison", "--json").json["task_ids"]
    assert project.ok("dead", "list", "--json").json["total"] == 0
    project.burst("--processes", "2")
    replayed = project.by_id()[replay]
    assert (replayed["replay_of"], replayed["outcome"]) == ("poison", "crashed")
    assert project.ok("dead", "drop", "--all", "--json").json == {"dropped": 1}
    assert project.stats()["dead"] == 0
