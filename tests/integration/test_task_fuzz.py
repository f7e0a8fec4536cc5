"""5,000 task files that ask for forbidden things, sent with `send` to a worker process."""

from __future__ import annotations

import base64
import ctypes
import io
import os
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import yaml

from agentpipe.brokers.records import Offer
from agentpipe.config.collection import load
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.sending.task_files import read_lines, task_of
from agentpipe.settings import Settings
from tests.integration.task_fuzz import Mutator
from tests.llm_stub import LlmStub, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Project

MUTATIONS, SEED, FILES = 5_000, 17, 20
CANARY = "canary-4711-of-the-worker"
PROGRAM = "answers-with-its-argument"
IN_ACCESS, IN_OPEN = 0x1, 0x20
AGENT = """
class Echo:
    async def execute(self, task, context):
        return task.question
"""
JUDGE = "import os, sys\ndef same(answer, value=None):\n    return answer == value\n"


def canary_file(project: Project) -> Path:
    return project.folder / "canary.py"


def started(project: Project) -> Path:
    return project.folder / "started"


@pytest.fixture
def owner(project: Project) -> Iterator[tuple[Project, LlmStub]]:
    """Collections of three kinds of agents, each with a credential; programs that leave a trace."""
    with LlmStub([say("fine")]) as model:
        _set_up(project, model.url)
        yield project, model


def _set_up(project: Project, model_url: str) -> None:
    program = project.write(PROGRAM, '#!/bin/sh\nexec echo "$2"\n')
    program.chmod(0o755)
    agents: dict[str, tuple[str, dict[str, Any]]] = {
        "toys": ("python", {"class": "echo:Echo"}),
        "clerk": ("llm", {"model": "openai:m", "base_url": model_url, "max_tokens": 50}),
        "tool": ("command", {"argv": [f"./{PROGRAM}", "--", "{{ question }}"]}),
    }
    context = [{"env": {"API_KEY": "${CANARY_TOKEN}", "ACCOUNT_NAME": "octo"}}]
    for name, (kind, config) in agents.items():
        document = {"kind": "agent", "spec": {"name": name, "type": kind, "config": config}}
        project.write(f"{name}.yaml", yaml.safe_dump(document))
        limits = {"max_retries": 0, "breaker": 0, "max_queue_size": 100_000, "time_limit": 60}
        project.collection(name, f"./{name}.yaml", context=context, concurrency=8, **limits)
    project.write("echo.py", AGENT)
    project.write("judge.py", JUDGE)
    canary_file(project).write_text(f"x = {CANARY!r}\n")
    (project.folder / "bin").mkdir()
    trace = f"#!/bin/sh\necho $0 >> {started(project)}\n"
    for name in ("npx", "uvx", "docker", "touch", "curl", "nowhere"):
        file = project.folder / "bin" / name
        file.write_text(trace)
        file.chmod(0o755)
    project.environ |= {
        "PATH": f"{project.folder / 'bin'}:{project.environ['PATH']}",
        "CANARY_TOKEN": CANARY,
        "OPENAI_API_KEY": f"{CANARY}-of-the-model",
    }


class ProcessWatch:
    """Records the programs below a process until it is stopped."""

    def __init__(self, root: int) -> None:
        self.programs: set[str] = set()
        self._root, self._stop = root, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> set[str]:
        self._stop.set()
        self._thread.join()
        return self.programs

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            parents = _parents()
            below = {self._root}
            while more := {pid for pid, parent in parents.items() if parent in below} - below:
                below |= more
            self.programs |= set(filter(None, map(_program, below)))


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return found


def _program(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return " ".join(words[:3])


def _is_expected(program: str) -> bool:
    """Whether it is our own Python process, or the collection's program."""
    first, second, *_ = [*program.split(" "), ""]
    if PROGRAM in program or first == "echo":
        return True
    ours = Path(first).name.startswith("python") or first == sys.executable
    return ours and (second == "-m" or second.endswith("agentpipe/engines/process/reaper.py"))


@contextmanager
def watched(path: Path) -> Iterator[list[int]]:
    """Watch accesses to the file; the yielded list gets the size of their events at the end."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(watch, os.fsencode(path), IN_OPEN | IN_ACCESS) >= 0
    found: list[int] = []
    try:
        yield found
        try:
            found.append(len(os.read(watch, 4096)))
        except BlockingIOError:
            found.append(0)
    finally:
        os.close(watch)


class Senders:
    """Sends each mutation as `send` would; refused ones are put directly into the queue."""

    def __init__(self, project: Project) -> None:
        settings = Settings.from_env(project.environ)
        collections = load(project.folder / "collection.yaml", settings.max_queue_size)
        self._dispatcher = Dispatcher.open(collections, settings)
        self._store = project.open_store()
        self.accepted: set[str] = set()
        self.refusals: list[str] = []

    def close(self) -> None:
        self._dispatcher.close()
        self._store.close()

    def send(self, collection: str, number: int, line: bytes) -> None:
        for entry in read_lines("fuzz", io.BytesIO(line)):
            task, problems = task_of(entry, self._dispatcher.rules_of(collection))
            self.refusals += map(str, problems)
            if task is not None and not problems:
                self.accepted |= {*self._dispatcher.send_many(collection, [task]).task_ids}
            else:
                self._forge(collection, f"forged-{number}", entry.data, line)

    def _forge(self, collection: str, task_id: str, data: Any, line: bytes) -> None:
        payload = line
        if isinstance(data, dict) and data.get("schema", 1) == 1:
            payload = orjson.dumps({"schema": 1, **data})
        admission = self._store.offer(collection, [Offer(task_id, payload)], round_robin=True)
        self.accepted |= {task_id} if admission.verdicts == ("accepted",) else set()


@pytest.mark.long
def test_each_is_refused_or_answered_and_nothing_else_happens(
    owner: tuple[Project, LlmStub],
) -> None:
    project, model = owner
    lines = list(Mutator(SEED, canary_file(project), started(project)).tasks(MUTATIONS))
    with watched(canary_file(project)) as opened:
        fleet = project.work("--processes", "1", "--slots", "16").ready(1)
        workers, watch = fleet.pids, ProcessWatch(fleet.process.pid)
        with closing(Senders(project)) as senders:
            for number, line in enumerate(lines):
                collection = ("toys", "toys", "clerk", "tool")[number % 4]
                senders.send(collection, number, line)
        told = _sent_by_the_command(project, lines)
        project.until(300, delivered=len(senders.accepted) + told)
        assert fleet.pids == workers
        programs = watch.stop()
        assert fleet.stop() == 0
    assert len(senders.accepted) > MUTATIONS * 0.9
    assert len(senders.refusals) > MUTATIONS // 4
    assert opened == [0]
    assert not started(project).exists()
    assert {program for program in programs if not _is_expected(program)} == set()
    results = project.results()
    assert senders.accepted <= {result["task_id"] for result in results}
    assert {result["outcome"] for result in results} >= {"ok", "infra_error", "stale"}
    assert not any(result["outcome"] == "crashed" for result in results)
    _assert_nothing_was_read(project, model, results)


def _sent_by_the_command(project: Project, lines: list[bytes]) -> int:
    """Send some files by `agentpipe send`: each is accepted, or refused with a reason."""
    accepted = 0
    for number in range(FILES):
        file = project.write(f"fuzz-{number}.jsonl", lines[number * 37] + b"\n")
        done = project.run("send", "toys", "--file", str(file), "--json")
        assert done.code in {0, 2}, done
        assert "Traceback" not in done.err
        accepted += done.json["accepted"] if done.code == 0 else 0
        assert done.code == 0 or f"fuzz-{number}.jsonl" in done.err
    return accepted


def _assert_nothing_was_read(project: Project, model: LlmStub, results: list[Any]) -> None:
    secret = CANARY.encode()
    forms = [secret, base64.b64encode(secret)[:20], secret.hex().encode(), secret[::-1]]
    said = [orjson.dumps(results), *(request.text.encode() for request in model.requests)]
    files = [path for path in project.folder.rglob("*") if path.is_file()]
    said += [path.read_bytes() for path in files if path != canary_file(project)]
    assert not [form for form in forms for text in said if form in text]
    bodies = [request.body for request in model.requests]
    assert bodies
    assert {body["model"] for body in bodies} == {"m"}
    assert max(body["max_completion_tokens"] for body in bodies) <= 50
    assert not any("n" in body for body in bodies)
