"""``agentpipe try``: one run in its own process, without broker and sink."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.tmux import Tmux
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

NOWHERE = {"AGENTPIPE_BROKER": "redis://127.0.0.1:1/0", "AGENTPIPE_SINK": "kafka://127.0.0.1:1/t"}
TRACED = """
import asyncio, os, sys, time
import agentpipe

class Traced:
    def __init__(self, journal):
        pass

    {kind} execute(self, task, context):
        print("printed \\x1b[2J by the agent", context.env.get("TOKEN"))
        with agentpipe.trace.span({{"type": "tool", "tool_name": "lookup"}}) as span:
            span.add({{"response": "found \\x1b[2J " + context.env.get("TOKEN", "")}})
        return task.question.upper()
"""

# A kind of method runs in each place; those that are usual are in the short tier.
KINDS = [
    *(("async def", "coroutine"), ("def", "thread"), ("def", "process")),
    *(
        pytest.param(*case, marks=pytest.mark.long)
        for case in (("def", "coroutine"), ("async def", "thread"), ("async def", "process"))
    ),
]


def _traced(project: Project, kind: str = "async def", **spec: Any) -> None:
    project.agent("mine:Traced", TRACED.format(kind=kind))
    project.collection(**spec)


@pytest.mark.parametrize(("kind", "isolation"), KINDS)
def test_a_run_is_shown_as_it_happens(project: Project, kind: str, isolation: str) -> None:
    _traced(project, kind, isolation=isolation)
    before = sorted(project.folder.iterdir())
    done = project.ok("try", "toys", "hello", env=NOWHERE)
    order = ["Question", "hello", "tool lookup", "found \\x1b[2J", "  ok\n", "Answer", "HELLO"]
    places = [done.out.index(part) for part in order]
    assert places == sorted(places), done.out
    assert "printed \\x1b[2J by the agent" in done.out + done.err
    assert not {".agentpipe"} & {path.name for path in project.folder.iterdir()}
    assert len(before) <= len(list(project.folder.iterdir()))
    wait_until(lambda: not project.processes(), 60, "all its processes are gone")


@pytest.mark.parametrize(("kind", "isolation"), KINDS)
def test_a_traceback_begins_at_the_agent(project: Project, kind: str, isolation: str) -> None:
    _traced(project, kind, isolation=isolation)
    source = project.folder / "mine.py"
    source.write_text(source.read_text().replace("return", "raise LookupError(task.question) #"))
    done = project.run("try", "toys", "hello", "--json", env=NOWHERE)
    assert done.json["outcome"] == "agent_error"
    assert done.json["error"]["traceback"].startswith(f'  File "{source}", line ')


def test_json_is_the_result_alone(project: Project) -> None:
    _traced(project)
    done = project.ok("try", "toys", "hello", "--json", env=NOWHERE)
    assert (done.json["outcome"], done.json["result"]) == ("ok", "HELLO")
    assert "printed" not in done.out
    assert "printed" in done.err


@pytest.mark.long
def test_nothing_that_is_printed_has_a_secret(project: Project) -> None:
    secrets = {"NORTH": "north-4711-abcdef", "SOUTH": "south-0815-abcdef"}
    context = [{"env": {"TOKEN": f"${{{name}}}"}} for name in secrets]
    _traced(project, context=context)
    for options in ((), ("--json",)):
        for number, secret in enumerate(secrets.values()):
            chosen = ("--context", str(number), *options)
            done = project.ok("try", "toys", f"is it {secret}?", *chosen, env=secrets)
            assert secret not in done.out + done.err
            assert "***" in done.out
    refused = project.run("try", "toys", "?", "--context", "2", env=secrets)
    assert (refused.code, refused.out) == (2, "")
    assert "has 0 to 1" in refused.err


@pytest.mark.long
def test_a_task_of_a_file_is_judged(project: Project) -> None:
    project.collection()
    right = {"question": "echo yes", "evaluators": [{"func": "raw", "op": "=", "value": "yes"}]}
    wrong = {"question": "echo no", "evaluators": [{"func": "raw", "op": "=", "value": "yes"}]}
    file = project.tasks(right, wrong)
    assert "reward 1" in project.ok("try", "toys", "--task", f"{file}:1").out
    shown = project.ok("try", "toys", "--task", f"{file}:2")
    assert "reward 0" in shown.out
    assert "fail    = yes" in shown.out
    assert project.ok("try", "toys", "--task", f"{file}:2", "--json").json["task_id"] == "tasks-1"
    for place in (f"{file}:3", f"{project.folder}/none.jsonl:1", f"{project.folder}/toys.py:1"):
        done = project.run("try", "toys", "--task", place)
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err


def test_a_task_in_a_json_document_is_found_by_its_line(project: Project) -> None:
    project.collection()
    text = '[\n  {"question": "echo a"},\n  {\n    "question": "echo b"\n  }\n]\n'
    file = project.write("tasks.json", text)
    for line, answer in ((2, "a"), (3, "b"), (4, "b")):
        done = project.ok("try", "toys", "--task", f"{file}:{line}", "--json")
        assert done.json["result"] == answer


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["coroutine", "process"])
def test_what_is_not_ok_exits_with_1(project: Project, isolation: str) -> None:
    project.collection(isolation=isolation, max_retries=3)
    failed = project.run("try", "toys", "raise it broke")
    assert failed.code == 1
    assert "agent_error" in failed.out
    assert "it broke" in failed.out
    service = project.run("try", "toys", "infra", "--json")
    assert (service.code, service.json["outcome"]) == (1, "infra_error")


def test_a_mistake_in_the_agent_is_said_as_by_work(project: Project) -> None:
    project.collection()
    project.write("toys.py", "def broken(:\n")
    done = project.run("try", "toys", "?")
    assert (done.code, done.out) == (2, "")
    assert "toys.py" in done.err
    assert "Traceback" not in done.err
    assert project.run("try", "toy", "?").code == 2
    assert project.run("try", "toys").code == 2


@pytest.mark.parametrize("config", ["./agent.yaml", "./plain.yaml"])
@pytest.mark.parametrize("isolation", ["coroutine", "process"])
def test_the_time_limit_holds(project: Project, config: str, isolation: str) -> None:
    project.collection(config=config, isolation=isolation, time_limit=1)
    question = "sleep 60" if config == "./agent.yaml" else "block 60"
    done = project.run("try", "toys", question, "--json")
    assert (done.code, done.json["outcome"]) == (1, "limit")
    wait_until(lambda: not project.processes(), 60, "all its processes are gone")


CHILD = """
import subprocess, sys

class Parent:
    def __init__(self, journal):
        pass

    def execute(self, task, context):
        subprocess.run([sys.executable, "-c", "import time; open('began', 'w'); time.sleep(600)"])
"""


@pytest.mark.parametrize("isolation", ["coroutine", "process"])
def test_an_interrupt_leaves_nothing_behind(project: Project, isolation: str) -> None:
    project.agent("mine:Parent", CHILD)
    project.collection(isolation=isolation)
    running = project.start("try", "toys", "go")
    wait_until((project.folder / "began").exists, 60, "the agent's program runs")
    os.kill(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in err
    wait_until(lambda: not project.processes(), 60, "all its processes are gone")


DEBUGGED = """
class Debugged:
    def __init__(self, journal):
        pass

    {kind} execute(self, task, context):
        answer = "first"
        breakpoint()
        return answer
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_breakpoint_opens_the_debugger(project: Project, kind: str) -> None:
    project.agent("mine:Debugged", DEBUGGED.format(kind=kind))
    project.collection()
    with Tmux(project.folder, project.environ) as terminal:
        terminal.run("try", "toys", "hello")
        terminal.see("(Pdb)")
        terminal.type("answer = 'second'")
        terminal.press("Enter")
        terminal.type("continue")
        terminal.press("Enter")
        terminal.see("Answer", "second")
