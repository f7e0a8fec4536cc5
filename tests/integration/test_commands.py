"""The commands, as people and scripts use them."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from agentpipe.connections.sqlite_address import is_absent
from tests.support import slowness, wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project


@pytest.fixture
def served(project: Project) -> Project:
    """A project with a worker in the background."""
    project.collection(number=2, max_queue_size=5)
    project.work("--processes", "1").ready(1)
    wait_until(lambda: not is_absent(project.environ["AGENTPIPE_SINK"]), 30, "results have a file")
    return project


@pytest.mark.long
def test_send_waits_for_results_and_its_exit_code_tells_how_they_are(served: Project) -> None:
    good = served.run("send", "toys", "echo hi", "--wait", "--json", "--metadata", "run=7")
    assert good.code == 0
    assert (good.json["result"], good.json["metadata"]) == ("hi", {"run": "7"})
    assert served.run("send", "toys", "echo hi", "--wait").out == "hi\n"
    bad = served.run("send", "toys", "raise a bug", "--wait")
    assert bad.code == 1
    assert bad.out == "agent_error: a bug\n"
    file = served.tasks("echo hi", "raise a bug", name="mixed.jsonl")
    mixed = served.run("send", "toys", "--file", file, "--wait", "--json")
    assert mixed.code == 5
    assert Counter(result["outcome"] for result in mixed.lines) == {"ok": 1, "agent_error": 1}
    again = served.run("send", "toys", "--file", file, "--wait", "--json")
    assert again.code == 5
    assert {result["task_id"] for result in again.lines} == {"mixed-0", "mixed-1"}
    assert len([e for e in served.journal("started") if e["task_id"] == "mixed-0"]) == 1
    begun = time.monotonic()
    late = served.run("send", "toys", "sleep 60", "--wait", "--timeout", "0.5")
    assert (late.code, late.out) == (1, "")
    assert "1 of 1 tasks have no result yet" in late.err
    assert time.monotonic() - begun < 10 * slowness()


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_send_may_wait_for_room_and_reads_from_stdin(served: Project) -> None:
    lines = "\n".join(f'"echo {number}"' for number in range(60)) + "\n\n"
    sent = served.ok("send", "toys", "--file", "-", "--on-full", "wait", "--json", stdin=lines)
    assert sent.json["accepted"] == 60
    assert sent.json["refused"] == 0
    served.until(delivered=60)
    assert {result["result"] for result in served.results()} == {str(n) for n in range(60)}


@pytest.mark.long
def test_a_file_sent_twice_adds_only_what_is_missing(project: Project) -> None:
    project.collection(max_queue_size=3)
    file = project.tasks(*["echo hi"] * 4)
    first = project.run("send", "toys", "--file", file, "--json")
    assert first.code == 5
    assert first.json == {
        "accepted": 3,
        "duplicates": 0,
        "refused": 1,
        "task_ids": ["tasks-0", "tasks-1", "tasks-2"],
    }
    project.burst("--processes", "1")
    second = project.ok("send", "toys", "--file", file, "--json").json
    assert (second["accepted"], second["duplicates"], second["task_ids"]) == (1, 3, ["tasks-3"])
    third = project.ok("send", "toys", "--file", file)
    assert third.out == "0 accepted, 4 duplicates, 0 refused\n"


@pytest.mark.long
def test_tail_follows_filters_and_resumes(project: Project) -> None:
    project.collection()
    project.collection("others")
    project.send("echo one", "raise two", "echo three", "echo four")
    project.ok("send", "others", "echo five")
    project.burst("--processes", "1")
    from_begin = ("--from", "beginning", "--timeout", "0")
    assert len(project.results()) == 5
    assert [r["outcome"] for r in project.tail("--outcome", "agent_error")] == ["agent_error"]
    assert [r["result"] for r in project.tail("--collection", "others")] == ["five"]
    assert len(project.ok("tail", *from_begin, "--limit", "2").out.splitlines()) == 2
    assert project.ok("tail", "--timeout", "0").out == ""
    seen = [
        result["task_id"]
        for limit in ("2", "1", "9")
        for result in project.tail("--group", "trainer", "--limit", limit)
    ]
    assert len(seen) == len(set(seen)) == 5
    assert len(project.tail("--group", "notebook")) == 5


def test_tail_shows_what_comes_until_it_is_interrupted(served: Project) -> None:
    tail = served.start("tail", "--limit", "3")
    quiet = served.start("tail", "--outcome", "crashed")
    served.send("echo before")  # Can arrive before the reader; the limit works either way.
    served.until(delivered=1)
    numbers = iter(range(100))

    def answered() -> bool:
        served.ok("send", "toys", f"echo {next(numbers)}", "--wait")
        return tail.poll() is not None

    wait_until(answered, 30, "tail has shown three results")
    out, err = tail.communicate()
    assert (tail.returncode, len(out.splitlines()), err) == (0, 3, "")
    quiet.send_signal(2)
    out, err = quiet.communicate(timeout=60)
    assert (quiet.returncode, out, err) == (130, "", "")


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_purge_answers_what_waits_with_cancelled(project: Project) -> None:
    project.collection()
    project.collection("others")
    project.send("echo one", {"task_id": "mine", "question": "echo", "metadata": {"n": 1}})
    project.ok("send", "others", "echo stays")
    assert project.ok("purge", "toys", "--json").json == {"purged": 2}
    results = project.by_id()
    assert {result["outcome"] for result in results.values()} == {"cancelled"}
    assert results["mine"]["metadata"] == {"n": 1}
    project.until(waiting=1, delivered=2)
    assert project.ok("purge", "--json").json == {"purged": 1}
    assert project.journal() == []


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [
        ("purge", "tois"),
        ("report", "--collection", "tois"),
        ("tail", "--from", "beginning", "--collection", "tois"),
    ],
)
def test_a_misspelt_collection_is_refused_with_the_nearest_name(
    project: Project, command: tuple[str, ...]
) -> None:
    project.collection()
    project.send("echo hi")
    project.burst("--processes", "1")
    done = project.run(*command)
    assert done.code == 2
    assert "no collection 'tois' in" in done.err
    assert "did you mean 'toys'?" in done.err


@pytest.mark.long
def test_a_collection_that_has_left_its_file_is_known_by_its_tasks_and_results(
    project: Project,
) -> None:
    project.collection("toys")
    project.collection("others")
    project.send("echo hi", to="others")
    project.burst("--processes", "1")
    (project.folder / "collection.yaml").unlink()
    project.collection("toys")
    read = ("tail", "--from", "beginning", "--timeout", "0")
    assert len(project.ok(*read, "--collection", "others", "--json").lines) == 1
    for file in (project.folder / "store").iterdir():
        file.unlink()
    assert project.ok("report", "--collection", "others", "--json").json["results"] == 1
    project.send("echo hi")  # A new broker, which does not know it either.
    assert project.ok("purge", "others", "--json").json == {"purged": 0}


def test_without_a_collection_file_any_name_passes(project: Project) -> None:
    del project.environ["AGENT_COLLECTION_CONFIG_FILE"]
    assert project.ok("purge", "tois", "--json").json == {"purged": 0}


def test_a_purged_task_is_settled(project: Project) -> None:
    project.collection()
    project.send({"task_id": "mine", "question": "echo"})
    project.ok("purge")
    assert project.ok("status", "--json").json["outcomes"] == {"cancelled": 1}
    sent = project.ok("send", "toys", "--file", project.tasks({"task_id": "mine"}), "--json").json
    assert sent["duplicates"] == 1


MISTAKEN = """\
kind: collection
spec:
  name: first
  config: ./agent.yaml
  number: 1000000000
  context: [{env: {A: "${UNSET_ONE}", B: 80}}]
---
kind: collection
spec: {name: first, config: ./none.yaml, isolation: thred}
---
kind: collection
spec:
  name: third
  config: ./second.yaml
  context:
    - env: {A: "${UNSET_TWO}"}
    - env: {A: "${UNSET_THREE}"}
  schedule:
    - {cron: "0 3 * * *", tasks: tasks.jsonl}
    - {cron: "0 3 * * *", tasks: taks.jsonl, name: again}
    - {cron: "0 3 * * *", tasks: 3}
---
kind: collection
spec: {name: fourth, config: ./third.yaml}
---
kind: collection
spec: {name: fifth, config: ./third.yaml}
"""


def test_check_finds_everything_at_once(project: Project) -> None:
    project.write("collection.yaml", MISTAKEN)
    project.write("second.yaml", "kind: agent\nspec: {name: a, type: pythn}\n")
    project.write(
        "third.yaml",
        'kind: agent\nspec: {name: a, type: python, config: {class: "toys:Toi"}}\n',
    )
    project.write("tasks.jsonl", '{"question": "echo"}\nnonsense\n')
    done = project.run("check", "--json", "--broker", "sqlit:///x.db")
    assert (done.code, done.json["ok"]) == (2, False)
    found = [(each["file"], each["line"], each["message"]) for each in done.json["problems"]]
    expected = (
        ("collection.yaml", 5, "at most 100,000 per file"),
        ("collection.yaml", 6, "spec.context[0].env.B: expected a string"),
        ("collection.yaml", 9, "did you mean 'thread'"),
        ("collection.yaml", 9, "choose another"),
        ("collection.yaml", 9, "none.yaml"),
        ("collection.yaml", 16, "UNSET_TWO"),
        ("collection.yaml", 17, "UNSET_THREE"),
        ("collection.yaml", 20, "did you mean 'tasks.jsonl'"),
        ("collection.yaml", 21, "spec.schedule[2].tasks: expected a string"),
        ("second.yaml", 2, "did you mean 'python'"),
        ("third.yaml", 2, "did you mean 'Toy'"),
        ("tasks.jsonl", 2, "not JSON"),
        (None, None, "did you mean 'sqlite'"),
    )
    assert len(found) == len(expected), found
    for (file, line, message), (name, at, words) in zip(found, expected, strict=True):
        assert (str(file or "None").endswith(str(name)), line) == (True, at), (file, line)
        assert words in message
    assert "\n13 problems\n" in project.run("check", "--broker", "sqlit:///x.db").out


def test_check_is_content_with_what_is_right(project: Project) -> None:
    project.collection()
    assert project.ok("check", "--json").json == {"ok": True, "problems": [], "notes": []}
    away = project.run("check", "--json", "--sink", "sqlite:////dev/null/x.db")
    assert (away.code, len(away.json["problems"])) == (4, 1)


def test_status_tells_people_what_it_tells_scripts(served: Project) -> None:
    served.send("sleep 60", "sleep 60", "echo waits")
    served.until(running=2)
    status = served.ok("status", "--json").json
    assert [agent["queue"] for agent in status["agents"]] == ["toys_0", "toys_1"]
    assert sum(agent["waiting"] for agent in status["agents"]) == 1
    assert {agent["limit"] for agent in status["agents"]} == {5}
    assert [worker["running"] for worker in status["workers"]] == [2]
    shown = served.ok("status").out
    for word in ("accepted 3", "waiting 1", "running 2", "toys_0", "running 2/2"):
        assert word in shown


def test_help_has_examples_and_the_exit_codes(project: Project) -> None:
    for shown in (project.ok("help", "send").out, project.ok("send", "--help").out):
        assert "agentpipe send evals --file tasks.jsonl" in shown
        assert "5 partly" in shown
    assert "replay" in project.ok("help", "dead").out
    assert "5 partly" in project.ok("dead", "replay", "--help").out
    assert project.run("help", "sent").code == 2


@pytest.mark.long
def test_an_answer_in_any_script_is_printed_on_an_ascii_terminal(project: Project) -> None:
    project.collection()
    project.send("echo Ω и 話")
    project.burst()
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    shown = project.ok("tail", "--from", "beginning", "--timeout", "0", env=ascii_only).out
    assert "\\u03a9 \\u0438 \\u8a71" in shown


def test_duplicates_of_a_file_are_named(project: Project) -> None:
    project.collection()
    file = project.tasks(*["echo a"] * 8, name="eight.jsonl")
    project.ok("send", "toys", "--file", file)
    again = project.ok("send", "toys", "--file", file)
    named = ", ".join(f"eight-{number}" for number in range(5))
    assert f"known already, not sent again: {named} and 3 more" in again.err


def test_a_broker_without_a_scheme_is_refused_with_the_name_of_its_variable(
    project: Project,
) -> None:
    refused = project.run("status", env={"AGENTPIPE_BROKER": "localhost:6379"})
    assert refused.code == 2
    assert "AGENTPIPE_BROKER" in refused.err
