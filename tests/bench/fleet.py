"""A scratch folder with a collection, and the processes that work on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENTS = Path(__file__).with_name("agents.py")
AGENTPIPE = [sys.executable, "-m", "agentpipe"]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Fleet:
    def __init__(self, folder: Path, number: int, agent: str, **config: Any) -> None:
        self.folder = folder
        python = {"class": f"{AGENTS}:{agent}", **config}
        agent_spec = {"name": "a", "type": "python", "config": python}
        limits = {"number": number, "max_queue_size": 1_000_000}
        self._write("agent.yaml", {"kind": "agent", "spec": agent_spec})
        spec = {"name": "bench", "config": "agent.yaml", **limits}
        self._write("bench.yaml", {"kind": "collection", "spec": spec})
        self.environ = {
            **{name: value for name, value in os.environ.items() if "AGENTPIPE" not in name},
            "AGENT_COLLECTION_CONFIG_FILE": str(folder / "bench.yaml"),
            "AGENTPIPE_BROKER": f"sqlite:///{folder}/broker.db",
            "AGENTPIPE_SINK": f"sqlite:///{folder}/results.db",
            "AGENTPIPE_LOG_LEVEL": "ERROR",
        }

    def _write(self, name: str, document: dict[str, Any]) -> None:
        (self.folder / name).write_bytes(orjson.dumps(document))  # JSON is YAML.

    def run(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        return subprocess.run(
            [*AGENTPIPE, *arguments],
            env=self.environ,
            input=stdin,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ).stdout

    def send(self, tasks: list[dict[str, Any]]) -> None:
        self.run("send", "bench", "--file", "-", stdin=b"\n".join(map(orjson.dumps, tasks)))

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = orjson.loads(self.run("status", "--json"))
        return status

    def results(self) -> list[dict[str, Any]]:
        lines = self.run("tail", "--from", "beginning", "--timeout", "0", "--json").splitlines()
        return [orjson.loads(line) for line in lines]

    @contextmanager
    def working(self, *options: str) -> Iterator[None]:
        """Workers in the background, up and idle when the block begins."""
        process = subprocess.Popen(
            [*AGENTPIPE, "work", *options], env=self.environ, stderr=subprocess.DEVNULL
        )
        try:
            while not self.status()["workers"]:
                time.sleep(0.05)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()

    def worker_pid(self) -> int:
        return int(self.status()["workers"][0]["pid"])


@contextmanager
def fleet(number: int, agent: str, **config: Any) -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory() as folder:
        yield Fleet(Path(folder), number, agent, **config)


def seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def results_per_s(results: list[dict[str, Any]]) -> float:
    first = min(seconds(result["started_at"]) for result in results)
    last = max(seconds(result["finished_at"]) for result in results)
    return len(results) / (last - first)


def cpu_share(pid: int, duration_s: float) -> float:
    """Of one core, over the next ``duration_s``."""
    before = _cpu_s(pid)
    time.sleep(duration_s)
    return (_cpu_s(pid) - before) / duration_s


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
