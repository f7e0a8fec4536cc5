"""Runs, as users send, inspect and drop them."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project


@pytest.mark.long
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
    results = project.tail("--run", "v2")
    assert [(it["task_id"], it["run"]) for it in results] == [
        ("v2/tasks-0", "v2"),
        ("v2/tasks-1", "v2"),
    ]
    assert {it["run"] for it in project.results()} == {None, "v2"}


@pytest.mark.long
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
    answers = {it["task_id"]: it["result"] for it in project.tail("--run", "v2")}
    assert answers == {"v2/000001": "0", "v2/000002": "1", "v2/000003": "2"}


@pytest.mark.long
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
        for it in project.tail("--run", "v2")
    ]
    assert sorted(samples) == [
        ("v2/tasks-0/0", "v2/tasks-0", 0, 2),
        ("v2/tasks-0/1", "v2/tasks-0", 1, 2),
    ]
    assert len({it["seed"] for it in project.tail("--run", "v2")}) == 2


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
    assert {it["outcome"] for it in project.tail("--run", "v2")} == {"cancelled"}
    assert json.loads(project.ok("status", "--json").out)["waiting"] == 2
    assert "run v2 has no unsettled tasks here" in project.ok("why", "--run", "v2").err


@pytest.mark.long
def test_runs_says_what_has_become_of_each(project: Project) -> None:
    project.collection()
    file = project.tasks("echo one", "raise two")
    project.ok("send", "toys", "--file", file, "--run", "v2")
    (before,) = project.ok("runs", "--json").json["runs"]
    assert (before["tasks"], before["done"], before["results_from"]) == (2, 0, "broker")
    project.ok("send", "toys", "--file", file, "--run", "v2", "--samples", "2")
    project.burst("--processes", "1")
    project.ok("send", "toys", "echo later", "--run", "v3")
    first, second = project.ok("runs", "--json").json["runs"]
    assert (first["name"], first["collection"], first["tasks"], first["done"]) == (
        "v2",
        "toys",
        6,
        6,
    )
    assert (first["tasks_exact"], first["results_from"]) == (True, "archive")
    assert first["outcomes"] == {"ok": 3, "agent_error": 3}
    assert list(first["configs"].values()) == [6]
    assert (second["name"], second["tasks"], second["done"]) == ("v3", 1, 0)
    assert project.ok("status", "--run", "v2", "--json").json == first
    assert project.ok("status", "--run", "v2").out.splitlines()[1].split()[:2] == ["v2", "toys"]
    assert project.run("status", "--run", "v9").code == 2
    table = project.ok("runs").out.splitlines()
    assert [line.split()[:5] for line in table[1:]] == [
        ["v2", "toys", "6", "6", "3"],
        ["v3", "toys", "1", "0", "0"],
    ]


def test_a_run_s_record_says_where_it_comes_from_and_no_credential(project: Project) -> None:
    project.collection(context=[{"env": {"TOKEN": "tok-4711-secret", "REGION": "${HOME}"}}])
    file = project.tasks("echo one")
    command = ("send", "toys", "--file", file, "--run", "v2", "--metadata", "api_key=sesame-77")
    project.ok(*command)
    shown = project.ok("runs", "show", "v2", "--json")
    record = shown.json
    assert (record["run"], record["collection"], record["tasks"]) == ("v2", "toys", 1)
    assert record["command"][:2] == ["agentpipe", "send"]
    assert {"config_hash", "model", "agentpipe", "git", "host", "user", "begun_at"} <= {*record}
    assert record["tasks_file"]["file"] == file
    (document,) = record["collection_documents"]
    assert document["spec"]["context"] == [{"env": {"TOKEN": "***", "REGION": "${HOME}"}}]
    assert record["agent_documents"]
    for text in (shown.out, project.ok("runs", "show", "v2").out):
        assert "tok-4711" not in text
        assert "sesame" not in text


@pytest.mark.long
def test_a_run_is_dropped_by_name_and_its_results_stay(project: Project) -> None:
    project.collection()
    project.ok("send", "toys", "--file", project.tasks("echo one"), "--run", "v2")
    project.burst("--processes", "1")
    asked = project.run("runs", "drop", "v2")
    assert (asked.code, asked.out) == (2, "")
    assert "--yes" in asked.err
    assert project.ok("runs", "drop", "v2", "--yes", "--json").json == {"dropped": True}
    assert project.ok("runs", "--json").json == {"runs": []}
    assert len(project.tail("--run", "v2")) == 1
    gone = project.run("runs", "show", "v2")
    assert gone.code == 2
    assert "no run 'v2' on this broker" in gone.err


@pytest.mark.long
def test_two_configs_in_one_run_are_told_by_senders_and_by_runs(project: Project) -> None:
    project.collection()
    file = project.tasks("echo one", "echo two")
    project.ok("send", "toys", "--file", file, "--run", "v2", "--limit", "1")
    project.burst("--processes", "1")
    (project.folder / "collection.yaml").unlink()
    project.collection(time_limit=77)
    changed = project.ok("send", "toys", "--file", file, "--run", "v2")
    assert "run v2 was begun with config" in changed.err
    project.burst("--processes", "1")
    told = project.ok("runs")
    assert "the run v2 has results of 2 configs, " in told.err
    assert "the run v2 has results of 2 configs, " in project.ok("runs", "show", "v2").err
    assert "the run v2 has results of 2 configs, " in project.ok("report", "--run", "v2").err
    assert len(project.ok("runs", "--json").json["runs"][0]["configs"]) == 2


@pytest.mark.long
@pytest.mark.every_broker
def test_a_run_is_one_on_each_broker(project: Project) -> None:
    project.collection(number=2, max_queue_size=50)
    file = project.tasks(*(f"echo {n}" for n in range(10)))
    send = ("send", "toys", "--file", file, "--run", "v2", "--samples", "2", "--json")
    assert project.ok(*send).json["accepted"] == 20
    again = project.ok(*send)
    assert (again.json["accepted"], again.json["duplicates"]) == (0, 20)
    assert "all 20 are known in run v2" in again.err
    more = project.tasks(*(f"echo {n}" for n in range(12)))
    grown = (*send[:3], more, *send[4:])
    assert project.ok(*grown).json["accepted"] == 4
    project.burst("--processes", "1")
    results = project.tail("--run", "v2")
    assert len(results) == 24
    assert len({it["task_id"] for it in results}) == 24
    assert len({it["seed"] for it in results}) == 24
    (run,) = project.ok("runs", "--json").json["runs"]
    assert (run["tasks"], run["done"], run["outcomes"]) == (24, 24, {"ok": 24})
    assert run["tasks_exact"] == project.settles_in_one_step
    assert project.ok("runs", "drop", "v2", "--yes").code == 0
    assert project.ok("runs", "--json").json["runs"] == []


@pytest.mark.long
@pytest.mark.every_broker
@pytest.mark.parametrize("killed_at", [(1,), (1_001, 1_002), (1, 1_001, 2_001)])
def test_a_killed_send_is_resumed_by_the_next_one(
    project: Project, killed_at: tuple[int, ...]
) -> None:
    """Batches have 1,000 tasks: the sender dies before, between and after them."""
    number = 4_000
    project.collection(max_queue_size=3 * number)
    lines = "\n".join(f'"echo {n}"' for n in range(number)) + "\n"
    file = str(project.write("plain.jsonl", lines))
    send = ("send", "toys", "--file", file, "--run", "v2")
    for tasks in killed_at:
        sender = project.start(*send)
        wait_until(
            lambda: sender.poll() is not None or (project.stats()["waiting"] or 0) >= tasks,  # noqa: B023 - called at once
            60,
            f"{tasks} tasks wait",
        )
        sender.send_signal(signal.SIGKILL)
        sender.wait()
    last = project.ok(*send, "--json").json
    assert last["accepted"] + last["duplicates"] == number
    assert project.ok(*send, "--json").json["duplicates"] == number
    (run,) = project.ok("runs", "--json").json["runs"]
    assert run["tasks"] == number
    waiting = project.stats()["waiting"]
    if project.settles_in_one_step:
        assert waiting == number
    else:  # A batch that was published but not recorded is repeated; readers skip repeats.
        assert number <= waiting <= number + 1_000 * len(killed_at)
