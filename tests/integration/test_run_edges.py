"""Edge cases of runs: likely mistakes of a sender are reported before they cost anything."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from tests.integration.project import Project


@pytest.mark.long
@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_a_file_without_tasks_begins_no_run(project: Project, content: str) -> None:
    project.collection()
    file = project.write("none.json" if content == "[]" else "none.jsonl", content)
    done = project.run("send", "toys", "--file", str(file), "--run", "v2")
    assert (done.code, done.out) == (2, "")
    assert "there is no task in it: nothing was sent" in done.err
    piped = project.run("send", "toys", "--file", "-", "--run", "v2")
    assert "stdin: there is no task in it" in piped.err
    assert project.ok("runs", "--json").json == {"runs": []}


def test_a_send_that_differs_from_its_run_says_how(project: Project) -> None:
    project.collection()
    file = project.tasks("echo one", "echo two")
    send = ("send", "toys", "--file", file, "--run", "v2")
    project.ok(*send, "--samples", "2")
    assert "--samples" not in project.ok(*send, "--samples", "2").err
    more = project.ok(*send, "--samples", "3").err
    assert "run v2 was begun with --samples 2, this one has --samples 3" in more
    assert "--samples 2 goes on with the run, another --run NAME begins a new run" in more
    assert "this one has no --samples" in project.ok(*send).err
    project.tasks("echo two", "echo one")
    changed = project.ok(*send, "--samples", "2").err
    assert "the tasks file has changed (sha256 " in changed
    (project.folder / "collection.yaml").unlink()
    project.collection(context=[{"env": {"WHO": "ann"}}, {"env": {"WHO": "zoe"}}])
    wider = project.ok(*send, "--samples", "2").err
    assert "run v2 was begun with 0 contexts, this one has 2: see report --by context" in wider


@pytest.mark.long
def test_a_reordered_file_is_no_pairing(project: Project) -> None:
    project.collection()
    file = project.write("plain.jsonl", '"echo one"\n"echo two"\n"echo three"\n')
    project.ok("send", "toys", "--file", str(file), "--run", "v1")
    file.write_text('"echo two"\n"echo one"\n"echo three"\n')
    project.ok("send", "toys", "--file", str(file), "--run", "v2")
    project.burst("--processes", "1")
    compared = project.ok("compare", "v1", "v2", "--json")
    assert compared.json["asked_otherwise"] == {"count": 2, "first": ["000001", "000002"]}
    assert "2 tasks of v2 ask another question than in v1" in compared.err
    same = project.ok("compare", "v1", "v1", "--json")
    assert same.json["asked_otherwise"]["count"] == 0
    assert "another question" not in same.err


def test_an_llm_gets_no_task_without_a_question(project: Project) -> None:
    config = {"model": "openai:gpt-4o-mini", "base_url": "http://127.0.0.1:9"}
    agent = {"kind": "agent", "spec": {"name": "a", "type": "llm", "config": config}}
    project.write("llm.yaml", yaml.safe_dump(agent))
    project.collection("asking", "./llm.yaml")
    project.collection("toys")
    lines = [{"task_id": "a", "question": "hi"}, {"task_id": "b", "prompt": "2 and 2?"}]
    file = project.write("tasks.jsonl", "".join(f"{json.dumps(each)}\n" for each in lines))
    done = project.run("send", "asking", "--file", str(file), "--run", "v2")
    assert (done.code, done.out) == (2, "")
    assert "tasks.jsonl:2: question: it is missing or empty" in done.err
    assert project.run("send", "asking", "").code == 2
    assert "question: it is missing" in project.run("try", "asking", "").err
    tried = project.run("try", "asking", "--task", f"{file}:2")
    assert (tried.code, "question: it is missing" in tried.err) == (2, True)
    assert project.ok("runs", "--json").json == {"runs": []}
    assert project.ok("send", "toys", "--file", str(file), "--json").json["accepted"] == 2


def test_help_of_compare_says_what_its_exit_code_5_means(project: Project) -> None:
    assert "5 B is worse than A beyond chance" in " ".join(project.ok("compare", "-h").out.split())


UNKNOWN = (
    ("tail", "--run", "vx2", "--timeout", "0.1", "--from", "beginning"),
    ("why", "--run", "vx2"),
    ("cancel", "--run", "vx2"),
    ("dead", "list", "--run", "vx2"),
    ("dead", "drop", "--run", "vx2", "--yes"),
    ("dead", "replay", "--run", "vx2", "--yes"),
)
OF_RESULTS = (
    ("report", "--run", "vx2"),
    ("compare", "vx1", "vx2"),
    ("compare", "vx2", "vx1"),
    ("retry", "--run", "vx2"),
)


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_an_unknown_run_is_no_success(project: Project) -> None:
    project.collection()
    project.ok("send", "toys", "--file", project.tasks("echo one", "raise it"), "--run", "vx1")
    lists_tasks = not project.environ["AGENTPIPE_BROKER"].startswith("amqp")
    shown = project.run("runs", "show", "vx2")
    for command in UNKNOWN:
        done = project.run(*command)
        if command[0] in ("why", "cancel") and not lists_tasks:
            assert "did you mean 'vx1'?" in done.err
            continue
        assert (done.code, done.out) == (shown.code, ""), (command, done)
        assert "no run 'vx2' on this broker: did you mean 'vx1'?" in done.err
        known = [word.replace("vx2", "vx1") for word in command]
        assert "no run" not in project.run(*known).err
    early = project.run("report", "--run", "vx1")
    project.burst("--processes", "1")
    for command in OF_RESULTS:
        done = project.run(*command, "--json")
        assert (done.code, done.out) == (2, ""), (command, done)
        assert "no run 'vx2' on this broker: did you mean 'vx1'?" in done.err
    assert "no run" not in early.err
    for option in ("--run", "--collection"):
        wrong = project.run("export", "--to", "jsonl", option, "vx2", "-")
        assert (wrong.code, wrong.out) == (2, ""), wrong
        assert "'vx2'" in wrong.err
    assert project.ok("export", "--to", "jsonl", "--run", "vx1", "-").out


@pytest.mark.long
def test_a_run_is_known_by_whatever_is_left_of_it(project: Project) -> None:
    project.collection()
    project.send({"task_id": "sent/a", "run": "sent", "question": "echo one"})
    assert project.ok("why", "--run", "sent").out
    project.burst("--processes", "1")
    assert project.ok("tail", "--run", "sent", "--from", "beginning", "--timeout", "0.1").out
    project.ok("send", "toys", "echo two", "--run", "v1")
    project.ok("runs", "drop", "v1", "--yes")
    assert project.ok("cancel", "--run", "v1").out == "1 cancelled, 0 running ones signalled\n"
    # Only an archive, without a broker.
    alone = project.folder / "alone"
    alone.mkdir()
    unset = {"AGENTPIPE_BROKER": "", "AGENT_COLLECTION_CONFIG_FILE": ""}
    options = ("export", "--to", "jsonl", "-", "--run")
    assert project.ok(*options, "sent", folder=alone, env=unset).out
    assert project.run(*options, "snet", folder=alone, env=unset).code == 2
    assert not (alone / ".agentpipe").exists()


@pytest.mark.long
def test_a_run_may_be_followed_before_it_is_sent(project: Project) -> None:
    project.collection()
    project.ok("send", "toys", "echo one", "--run", "v1")
    tail = project.start("tail", "--run", "v3", "--limit", "1", "--json")
    assert tail.stderr is not None
    assert "no run 'v3' on this broker" in tail.stderr.readline()
    project.ok("send", "toys", "echo two", "--run", "v3")
    project.burst("--processes", "1")
    out, _ = tail.communicate(timeout=60)
    assert (tail.returncode, json.loads(out)["run"]) == (0, "v3")


@pytest.mark.long
@pytest.mark.every_broker(but=("sqlite", "redis"))
def test_of_a_trimmed_run_that_nothing_counts_nothing_is_said(project: Project) -> None:
    project.collection()
    project.ok("send", "toys", "--file", project.tasks("echo one", "raise it"), "--run", "v1")
    project.burst("--processes", "1")
    assert project.ok("runs", "--json").json["runs"][0]["done"] == 2
    project.ok("archive", "trim", "--run", "v1", "--yes")
    (after,) = project.ok("runs", "--json").json["runs"]
    assert (after["tasks"], after["done"], after["outcomes"]) == (2, None, None)


@pytest.mark.long
@pytest.mark.every_broker(but=("rabbitmq",), long=("redis",))
def test_a_trimmed_run_is_not_one_that_never_began(project: Project) -> None:
    project.collection()
    project.ok("send", "toys", "--file", project.tasks("echo one", "raise it"), "--run", "v1")
    project.burst("--processes", "1")
    (before,) = project.ok("runs", "--json").json["runs"]
    assert (before["done"], before["archived"]) == (2, 2)
    project.ok("archive", "trim", "--run", "v1", "--yes")
    done = project.ok("runs")
    assert "run v1: 2 of its 2 results are not in the archive: trimmed, or not" in done.err
    (after,) = project.ok("runs", "--json").json["runs"]
    assert (after["done"], after["archived"], after["outcomes"]) == (2, 0, before["outcomes"])
    assert "2 of its 2 results" in project.ok("status", "--run", "v1").err


@pytest.mark.long
def test_rows_that_make_no_sense_hide_no_others(project: Project) -> None:
    project.collection()
    for run in ("v1", "v2", "v3"):
        project.ok("send", "toys", f"echo {run}", "--run", run, "--budget-usd", "5")
    path = project.environ["AGENTPIPE_BROKER"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE runs SET record = '{broken' WHERE name = 'v1'")
        db.execute("UPDATE runs SET tasks = 'many' WHERE name = 'v2'")
        db.execute("UPDATE runs SET record = CAST(record AS TEXT) WHERE name = 'v3'")
        db.execute("UPDATE budgets SET usd = 'much' WHERE name = 'v2'")
    project.burst("--processes", "1")
    done = project.ok("runs")
    assert "runs that cannot be read: 1 in the broker's store, left out" in done.err
    assert "the record of run v1 cannot be read" in done.err
    found = {each["name"]: each for each in project.ok("runs", "--json").json["runs"]}
    assert {name: each["collection"] for name, each in found.items()} == {"v1": None, "v3": "toys"}
    project.ok("runs", "show", "v1")
    assert {each["run"] for each in project.stats()["budgets"]} == {"v1", "v3"}
    assert "budgets that cannot be read: 1" in project.ok("status").err


@pytest.mark.long
def test_resume_says_what_it_makes_and_what_stays_held(project: Project) -> None:
    project.collection(number=2)
    project.ok("send", "toys", "pay 1")
    made = project.ok("resume", "toys", "--budget-usd", "0.5")
    assert made.out == "2 agents resumed\n"
    assert "collection toys has a budget of $0.50 from now on, where it had none" in made.err
    assert "from now on" not in project.ok("resume", "toys", "--budget-usd", "0.6").err
    project.burst("--processes", "1")
    held = project.ok("resume", "toys")
    assert held.out == "0 agents resumed, 2 still held\n"
    assert "still held: the budget is spent: $1.00 of $0.60" in held.err
    assert "agentpipe resume toys --budget-usd USD allows more" in held.err
