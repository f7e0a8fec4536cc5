"""Runs at their edges: what a sender meant otherwise is said before it costs anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from tests.integration.project import Project


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
    assert project.ok("runs", "--json").json == {"runs": []}
    assert project.ok("send", "toys", "--file", str(file), "--json").json["accepted"] == 2


def test_help_of_compare_says_what_its_exit_code_5_means(project: Project) -> None:
    assert "5 B is worse than A beyond chance" in " ".join(project.ok("compare", "-h").out.split())
