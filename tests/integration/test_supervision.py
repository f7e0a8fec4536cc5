"""Workers are replaced when they die, and shut down cleanly when asked to."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.capabilities import Answer, CancelsUnread, TaskQuery, TaskSeen
from agentpipe.core.processes import Stat
from tests.support import slowness, wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

REPOSITORY = Path(__file__).parents[2]
DRAMATIQ = ("-m", "dramatiq", "agentpipe.actors", "--processes", "1")
REPLACED_S = 20.0  # For a busy machine.


@pytest.mark.long
@pytest.mark.every_broker
def test_a_killed_worker_is_replaced_and_the_others_runs_go_on(project: Project) -> None:
    project.environ["AGENTPIPE_LEASE_S"] = "1"
    project.collection(number=4)
    fleet = project.work("--processes", "2", "--slots", "2").ready(2)
    project.send(*["wait-for-file end"] * 4)
    # A task that was claimed but not started counts no crash.
    wait_until(lambda: len(project.journal("started")) == 4, REPLACED_S, "all have begun")
    killed, spared = sorted(fleet.pids)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: fleet.pids - {killed, spared}, REPLACED_S, "another worker serves")
    (project.folder / "end").touch()
    project.until(delivered=4)
    assert fleet.stop() == 0
    results = project.by_id().values()
    assert sorted(result["attempt"] for result in results) == [1, 1, 2, 2]
    unharmed = {result["worker"].split("-")[-2] for result in results if result["attempt"] == 1}
    assert unharmed == {str(spared)}
    assert f"worker {killed} died (killed by SIGKILL): replaced" in fleet.log


@pytest.mark.long
@pytest.mark.parametrize("watch", [(), ("--watch",)])
def test_a_mistake_in_a_file_keeps_back_who_dies_and_never_ends_the_fleet(
    project: Project, watch: tuple[str, ...]
) -> None:
    project.collection()
    good = (project.folder / "collection.yaml").read_text()
    fleet = project.work("--processes", "2", *watch).ready(2)
    killed, spared = sorted(fleet.pids)
    project.send(*["sleep 0.5"] * 20)
    project.until(running=1)
    project.write("collection.yaml", f"{good}  time_limitt: 3\n")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: fleet.log.count("did you mean") >= 3, 60, "it was tried again")
    assert fleet.log.count("tried again with growing pauses") == 1
    assert fleet.pids == {spared}
    project.until(delivered=20)
    os.kill(spared, signal.SIGKILL)
    wait_until(lambda: fleet.log.count("tried again with growing pauses") == 2, 60, "none is left")
    project.write("collection.yaml", good)
    wait_until(lambda: len(fleet.pids - {killed, spared}) == 2, 90, "it is mended")
    assert fleet.stop() == 0


@pytest.mark.long
def test_the_log_says_what_ended_a_worker(project: Project) -> None:
    project.collection()
    fleet = project.work("--processes", "1").ready(1)
    (first,) = fleet.pids
    os.kill(first, signal.SIGSEGV)
    wait_until(lambda: fleet.pids - {first}, REPLACED_S, "another worker serves")
    (second,) = fleet.pids - {first}
    os.kill(_parent_of(second), signal.SIGKILL)
    wait_until(lambda: "its master was" in fleet.log, REPLACED_S, "its master is gone")
    assert f"worker {first} died (killed by SIGSEGV): replaced" in fleet.log
    assert f"worker {second} died (its master was killed by SIGKILL): replaced" in fleet.log
    assert "exited unexpectedly" not in fleet.log
    assert fleet.stop() == 0


def _parent_of(pid: int) -> int:
    return int(Stat.of(Path(f"/proc/{pid}")).fields[1])


@pytest.mark.long
def test_workers_whose_supervisor_is_killed_end_and_give_back(project: Project) -> None:
    project.environ["AGENTPIPE_GRACE_S"] = "0"
    project.collection(number=2)
    project.send("sleep-at-first 60", "sleep-at-first 60")
    fleet = project.work("--processes", "2", "--slots", "1").ready(2)
    project.until(running=2)
    fleet.process.kill()
    fleet.end()
    wait_until(lambda: not project.processes(), 20, "the workers end by themselves")
    assert fleet.pids == set()
    assert project.stats()["waiting"] == 2
    project.burst("--processes", "1")
    assert [result["attempt"] for result in project.results()] == [1, 1]


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_one_signal_lets_runs_finish_within_the_grace_and_gives_back_the_rest(
    project: Project, kind: signal.Signals, code: int
) -> None:
    project.collection(concurrency=3, max_queue_size=3)
    project.send("sleep 3", "sleep-at-first 60", "sleep-at-first 60")
    fleet = project.work("--processes", "1", env={"AGENTPIPE_GRACE_S": "6"})
    wait_until(lambda: len(project.journal("started")) == 3, REPLACED_S, "all have begun")
    project.send(*({"task_id": f"more-{number}", "question": "echo"} for number in range(3)))
    fleet.signal(kind)
    assert fleet.end() == code
    assert "Traceback" not in fleet.log
    # Returned tasks enter a queue although it is full.
    stats = project.until(timeout_s=0, delivered=1, waiting=5, running=0)
    assert stats["workers"] == []
    if kind == signal.SIGTERM:
        _assert_all_run_as_if_for_the_first_time(project)


def _assert_all_run_as_if_for_the_first_time(project: Project) -> None:
    project.burst("--processes", "1")
    results = project.by_id()
    assert len(results) == 6
    assert {(result["outcome"], result["attempt"]) for result in results.values()} == {("ok", 1)}
    starts = Counter(entry["task_id"] for entry in project.journal("started"))
    assert sorted(starts.values()) == [1, 1, 1, 1, 2, 2]


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
@pytest.mark.parametrize(
    "kind", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_second_signal_ends_at_once_and_still_gives_back(
    project: Project, kind: signal.Signals
) -> None:
    project.environ["AGENTPIPE_GRACE_S"] = "60"
    project.collection(number=2, concurrency=2)
    fleet = project.work("--processes", "2", "--slots", "2").ready(2)
    sent = set(project.send("sleep 60", "sleep 60", "block-at-first 60", "sleep 60"))
    wait_until(lambda: len(project.journal("started")) >= 3, 30, "runs have begun")
    fleet.signal(kind)
    wait_until(lambda: "ending" in fleet.log, 10, "the first signal is noted")
    begun = time.monotonic()
    fleet.signal(kind)
    assert fleet.end() == (130 if kind == signal.SIGINT else 0)
    assert time.monotonic() - begun < 8 * slowness()
    assert project.stats()["running"] == 0
    waiting = _waiting(project)
    assert set(waiting) == sent
    if project.settles_in_one_step:  # RabbitMQ can deliver one twice.
        assert len(waiting) == len(sent)
    wait_until(lambda: not project.processes(), 20, "no process is left")


def _waiting(project: Project) -> list[str]:
    """The ids of waiting tasks; a store that cannot read them purges them."""
    store = project.open_store()
    found: list[str] = []

    def taken(task: TaskSeen) -> Answer:
        found.append(task.task_id)
        return Answer(task.task_id, b"{}", "cancelled")

    if isinstance(store, CancelsUnread):
        store.purge(None, taken)
    else:
        found = [task.task_id for task in store.tasks(TaskQuery(limit=100))]
    store.close()
    return found


def test_dramatiq_serves_the_agents_from_the_repository_and_from_anywhere(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project.collection(number=4)
    project.send(*["sleep 0.3"] * 8)
    places = (REPOSITORY, tmp_path_factory.mktemp("elsewhere"))
    fleets = [
        project.work(command=DRAMATIQ, folder=place, env={"AGENTPIPE_SLOTS": "2"})
        for place in places
    ]
    project.until(delivered=8)
    fleets[0].ready(2)  # Both, before one of them leaves.
    for fleet in fleets:
        fleet.process.send_signal(signal.SIGTERM)
    assert [fleet.end() for fleet in fleets] == [0, 0]
    assert {result["outcome"] for result in project.results()} == {"ok"}
    assert project.stats()["workers"] == []


def test_dramatiq_without_a_collection_says_what_to_set(project: Project) -> None:
    done = project.run(*DRAMATIQ, env={"AGENT_COLLECTION_CONFIG_FILE": ""})
    assert "set AGENT_COLLECTION_CONFIG_FILE" in done.err
    assert "Traceback" not in done.err
    assert done.code == 2


def test_burst_ends_at_once_when_nothing_is_to_do(project: Project) -> None:
    project.collection()
    begun = time.monotonic()
    assert project.run("work", "--burst").code == 0
    assert time.monotonic() - begun < 10 * slowness()
    assert project.journal() == []
