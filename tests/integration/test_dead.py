"""``agentpipe dead``: what operators do with dead letters."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.settings import Settings
from tests.stores import claim_up_to, open_any
from tests.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.project import Done, Project
    from tests.stores import AnyStore

MEBIBYTE = 1024 * 1024


@pytest.fixture
def graveyard(project: Project) -> Project:
    """A project with five dead letters: three of one kind, two of another."""
    project.collection(max_retries=0, max_queue_size=10)
    project.collection("others", max_retries=0)
    project.send(*[{"task_id": f"away-{n}", "question": "infra"} for n in range(3)])
    project.send(*[{"task_id": f"no-{n}", "question": "refused"} for n in range(2)], to="others")
    done = project.burst("--processes", "1")
    assert "5 dead letters now; see: agentpipe dead list" in done.err
    return project


def ids(done: Done) -> list[str]:
    return sorted(letter["task_id"] for letter in done.json["dead"])


@pytest.mark.long
@pytest.mark.every_broker
def test_letters_are_filtered_paged_and_grouped(graveyard: Project) -> None:
    everything = graveyard.ok("dead", "list", "--json").json
    assert (len(everything["dead"]), everything["next"], everything["total"]) == (5, None, 5)
    assert ids(graveyard.ok("dead", "list", "--collection", "others", "--json")) == ["no-0", "no-1"]
    away = graveyard.ok("dead", "list", "--error", "infraerror", "--newer-than", "1h", "--json")
    assert ids(away) == ["away-0", "away-1", "away-2"]
    assert ids(graveyard.ok("dead", "list", "--older-than", "1h", "--json")) == []
    assert ids(graveyard.ok("dead", "list", "--outcome", "crashed", "--json")) == []
    assert len(graveyard.ok("dead", "list", "--newer-than", "2020-01-01T00:00Z").out) > 200
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = graveyard.ok("dead", "list", "--limit", "2", "--after", after, "--json")
        seen += ids(page)
        after = page.json["next"]
    assert sorted(seen) == ids(graveyard.ok("dead", "list", "--json"))
    groups = graveyard.ok("dead", "list", "--group-by", "error", "--json").json
    assert groups["total"] == 5
    assert [(group["count"], group["error"]) for group in groups["groups"]] == [
        (3, "InfraError: away for good"),
        (2, "ConnectionRefusedError: nobody listens"),
    ]
    assert groups["groups"][0]["example"].startswith("away-")
    assert groups["groups"][0]["first"] <= groups["groups"][0]["last"]


def test_people_are_told_how_to_go_on(graveyard: Project) -> None:
    first = graveyard.ok("dead", "list", "--limit", "2")
    assert len(first.out.splitlines()) == 2
    assert "2 of 5 shown; for the next: --after " in first.err
    place = first.err.split()[-1]
    rest = graveyard.ok("dead", "list", "--after", place)
    assert (len(rest.out.splitlines()), rest.err) == (3, "")
    said = graveyard.ok("dead", "list", "--group-by", "error").out
    assert said.startswith("      3  infra_error  InfraError: away for good\n")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["list", "--outcome", "crash"], "crashed"),
        (["list", "--older-than", "soon"], "10m, 3h or 2d"),
        (["list", "--newer-than", "2026-01-31"], "2026-01-31T08:00Z"),
        (["list", "--limit", "0"], "at least 1"),
        (["list", "--after", "nowhere"], "does not come from a page"),
        (["replay"], "--all"),
        (["replay", "a", "--all"], "--all"),
        (["drop", "a", "--error", "x"], "--all"),
    ],
)
def test_what_makes_no_sense_is_refused(project: Project, arguments: list[str], word: str) -> None:
    project.collection()
    done = project.run("dead", *arguments)
    assert (done.code, word in done.err, "Traceback" in done.err) == (2, True, False)


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_replay_and_drop_by_filter_leave_the_others(graveyard: Project) -> None:
    done = graveyard.ok("dead", "replay", "--error", "away", "--to", "others", "--json").json
    assert (done["replayed"], done["refused"], done["failed"]) == (3, 0, 0)
    assert ids(graveyard.ok("dead", "list", "--json")) == ["no-0", "no-1"]
    graveyard.ok("purge")
    results = graveyard.by_id()
    replays = [results[task_id] for task_id in done["task_ids"]]
    assert sorted(each["replay_of"] for each in replays) == ["away-0", "away-1", "away-2"]
    assert {each["collection"] for each in replays} == {"others"}
    dropped = graveyard.ok("dead", "drop", "--collection", "others", "--json").json
    assert dropped == {"dropped": 2}
    assert ids(graveyard.ok("dead", "list", "--json")) == []


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_what_finds_no_room_stays_and_is_counted(graveyard: Project) -> None:
    graveyard.collection("narrow", max_queue_size=2)
    some = graveyard.run("dead", "replay", "--all", "--to", "narrow", "--json")
    assert some.code == 5
    assert (some.json["replayed"], some.json["refused"]) == (2, 3)
    assert len(ids(graveyard.ok("dead", "list", "--json"))) == 3
    none = graveyard.run("dead", "replay", "--all", "--to", "narrow")
    assert (none.code, none.out) == (3, "0 replayed, 3 refused\n")
    assert "3 remain dead letters" in none.err
    waiting = graveyard.start("dead", "replay", "--all", "--to", "narrow", "--on-full", "wait")
    graveyard.work("--processes", "1")
    assert waiting.communicate(timeout=60)[0] == "3 replayed, 0 refused\n"
    # The replays fail again, so there are five new letters.
    wait_until(lambda: graveyard.stats()["dead"] == 5, 30, "all replays are dead")


def test_an_unknown_collection_keeps_the_letters(graveyard: Project) -> None:
    done = graveyard.run("dead", "replay", "--all", "--to", "nobody")
    assert (done.code, "declare it first" in done.err) == (2, True)
    assert len(ids(graveyard.ok("dead", "list", "--json"))) == 5


@pytest.mark.long
def test_a_letter_is_shown_within_80_columns_and_harmless(project: Project) -> None:
    project.collection(max_retries=0)
    question = f"refused \x1b[2J[red]{'long ' * 400}\x07\nsecond"
    project.send({"task_id": "t", "question": question, "metadata": {"n": 1}})
    project.burst("--processes", "1")
    shown = project.ok("dead", "show", "t").out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert all(character.isprintable() or character == "\n" for character in shown)
    for words in ("infra_error, attempt 1", "ConnectionRefusedError: nobody", "toys.py", "trace"):
        assert words in shown
    for words in ("\\x1b[2J[red]", "more lines: see --json", '{"n":1}', "toys_0 of toys"):
        assert words in shown
    (whole,) = project.ok("dead", "show", "t", "--json").json["dead"]
    assert whole["task"]["question"] == question
    assert whole["result"]["error"]["traceback"]


# Dies after a replay was accepted, before its letter is dropped.

REPLAY = textwrap.dedent("""
    import os, signal
    from agentpipe.brokers import open_store
    from agentpipe.brokers.dead_letter import DeadFilter
    from agentpipe.operations.dead_letters import pages
    from agentpipe.operations.replay import Replay
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.settings import Settings

    store = open_store(Settings.from_env(os.environ))
    drop = store.drop_dead
    def drop_some(task_ids):
        drop(task_ids[:1])  # One is dropped, and the others are not.
        os.kill(os.getpid(), signal.SIGKILL)
    store.drop_dead = drop_some
    Replay(store, Dispatcher(store)).run(pages(store, DeadFilter()))
""")


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_replay_that_was_killed_is_repeated_and_runs_nothing_twice(
    graveyard: Project, broker_url: str
) -> None:
    killed = graveyard.run("-c", REPLAY)
    assert killed.code == -signal.SIGKILL, killed
    wait_until(lambda: graveyard.stats()["dead"] > 0, 10, "what it had looked at is back")
    before = len(ids(graveyard.ok("dead", "list", "--json")))
    assert 0 < before < 5
    again = graveyard.ok("dead", "replay", "--all", "--json").json
    assert (again["replayed"], again["refused"]) == (before, 0)
    assert ids(graveyard.ok("dead", "list", "--json")) == []
    graveyard.burst("--processes", "1")
    results = graveyard.by_id()
    replays = Counter(each["replay_of"] for each in results.values() if each["replay_of"])
    assert replays == dict.fromkeys(["away-0", "away-1", "away-2", "no-0", "no-1"], 1)
    if not broker_url.startswith("amqp"):  # RabbitMQ remembers no ids.
        starts = Counter(entry["task_id"] for entry in graveyard.journal("started"))
        assert set(starts.values()) == {1}


def test_a_letter_of_an_id_that_dies_again_has_a_replay_of_its_own(project: Project) -> None:
    project.collection()
    with closing(project.open_store()) as store:
        _bury(store, ["again"], "toys_0", "toys")
        first = project.ok("dead", "replay", "again", "--json").json["task_ids"]
    with closing(sqlite3.connect(project.folder / "store" / "broker.db")) as db:
        db.execute("DELETE FROM tasks WHERE id = 'again'")  # Stands for the retention time's end.
        db.commit()
    with closing(project.open_store()) as store:
        _bury(store, ["again"], "toys_0", "toys")
    assert project.ok("dead", "replay", "again", "--json").json["task_ids"] != first


def _bury(store: AnyStore, task_ids: list[str], queue: str, ring: str) -> None:
    payload = b'{"schema":1,"question":"echo hi"}'
    worker = Worker("undertaker", slots=10**6, lease_s=600, queues=frozenset({queue}))
    store.declare([Queue(queue, ring, max_waiting=10**6, concurrency=10**6)])
    store.join(worker)
    for first in range(0, len(task_ids), 1_000):
        part = task_ids[first : first + 1_000]
        offered = store.offer(queue, [Offer(each, payload) for each in part], round_robin=False)
        assert set(offered.verdicts) == {"accepted"}
        claims = {each.task_id: each for each in claim_up_to(10**6, store, worker)}
        assert all(store.settle([_burial(claims.pop(task_id)) for task_id in part]))
        store.settle([Settlement(each, "release") for each in claims.values()])
    store.leave(worker)


def _burial(claim: Any) -> Settlement:
    result = b'{"schema":1,"trace":"' + b"x" * 2_000 + b'"}'
    return Settlement(claim, "bury", result, "infra_error", f"HTTPError: 503 for {claim.task_id}")


@pytest.mark.long
def test_a_hundred_thousand_letters_do_not_fill_the_memory(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/broker.db?synchronous=normal"
    store = open_any(Settings(broker=url))
    with closing(store):
        _bury(store, [f"task-{number}" for number in range(100_000)], "crew_0", "crew")
    environ = {
        **os.environ,
        "AGENTPIPE_BROKER": url,
        "AGENTPIPE_SINK": f"sqlite:///{tmp_path}/none.db",
    }
    base = _peak_kib(environ, "list", "--limit", "1", "--json")
    assert _peak_kib(environ, "list", "--json") < base + 20 * 1024
    assert _peak_kib(environ, "list", "--group-by", "error", "--json") < base + 40 * 1024
    assert _peak_kib(environ, "drop", "--all", "--json") < base + 40 * 1024


def _peak_kib(environ: dict[str, str], *args: str) -> int:
    """The peak memory of one command."""
    command = [sys.executable, "-m", "agentpipe", "dead", *args]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert isinstance(usage, resource.struct_rusage)
    return usage.ru_maxrss


# On a terminal.


def _on_terminal(project: Project, answer: str, *args: str) -> tuple[int, str]:
    """The exit code and the prompt."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "agentpipe", "dead", *args],
        stdin=its,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=project.environ,
        cwd=project.folder,
        text=True,
    )
    os.close(its)
    os.write(ours, f"{answer}\n".encode())
    _, err = process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, err


@pytest.mark.long
def test_on_a_terminal_more_than_a_few_want_a_yes(graveyard: Project) -> None:
    code, asked = _on_terminal(graveyard, "n", "drop", "--all")
    assert (code, "drop 5 dead letters? [y/N]" in asked) == (1, True)
    assert len(ids(graveyard.ok("dead", "list", "--json"))) == 5
    code, asked = _on_terminal(graveyard, "n", "drop", "away-0")
    assert (code, asked) == (0, "")
    code, asked = _on_terminal(graveyard, "", "replay", "--all", "--yes")
    assert (code, "[y/N]" in asked) == (0, False)
    assert json.loads(graveyard.ok("dead", "list", "--json").out)["dead"] == []
