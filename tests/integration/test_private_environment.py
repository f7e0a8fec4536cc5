"""Agents cannot read other contexts' credentials from the processes on their machine."""

from __future__ import annotations

import os
import re
import resource
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.engines.process.process_tree import children_of
from tests.integration.project import Project
from tests.other_user import as_other_user, needs_root
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Fleet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

# Each with the pid: other test processes run at the same time.
CANARIES = {name: f"kanarie-{name}-{os.getpid()}" for name in ("TOKEN_A", "TOKEN_B", "OTHERS")}
# Searches the environment and command line of every process for the canaries.
SPY = """
import json, os, pathlib, sys

def found():
    seen = set()
    for each in pathlib.Path("/proc").glob("[0-9]*"):
        for name in ("environ", "cmdline"):
            try:
                text = (each / name).read_bytes()
            except OSError:
                continue
            seen |= {(word, name) for word in %r if word.encode() in text}
    return sorted(seen)
""" % [*CANARIES.values()]
AGENT = f"""{SPY}
class Spy:
    def __init__(self, journal):
        pass

    def execute(self, task, context):
        return [found(), sorted(name for name, value in os.environ.items() if "kanarie" in value)]
"""
COMMAND = f"""#!/usr/bin/env python3
{SPY}
print(json.dumps({{"answer": [found(), []]}}))
"""
WATCHER = """
import os

class Watcher:
    async def execute(self, task, context):
        return sorted(name for name, value in os.environ.items() if "kanarie" in value)
"""


@pytest.fixture(autouse=True, scope="module")
def _cores() -> Iterator[None]:
    """Allow core files up to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Fleet]]:
    """One worker for all tests, which runs one task at a time."""
    folder = tmp_path_factory.mktemp("private")
    project = Project(folder, f"sqlite:///{folder}/broker.db", f"sqlite:///{folder}/results.db")
    with closing(spied_in(project)):
        yield project, project.work("--processes", "1", "--slots", "1").ready(1)


@pytest.fixture
def spied(project: Project) -> Project:
    return spied_in(project)


def spied_in(project: Project) -> Project:
    """Agents that look for credentials: two kinds with two contexts, and one in the worker."""
    project.agent("spies:Spy", AGENT)
    project.write("spy.sh", COMMAND).chmod(0o755)
    project.write("command.yaml", _config("command", 'argv: ["./spy.sh"]'))
    project.write("inside.py", WATCHER)
    project.write("inside.yaml", _config("python", 'class: "inside:Watcher"'))
    contexts = [{"env": {"TOKEN": "${TOKEN_A}"}}, {"env": {"TOKEN": "${TOKEN_B}"}}]
    project.collection("apart", isolation="process", context=contexts)
    project.collection("command", "./command.yaml", context=contexts)
    project.collection("inside", "./inside.yaml", context=contexts)
    project.environ |= CANARIES
    project.environ.pop("AGENTPIPE_DUMPABLE", None)
    return project


def _config(kind: str, config: str) -> str:
    return f"{{kind: agent, spec: {{name: {kind}, type: {kind}, config: {{{config}}}}}}}"


def answered(project: Project, to: str, *task_ids: str) -> dict[str, Any]:
    """The results of new tasks."""
    project.send(*({"question": "spy", "task_id": each} for each in task_ids), to=to)
    wait_until(lambda: project.streamed() >= set(task_ids), 60, f"{task_ids} have results")
    return {name: result for name, result in project.by_id().items() if name in task_ids}


def test_an_agent_finds_no_credential_of_another_context(served: tuple[Project, Fleet]) -> None:
    results: dict[str, Any] = {}
    for name in ("apart", "command"):
        results |= answered(served[0], name, f"{name}-0", f"{name}-1")
    for number, own in enumerate((CANARIES["TOKEN_A"], CANARIES["TOKEN_B"])):
        assert results[f"apart-{number}"]["result"] == [[], ["TOKEN"]]
        seen = results[f"command-{number}"]["result"][0]
        assert [word for word, _ in seen if word not in (own, "***")] == []


def test_a_program_that_an_agent_starts_inherits_no_contexts_variable(
    served: tuple[Project, Fleet],
) -> None:
    (result,) = answered(served[0], "inside", "inherits").values()
    assert result["result"] == ["OTHERS"]  # In no context, so the operator gives it to all agents.


def test_our_processes_are_closed_to_their_own_user(served: tuple[Project, Fleet]) -> None:
    project, fleet = served
    answered(project, "apart", "closed")
    processes = _ours(fleet)
    assert {name for _, name in processes} >= {"supervisor", "master", "reaper.py"}

    def all_are_private() -> bool:  # One that was started just now closes itself first.
        return all(_is_private(pid) for pid, _ in processes)

    wait_until(all_are_private, 30, f"{processes} are closed to their user")


def test_the_guard_of_a_worker_without_a_supervisor_is_closed_too(spied: Project) -> None:
    command = ("-m", "dramatiq", "agentpipe.actors", "--processes", "1")
    master = spied.work(command=command).ready(1).process.pid

    def guards() -> list[int]:
        return [pid for pid in _below(master) if b"watch.guard" in _argv(pid)]

    wait_until(lambda: any(map(_is_private, guards())), 30, "the guard is closed to its user")


@needs_root
def test_another_user_sees_no_credential(served: tuple[Project, Fleet]) -> None:
    answered(served[0], "apart", "seen")

    def attack() -> list[str]:
        seen = set()
        for each in Path("/proc").glob("[0-9]*"):
            for name in ("environ", "cmdline", "maps", "mem"):
                with suppress(OSError), (each / name).open("rb") as stream:
                    text = stream.read(1_000_000)
                    seen |= {word for word in CANARIES.values() if word.encode() in text}
        return sorted(seen)

    assert as_other_user(attack) == []


def _ours(fleet: Fleet) -> list[tuple[int, str]]:
    marks = {b"fleet.master": "master", b"reaper.py": "reaper.py"}
    others = _below(fleet.process.pid)
    found = [(pid, marks[mark]) for pid in others for mark in marks if mark in _argv(pid)]
    return [(fleet.process.pid, "supervisor"), *found]


def _below(pid: int) -> list[int]:
    return [each for child in children_of(pid) for each in (child, *_below(child))]


def _is_private(pid: int) -> bool:
    """Whether the user's other processes cannot read this one, and it leaves no core file."""
    folder = Path(f"/proc/{pid}")
    if not re.search(r"Max core file size +0 ", (folder / "limits").read_text()):
        return False
    if os.geteuid() != 0:  # The kernel makes root the owner of its files.
        return folder.stat().st_uid == 0
    environ = (folder / "environ").read_bytes()
    return not any(word.encode() in environ for word in CANARIES.values())


def _argv(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
