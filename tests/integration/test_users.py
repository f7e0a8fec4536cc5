"""``user:`` of a collection: its processes run as that user; needs root."""

from __future__ import annotations

import os
import pwd
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.integration.project import Project
from tests.llm_stub import LlmStub, say
from tests.other_user import NOBODY, needs_root, shared_folder
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 30.0
CANARY = "canary-user-2b9f"
# Imports only what every user can read.
AGENT = """
import os


class Who:
    def execute(self, task, context):
        match task.question.split():
            case ["who"]:
                return [os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"]]
            case ["read", path]:
                return open(path).read()
            case ["end", pid]:
                os.kill(int(pid), 9)
                return "ended"
            case ["leave"]:
                os.setuid(0)
                return "root again"
            case ["hang", file]:
                open(file, "w").write(f"{os.getpid()} {os.getppid()}.")
                while True:
                    os.read(os.pipe()[0], 1)
"""
JUDGE = """
import os


def who(answer):
    return True, f"{os.getuid()} {os.environ['HOME']}"
"""
SCRIPT = """#!/bin/sh
echo "$(id -u) $(id -g) $(id -G) $HOME $(stat -c %u:%g .) $(touch mine && stat -c %u mine)"
echo "an error" >/dev/stderr
cat /proc/1/environ "$1" 2>&1
mkdir -p deep/closed && chmod 0 deep/closed
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can read, except for one file of root."""
    with shared_folder() as shared:
        (shared / "closed").write_text(CANARY)
        (shared / "closed").chmod(0o600)
        yield shared


@pytest.fixture
def whose(folder: Path, broker_url: str, sink_url: str) -> Iterator[Project]:
    """A project whose files every user can read."""
    made = Project(folder, broker_url, sink_url)
    try:
        yield made
    finally:
        made.show_logs()
        made.close()


def _agent(project: Project, kind: str, **config: Any) -> None:
    spec = {"name": "who", "type": kind, "config": config}
    project.write("who.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))


@pytest.mark.long
@needs_root
@pytest.mark.parametrize("user", [NOBODY, pytest.param("nobody", marks=pytest.mark.long)])
def test_an_agent_in_a_process_and_its_evaluators_run_as_the_user(
    whose: Project, user: str | int
) -> None:
    whose.write("who.py", AGENT)
    whose.write("judge.py", JUDGE)
    _agent(whose, "python", **{"class": "who:Who"})
    context = [{"env": {"TOKEN": CANARY}}]
    whose.collection("who", "./who.yaml", isolation="process", user=user, context=context)
    closed = whose.folder / "closed"
    questions = ["who", f"read {closed}", f"end {os.getpid()}", "leave"]
    tasks = [{"question": each, "evaluators": [{"func": "judge:who"}]} for each in questions]
    ids = whose.send(*tasks, to="who")
    whose.burst("--processes", "1")
    results = [whose.by_id()[task_id] for task_id in ids]
    entry = pwd.getpwuid(NOBODY)
    ids_of = [NOBODY] * 3
    assert results[0]["result"] == [ids_of, [entry.pw_gid] * 3, [entry.pw_gid], entry.pw_dir]
    (evaluation,) = results[0]["evaluation_results"]
    assert evaluation["reason"] == f"{NOBODY} {entry.pw_dir}"
    assert {each["outcome"] for each in results[1:]} == {"agent_error"}
    assert {each["error"]["type"] for each in results[1:]} == {"PermissionError"}


@pytest.mark.long
@needs_root
def test_an_agent_of_a_user_ends_with_the_process_that_started_it(whose: Project) -> None:
    whose.write("who.py", AGENT)
    _agent(whose, "python", **{"class": "who:Who"})
    whose.collection("who", "./who.yaml", isolation="process", user=NOBODY, max_retries=0)
    pids = whose.write("pids", "")
    pids.chmod(0o666)
    fleet = whose.work("--processes", "1").ready(1)
    whose.send(f"hang {pids}", to="who")
    wait_until(lambda: pids.read_text().endswith("."), PATIENCE_S, "the agent runs")
    agent, reaper = map(int, pids.read_text().strip(".").split())
    os.kill(reaper, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{agent}").exists(), PATIENCE_S, "the agent has ended")
    fleet.stop()


@pytest.mark.long
@needs_root
def test_a_command_runs_as_the_user_in_a_folder_of_its_own(whose: Project) -> None:
    whose.write("who.sh", SCRIPT).chmod(0o755)
    closed = str(whose.folder / "closed")
    _agent(whose, "command", argv=["./who.sh", closed])
    whose.collection("who", "./who.yaml", user="nobody")
    (task_id,) = whose.send("who", to="who")
    whose.burst("--processes", "1")
    result = whose.by_id()[task_id]
    entry = pwd.getpwuid(NOBODY)
    first, *rest = result["result"].splitlines()
    ids = f"{NOBODY} {entry.pw_gid} {entry.pw_gid}"
    assert first == f"{ids} {entry.pw_dir} {NOBODY}:{entry.pw_gid} {NOBODY}"
    assert len(rest) == len(("environ", "closed"))
    assert all("Permission denied" in line for line in rest)


@pytest.mark.long
@needs_root
def test_a_server_of_a_model_runs_as_the_user(whose: Project) -> None:
    whose.write("server.sh", "#!/bin/sh\nid -u >&2\necho $HOME >&2\n").chmod(0o755)
    server = {"name": "who", "command": str(whose.folder / "server.sh")}
    with LlmStub([say("hi")]) as stub:
        config = {"model": "openai:gpt-4o-mini", "base_url": stub.url, "servers": [server]}
        _agent(whose, "llm", **config)
        whose.collection("who", "./who.yaml", user="nobody", max_retries=0)
        (task_id,) = whose.send("who", to="who")
        whose.burst("--processes", "1")
    error = whose.by_id()[task_id]["error"]["message"]
    assert f"{NOBODY}\n{pwd.getpwuid(NOBODY).pw_dir}" in error
    assert not stub.requests


@needs_root
@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("none-such-user", "no user 'none-such-user'"),
        (4123456789, "no user"),
        (0, "has all rights"),
    ],
)
def test_a_user_that_cannot_be_had_is_told_before_anything_runs(
    project: Project, user: str | int, words: str
) -> None:
    marker = project.folder / "ran"
    project.write("who.py", f"open({str(marker)!r}, 'w').close()\n{AGENT}")
    _agent(project, "python", **{"class": "who:Who"})
    project.collection("who", "./who.yaml", isolation="process", user=user)
    (problem,) = project.run("check", "--json").json["problems"]
    assert words in problem["message"]
    lines = (project.folder / "collection.yaml").read_text().splitlines()
    where = str(project.folder / "collection.yaml"), 1 + lines.index(f"  user: {user}")
    assert (problem["file"], problem["line"]) == where
    worked = project.run("work", "--burst")
    assert worked.code == 2
    assert words in worked.err
    assert not marker.exists()


@needs_root
def test_agents_that_would_run_as_the_worker_are_refused(project: Project) -> None:
    project.collection(user="nobody")
    (problem,) = project.run("check", "--json").json["problems"]
    assert "isolation: process" in problem["message"]


@needs_root
def test_only_root_starts_programs_as_others(whose: Project) -> None:
    from agentpipe.config.collection import load
    from agentpipe.config.contexts import resolve_contexts
    from agentpipe.errors import ConfigError
    from tests.other_user import as_other_user

    whose.collection(user="nobody")
    collections = load(whose.folder / "collection.yaml")

    def resolved() -> str:
        try:
            resolve_contexts(collections, {})
        except ConfigError as error:
            return str(error)
        return ""

    assert "only root starts programs as 'nobody'" in as_other_user(resolved)
