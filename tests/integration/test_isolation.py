"""``isolation: process``: an agent's crashes, environment and time limit affect only itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.engines.process.launcher import Launcher
from agentpipe.errors import InfraError
from tests.support import processes_with, slowness, wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

CANARY = "canary-0815"
PATIENCE_S = 30.0
AGENT = """
import errno
import os
import subprocess
import sys
import time

import agentpipe

SEEN = []


class Apart:
    async def execute(self, task, context):
        return act(task, context)


class Plain:
    def execute(self, task, context):
        return act(task, context)


def act(task, context):
    SEEN.append(task.question)
    match task.question.split():
        case ["environ"]:
            return dict(os.environ)
        case ["change"]:
            os.environ["LEFT"] = "behind"
            return os.environ["TOKEN"]
        case ["seen"]:
            return SEEN
        case ["pid"]:
            return os.getpid()
        case ["span"]:
            with agentpipe.trace.span({"type": "tool", "token": context.env["TOKEN"]}):
                agentpipe.trace.record_usage({"requests": 1, "input_tokens": 7})
            return "spanned"
        case ["print"]:
            print("printed", context.env["TOKEN"])
            return "printed"
        case ["infra"]:
            raise agentpipe.InfraError("the line is down")
        case ["error"]:
            raise LookupError(f"no {context.env['TOKEN']}")
        case ["odd"]:
            return {1, 2}
        case ["import"]:
            import none_such
        case ["variable"]:
            return context.env["NONE_SUCH"]
        case ["disk"]:
            raise OSError(errno.ENOSPC, "no space left")
        case ["exit"]:
            sys.exit(3)
        case ["die", number]:
            os.kill(os.getpid(), int(number))
        case ["hang"]:
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            time.sleep(600)
    return task.question
"""


@pytest.fixture(params=["Apart", "Plain"])
def apart(project: Project, request: pytest.FixtureRequest) -> Project:
    """A project whose agents run in separate processes, in two contexts."""
    project.write("apart.py", AGENT)
    config = {"class": f"apart:{request.param}"}
    agent = {"kind": "agent", "spec": {"name": "apart", "type": "python", "config": config}}
    project.write("apart.yaml", yaml.safe_dump(agent))
    token = _token(project)
    contexts = [{"env": {"TOKEN": f"{token}-{n}"}, "metadata": {"n": n}} for n in range(2)]
    limits = {"time_limit": 3 * slowness(), "max_retries": 1, "isolation": "process"}
    project.collection("apart", "./apart.yaml", context=contexts, **limits)
    return project


def _token(project: Project) -> str:
    """A credential of this test alone: others run at the same time."""
    return f"{CANARY}-{project.marker.partition('=')[2]}"


def _answers(project: Project, *questions: str) -> dict[str, dict[str, Any]]:
    project.send(*({"question": q, "task_id": q} for q in questions), to="apart")
    project.burst("--processes", "1", env={"WORKERS_OWN": "secret"})
    return project.by_id()


@pytest.mark.long
def test_what_an_agent_does_is_its_tasks_own_outcome(apart: Project) -> None:
    questions = ("hello", "span", "print", "error", "infra", "odd", "exit", "die 11", "die 9")
    results = _answers(apart, *questions, "hang", "after", "pid")
    assert {question: result["outcome"] for question, result in results.items()} == {
        "hello": "ok",
        "span": "ok",
        "print": "ok",
        "error": "agent_error",
        "infra": "infra_error",
        "odd": "agent_error",
        "exit": "agent_error",
        "die 11": "crashed",
        "die 9": "crashed",
        "hang": "limit",
        "after": "ok",
        "pid": "ok",
    }
    assert results["span"]["usage"] == {"requests": 1, "input_tokens": 7}
    tool, agent = results["span"]["trace"]
    assert tool["records"][0]["data"] == {"type": "tool", "token": "***"}
    assert (tool["parent_id"], tool["trace_id"]) == (agent["id"], agent["trace_id"])
    error = results["error"]["error"]
    assert (error["type"], error["message"]) == ("LookupError", "no ***")
    assert "apart.py" in error["traceback"]
    assert "signal 11" in results["die 11"]["error"]["message"]
    assert apart.stats()["dead"] == 3  # Two crashes, and the infrastructure error.
    assert results["infra"]["attempt"] == 2
    assert results["pid"]["result"] != os.getpid()
    assert CANARY not in str(results)


@pytest.mark.long
def test_what_is_missing_in_its_process_is_a_failure_of_the_set_up(apart: Project) -> None:
    for result in _answers(apart, "import", "variable").values():
        assert (result["outcome"], result["attempt"]) == ("infra_error", 1)
        assert result["error"]["permanent"] is True
    assert apart.stats()["dead"] == 2


def test_a_reaper_that_cannot_begin_is_a_failure_of_the_set_up() -> None:
    launcher = Launcher(sys.executable, "no_such_module")
    files = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    with pytest.raises(InfraError, match="the reaper died") as failed:
        asyncio.run(launcher.start(None, {}, files))
    assert failed.value.permanent is True


@pytest.mark.long
def test_it_has_its_contexts_environment_and_nothing_of_the_workers(apart: Project) -> None:
    results = _answers(apart, "environ", "change", "environ again", "seen")
    environ = results["environ"]["result"]
    assert set(environ) <= {"AGENTPIPE_RUN", "HOME", "LANG", "PATH", "TOKEN"}
    assert results["change"]["result"] == "***"
    # Round-robin sent "seen" to the agent that ran "change": its module has seen both.
    assert results["seen"]["result"] == ["change", "seen"]


@pytest.mark.long
def test_nothing_is_left_of_a_run_that_hung(apart: Project) -> None:
    fleet = apart.work("--processes", "1").ready(1)
    apart.send("hang", to="apart")
    apart.until(delivered=1)
    wait_until(lambda: not _sleepers(apart), PATIENCE_S, "the sleeper has ended")
    fleet.stop()


@pytest.mark.long
def test_children_end_with_a_worker_that_is_killed(apart: Project) -> None:
    fleet = apart.work("--processes", "1").ready(1)
    apart.send("hang", to="apart")
    wait_until(lambda: _sleepers(apart), PATIENCE_S, "the agent has started a process")
    (worker,) = fleet.pids
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not _sleepers(apart), PATIENCE_S, "its process has ended")
    fleet.stop()


def _sleepers(project: Project) -> set[int]:
    """Processes started by this test's agents, found by a variable of their context."""
    return processes_with(_token(project), "environ") & processes_with("sleep")


def test_a_module_that_cannot_be_imported_is_told_and_does_not_hurt(project: Project) -> None:
    cases = {
        "none": ("import none_such", "none_such"),
        "ends": ("import os; os._exit(7)", "ended its process with 7"),
        "empty": ("x = 1", "Apart"),
    }
    for name, (source, _) in cases.items():
        project.write(f"{name}.py", source)
        config = {"class": f"{name}:Apart"}
        agent = {"kind": "agent", "spec": {"name": name, "type": "python", "config": config}}
        project.write(f"{name}.yaml", yaml.safe_dump(agent))
        project.collection(name, f"./{name}.yaml", isolation="process")
    done = project.run("check", "--json")
    assert done.code == 2
    told = {Path(each["file"]).stem: each["message"] for each in done.json["problems"]}
    assert told.keys() == cases.keys()
    for name, (_, message) in cases.items():
        assert message in told[name]
