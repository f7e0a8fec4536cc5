"""Event loops that end or block: the process is replaced, and only one run is blamed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

ALL_OK = {"ok": 4}


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "attempt"),
    # An exception raised into a loop from outside leaves no trace of its origin.
    [("exit", 2), ("keyboard", 2), ("stop", 2), ("async", 1)],
)
def test_a_loop_that_ends_ends_its_process_and_its_tasks_go_back(
    project: Project, how: str, attempt: int
) -> None:
    project.collection(number=4)
    fleet = project.work("--processes", "1", "--slots", "4")
    project.send(*["sleep-at-first 60"] * 3, f"end-loop-at-first {how}")
    project.until(delivered=4)
    assert fleet.stop() == 0
    results = project.by_id()
    assert Counter(result["outcome"] for result in results.values()) == ALL_OK
    *others, culprit = (results[f"tasks-{number}"]["attempt"] for number in range(4))
    assert (others, culprit) == ([1, 1, 1], attempt)
    assert fleet.log.count("the event loop has ended") == 1
    assert fleet.log.count("replaced") == 2  # By the process, and by its supervisor.


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "outcome", "said"),
    [
        ("cancel", "agent_error", "the agent cancelled itself"),  # It waits in separate tasks.
        ("factory", "agent_error", "give the collection `isolation: thread`"),
        ("executor", "agent_error", "give the collection `isolation: thread`"),
        ("fork", "ok", ""),
    ],
)
def test_a_run_that_changes_the_loop_changes_it_for_no_other(
    project: Project, how: str, outcome: str, said: str
) -> None:
    project.collection(number=6, concurrency=2)
    fleet = project.work("--processes", "1", "--slots", "8")
    project.send(*["think 2"] * 6, f"meddle {how}", *["think 0.5"] * 5)
    project.until(delivered=12)
    project.send({"task_id": "later", "question": "think 0.1"})
    project.until(delivered=13)
    assert fleet.stop() == 0
    results = project.by_id()
    meddler = results.pop("tasks-6")
    assert (meddler["outcome"], meddler["attempt"]) == (outcome, 1)
    assert {(it["outcome"], it["attempt"]) for it in results.values()} == {("ok", 1)}
    finished = Counter(entry["task_id"] for entry in project.journal("finished"))
    del finished["tasks-6"]  # After a fork, both copies return from `execute`.
    assert (len(finished), set(finished.values())) == (12, {1})
    assert "replaced" not in fleet.log
    assert said in (meddler["error"] or {"message": ""})["message"]


def test_a_run_that_cancels_all_tasks_for_ever_does_not_keep_its_worker_from_ending(
    project: Project,
) -> None:
    project.environ["AGENTPIPE_GRACE_S"] = "30"
    project.collection(number=4)
    fleet = project.work("--processes", "1", "--slots", "4")
    project.send("meddle cancel-on", *["think 1"] * 3)
    project.until(delivered=4)
    project.send(*[{"task_id": f"late-{number}", "question": "think 2"} for number in range(3)])
    wait_until(lambda: len(project.journal("started")) == 7, 30, "they run")
    assert fleet.stop() == 0
    assert "replaced" not in fleet.log
    assert "runs do not end" not in fleet.log
    results = project.by_id()
    del results["tasks-0"]
    assert {(it["outcome"], it["attempt"]) for it in results.values()} == {("ok", 1)}
    assert len(results) == 6


@pytest.mark.long
def test_a_task_that_always_ends_the_loop_dies_alone(project: Project) -> None:
    project.collection(number=4, max_crashes=2)
    fleet = project.work("--processes", "1", "--slots", "4")
    project.send(*["sleep 0.2"] * 3, "end-loop exit")
    project.until(delivered=4)
    assert fleet.stop() == 0
    results = project.by_id()
    culprit = results.pop("tasks-3")
    assert (culprit["outcome"], culprit["attempt"]) == ("crashed", 2)
    assert {(it["outcome"], it["attempt"]) for it in results.values()} == {("ok", 1)}


@pytest.mark.every_broker(long=("sqlite", "redis", "rabbitmq"))
def test_one_that_blocks_the_loop_beyond_its_limit_is_limited_alone(project: Project) -> None:
    project.collection(number=4, time_limit=2, concurrency=2, max_queue_size=100)
    fleet = project.work("--processes", "1", "--slots", "8")
    project.send("block 60", *["sleep 0.2"] * 20)
    project.until(delivered=21)
    assert fleet.stop() == 0
    results = project.by_id()
    culprit = results.pop("tasks-0")
    assert (culprit["outcome"], culprit["attempt"]) == ("limit", 1)
    assert {(it["outcome"], it["attempt"]) for it in results.values()} == {("ok", 1)}
    assert [entry["task_id"] for entry in project.journal("started")].count("tasks-0") == 1
    assert "tasks-0" in fleet.log


@pytest.mark.long
def test_one_that_others_wait_for_beyond_their_limits_is_counted_as_a_crash(
    project: Project,
) -> None:
    project.collection("slow", time_limit=3600, max_crashes=2)
    project.collection("quick", number=3, time_limit=1)
    (culprit,) = project.send({"task_id": "culprit", "question": "block 60"}, to="slow")
    fleet = project.work("--processes", "1", "--slots", "4")
    wait_until(lambda: project.journal("started"), 30, "the culprit runs")
    project.send(*["sleep 0.2"] * 3, to="quick")
    project.until(delivered=4)
    assert fleet.stop() == 0
    results = project.by_id()
    blamed = results.pop(culprit)
    assert (blamed["outcome"], blamed["attempt"]) == ("crashed", 2)
    assert {(it["outcome"], it["attempt"]) for it in results.values()} == {("ok", 1)}


@pytest.mark.long
def test_a_worker_whose_loop_does_not_turn_claims_nothing(project: Project) -> None:
    project.collection(number=4, time_limit=600)
    stuck = project.work("--processes", "1", "--slots", "4")
    (blocking,) = project.send({"task_id": "blocking", "question": "block-at-first 60"})
    wait_until(lambda: project.journal("started"), 30, "it blocks")
    wait_until(lambda: "blocks the event loop" in stuck.log, 30, "its worker says so")
    project.send(*["echo"] * 3)
    project.until(waiting=3, running=1)
    other = project.work("--processes", "1", "--slots", "4")
    project.until(delivered=3)
    assert blocking not in project.streamed()
    assert other.stop() == 0


@pytest.mark.long
def test_runs_that_wait_for_one_that_blocks_for_a_moment_keep_their_time(project: Project) -> None:
    project.collection(number=4, time_limit=2)
    fleet = project.work("--processes", "1", "--slots", "4")
    project.send(*["sleep 1.5"] * 3, "block 3.5")
    project.until(delivered=4)
    assert fleet.stop() == 0
    assert Counter(result["outcome"] for result in project.results()) == ALL_OK
