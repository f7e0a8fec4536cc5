"""Runs, as people send, look at and forget them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.project import Project


def test_a_file_is_new_in_each_run_and_once_in_each(project: Project) -> None:
    project.collection()
    file = project.tasks("echo one", "echo two")
    plain = project.ok("send", "toys", "--file", file, "--json").json
    assert plain["task_ids"] == ["tasks-0", "tasks-1"]
    again = project.ok("send", "toys", "--file", file)
    assert "all 2 are known: --run NAME sends them as a new run\n" in again.err
    first = project.ok("send", "toys", "--file", file, "--run", "v2", "--json").json
    assert first["task_ids"] == ["v2/tasks-0", "v2/tasks-1"]
    second = project.ok("send", "toys", "--file", file, "--run", "v2")
    assert second.out == "0 accepted, 2 duplicates, 0 refused\n"
    assert "all 2 are known in run v2: another --run NAME sends them as a new run" in second.err
    project.burst("--processes", "1")
    results = project.results("--run", "v2")
    assert [(it["task_id"], it["run"]) for it in results] == [
        ("v2/tasks-0", "v2"),
        ("v2/tasks-1", "v2"),
    ]
    assert {it["run"] for it in project.results()} == {None, "v2"}


def test_tasks_without_ids_are_known_by_their_lines(project: Project) -> None:
    project.collection(max_queue_size=2)
    lines = "\n".join(f'"echo {number}"' for number in range(3)) + "\n"
    file = project.write("plain.jsonl", lines)
    full = project.run("send", "toys", "--file", str(file), "--run", "v2", "--json")
    assert (full.code, full.json["refused"]) == (5, 1)
    project.burst("--processes", "1")
    rest = project.ok("send", "toys", "--file", str(file), "--run", "v2", "--json").json
    assert (rest["task_ids"], rest["duplicates"]) == (["v2/000003"], 2)
    project.burst("--processes", "1")
    answers = {it["task_id"]: it["result"] for it in project.results("--run", "v2")}
    assert answers == {"v2/000001": "0", "v2/000002": "1", "v2/000003": "2"}


def test_samples_of_a_part_of_a_file(project: Project) -> None:
    project.collection()
    file = project.tasks("echo one", "echo two", "echo three")
    options = ("--file", file, "--run", "v2", "--samples", "2", "--limit", "1")
    assert project.ok("send", "toys", *options, "--json").json["accepted"] == 2
    part = ("--sample-tasks", "2", "--seed", "5", "--json")
    once = project.ok("send", "toys", "--file", file, "--run", "part", *part).json["task_ids"]
    assert len(once) == 2
    assert (
        project.ok("send", "toys", "--file", file, "--run", "part", *part).json["duplicates"] == 2
    )
    project.burst("--processes", "1")
    samples = [
        (it["task_id"], it["group_id"], it["sample_index"], it["group_size"])
        for it in project.results("--run", "v2")
    ]
    assert sorted(samples) == [
        ("v2/tasks-0/0", "v2/tasks-0", 0, 2),
        ("v2/tasks-0/1", "v2/tasks-0", 1, 2),
    ]
    assert len({it["seed"] for it in project.results("--run", "v2")}) == 2


@pytest.mark.parametrize("name", ["../x", "a b", "x" * 200, "\u00e9", "a/b", ""])
def test_hostile_names_are_refused_with_the_rule_and_leave_nothing(
    project: Project, name: str
) -> None:
    project.collection()
    before = {*project.folder.parent.rglob("*")}
    refused = project.run("send", "toys", "echo hi", "--run", name)
    assert refused.code == 2
    assert "expected a run's name: 1 to 64 of A-Z a-z 0-9 . _ -" in refused.err
    assert "Traceback" not in refused.err
    assert {*project.folder.parent.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("hi", "--samples", "2"), "--samples needs --run NAME"),
        (("hi", "--run", "v", "--same-seed"), "--same-seed needs --samples N"),
        (("hi", "--limit", "2"), "--limit needs --file TASKS"),
        (("hi", "--run", "v", "--samples", "0"), "--samples must be at least 1"),
        (("hi", "--run", "v", "--samples", "99999"), "--samples may be at most 10,000"),
        (("--file", "t", "--seed", "2"), "--seed needs --sample-tasks K"),
        (("--file", "t", "--limit", "2", "--sample-tasks", "2"), "give --limit for the first"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    project: Project, options: tuple[str, ...], message: str
) -> None:
    project.collection()
    refused = project.run("send", "toys", *options)
    assert (refused.code, refused.out) == (2, "")
    assert message in refused.err


def test_a_run_is_cancelled_and_explained_by_its_name(project: Project) -> None:
    project.collection()
    file = project.tasks("echo one", "echo two")
    for run in ("v2", "v3"):
        project.ok("send", "toys", "--file", file, "--run", run)
    told = project.ok("why", "--run", "v2", "--json")
    assert [line["task_id"] for line in told.lines] == ["v2/tasks-0", "v2/tasks-1"]
    cancelled = project.ok("cancel", "--run", "v2", "--json").json
    assert sorted(cancelled["cancelled"]) == ["v2/tasks-0", "v2/tasks-1"]
    assert {it["outcome"] for it in project.results("--run", "v2")} == {"cancelled"}
    assert json.loads(project.ok("status", "--json").out)["waiting"] == 2
    assert "run v2 has no unsettled tasks here" in project.ok("why", "--run", "v2").err
