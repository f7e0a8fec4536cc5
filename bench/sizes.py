"""Measures a worker's memory: alone, per run, per child process and per MCP server.

``python -m bench.sizes``. Proportional sizes (PSS) of all processes below one ``agentpipe work``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.engines.process.process_tree import children_of
from bench.figures import show

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENT = """\
import asyncio
import time


class Waits:
    async def execute(self, task, context):
        await asyncio.sleep(600)


class Sleeps:
    def execute(self, task, context):
        time.sleep(600)
"""
CONFIG = """\
kind: agent
spec: {{name: sized, type: python, is_main: true, config: {{class: "sized:{name}"}}}}
"""
COLLECTION = """\
kind: collection
spec: {{name: sized, config: ./agent.yaml, number: {number}, isolation: {isolation}}}
"""
SERVER = """\
from mcp.server import MCPServer

server = MCPServer("sized")


@server.tool()
def add(a: int, b: int) -> int:
    return a + b


server.run()
"""
MEBIBYTE = 1024 * 1024
SETTLED_S = 3.0
_RUNS = (("Waits", "coroutine", 500), ("Sleeps", "thread", 100), ("Waits", "process", 4))


def main() -> None:
    """Print a table."""
    idle = measured("Waits", "coroutine", 1, runs=0)
    _show("one worker process with its supervisor, idle", idle)
    for name, isolation, runs in _RUNS:
        used = measured(name, isolation, runs, runs=runs)
        _show(f"each of {runs} runs, isolation {isolation}", (used - idle) / runs)
    _show("an MCP server of one tool, in Python, idle", server_size())


def _show(label: str, size_mib: float) -> None:
    show(label, f"{size_mib:.2f} MiB")


def measured(name: str, isolation: str, number: int, runs: int) -> float:
    """The size of a fleet of one worker process with this many runs, in MiB."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _fleet(Path(folder), name, isolation, number) as (
            pid,
            environ,
        ),
    ):
        lines = [f'{{"task_id": "t{index}", "question": "q"}}\n' for index in range(runs)]
        (Path(folder) / "tasks.jsonl").write_text("".join(lines))
        if runs:
            _agentpipe("send", "sized", "--file", "tasks.jsonl", environ=environ, folder=folder)
        while f"running {runs:,}  " not in _agentpipe("status", environ=environ, folder=folder):
            time.sleep(1)
        time.sleep(SETTLED_S)
        return tree_size(pid)


@contextmanager
def _fleet(
    folder: Path, name: str, isolation: str, number: int
) -> Iterator[tuple[int, dict[str, str]]]:
    (folder / "sized.py").write_text(AGENT)
    (folder / "agent.yaml").write_text(CONFIG.format(name=name))
    (folder / "collection.yaml").write_text(COLLECTION.format(number=number, isolation=isolation))
    environ = {**os.environ, "AGENTPIPE_GRACE_S": "0.1"}
    command = [sys.executable, "-m", "agentpipe", "work", "--processes", "1"]
    with subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.DEVNULL) as work:
        try:
            while "worker " not in _agentpipe("status", environ=environ, folder=str(folder)):
                time.sleep(0.5)
            yield work.pid, environ
        finally:
            work.send_signal(signal.SIGTERM)
            work.wait(60)


def _agentpipe(*args: str, environ: dict[str, str], folder: str) -> str:
    command = [sys.executable, "-m", "agentpipe", *args]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    ).stdout


def server_size() -> float:
    """The size of an MCP server on stdio, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "server.py").write_text(SERVER)
        with subprocess.Popen(
            [sys.executable, "server.py"], cwd=folder, stdin=subprocess.PIPE
        ) as server:
            time.sleep(2 * SETTLED_S)
            size = tree_size(server.pid)
            server.kill()
    return size


def tree_size(pid: int) -> float:
    """The size of a process and its descendants, in MiB."""
    return _size(pid) + sum(map(tree_size, children_of(pid)))


def _size(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")) / MEBIBYTE


if __name__ == "__main__":
    main()
