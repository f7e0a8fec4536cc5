"""Commands that watch a fleet need no more memory as results accumulate."""

from __future__ import annotations

import json
import os
import re
import threading
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from agentpipe.monitoring.numbers import count
from tests.integration.tmux import Tmux
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Project

# 100,000 were tested by hand.
RESULTS = int(os.environ.get("WATCHED_RESULTS", "20000"))
FIRST, PORTION = 4_000, 4_000
PATIENCE_S = 600.0
GROWTH_MIB = 4.0

pytestmark = pytest.mark.long


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (found,) = re.findall(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(found) / 1024


def running(project: Project, command: str) -> int:
    """The pid of this command."""

    def found() -> list[int]:
        pids = []
        for pid in project.processes():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                pids += [pid] if command.encode() in words and b"agentpipe" in words else []
        return pids

    return min(wait_until(found, PATIENCE_S, f"{command} runs"))


@contextmanager
def watched_by_a_page(project: Project) -> Iterator[None]:
    """Run ``web`` with a viewer of its live page."""
    process = project.start("web", "--port", "0", "--json")
    assert process.stdout is not None
    address = urlsplit(json.loads(process.stdout.readline())["url"])
    with closing(HTTPConnection("127.0.0.1", address.port)) as connection:
        token = parse_qs(address.query)["token"][0]
        connection.request("GET", "/events", headers={"Authorization": f"Bearer {token}"})
        viewer = threading.Thread(target=_view, args=(connection,))
        viewer.start()
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)
            viewer.join()


def _view(connection: HTTPConnection) -> None:
    with suppress(OSError, HTTPException):  # The connection ends with the server.
        answer = connection.getresponse()
        while answer.readline():
            pass


@pytest.mark.parametrize("broker_url", ["sqlite", "redis"], indirect=True)
def test_top_and_web_take_no_more_with_many_results(project: Project) -> None:
    project.collection("toys", number=8, max_queue_size=PORTION)
    project.work("--processes", "2").ready(2)
    with watched_by_a_page(project), Tmux(project.folder, project.environ) as terminal:
        terminal.run("top")
        terminal.see("delivered")
        pids = {command: running(project, command) for command in ("top", "web")}
        before: dict[str, float] = {}
        for delivered in range(PORTION, RESULTS + 1, PORTION):
            project.send(*(_task(delivered + number) for number in range(PORTION)))
            project.until(timeout_s=PATIENCE_S, delivered=delivered)
            terminal.see(f"delivered {count(delivered)}")
            if delivered == FIRST:
                before = {command: memory_mib(pid) for command, pid in pids.items()}
        after = {command: memory_mib(pid) for command, pid in pids.items()}
    grown = {command: round(after[command] - before[command], 1) for command in pids}
    assert {command: it for command, it in grown.items() if it > GROWTH_MIB} == {}


def _task(number: int) -> dict[str, str]:
    return {"task_id": f"t-{number}", "question": "echo yes"}
