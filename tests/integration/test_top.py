"""``agentpipe top`` in a real terminal, and without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.tmux import PROMPT, Tmux
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers.server import Server
    from tests.integration.project import Project

KEYS = "Enter open"
HOSTILE = "[bold]\x1b[2J\x1b[31m\r\x07end"


@pytest.fixture
def terminal(project: Project) -> Iterator[Tmux]:
    with Tmux(project.folder, project.environ) as tmux:
        yield tmux


def started(terminal: Tmux, *args: str) -> str:
    terminal.run("top", *args)
    return terminal.see(KEYS, "sent ")


def back_in_the_shell(terminal: Tmux, before: tuple[str, ...]) -> None:
    """Check that the terminal's state and its content are as before."""
    wait_until(lambda: terminal.flag("alternate_on") == "0", 20, "the shell's screen is back")
    terminal.see("was here before", without=(KEYS,))
    assert terminal.state() == before
    terminal.type("echo echo $((6*7)) works")
    terminal.press("Enter")
    terminal.see("echo 42 works", f"{PROMPT}echo echo")


def noted_before(terminal: Tmux) -> tuple[str, ...]:
    """The terminal's state, after printing a marker on its screen."""
    state = terminal.state()
    terminal.type("echo was here bef''ore")
    terminal.press("Enter")
    terminal.see("was here before")
    return state


def test_a_fleet_is_watched_filtered_opened_and_left(project: Project, terminal: Tmux) -> None:
    project.collection("toys", number=3)
    project.collection("others", number=2)
    project.send("echo hi", "raise boom", "sleep 60")
    project.work("--processes", "1").ready(1)
    before = noted_before(terminal)
    started(terminal)
    terminal.see("ok 1", "agent_error 1", "running 1/5", "delivered 2", "no bottleneck")
    terminal.see("▸ toys", "▸ others", "workers", "1/5", "MiB", "last errors", "boom")
    terminal.type("/")
    terminal.type("toys")
    terminal.see("/toys", "▸ toys", without=("▸ others",))
    terminal.press("Enter")
    terminal.see("/toys Esc clears it")
    terminal.press("Enter")
    terminal.see("▾ toys", "toys_0", "toys_2")
    terminal.press("Escape")
    terminal.see("▸ others", "▾ toys", "toys_0")
    terminal.press("?")
    terminal.see("any key: back", "dead letters; there, r replays", without=("▸ others",))
    terminal.press("x")
    terminal.see("▸ others", without=("any key",))
    terminal.press("q")
    back_in_the_shell(terminal, before)


def test_a_terminal_of_any_size_can_be_resized(project: Project, terminal: Tmux) -> None:
    project.collection("toys", number=3)
    project.send("echo hi")
    started(terminal)
    for width, height in ((200, 60), (60, 12), (30, 6), (80, 24)):
        terminal.resize(width, height)
        shown = terminal.see("agentpipe top", "↑↓", without=("delayed",) if width < 110 else ())
        assert len(shown.splitlines()) <= height
        assert max(map(len, shown.splitlines())) <= width
    terminal.resize(200, 60)
    lines = terminal.see("delayed", "pass", "spent", KEYS).splitlines()
    assert "↑↓" in lines[59]


SEARCHER = """
import asyncio
import agentpipe

class Searcher:
    def __init__(self, journal):
        pass

    async def execute(self, task, context):
        with agentpipe.trace.span({"type": "tool", "tool_name": "look_up", "arguments": {"q": 1}}):
            while task.question == "wait":
                await asyncio.sleep(0.05)
        return "found it"
"""


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_enter_goes_from_a_collection_to_what_a_run_does_and_to_its_trace(
    project: Project, terminal: Tmux
) -> None:
    project.agent("searcher:Searcher", SEARCHER)
    project.collection("toys", context=[{"concurrency": 2}], number=1, concurrency=2)
    lines = [{"task_id": "wait", "question": "wait"}, {"task_id": "done", "question": "go"}]
    file = project.tasks(*lines)
    project.ok("send", "--file", file, "--run", "v2", "toys")
    project.work("--processes", "1").ready(1)
    project.until(running=1, delivered=1)
    terminal.resize(160, 50)
    started(terminal, "--run", "v2")
    terminal.see("run v2", "contexts", "1/2", "oldest runs", "tool look_up", "v2/wait", "children")
    terminal.press("Enter")
    terminal.see("▾ toys", "toys_0")
    terminal.press("Down", "Enter")
    terminal.see("v2/wait", "running", "tool look_up", "v2/done", "ok", "found it", "Enter show")
    terminal.press("Down", "Enter")
    terminal.see("Question", "Answer", "found it", "tool look_up", "q back")
    terminal.press("q")
    terminal.see("Enter show")
    terminal.press("Up", "Enter")
    terminal.see("has been running it for", "next:")
    project.ok("cancel", "v2/wait")
    terminal.press("q")
    terminal.see("cancelled", without=("running  ",))
    terminal.press("q")
    terminal.see(KEYS, "▾ toys")


def test_a_run_that_does_not_exist_is_refused(project: Project) -> None:
    project.collection("toys")
    project.ok("send", "--file", project.tasks("echo hi"), "--run", "v2", "toys")
    refused = project.run("top", "--once", "--run", "v3")
    assert (refused.code, "no run 'v3' on this broker" in refused.err) == (2, True), refused
    seen = project.ok("top", "--once", "--json", "--run", "v2").json
    assert (seen["run"]["name"], seen["run"]["tasks"], seen["run"]["done"]) == ("v2", 1, 0)


@pytest.mark.parametrize(
    "ending", ["C-c", *(pytest.param(it, marks=pytest.mark.long) for it in ("TERM", "HUP"))]
)
def test_the_terminal_is_restored_however_it_ends(
    project: Project, terminal: Tmux, ending: str
) -> None:
    project.collection("toys")
    project.send("echo hi")
    before = noted_before(terminal)
    started(terminal)
    if ending == "C-c":
        terminal.press(ending)
    else:
        os.kill(pid_of_top(terminal), signal.Signals[f"SIG{ending}"])
    back_in_the_shell(terminal, before)
    codes = {"C-c": 130, "TERM": 143, "HUP": 129}
    terminal.run("top", "--once", ">", "/dev/null;", "echo", "then", "$?")
    terminal.see("then 0")
    started(terminal, ";", "echo", "code", "$?")
    if ending == "C-c":
        terminal.press(ending)
    else:
        os.kill(pid_of_top(terminal), signal.Signals[f"SIG{ending}"])
    terminal.see(f"code {codes[ending]}")


def pid_of_top(terminal: Tmux) -> int:
    """The pid of the shell's child process, which has the terminal."""
    (children,) = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", terminal.flag("pane_pid")],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    return int(children)


def test_the_shell_can_stop_it_and_continue_it(project: Project, terminal: Tmux) -> None:
    project.collection("toys")
    project.send("echo hi")
    before = noted_before(terminal)
    started(terminal)
    terminal.press("C-z")
    terminal.see("was here before", "Stopped", without=(KEYS,))
    assert terminal.state()[:3] == before[:3]
    terminal.type("fg")
    terminal.press("Enter")
    terminal.see(KEYS, "▸ toys")
    terminal.press("q")
    back_in_the_shell(terminal, before)


def test_what_agents_say_cannot_break_it(project: Project, terminal: Tmux) -> None:
    project.collection("toys")
    project.send(f"raise {HOSTILE}")
    project.burst("--processes", "1")
    started(terminal)
    shown = terminal.see("[bold]\\x1b[2J\\x1b[31m", "▸ toys", KEYS)
    assert shown.splitlines()[0].startswith("agentpipe top")


def test_a_sink_that_is_down_is_the_bottleneck(
    project: Project, terminal: Tmux, sink_url: str
) -> None:
    folder = Path(sink_url.removeprefix("sqlite:///")).parent
    folder.write_text("a file in the folder's place")
    project.collection("toys")
    project.send("echo hi")
    project.work("--processes", "1").ready(1)
    started(terminal)
    terminal.see("»outbox 1«", "lag ", "bottleneck: outbox (sink down for", "sink down")
    folder.unlink()
    terminal.see("outbox 0", "delivered 1", "no bottleneck", without=("sink down",))


def test_waiting_tasks_are_cancelled_after_a_yes(project: Project, terminal: Tmux) -> None:
    project.collection("toys", number=2)
    project.send(*["echo hi"] * 4)
    started(terminal)
    terminal.see("»waiting 4«", "no worker is running")
    terminal.press("c")
    terminal.see("Cancel all tasks of toys, also the running ones", "y/n")
    terminal.press("n")
    terminal.see("nothing changed", "waiting 4")
    assert project.stats()["outcomes"] == {}
    terminal.press("c")
    terminal.see("y/n")
    terminal.press("y")
    terminal.see("toys: 4 cancelled, 0 running ones signalled", "cancelled 4", "waiting 0")
    assert project.stats()["outcomes"] == {"cancelled": 4}


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_a_collection_is_paused_resumed_and_its_runs_cancelled(
    project: Project, terminal: Tmux
) -> None:
    project.collection("toys", number=2)
    project.work("--processes", "1").ready(1)
    started(terminal)
    terminal.see("▸ toys")
    terminal.press("p")
    terminal.see("toys: paused; running tasks go on", "paused")
    project.send("sleep 600", "sleep 600")
    terminal.see("all agents with work are paused", "»waiting 2«", "running 0")
    terminal.press("Enter")
    terminal.see("▾ toys", "toys_1")
    terminal.press("Down")
    terminal.press("p")
    terminal.see("toys_0: still paused: its collection is")
    terminal.press("Up")
    terminal.press("p")
    terminal.see("toys: resumed", "running 2", "waiting 0")
    terminal.press("c")
    terminal.see("Cancel all tasks of toys, also the running ones?", "y/n")
    terminal.press("y")
    terminal.see("toys: 0 cancelled, 2 running ones signalled", "cancelled 2", "running 0")


@pytest.mark.long
def test_a_dead_letter_is_replayed_after_a_yes(project: Project, terminal: Tmux) -> None:
    project.collection("toys", max_retries=0)
    project.send("infra")
    project.burst("--processes", "1")
    started(terminal)
    terminal.see("dead 1")
    terminal.press("d")
    terminal.see("toys_0", "infra_error", "InfraError: away", "r replay")
    terminal.press("r")
    terminal.see("y/n")
    terminal.press("y")
    terminal.see("sent again, as a new task", "none")
    terminal.press("q")
    terminal.see("»waiting 1«")
    assert project.stats()["dead"] == 0


@pytest.mark.long
@pytest.mark.parametrize("server", ["redis"], indirect=True)
def test_a_broker_that_is_away_is_a_banner_until_it_is_back(
    project: Project, server: Server, terminal: Tmux
) -> None:
    project.collection("toys")
    project.send("echo hi")
    before = noted_before(terminal)
    started(terminal)
    server.kill()
    terminal.see("BROKER UNREACHABLE for", "retrying", "▸ toys", KEYS)
    terminal.press("?")
    terminal.see("any key: back")  # It still reacts.
    terminal.press("x")
    server.start()
    terminal.see("▸ toys", "waiting 1", without=("BROKER UNREACHABLE",))
    server.kill()
    terminal.see("BROKER UNREACHABLE")
    terminal.press("q")
    back_in_the_shell(terminal, before)
    terminal.run("top")  # With the broker down from the start.
    terminal.see("BROKER UNREACHABLE")
    server.start()
    terminal.see("▸ toys", "waiting 1", without=("BROKER UNREACHABLE",))


def test_without_a_terminal_it_prints_one_frame(project: Project) -> None:
    project.collection("toys", number=2)
    project.send("echo hi", "echo ho", "echo hu")
    for args in (("top",), ("top", "--once")):
        done = project.ok(*args, env={"COLUMNS": "120", "LINES": "40", "FORCE_COLOR": ""})
        assert "\x1b" not in done.out
        assert "»waiting 3«" in done.out
        assert "▸ toys" in done.out
        assert all(len(line) <= 120 for line in done.out.splitlines())
        assert KEYS not in done.out


def test_json_is_a_snapshot_a_line(project: Project) -> None:
    project.collection("toys")
    project.send("echo hi")
    one = project.ok("top", "--once", "--json")
    assert len(one.lines) == 1
    status = project.ok("status", "--json").json
    assert {name for name in one.lines[0] if name != "at"} == set(status)
    process = project.start("top", "--json", "--interval", "0.1")
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [look["waiting"] for look in looks] == [1, 1, 1]
    assert looks[0]["at"] < looks[1]["at"] < looks[2]["at"]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "soon"])
def test_an_interval_is_seconds(project: Project, interval: str) -> None:
    done = project.run("top", f"--interval={interval}")
    assert (done.code, done.out) == (2, "")
    assert "--interval: expected a number of seconds, at least 0.1, got" in done.err


def test_an_unreachable_broker_gives_no_frame(project: Project) -> None:
    for json_too in ((), ("--json",)):
        done = project.run("top", "--once", *json_too, "--broker", "redis://localhost:1")
        assert (done.code, done.out) == (4, "")
        assert "Traceback" not in done.err


@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_workers_report_their_condition(project: Project) -> None:
    project.collection("toys", number=3, max_retries=1)
    tasks: list[dict[str, Any]] = [
        {"question": "echo yes", "evaluators": [{"func": "raw", "op": "=", "value": "yes"}]},
        {"question": "raise boom"},
        {"question": "sleep 60"},
    ]
    project.send(*tasks)
    fleet = project.work("--processes", "1").ready(1)

    def told() -> Any:
        look = project.stats()
        (worker,) = look["workers"] or [{}]
        agents = [agent for agent in look["agents"] if agent["oldest_s"]]
        ended = sum(look["outcomes"].values()) == 2
        return look if agents and ended and worker.get("rss_bytes") else None

    look = wait_until(told, 30, "the worker has told of its run")
    (worker,) = look["workers"]
    assert worker["lag_s"] < 5
    assert worker["rss_bytes"] > 2**20
    assert (worker["sink_down_s"], worker["sink_error"]) == (None, None)
    assert (look["evaluated"], look["passed"]) == (1, 1.0)
    assert look["per_s"] > 0
    assert look["outcomes"] == {"ok": 1, "agent_error": 1}
    sums = {
        name: sum(agent[name] for agent in look["agents"])
        for name in ("done", "failed", "evaluated", "passed")
    }
    assert sums == {"done": 1, "failed": 1, "evaluated": 1, "passed": 1.0}
    (failed,) = (agent for agent in look["agents"] if agent["failed"])
    assert failed["last_error"] == "ValueError: boom"
    assert fleet.process.poll() is None
