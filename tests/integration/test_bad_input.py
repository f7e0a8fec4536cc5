"""Mistakes get a message with place and remedy; malicious input is refused, and workers survive."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import dramatiq
import orjson
import pika
import pytest

from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.brokers.records import Offer
from agentpipe.config.collection import load
from agentpipe.core.caps import MAX_RECORD_BYTES
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record

if TYPE_CHECKING:
    from tests.integration.project import Done, Project

HEAD = "kind: collection\nspec:\n  name: toys\n  config: ./agent.yaml\n"
ALIASES = "a0: &a0 [x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9)
)
COLLECTIONS: dict[str, tuple[str | bytes, int, tuple[str, ...]]] = {
    "a duplicate key": (HEAD + "  name: other\n", 5, ("name", "line 3")),
    "an alias bomb": (ALIASES, 2, ("aliases",)),
    "deep nesting": (HEAD + "  context: " + "[" * 60 + "]" * 60 + "\n", 5, ("50",)),
    "a number in env": (HEAD + "  context:\n  - env: {PORT: 8080}\n", 6, ("env.PORT", "quotes")),
    "names that clash": (HEAD + "---\n" + HEAD, 8, ("'toys'", "choose another")),
    "number: 0": (HEAD + "  number: 0\n", 5, ("number", "from 1")),
    "a misspelt key": (HEAD + "  max_queue_sise: 5\n", 5, ("did you mean 'max_queue_size'",)),
    "a wrong kind": ("kind: colection\nspec: {}\n", 1, ("did you mean 'collection'",)),
    "an agent config": ("kind: agent\nspec: {name: a, type: b}\n", 1, ("agent config",)),
    "no YAML": (HEAD + "\tnumber: 1\n", 5, ("not YAML",)),
    "no UTF-8": (HEAD.encode() + b"  # \xff\n", 5, ("UTF-8",)),
    "a NUL": (HEAD.encode() + b"# \0\n", 5, ()),
    "no document": ("# nothing\n", 1, ("document",)),
    "no agent config": (
        HEAD.replace("agent.yaml", "agnet.yaml"),
        4,
        ("agnet.yaml", "did you mean 'agent.yaml'"),
    ),
    "an isolation that is none": (HEAD + "  isolation: fiber\n", 5, ("process, thread",)),
    "a cron line that is none": (
        HEAD + "  schedule:\n  - {cron: x 3 * * *, tasks: agent.yaml}\n",
        6,
        ("invalid cron line 'x 3 * * *'", "minute"),
    ),
    "a text for a number": (HEAD + "  concurrency: many\n", 5, ("an integer",)),
    "a limit that is none": (HEAD + "  time_limit: .nan\n", 5, ("seconds",)),
    "a name that is none": (HEAD.replace("toys", "to/ys"), 3, ("letter",)),
}
CONFIG = "kind: agent\nspec:\n  name: toy\n  type: python\n  config:\n    class: toys:Toy\n"
AGENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no such module": (CONFIG.replace("toys:Toy", "toyz:Toy"), ("toyz", "did you mean 'toys'")),
    "no such class": (CONFIG.replace("toys:Toy", "toys:Toi"), ("did you mean", "Toy")),
    "no method": (CONFIG.replace("toys:Toy", "toys:Journal"), ("execute",)),
    "no such engine": (CONFIG.replace("python", "pyton"), ("did you mean 'python'",)),
    "a misspelt argument": (CONFIG + "    journl: x\n", ("did you mean 'journal'",)),
    "a missing argument": (CONFIG, ("journal",)),
    "a broken module": (
        CONFIG.replace("toys:Toy", "broken:Toy"),
        ("ZeroDivisionError", "broken.py:2"),
    ),
    "no class": ("kind: agent\nspec: {name: toy, type: python, config: {}}\n", ("class:",)),
}


def _tasks() -> dict[str, tuple[str, ...]]:
    """Lines of a task file, one of 65 MiB, and what is said of them."""
    return {
        '{"question": "ok"}': (),
        '{"question": NaN}': ("not JSON",),
        '{"question": "\\u0000"}': ("question", "NUL"),
        '{"question": "half': ("not JSON",),
        '{"questoin": "x"}': ("did you mean 'question'",),
        '{"question": 5}': ("question", "a string"),
        "[1]": ("object",),
        '{"metadata": ' + '{"a":' * 60 + "1" + "}" * 61: ("metadata", "50"),
        '{"question": "x", "deadline": "2030-01-01"}': ("deadline", "zone"),
        '{"question": "x", "evaluators": [{"func": "jsn"}]}': ("evaluators[0]", "json"),
        '{"question": "x", "evaluators": [{"func": "toys:brokn_judge"}]}': (
            "evaluators[0]",
            "toys.py has no 'brokn_judge': did you mean 'broken_judge'?",
        ),
        '{"question": "x", "evaluators": [{"func": "toyz:f"}]}': ("no module 'toyz'", "'toys'"),
        '{"question": "' + "x" * 11_000_000 + '"}': ("11,000,", "10,485,760"),
        '{"question": "' + "x" * 65 * 1024**2 + '"}': ("longer than",),
        "{}, {}": ("not JSON",),
    }


def _assert_refused(done: Done) -> None:
    assert done.code == 2, done
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.mark.parametrize("case", COLLECTIONS)
def test_a_wrong_collection_is_refused_with_its_line(project: Project, case: str) -> None:
    file = project.write("collection.yaml", COLLECTIONS[case][0])
    with pytest.raises(ConfigError) as caught:
        load(file)
    _assert_told(case, str(caught.value))


@pytest.mark.parametrize("case", ["an alias bomb", "no UTF-8", "a misspelt key"])
def test_a_command_refuses_a_wrong_collection(project: Project, case: str) -> None:
    project.write("collection.yaml", COLLECTIONS[case][0])
    done = project.run("send", "toys", "echo hi")
    _assert_refused(done)
    _assert_told(case, done.err)


def _assert_told(case: str, said: str) -> None:
    _, line, words = COLLECTIONS[case]
    assert f"collection.yaml:{line}: " in said
    for word in words:
        assert word in said


def test_wrong_agent_configs_are_refused_before_any_worker_starts(project: Project) -> None:
    project.write("broken.py", "# A mistake:\n1/0\n")
    for number, (content, _) in enumerate(AGENTS.values()):
        project.write(f"agent-{number}.yaml", content)
        project.collection(f"toys-{number}", f"./agent-{number}.yaml")
    done = project.run("work", "--burst")
    _assert_refused(done)
    for number, (_, words) in enumerate(AGENTS.values()):
        told = "".join(line for line in done.err.splitlines() if f"agent-{number}.yaml:" in line)
        assert all(word in told for word in words), (words, done.err)


def test_missing_variables_are_listed_at_once_and_values_never_shown(project: Project) -> None:
    env = {"GONE": "${GONE}", "LOST": "x${LOST}", "FILE": "${file:/no/such}", "HERE": "${HERE}"}
    project.collection(context=[{"env": env}])
    for command in (("work", "--burst"), ("check",)):
        done = project.run(*command, env={"HERE": "a-credential"})
        said = done.out + done.err
        assert done.code == 2
        assert all(name in said for name in ("GONE", "LOST", "/no/such"))
        assert "a-credential" not in said
        assert "Traceback" not in said
    project.ok("send", "toys", "echo hi")  # A sender needs no credentials.


def test_a_wrong_task_file_is_refused_whole_with_all_its_lines(project: Project) -> None:
    project.collection()
    tasks = _tasks()
    file = project.write("tasks.jsonl", "\n".join(tasks) + "\n")
    done = project.run("send", "toys", "--file", str(file))
    _assert_refused(done)
    told = dict(line.split(": ", 1) for line in done.err.splitlines() if "tasks.jsonl:" in line)
    for number, words in enumerate(tasks.values(), 1):
        message = told.pop(f"tasks.jsonl:{number}", "")
        assert bool(message) == bool(words)
        assert all(word in message for word in words), message
    assert told == {}
    assert project.stats()["accepted"] == 0
    done = project.run("send", "toys", "--file", "-", stdin='"one"\n"two"\nthree\n')
    _assert_refused(done)
    assert "stdin:3" in done.err
    assert f"{project.stats()['accepted']} tasks before it were accepted" in done.err


def test_wrong_words_on_the_command_line_are_refused(project: Project) -> None:
    project.collection()
    cases: list[tuple[tuple[str, ...], dict[str, str], str]] = [
        (("send", "toyz", "hi"), {}, "did you mean 'toys'"),
        (("send", "toys"), {}, "--file"),
        (("send", "toys", "hi", "--metadata", "x"), {}, "NAME=VALUE"),
        (("send", "toys", "--file", "none.jsonl"), {}, "none.jsonl"),
        (("send", "toys", "hi", "-c", "none.yaml"), {}, "none.yaml"),
        (("tail", "--limit", "0"), {}, "at least 1"),
        (("work", "--processes", "0"), {}, "at least 1"),
        (("status", "--broker", "sqlit:///x.db"), {}, "did you mean 'sqlite'"),
        (("status", "--broker", "sqlite:///x.db?sync=normal"), {}, "synchronous"),
        (("status",), {"AGENTPIPE_LEASE_S": "soon"}, "AGENTPIPE_LEASE_S"),
        (("nonsense",), {}, "nonsense"),
    ]
    for command, env, word in cases:
        done = project.run(*command, env=env)
        _assert_refused(done)
        assert word in done.err, (command, done.err)
    (project.folder / "empty").mkdir()
    unset = {"AGENT_COLLECTION_CONFIG_FILE": ""}
    project.ok("send", "toys", "hi", env=unset)  # Uses ./collection.yaml.
    nowhere = project.run("send", "toys", "hi", folder=project.folder / "empty", env=unset)
    _assert_refused(nowhere)
    assert "-c FILE" in nowhere.err
    away = project.run("status", "--broker", "sqlite:////dev/null/x.db")
    assert (away.code, "Traceback" in away.err) == (4, False)


FOREIGN: dict[str, Any] = {
    "args": [],
    "kwargs": {},
    "options": {},
    "message_id": "foreign",
    "message_timestamp": 0,
}
DEEP = b'{"a":' * 900 + b"1" + b"}" * 900
GARBAGE: dict[str, tuple[bytes, str]] = {
    "bytes": (b"\xff\xfe\x00", "not JSON"),
    "half": (b'{"schema": 1, "ques', "not JSON"),
    "deep": (b"[" * 1_000_000, "not JSON"),
    "nested": (b'{"schema": 1, "question": "hi", "metadata": ' + DEEP + b"}", "254 levels"),
    "nested options": (b'{"schema": 1, "question": "a", "dramatiq": ' + DEEP + b"}", "254 levels"),
    "nested list": (b'{"schema": 1, "evaluators": ' + DEEP + b"}", "254 levels"),
    "options of another type": (b'{"schema": 1, "question": "hi", "dramatiq": [7]}', "dramatiq"),
    "callback": (
        b'{"schema": 1, "question": "hi", "dramatiq": {"on_failure": "os:system"}}',
        "no actor 'os:system'",
    ),
    "callback of another type": (
        b'{"schema": 1, "question": "hi", "dramatiq": {"on_failure": ["toys_0"]}}',
        "on_failure",
    ),
    "retries": (b'{"schema": 1, "question": "hi", "dramatiq": {"retries": "many"}}', "retries"),
    "no retries": (
        orjson.dumps(FOREIGN | {"actor_name": "toys_0", "options": {"retries": None}}),
        "retries",
    ),
    "fewer retries": (b'{"schema": 1, "question": "a", "dramatiq": {"retries": -1}}', "retries"),
    "list": (b"[]", "list"),
    "bare": (b"{}", "schema None"),
    "newer": (b'{"schema": 99, "question": "hi"}', "schema 99"),
    "wrong": (b'{"schema": 1, "question": 5}', "question"),
    "stranger": (orjson.dumps(FOREIGN | {"actor_name": "nobody"}), "nobody"),
    "plain": (orjson.dumps(FOREIGN | {"actor_name": "toys_0"}), "plain message"),
    "stock": (
        dramatiq.Message("theirs", "their_actor", (), {}, {}).encode(),
        "their_actor",
    ),
    "broken": (orjson.dumps(FOREIGN | {"actor_name": 5}), "actor_name"),
}


@pytest.mark.long
@pytest.mark.every_broker
def test_what_nobody_can_read_dies_with_a_reason_and_the_worker_lives(project: Project) -> None:
    project.collection()
    project.send("echo first")
    store = project.open_store()
    offers = [Offer(name, payload) for name, (payload, _) in GARBAGE.items()]
    store.offer("toys", offers, round_robin=True)
    store.close()
    project.ok("send", "toys", "echo last")
    _assert_the_rest_flows(project)
    letters = {one["task_id"]: one for one in project.ok("dead", "list", "--json").json["dead"]}
    assert letters.keys() == GARBAGE.keys()
    for name, (_, reason) in GARBAGE.items():
        assert reason in letters[name]["reason"]
        assert letters[name]["outcome"] == "infra_error"
    shown = project.ok("dead", "show", *GARBAGE)
    assert all(character.isprintable() or character == "\n" for character in shown.out)
    assert len(project.ok("dead", "show", *GARBAGE, "--json").json["dead"]) == len(GARBAGE)
    refused = project.run("dead", "replay", "bytes")
    assert (refused.code, "Drop it" in refused.err) == (2, True)
    project.ok("dead", "drop", "--all")


def _assert_the_rest_flows(project: Project) -> None:
    done = project.burst("--processes", "1")
    assert "replaced" not in done.err
    assert "Traceback" not in done.err
    assert [result["outcome"] for result in project.results()].count("ok") == 2


@pytest.mark.long
@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True)
def test_what_others_put_into_a_queue_of_rabbitmq_dies_as_well(
    project: Project, broker_url: str
) -> None:
    url, _, prefix = broker_url.partition("?prefix=")
    project.collection(max_queue_size=50)
    project.send("echo first")
    queue = Topology(prefix).admission("toys_0", 50).name
    properties = pika.BasicProperties(headers={"agentpipe-id": 5, "agentpipe-crashes": "many"})
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        for payload, _ in GARBAGE.values():
            channel.basic_publish("", queue, payload)
        channel.basic_publish("", queue, b"marked", properties)
    project.ok("send", "toys", "echo last")
    _assert_the_rest_flows(project)
    reasons = {letter["reason"] for letter in project.ok("dead", "list", "--json").json["dead"]}
    assert project.stats()["dead"] == len(GARBAGE) + 1
    for _, word in GARBAGE.values():
        assert any(word in reason for reason in reasons), (word, reasons)


@pytest.mark.long
def test_records_that_are_no_results_are_skipped_by_readers(project: Project) -> None:
    project.collection()
    project.send("echo hi")
    project.burst("--processes", "1")
    sink = open_sink(Settings.from_env(project.environ))
    records = [b"\xff", b"[]", b'{"schema": 99}', b'{"schema": 1, "outcome": 5}', *POISON]
    sink.publish([Record(f"x{n}", payload) for n, payload in enumerate(records)])
    sink.close()
    foreign = _foreign_rows(project)
    skipped = f"{len(records) + foreign} records could not be read"
    for command in (("--json",), ("--json", "--group", "g")):
        done = project.ok("tail", "--from", "beginning", "--timeout", "0", *command)
        assert [json.loads(line)["result"] for line in done.out.splitlines()] == ["hi"]
        assert done.err.count("skipped record") == 1
        assert skipped in done.err
    report = project.ok("report", "--json")
    assert report.json["results"] == 1
    assert skipped in report.err
    assert skipped in project.ok("tail", "--from", "beginning", "--timeout", "0").err
    info = project.ok("archive", "info", "--json").json
    assert (info["results"], info["skipped"]) == (1, len(records) + foreign)
    assert "not results: readers skip them" in project.ok("archive", "info").out


def _result(**fields: Any) -> bytes:
    return orjson.dumps({"schema": 1, "task_id": "x", "outcome": "ok", **fields})


# Content that readers, and commands that print it, once could not handle.
POISON = [
    b'{"schema": 1, "task_id": "x", "outcome": "ok", "result": ' + DEEP + b"}",
    b'{"schema": 1, "task_id": "x", "result": ' + b"[" * 254 + b"]" * 254 + b"}",
    _result(started_at="zzz", finished_at="zzz"),
    _result(started_at="2026-01-01T00:00:00", finished_at="2026-01-01T00:00:09Z"),
    _result(finished_at="9" * 100_000),
    _result(rewards=[7]),
    _result(trace={}),
    _result(attempt="x"),
    _result(sample_index=[]),
    _result(truncated=7),
    _result(replay_of=[]),
    _result(policy_version=[1]),
]


def _foreign_rows(project: Project) -> int:
    """Write rows of any type into the stream's file, one of them huge; return their number."""
    file = Settings.from_env(project.environ).sink.removeprefix("sqlite:///")
    rows = [
        "(x'ff', 1, 'text', 0)",
        "(CAST(x'ff' AS TEXT), 2, CAST(x'ff7b' AS TEXT), 0)",
        "('number', 3, 5, 'never')",
        f"('huge', 4, zeroblob({MAX_RECORD_BYTES + 1}), 0)",
    ]
    with closing(sqlite3.connect(file)) as db, db:
        for values in rows:
            db.execute(f"INSERT INTO records (task_id, digest, body, published_at) VALUES {values}")
    return len(rows)
