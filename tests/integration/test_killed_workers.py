"""Workers that die, freeze or crash: every task gets one answer."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers.server import Server
    from tests.integration.project import Fleet, Project

TASKS, KILLS, RESTARTS = 300, 20, 5


@pytest.mark.long
def test_300_tasks_survive_20_kills_and_none_runs_after_its_result(project: Project) -> None:
    project.collection(number=8, max_crashes=KILLS + 1)
    _run_while_workers_are_killed(project, lambda _: None)


@pytest.mark.long
def test_300_tasks_survive_20_kills_and_5_restarts_of_the_server(
    project: Project, server: Server
) -> None:
    def restart(kill: int) -> None:
        if kill % (KILLS // RESTARTS) == 0:
            server.kill() if kill else server.stop()
            server.start()

    # When the server restarts, RabbitMQ counts a crash for each unacknowledged task.
    project.collection(number=8, max_crashes=2 * KILLS)
    _run_while_workers_are_killed(project, restart)


@pytest.mark.long
def test_a_worker_killed_while_it_judges_a_kept_answer_costs_no_second_run(
    project: Project,
) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "1"
    project.collection()
    calls, release = project.folder / "calls", project.folder / "release"
    judge = {"func": "toys:judge_at_the_third_call", "value": [str(calls), str(release)]}
    project.send({"task_id": "one", "question": "echo right", "evaluators": [judge]})
    fleet = project.work("--processes", "1")
    wait_until(
        lambda: calls.exists() and len(calls.read_text().splitlines()) == 2, 60, "a second try"
    )
    for pid in fleet.pids:
        os.kill(pid, signal.SIGKILL)
    release.write_text("")
    project.until(delivered=1)
    fleet.stop()
    (result,) = project.results()
    assert (result["outcome"], result["attempt"], result["reward"]) == ("ok", 1, 1.0)
    assert len(project.journal("started")) == 1
    assert len(calls.read_text().splitlines()) == 3


def _run_while_workers_are_killed(project: Project, after_kill: Callable[[int], None]) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "1"
    project.send(*["sleep 0.1"] * TASKS)
    with project.ledger_watched() as looks:
        fleet = project.work("--processes", "4", "--slots", "2")
        killed = set[int]()
        for kill in range(KILLS):
            killed.add(_kill_one(project, fleet, kill, killed))
            after_kill(kill)
        project.until(delivered=TASKS)
        fleet.stop()
    assert len(looks) > KILLS
    results = project.by_id()
    assert len(results) == TASKS
    assert {result["outcome"] for result in results.values()} == {"ok"}
    assert {entry["task_id"] for entry in project.journal("finished")} == set(results)
    if project.settles_in_one_step:
        _assert_nothing_ran_after_its_result(project, results)


def _kill_one(project: Project, fleet: Fleet, kill: int, killed: set[int]) -> int:
    """Kill a random live worker, once enough tasks have started."""

    def living() -> list[int]:
        busy = len(project.journal("started")) > 12 * kill
        return sorted(fleet.pids - killed) if busy else []

    pid = random.Random(kill).choice(wait_until(living, 30, f"a worker for kill {kill}"))
    os.kill(pid, signal.SIGKILL)
    return pid


def _assert_nothing_ran_after_its_result(
    project: Project, results: dict[str, dict[str, Any]]
) -> None:
    """A run that was killed before its settlement can be repeated; a task with a Result is not.

    A run that had ended counts no crash.
    """
    runs = Counter(entry["task_id"] for entry in project.journal("started"))
    ended = Counter(entry["task_id"] for entry in project.journal("finished"))
    for task_id, result in results.items():
        assert 1 <= runs[task_id] < result["attempt"] + ended[task_id]
    for entry in project.journal("started"):
        finished_at = datetime.fromisoformat(results[entry["task_id"]]["finished_at"])
        assert entry["wall"] <= finished_at.timestamp()


@pytest.mark.long
@pytest.mark.every_broker
def test_a_frozen_workers_runs_do_not_count(project: Project) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "1"
    project.collection(number=2)
    (first,) = project.send({"task_id": "first", "question": "echo"})
    frozen = project.work("--processes", "1").ready(1)
    project.until(delivered=1)  # The sink is open: freezing during that would hold a lock.
    project.send("sleep-at-first 3", "sleep-at-first 60")
    wait_until(lambda: len(project.journal("started")) == 3, 10, "both tasks run")
    (pid,) = frozen.pids
    frozen.freeze(pid)
    project.work("--processes", "1")
    project.until(delivered=3)
    frozen.thaw(pid)
    wait_until(lambda: "lease was lost" in frozen.log, 10, "the frozen worker notices")
    wait_until(lambda: pid in frozen.pids, 10, "and joins again")
    project.until(timeout_s=0, delivered=3, waiting=0, running=0, outbox=0)
    results = [result for result in project.results() if result["task_id"] != first]
    assert [(result["outcome"], result["attempt"]) for result in results] == [("ok", 2)] * 2
    assert str(pid) not in {result["worker"].split("-")[-2] for result in results}
    assert len(project.journal("started")) == 5


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_task_that_kills_its_worker_dies_alone(project: Project, broker_url: str) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "0.5"
    project.collection(number=2, concurrency=4)
    poison = {"task_id": "poison", "question": "kill", "deadline": "2099-01-01T00:00:00Z"}
    project.send(poison, *["sleep 0.1"] * 20)
    project.burst("--processes", "2")
    results = project.by_id()
    poisoned = results.pop("poison")
    assert (poisoned["outcome"], poisoned["attempt"]) == ("crashed", 3)
    assert "died 3 times" in poisoned["error"]["message"]
    assert len(results) == 20
    outcomes = Counter(result["outcome"] for result in results.values())
    if broker_url.startswith("amqp"):  # Prefetched tasks count crashes too.
        assert set(outcomes) <= {"ok", "crashed"}
        assert outcomes["ok"] > 10
        return
    assert set(outcomes) == {"ok"}
    starts = Counter(entry["task_id"] for entry in project.journal("started"))
    assert starts["poison"] == 3
    _assert_dead_letters_work(project)


@pytest.mark.long
@pytest.mark.parametrize("config", ["./agent.yaml", "./plain.yaml"])
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_with_a_limit_of_one_crash_only_the_killers_die(project: Project, config: str) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "2"
    project.collection(config=config, number=2, concurrency=4, max_crashes=1)
    verb = "sleep" if config == "./agent.yaml" else "block"
    innocent: list[str | dict[str, Any]] = [f"{verb} 0.1"] * 10
    questions = list(innocent)
    for index in range(3):
        questions += [{"task_id": f"killer-{index}", "question": "kill"}, *innocent]
    project.send(*questions)
    project.burst("--processes", "2")
    outcomes = {task_id: each["outcome"] for task_id, each in project.by_id().items()}
    assert len(outcomes) == len(questions)
    died = {task_id for task_id, outcome in outcomes.items() if outcome == "crashed"}
    assert died == {"killer-0", "killer-1", "killer-2"}
    assert set(outcomes.values()) == {"crashed", "ok"}


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
    project.ok("purge")
    replayed = project.by_id()[replay]
    assert (replayed["replay_of"], replayed["outcome"]) == ("poison", "cancelled")
    assert replay != "poison"
