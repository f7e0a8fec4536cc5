"""Workers on an embedded store of their own, with a backlog."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
TASKS = ROOT / "configs" / "almanac-tasks.jsonl"
AGENTPIPE = (sys.executable, "-m", "agentpipe")
# A run of its own for the pages of runs and tasks, with so many tasks.
RUN, RUN_TASKS = "spring", 100
# How many times each collection gets all tasks.
ROUNDS = {"almanac": 6, "ferries": 3, "letters": 2}
SETTINGS = {
    "AGENTPIPE_BROKER": "sqlite:///.agentpipe/broker.db",
    "AGENTPIPE_SINK": "sqlite:///.agentpipe/results.db",
    "AGENT_COLLECTION_CONFIG_FILE": str(Path(__file__).parent / "fleet.yaml"),
    "AGENTPIPE_GRACE_S": "0",
    # Three heartbeats per lease: keep the picture fresh.
    "AGENTPIPE_LEASE_S": "6",
}


def environ() -> dict[str, str]:
    """Without the caller's settings, and with our code importable from any folder."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AGENT")}
    return {**own, **SETTINGS, "PYTHONPATH": str(ROOT)}


def send(folder: Path) -> None:
    """Send each collection its tasks."""
    for name, rounds in ROUNDS.items():
        lines = "\n".join(_tasks(name, rounds))
        command = [*AGENTPIPE, "send", name, "--file", "-"]
        subprocess.run(command, cwd=folder, env=environ(), input=lines, text=True, check=True)  # noqa: S603


def _tasks(name: str, rounds: int) -> Iterator[str]:
    for number in range(rounds):
        for line in TASKS.read_text().splitlines():
            task = json.loads(line)
            yield json.dumps({**task, "task_id": f"{name}-{number}{task['task_id'][-4:]}"})


def finished_run(folder: Path) -> str:
    """A run that has ended, on stores of its own; returns one of its tasks."""
    folder.mkdir()
    lines = TASKS.read_text().splitlines()[:RUN_TASKS]
    commands = (
        ("send", "almanac", "--run", RUN, "--file", "-"),
        ("work", "--burst", "--processes", "1", "--slots", "12"),
    )
    for command in commands:
        subprocess.run(  # noqa: S603
            [*AGENTPIPE, *command],
            cwd=folder,
            env=environ(),
            input="\n".join(lines),
            text=True,
            check=True,
        )
    return f"{RUN}/{json.loads(lines[0])['task_id']}"


@contextmanager
def working(folder: Path) -> Iterator[None]:
    """Run a worker with eight slots within the block."""
    command = [*AGENTPIPE, "work", "--processes", "1", "--slots", "8"]
    with (folder / "work.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ(), stderr=log)  # noqa: S603
        try:
            yield
        finally:
            process.terminate()
            process.wait()
