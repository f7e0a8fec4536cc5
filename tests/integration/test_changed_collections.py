"""Collections that change under a running fleet: fewer agents, another config or project."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.project import Project

PATIENCE_S = 60.0


def rewrite(
    project: Project, folder: Path | None = None, age_s: float = 0.0, **spec: object
) -> Path:
    """Write the collection ``toys`` to a file with an mtime ``age_s`` in the past."""
    file = (folder or project.folder) / "collection.yaml"
    document = {"kind": "collection", "spec": {"name": "toys", "config": "./agent.yaml", **spec}}
    file.write_text(yaml.safe_dump(document))
    changed = file.stat().st_mtime - age_s
    os.utime(file, (changed, changed))
    return file


def another(project: Project, name: str, age_s: float = 0.0, **spec: object) -> Path:
    """Write the same collection with another agent class into another project's folder."""
    folder = project.folder / name
    folder.mkdir()
    shutil.copy(project.folder / "toys.py", folder)
    shutil.copy(project.folder / "plain.yaml", folder / "agent.yaml")
    return rewrite(project, folder, age_s, **spec)


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_tasks_of_a_collection_that_shrank_are_told_and_moved(project: Project) -> None:
    rewrite(project, number=8, age_s=9)
    project.ok("send", "toys", "--file", project.tasks(*["echo hi"] * 16))
    rewrite(project, number=4)
    said = "8 tasks wait with agents that toys no longer has (toys_4, toys_5, toys_6, 1 more)"
    burst = project.run("work", "--burst")
    assert burst.code == 1
    assert said in burst.err
    assert "agentpipe rebalance toys moves them" in burst.err
    assert said in project.ok("check").err
    assert project.ok("check", "--json").json["notes"] != []
    assert said in project.ok("send", "toys", "echo more").err
    assert said in project.ok("status").out
    planned = project.ok("rebalance", "toys", "--dry-run", "--json").json
    removed = [f"toys_{n}" for n in range(4, 8)]
    wanted = {"collection": "toys", "agents": removed, "moved": 8, "left": 0}
    assert planned == wanted | {"dry_run": True}
    assert project.ok("rebalance", "toys", "--json").json == wanted | {"dry_run": False}
    assert "nothing to move" in project.ok("rebalance", "toys").out
    project.burst()
    assert len(project.by_id()) == 17


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_what_finds_no_room_is_left_where_it_is(project: Project) -> None:
    rewrite(project, number=3, max_queue_size=4, age_s=9)
    project.ok("send", "toys", "--file", project.tasks(*["echo hi"] * 12))
    rewrite(project, number=1, max_queue_size=4)
    assert planned(project) == (3, 0, 8)
    full = project.run("rebalance", "toys")
    assert (full.code, full.out.split(";")[0]) == (3, "0 tasks moved from 2 removed agents")
    rewrite(project, number=1, max_queue_size=6)
    assert planned(project) == (5, 2, 6)
    part = project.run("rebalance", "toys", "--json")
    assert (part.code, part.json["moved"], part.json["left"]) == (5, 2, 6)
    agents = {each["agent"]: each for each in project.stats()["agents"]}
    assert (agents["toys_0"]["waiting"], agents["toys_0"]["removed"]) == (6, False)
    assert sum(agents[f"toys_{n}"]["waiting"] for n in (1, 2)) == 6
    assert agents["toys_1"]["removed"]
    older = another(project, "older", number=4, max_queue_size=100, age_s=9)
    assert planned(project, "-c", str(older)) == (3, 0, 6)  # The fleet follows the newer file.
    rewrite(project, number=2, max_queue_size=6)  # So toys_1 is an agent again.
    plan = planned(project)
    last = project.run("rebalance", "toys", "--json")
    assert (last.code, last.json["moved"], last.json["left"]) == plan


def planned(project: Project, *options: str) -> tuple[int, int, int]:
    """The exit code of a dry run, and how many tasks it would move and leave."""
    done = project.run("rebalance", "toys", "--dry-run", "--json", *options)
    return done.code, done.json["moved"], done.json["left"]


@pytest.mark.long
@pytest.mark.every_broker(long=("rabbitmq",))
def test_a_sender_with_an_older_file_says_so_and_grows_nothing(project: Project) -> None:
    old = another(project, "old", number=8, age_s=9)
    rewrite(project, number=2)
    project.burst()
    done = project.ok("send", "toys", "--file", project.tasks(*["echo hi"] * 8), "-c", str(old))
    assert "is older than" in done.err
    assert "the agents and limits of toys stay as they are there" in done.err
    assert [each["waiting"] for each in project.stats()["agents"]] == [4, 4]
    project.burst()
    assert len(project.by_id()) == 8


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_two_projects_with_one_name_are_told_with_both_places(project: Project) -> None:
    other = another(project, "other")
    rewrite(project)
    first = project.work("--processes", "1").ready(1)
    wait_until(lambda: project.stats()["configs"], PATIENCE_S, "the first has reported")
    second = project.work("--processes", "1", "-c", str(other)).ready(2)
    wait_until(lambda: "collection toys has 2 configs: " in second.log, PATIENCE_S, "a warning")
    assert f":{project.folder}/collection.yaml (" in second.log
    assert f":{other} (" in second.log
    assert "?prefix=" in second.log
    wait_until(
        lambda: [each["differs"] for each in project.stats()["configs"]] == [True, True],
        PATIENCE_S,
        "both have reported",
    )
    assert "collection toys has 2 configs: " in project.ok("status").out
    assert "collection toys has 2 configs: " in project.ok("send", "toys", "echo hi").err
    assert "collection toys has 2 configs: " in project.ok("top", "--once").out
    project.until(delivered=1)
    (result,) = project.results()
    hashes = {each["config_hash"] for each in project.ok("status", "--json").json["configs"]}
    assert len(hashes) == 2
    assert result["config_hash"] in hashes
    assert (first.stop(), second.stop()) == (0, 0)


@pytest.mark.long
@pytest.mark.every_broker
def test_strict_workers_leave_alone_what_was_sent_with_another_config(project: Project) -> None:
    other = another(project, "other", strict_config=True)
    rewrite(project, strict_config=True)
    project.ok("send", "toys", "--file", project.tasks("echo mine", name="mine.jsonl"))
    theirs = project.tasks("echo theirs", name="theirs.jsonl")
    project.ok("send", "toys", "--file", theirs, "-c", str(other))
    burst = project.run("work", "--burst", "--processes", "2")
    assert burst.code == 1
    assert "1 task left alone: sent with another config (strict_config)" in burst.err
    assert list(project.by_id()) == ["mine-0"]
    if project.settles_in_one_step:  # RabbitMQ cannot look into queues.
        why = project.ok("why", "theirs-0", "--json").json
        assert (why["state"], why["reason"], why["failures"]) == ("delayed", "other_config", 0)
    project.burst("-c", str(other))
    assert sorted(project.by_id()) == ["mine-0", "theirs-0"]
    assert project.by_id()["theirs-0"]["attempt"] == 1


@pytest.mark.long
def test_an_edited_agent_runs_what_was_sent_before(project: Project) -> None:
    rewrite(project)
    project.ok("send", "toys", "echo before")
    agent = project.folder / "agent.yaml"
    agent.write_text(agent.read_text().replace("toys:Toy", "toys:PlainToy"))
    done = project.burst()
    assert "has 2 configs" not in done.err
    assert "it runs them" in done.err
    (result,) = project.results()
    assert result["outcome"] == "ok"
