"""`agentpipe pause` and `resume`: no worker claims tasks of paused agents, now or later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from brokers.server import Server
    from tests.integration.project import Project

PATIENCE_S = 20.0


def paused(project: Project) -> list[str]:
    return [agent["agent"] for agent in project.stats()["agents"] if agent["paused"]]


def started(project: Project) -> int:
    return len(project.journal("started"))


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_fleet_leaves_paused_agents_alone_and_lets_what_runs_end(project: Project) -> None:
    project.collection("toys", number=2, max_queue_size=3)
    fleet = project.work("--processes", "2").ready(2)
    running, beside = project.send("sleep 2", "echo beside")
    wait_until(lambda: started(project) == 2, PATIENCE_S, "both have begun")
    done = project.ok("pause", "toys_0", "--json")
    assert done.json == {"paused": True, "agents": ["toys_0"], "paused_agents": ["toys_0"]}
    # Round-robin still includes the paused agent: every second task waits for it.
    file = project.tasks(*["echo"] * 4, name="later.jsonl")
    project.ok("send", "toys", "--file", file)
    project.until(delivered=4, waiting=2, running=0)
    assert {running, beside} < set(project.by_id())
    assert project.by_id()[running]["result"] == "slept"
    assert {result["agent"] for result in project.results()[2:]} <= {"toys_0", "toys_1"}
    assert [it["paused"] for it in project.ok("status", "--json").json["agents"]] == [True, False]
    fleet.stop()
    project.work("--processes", "2").ready(2)
    file = project.tasks("echo", "echo", name="last.jsonl")
    project.ok("send", "toys", "--file", file)
    project.until(delivered=5, waiting=3)  # One of the two went to the other agent.
    assert project.ok("resume", "toys_0").out == "1 agent resumed\n"
    project.until(delivered=8, waiting=0)
    wait_until(lambda: not paused(project), PATIENCE_S, "all see it")


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_collections_pause_is_for_agents_that_it_gets_later_and_not_an_agents_own(
    project: Project,
) -> None:
    project.collection("toys", number=1)
    project.collection("other")
    project.ok("pause", "toys", "other_0")
    (project.folder / "collection.yaml").unlink()
    project.collection("toys", number=2)
    project.collection("other")
    project.work("--processes", "2").ready(2)
    project.send("echo a", "echo b")
    all_of_them = ["other_0", "toys_0", "toys_1"]
    # A reader of RabbitMQ knows the agents as they were up to a second ago.
    wait_until(lambda: sorted(paused(project)) == all_of_them, PATIENCE_S, "all are paused")
    done = project.ok("resume", "toys_0")
    assert "still paused, on their own or with their collection: toys_0" in done.err
    project.ok("pause", "toys_0")
    assert started(project) == 0
    done = project.ok("resume", "toys", "--json")
    assert done.json["paused_agents"] == ["toys_0"]
    project.until(delivered=1, waiting=1)
    project.ok("resume", "toys_0", "other_0")
    project.until(delivered=2, waiting=0)
    wait_until(lambda: not paused(project), PATIENCE_S, "all see it")


def test_a_name_that_nobody_knows_gets_a_hint_and_changes_nothing(project: Project) -> None:
    project.collection("toys")
    project.ok("send", "toys", "echo")
    done = project.run("pause", "toys", "toy_0")
    assert (done.code, done.out) == (2, "")
    assert "no collection or agent 'toy_0' on this broker: did you mean 'toys_0'?" in done.err
    assert paused(project) == []
    done = project.run("resume", "nothing-like-it")
    assert done.code == 2
    assert "no collection or agent 'nothing-like-it' on this broker: see" in done.err


@pytest.mark.long
def test_a_pause_survives_the_server_and_its_fleet(project: Project, server: Server) -> None:
    project.collection("toys", number=2)
    fleet = project.work("--processes", "2").ready(2)
    project.ok("pause", "toys_0")
    server.kill()
    server.start()
    fleet.ready(2)
    project.send("echo a", "echo b", "echo c", "echo d")
    project.until(delivered=2, waiting=2, running=0)
    assert {result["agent"] for result in project.by_id().values()} == {"toys_1"}
    assert paused(project) == ["toys_0"]
    project.ok("resume", "toys_0")
    project.until(delivered=4)
