"""Hostile text reaches a terminal only as text, checked by each command's output on a pty."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from tests.integration.tmux import Tmux
from tests.stores import claim_up_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Project
    from tests.stores import AnyStore

# Clears the screen, fills the clipboard, makes a link, sets a title, reverses text; in ASCII and
# C1 codes; returns to the line's start, and starts a new line.
HOSTILE = (
    "MARK\x1b[2J\x1b]52;c;ZXZpbA==\x07\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\\x9b31m\x9d0;title"
    "\x9c\u202ereversed\u2066\u200b\x08\x08\x7f\x85\u2028\U000e0041[red]m[/red] [link=x]y[/link]"
    "\x0b\x0c\rFORGED by return\r\nFORGED line"
)
# NUL and a lone surrogate are not included: they are refused on input.
NAME = "toys\x1b]0;evil\x07\n FORGED"
# Escape sequences of agentpipe itself: colours, and cursor moves of bars and screens.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MOVES = re.compile(r"\x1b\[(?:[0-9;]*[mAKHJr]|\?(?:25|1049|7)[hl])|\x1b[78]|\r(?!\n)")


class Screen:
    """The output of one command on its terminal."""

    def __init__(self, data: bytes) -> None:
        self.text = data.decode().replace("\r\n", "\n")

    def harmless(self, ours: re.Pattern[str] = COLOUR) -> Screen:
        """Fail unless the text without ``ours`` is printable and has no forged line.

        Continuation lines of a name or an error are indented.
        """
        rest = ours.sub("", self.text)
        bad = [character for character in rest if not character.isprintable()]
        assert set(bad) <= {"\n", "\t"}, (bad, rest)
        assert [line for line in rest.splitlines() if line.startswith("FORGED")] == []
        return self


def on_a_terminal(project: Project, *args: str, **env: str) -> Screen:
    ours, its = pty.openpty()
    environ = {**project.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **env}
    environ |= {"COLUMNS": "80", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, "-m", "agentpipe", *args],
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
        env=environ,
        cwd=project.folder,
    )
    os.close(its)
    data = b""
    with suppress(OSError):  # Raised at the end of a pty.
        while part := os.read(ours, 65_536):
            data += part
    os.close(ours)
    process.wait(60)
    return Screen(data)


@pytest.fixture
def forged(project: Project) -> Project:
    """A broker and a sink with hostile content, as any client with write access can store."""
    project.collection()
    project.send({"task_id": HOSTILE, "question": HOSTILE})
    store = project.open_store()
    store.declare([Queue(f"{NAME}_0", NAME, 5), Queue("toys_0", "toys", 5)])
    ids = [HOSTILE + "dead", HOSTILE + "other"]
    payload = orjson.dumps({"schema": 1, "question": HOSTILE, "metadata": {HOSTILE: HOSTILE}})
    store.offer(f"{NAME}_0", [Offer(each, payload) for each in ids], round_robin=False)
    _bury(store, ids[0])
    settings = Settings.from_env(project.environ)
    with closing(open_sink(settings)) as sink:
        records: list[dict[str, Any]] = [
            {"outcome": "agent_error", "error": {"type": HOSTILE, "message": HOSTILE}},
            {"outcome": "ok", "result": HOSTILE, "reward": 1.0},
            {"outcome": HOSTILE, "result": {HOSTILE: HOSTILE}},
        ]
        sink.publish([Record(f"r-{n}", _result(n, **each)) for n, each in enumerate(records)])
    return project


def _bury(store: AnyStore, task_id: str) -> None:
    worker = Worker(f"w-{NAME}", slots=5, queues=frozenset({f"{NAME}_0"}))
    store.join(worker)
    for claim in claim_up_to(5, store, worker):
        if claim.task_id == task_id:
            result = _result(9, task_id=task_id, outcome="infra_error", trace=[{"title": HOSTILE}])
            store.settle([Settlement(claim, "bury", result, HOSTILE, f"HTTPError: {HOSTILE}")])


def _result(number: int, **fields: Any) -> bytes:
    known = {"schema": 1, "task_id": f"{HOSTILE}{number}", "agent": NAME, "collection": NAME}
    times = {"started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"}
    return orjson.dumps({**known, **times, **fields})


COMMANDS = {
    "status": (),
    "tail": ("--from", "beginning", "--timeout", "0"),
    "report": (),
    "show": ("r-1",),
    "show --messages": ("r-1",),
    "export": ("--to", "csv", "-"),
    "dead list": (),
    "dead list --group-by": ("error",),
    "dead show": (f"{HOSTILE}dead",),
    "dead replay": (f"{HOSTILE}dead", "--to", NAME),
    "why": (f"{HOSTILE}dead", f"{HOSTILE}other", HOSTILE, f"{HOSTILE}none"),
    "cancel": (f"{HOSTILE}dead", f"{HOSTILE}none"),
    "pause": (f"{NAME}_0",),
    "rebalance": (NAME, "--dry-run"),
    "top --once": (),
    "doctor": (),
    "purge": (NAME,),
}


@pytest.mark.long
def test_every_command_shows_what_is_stored_as_text(forged: Project) -> None:
    for command, args in COMMANDS.items():
        shown = on_a_terminal(forged, *command.split(), *args).harmless()
        assert "Traceback" not in shown.text, (command, shown.text)
        if command in (
            "tail",
            "report",
            "show",
            "dead list",
            "dead show",
            "why",
            "cancel",
            "export",
        ):
            assert "MARK\\x1b[2J" in shown.text, (command, shown.text)


@pytest.mark.long
def test_json_on_a_terminal_is_harmless_and_whole(forged: Project) -> None:
    for command in (
        "status",
        "tail",
        "report",
        "show",
        "dead list",
        "dead show",
        "why",
        "top --once",
    ):
        lines = on_a_terminal(forged, *command.split(), *COMMANDS[command], "--json").harmless()
        for line in lines.text.splitlines():
            json.loads(line)
    (first, *_) = forged.ok("dead", "list", "--json").json["dead"]
    assert first["task_id"] == f"{HOSTILE}dead"


@pytest.mark.long
def test_files_of_strangers_are_checked_and_sent_as_text(forged: Project) -> None:
    tasks = forged.tasks({"task_id": HOSTILE, "question": "echo hi"}, "echo", name=f"{NAME}.jsonl")
    shown = on_a_terminal(forged, "send", "toys", "--file", tasks).harmless(MOVES)
    assert "known already, not sent again: MARK\\x1b[2J" in shown.text
    odd = forged.write("odd.jsonl", json.dumps({"question": "x", HOSTILE: 1, "priority": HOSTILE}))
    shown = on_a_terminal(forged, "send", "toys", "--file", str(odd)).harmless(MOVES)
    assert "odd.jsonl:1: " in shown.text
    forged.write("odd.yaml", json.dumps({"kind": "collection", "spec": {"name": NAME, HOSTILE: 1}}))
    for args in (("check", "odd.yaml"), ("check", "."), ("work", "-c", "odd.yaml")):
        shown = on_a_terminal(forged, *args).harmless()
        assert "odd.yaml" in shown.text
    for words in (("send", HOSTILE, "x"), (HOSTILE,), ("tail", "--outcome", HOSTILE)):
        assert "MARK\\" in on_a_terminal(forged, *words).harmless().text


def test_the_bar_of_a_send_that_waits_shows_answers_as_text(project: Project) -> None:
    project.collection()
    project.work("--processes", "1").ready(1)
    tasks = project.tasks(f"echo {HOSTILE}", f"raise {HOSTILE}")
    shown = on_a_terminal(project, "send", "toys", "--file", tasks, "--wait").harmless(MOVES)
    assert "MARK\\x1b[2J" in shown.text


@contextmanager
def server_that_says(reply: bytes) -> Iterator[int]:
    """A server that sends this reply to every request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_answer, args=(listener, reply), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _answer(listener: socket.socket, reply: bytes) -> None:
    with suppress(OSError):
        while True:
            threading.Thread(target=_serve, args=(listener.accept()[0], reply), daemon=True).start()


def _serve(connection: socket.socket, reply: bytes) -> None:
    with connection, suppress(OSError):
        while connection.recv(65_536):
            connection.sendall(reply)


@pytest.mark.long
def test_a_servers_error_is_shown_as_text(project: Project) -> None:
    project.collection()
    words = HOSTILE.replace("\r\n", " ").encode()
    with server_that_says(b"-ERR " + words + b"\r\n") as port:
        broker = f"redis://127.0.0.1:{port}/0"
        for command in ("status", "send toys x", "doctor", "top --once"):
            on_a_terminal(project, *command.split(), "--broker", broker).harmless()
    with server_that_says(words) as port:
        sink = f"amqp://127.0.0.1:{port}/"
        on_a_terminal(project, "tail", "--timeout", "0", "--sink", sink).harmless()


SPEAKER = """
import logging, os, sys

class Speaker:
    def __init__(self, journal):
        pass

    async def execute(self, task, context):
        print(task.question)
        print(task.question, file=sys.stderr, flush=True)
        logging.getLogger("a.library").warning("says %s", task.question)
        if task.metadata.get("fails"):
            raise RuntimeError(task.question)
        return task.question
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "isolation", ["coroutine", pytest.param("process", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("log_format", ["text", pytest.param("json", marks=pytest.mark.long)])
def test_a_workers_log_is_harmless_whatever_agents_print(
    project: Project, isolation: str, log_format: str
) -> None:
    project.agent("speaker:Speaker", SPEAKER)
    project.collection(isolation=isolation)
    tasks = [
        {"task_id": f"{HOSTILE}{fails}", "question": HOSTILE, "metadata": {"fails": fails}}
        for fails in (False, True)
    ]
    project.send(*tasks)
    env = {"AGENTPIPE_LOG_FORMAT": log_format, "AGENTPIPE_LOG_LEVEL": "DEBUG"}
    shown = on_a_terminal(project, "work", "--burst", "--processes", "1", **env)
    if log_format == "text":
        assert [line for line in shown.text.splitlines() if line.startswith("FORGED")] == []
    assert "MARK\\" in shown.text
    rest = MOVES.sub("", shown.text)
    assert {each for each in rest if not each.isprintable()} <= {"\n", "\t"}


def test_top_shows_what_is_stored_as_text(forged: Project) -> None:
    with Tmux(forged.folder, forged.environ, width=120, height=40) as terminal:
        record = forged.folder / "bytes"
        terminal.call("pipe-pane", "-O", f"cat > {record}")
        terminal.run("top")
        terminal.see("sent ", "open")
        terminal.press("d")
        terminal.see("MARK\\x1b[2J", "r replay")
        terminal.press("q", "q")
    keys = record.read_bytes().decode()
    assert "\x1b]52" not in keys
    assert "\x1b]8;" not in keys
    assert not re.search("[\x80-\x9f\u202e\u2066\x08]", keys)
