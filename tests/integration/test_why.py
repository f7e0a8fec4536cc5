"""Each reason that ``agentpipe why`` gives, produced with real processes on each broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import Offer, Queue
from agentpipe.cli import main
from tests.integration.project import TIMEOUT_S
from tests.support import slowness, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Fleet, Project

FOR_EVER = "sleep 600"


class Asked:
    """A project with commands about its tasks, run in this process."""

    def __init__(self, project: Project, capture: pytest.CaptureFixture[bytes]) -> None:
        self.project, self._capture = project, capture
        self.sees_queues = project.settles_in_one_step

    def run(self, *args: str, command: str = "why") -> tuple[int, str, str]:
        """Run a command; return exit code, stdout and stderr."""
        self._capture.readouterr()
        code = main([command, *args])
        out, err = self._capture.readouterr()
        return code, out.decode(), err.decode()

    def send(self, *questions: str | dict[str, Any], name: str = "tasks.jsonl") -> list[str]:
        """Send tasks; return the ids of the accepted ones."""
        file = self.project.tasks(*questions, name=name)
        ended, out, _ = self.run("toys", "--file", file, "--json", command="send")
        assert ended == 0
        ids: list[str] = json.loads(out)["task_ids"]
        return ids

    def why(self, task_id: str, code: int = 0, sink: str = "") -> dict[str, Any]:
        """The command's JSON output."""
        where = ("--sink", sink) if sink else ()
        ended, out, err = self.run(task_id, "--json", *where)
        assert (ended, err) == (code, ""), out
        told: dict[str, Any] = json.loads(out)
        assert told["task_id"] == task_id
        return told

    def until(self, task_id: str, reason: str) -> dict[str, Any]:
        """The JSON output, once it gives this reason; some reasons take a moment."""
        told: dict[str, Any] = {}

        def is_so() -> bool:
            told.update(json.loads(self.run(task_id, "--json")[1]))
            return bool(told["reason"] == reason)

        try:
            wait_until(is_so, TIMEOUT_S, f"{task_id} is {reason}")
        except AssertionError as error:
            raise AssertionError(f"{error}, but {told}") from None
        return told

    def waits(self, task_id: str, agent: str, reason: str) -> dict[str, Any]:
        """Check why a task in a queue waits.

        A broker that cannot look into its queues explains it by the agents that could have it,
        unless the task was already delivered to a worker.
        """
        told: dict[str, Any] = {}

        def is_so() -> bool:  # What workers report, and what they are told, takes a moment.
            told.clear()
            told.update(json.loads(self.run(task_id, "--json")[1]))
            told.update(self._candidate(told, agent))
            state = "waiting" if self.sees_queues else told["state"]
            return (told["state"], told["agent"], told["reason"]) == (state, agent, reason)

        try:
            wait_until(is_so, TIMEOUT_S, f"{task_id} of {agent} is {reason}")
        except AssertionError as error:
            raise AssertionError(f"{error}, but {told}") from None
        return told

    def _candidate(self, told: dict[str, Any], agent: str) -> dict[str, Any]:
        """What differs for this agent, where the broker cannot look into its queues."""
        if self.sees_queues or told["state"] == "waiting":
            return {}
        assert (told["state"], told["reason"], told["complete"]) == ("unknown", "unsure", False)
        assert "cannot look into its queues" in told["sentence"]
        found: dict[str, Any] = next(it for it in told["candidates"] if it["agent"] == agent)
        assert found["sentence"] in told["sentence"]
        return found

    def text(self, task_id: str) -> str:
        """The command's text output."""
        return self.run(task_id)[1]


@pytest.fixture
def asked(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Asked:
    monkeypatch.setattr(os, "environ", project.environ)
    return Asked(project, capsysbinary)


pytestmark = pytest.mark.every_broker(long=("redis", "rabbitmq"))


def one_worker(project: Project, *args: str) -> Fleet:
    return project.work("--processes", "1", *args).ready(1)


def running(project: Project, task_id: str) -> int:
    """The pid of the process that runs the task, once it has started."""

    def found() -> list[int]:
        return [it["pid"] for it in project.journal("started") if it["task_id"] == task_id]

    return wait_until(found, TIMEOUT_S, f"{task_id} runs")[-1]


def one_of_two_runs(project: Project, ids: list[str]) -> tuple[str, str, str]:
    """The running task, the other one and its agent: a broker can start with either."""

    def found() -> list[str]:
        return [it["task_id"] for it in project.journal("started")]

    (runs,) = wait_until(found, TIMEOUT_S, "one of them runs")
    (waits,) = {*ids} - {runs}
    return runs, waits, f"toys_{ids.index(waits)}"


def test_without_workers_it_says_so_and_how_to_start_them(asked: Asked) -> None:
    asked.project.collection()
    first, _, third = asked.send("echo a", "echo b", "echo c")
    told = asked.waits(third, "toys_0", "no_worker")
    assert "no worker serves toys_0, and no other worker is running" in told["sentence"]
    assert "agentpipe work" in told["next"]
    assert told["workers"] == []
    assert told["estimate_s"] is None
    if asked.sees_queues:
        assert (told["position"], told["waiting"]) == (3, 3)
        assert asked.why(first)["position"] == 1
        assert "position 3 of 3: no worker serves toys_0" in asked.text(third)


def test_workers_that_serve_others_are_named_with_how_long_they_are_up(asked: Asked) -> None:
    project = asked.project
    project.collection()
    (task,) = asked.send("echo a")
    project.write(
        "others.yaml",
        (project.folder / "collection.yaml").read_text().replace("name: toys", "name: others"),
    )
    one_worker(project, "-c", "others.yaml")
    told: dict[str, Any] = {}

    def told_since_when() -> bool:
        told.update(asked.waits(task, "toys_0", "no_worker"))
        return any(each["since"] for each in told["workers"])

    wait_until(told_since_when, TIMEOUT_S, "the worker has told since when it is up")
    (worker,) = told["workers"]
    assert worker["serves"] in (False, None)
    assert (
        f"no worker serves toys_0; these serve others: {worker['worker']} (up for "
        in (told["sentence"])
    )


def test_a_pause_of_agent_or_collection_comes_before_all_else(asked: Asked) -> None:
    project = asked.project
    project.collection(number=2)
    (task, other) = asked.send("echo a", "echo b")
    asked.run("toys_0", command="pause")
    told = asked.waits(task, "toys_0", "agent_paused")
    assert "agentpipe resume toys_0" in told["next"]
    asked.waits(other, "toys_1", "no_worker")
    asked.run("toys", command="pause")
    asked.run("toys_1", command="resume")
    told = asked.waits(other, "toys_1", "collection_paused")
    assert "its collection toys is paused" in told["sentence"]
    assert "agentpipe resume toys" in told["next"]


@pytest.mark.long
def test_a_busy_agent_is_told_with_its_task_since_when_and_the_estimate(asked: Asked) -> None:
    project = asked.project
    project.collection()
    _, runs, _, third = asked.send("sleep 1", FOR_EVER, FOR_EVER, FOR_EVER)
    fleet = one_worker(project)
    running(project, runs)
    told = asked.why(runs)
    assert (told["state"], told["reason"], told["agent"]) == ("running", "running", "toys_0")
    assert told["since"]
    assert told["worker"]
    assert f"{told['worker']} has been running it for " in told["sentence"]
    busy = asked.waits(third, "toys_0", "agent_busy")
    if asked.sees_queues:
        assert (busy["position"], busy["waiting"]) == (2, 2)
        assert 0 < busy["estimate_s"] < 4 * slowness()
        assert "it begins in about " in busy["next"]
    assert [it["task_id"] for it in busy["runs"]] == [runs]
    assert busy["since"] == told["since"]
    assert f"its agent is busy with {runs} (on {told['worker']} for " in busy["sentence"]
    assert fleet.stop() == 0


@pytest.mark.long
def test_a_worker_that_died_is_told_until_its_task_is_put_back(asked: Asked) -> None:
    project = asked.project
    project.collection()
    (task,) = asked.send(FOR_EVER)
    fleet = one_worker(project)
    pid = running(project, task)
    os.kill(fleet.process.pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    if asked.sees_queues:
        told = asked.until(task, "worker_gone")
        assert told["state"] == "running"
        assert f"its worker {told['worker']} has died or hangs" in told["sentence"]
        assert told["next"] == "no worker is running to put it back: agentpipe work"
    else:  # The connection was its lease: the server has the task back.
        wait_until(lambda: project.stats()["waiting"] == 1, TIMEOUT_S, "it waits again")
        asked.waits(task, "toys_0", "no_worker")


def test_a_full_gate_is_told_with_who_uses_the_credential(asked: Asked) -> None:
    project = asked.project
    project.collection(number=2, context=[{"env": {"WHO": "one"}, "concurrency": 1}])
    ids = asked.send(FOR_EVER, FOR_EVER)
    one_worker(project)
    runs, waits, _ = one_of_two_runs(project, ids)
    told = asked.until(waits, "gate_full")
    assert told["gate_limit"] == 1
    assert [it["task_id"] for it in told["gate_runs"]] == [runs]
    assert "its concurrency group is full (limit 1): " in told["sentence"]


def test_a_held_agent_is_told_with_the_error_and_the_time_left(asked: Asked) -> None:
    project = asked.project
    project.collection(number=1)
    limited, behind = asked.send("limited-at-first 600", "echo a")
    one_worker(project)
    running(project, limited)
    wait_until(lambda: project.stats()["agents"][0]["held_s"], TIMEOUT_S, "the agent is held")
    told = asked.waits(limited, "toys_0", "agent_held")
    assert "in cooldown for another 10 min" in told["sentence"]
    if asked.sees_queues:
        assert 590 < told["held_s"] <= 600
        assert "after InfraError: slow down" in told["sentence"]
        assert "slow down" not in asked.waits(behind, "toys_0", "agent_held")["sentence"]


def test_slots_that_others_use_are_told(asked: Asked) -> None:
    project = asked.project
    project.collection(number=2)
    ids = asked.send(FOR_EVER, FOR_EVER)
    one_worker(project, "--slots", "1")
    _, waits, agent = one_of_two_runs(project, ids)
    told = asked.waits(waits, agent, "slots_full")
    assert "all 1 slot of the workers that serve its agent are busy" in told["sentence"]


@pytest.mark.long
def test_a_retry_is_told_with_its_time_and_error(asked: Asked) -> None:
    project = asked.project
    project.environ["AGENTPIPE_RETRY_DELAY_S"] = "600"
    project.collection(max_retries=3)
    (task,) = asked.send("fail-until-run 3")
    fleet = one_worker(project)
    project.until(delayed=1)
    if not asked.sees_queues:
        told = asked.why(task, 1)
        assert told["reason"] == "unsure"
        assert "be delayed (1 are)" in told["sentence"]
        assert told["delayed"] == 1
        return
    told = asked.why(task)
    assert (told["state"], told["reason"]) == ("delayed", "retry")
    assert told["failures"] == 1
    assert told["due_at"]
    assert told["error"] == "InfraError: the model's server is away"
    assert "after 1 failure; the last error: InfraError" in told["sentence"]
    assert fleet.stop() == 0
    assert "then it would still wait: no worker serves toys_0" in asked.why(task)["sentence"]


def test_a_delay_that_the_sender_wanted_is_told(asked: Asked) -> None:
    project = asked.project
    project.collection()
    store = project.open_store()
    store.declare([Queue("plain")])
    store.offer("plain", [Offer("later", b"{}", delay_s=600)], round_robin=False)
    store.close()
    if asked.sees_queues:
        told = asked.why("later")
        assert (told["state"], told["reason"]) == ("delayed", "delay")
        assert "it is delayed for another 10 min, as requested by its sender" in told["sentence"]
    else:
        assert asked.why("later", 1)["delayed"] == 1


@pytest.fixture
def broken_sink(sink_url: str) -> Iterator[Path]:
    """The sink's folder cannot be created."""
    place = Path(sink_url.removeprefix("sqlite:///")).parent
    place.write_text("a file in the folder's place")
    yield place
    place.unlink(missing_ok=True)


def test_a_sink_that_is_down_is_told_with_its_error_and_what_is_before(
    asked: Asked, broken_sink: Path
) -> None:
    project = asked.project
    project.collection()
    project.environ["AGENTPIPE_OUTBOX_HIGH_WATER"] = "2"
    first, second, third = asked.send("echo a", "echo b", "echo c")
    one_worker(project)
    project.until(outbox=2, waiting=1)
    full: dict[str, Any] = {}

    def told_of_the_sink() -> bool:
        full.update(asked.waits(third, "toys_0", "outbox_full"))
        return "has failed to publish" in full["sentence"]

    wait_until(told_of_the_sink, TIMEOUT_S, "the worker has told of the sink")
    assert "workers claim nothing while 2 results wait for the sink" in full["sentence"]
    assert str(broken_sink) in full["sentence"]
    if not asked.sees_queues:
        told = asked.why(second, 1)
        assert "be done and wait for the sink (2 do)" in told["sentence"]
        assert "Of the sink: " in told["sentence"]
        return
    told = asked.why(second)
    assert (told["state"], told["reason"]) == ("outbox", "not_forwarded")
    assert (told["outbox"], told["outbox_before"]) == (2, told["outbox_before"])
    assert "its Result waits for the sink with " in told["sentence"]
    assert "has failed to publish for" in told["sentence"]
    assert "repair the sink" in told["next"]
    assert asked.why(first)["reason"] == "not_forwarded"


@pytest.mark.long
def test_a_dead_one_is_told_with_its_error_and_what_to_do(asked: Asked) -> None:
    project = asked.project
    project.collection(max_retries=0)
    task, _ = asked.send("infra", "infra")
    project.burst()
    if not asked.sees_queues:  # Such brokers cannot look into dead letters either.
        told = asked.why(task, 1, f"sqlite:///{project.folder}/elsewhere.db")
        assert told["reason"] == "unsure"
        assert "it may be one of the 2 dead letters" in told["sentence"]
        assert told["dead_unread"] == 2
        project.ok("dead", "show", task)
        return
    told = asked.why(task)
    assert (told["state"], told["reason"]) == ("dead", "dead")
    assert told["outcome"] == "infra_error"
    assert "InfraError: away for good" in told["sentence"]
    assert told["agent"] == "toys_0"
    assert f"agentpipe dead replay {task}" in told["next"]
    assert told["stream_position"] in (1, 2)
    project.ok("dead", "show", task)


@pytest.mark.long
def test_a_delivered_one_is_told_with_its_position_where_that_is_known(
    asked: Asked, tmp_path: Path
) -> None:
    project = asked.project
    project.collection()
    first, second = asked.send("echo a", "echo b")
    project.burst()
    told = [asked.why(task) for task in (first, second)]
    assert {(it["state"], it["reason"]) for it in told} == {("delivered", "delivered")}
    assert {it["stream_position"] for it in told} == {1, 2}
    command = f"{told[0]['next'].removeprefix('read it: ')} --json"
    environ = {**project.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = subprocess.run(
        ["sh", "-c", command], env=environ, cwd=project.folder, stdout=subprocess.PIPE, check=True
    ).stdout
    assert json.loads(printed)["task_id"] == first
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    if asked.sees_queues:
        settled = asked.why(first, sink=elsewhere)
        assert (settled["state"], settled["reason"]) == ("settled", "settled")
        assert settled["since"]
        assert "the sink has confirmed its Result" in settled["sentence"]
    else:
        unsure = asked.why(first, 1, elsewhere)
        assert unsure["reason"] == "unsure"
        assert "Nothing waits, is delayed or is in the outbox" in unsure["sentence"]


def test_one_that_is_cancelled_while_it_runs_is_ending(asked: Asked) -> None:
    project = asked.project
    plain = (project.folder / "plain.yaml").read_text()
    project.write("slow.yaml", plain.replace("PlainToy", "SlowToEnd"))
    project.collection(config="./slow.yaml", isolation="thread")
    (task,) = asked.send("block 600")
    one_worker(project)
    running(project, task)
    store = project.open_store()
    assert store.cancel([task]) == ["signalled"]
    store.close()
    told = asked.why(task)
    assert (told["state"], told["reason"]) == ("running", "ending")
    assert "it was cancelled and has been signalled" in told["sentence"]


@pytest.mark.long
def test_an_unknown_one_is_no_success_and_several_are_answered_in_order(asked: Asked) -> None:
    project = asked.project
    project.collection()
    odd = "a b'\"\x1b[31m;$(x)\n-é"
    (task,) = asked.send({"question": "infra", "task_id": odd, "metadata": {}})
    project.burst(env={"AGENTPIPE_RETRY_DELAY_S": "0"})
    assert task == odd
    assert asked.why(odd)["reason"] == ("dead" if asked.sees_queues else "delivered")
    said = asked.text(odd)
    assert "\x1b" not in said
    unknown = asked.why("never-sent", 1)
    wanted = ("unknown", "unknown" if asked.sees_queues else "unsure")
    assert (unknown["state"], unknown["reason"]) == wanted
    code, out, _ = asked.run("never-sent", odd, "nor-this", "--json")
    assert code == 5
    told = [json.loads(line) for line in out.splitlines()]
    assert [it["task_id"] for it in told] == ["never-sent", odd, "nor-this"]
    assert asked.run("--json", "--", "-x")[0] == 1


def test_bytes_that_are_no_characters_are_unknown(project: Project) -> None:
    done = project.run("why", os.fsdecode(b"caf\xe9"), "--json")  # In a separate process as well.
    assert (done.code, done.err) == (1, "")
    assert done.json["task_id"] == "caf\\udce9"
