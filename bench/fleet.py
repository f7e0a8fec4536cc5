"""A scratch folder with a collection, and its worker processes. Linux only (/proc)."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENTS = Path(__file__).with_name("agents.py")
AGENTPIPE = [sys.executable, "-m", "agentpipe"]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PATIENCE_S = 180.0


class Fleet:
    """``number`` agents of one kind.

    Attributes:
        environ: The environment of the commands.
        stream_file: The file that results go to.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        agent: str,
        *,
        broker: str,
        concurrency: int,
        python: str = sys.executable,
        **config: Any,
    ) -> None:
        self.folder = folder
        self._command = [python, "-m", "agentpipe"]
        agent_config = {"class": f"{AGENTS}:{agent}", **config}
        agent_spec = {"name": "a", "type": "python", "config": agent_config}
        limits = {"number": number, "max_queue_size": 1_000_000, "concurrency": concurrency}
        self._write("agent.yaml", {"kind": "agent", "spec": agent_spec})
        self._spec = {"name": "bench", "config": "agent.yaml", **limits}
        self.limit()
        self.environ = {
            **{name: value for name, value in os.environ.items() if "AGENTPIPE" not in name},
            "AGENT_COLLECTION_CONFIG_FILE": str(folder / "bench.yaml"),
            "AGENTPIPE_BROKER": broker or f"sqlite:///{folder}/broker.db",
            "AGENTPIPE_SINK": f"sqlite:///{folder}/results.db",
        }
        self.stream_file = folder / "results.db"
        self._log = folder / "work.log"

    def _write(self, name: str, document: dict[str, Any]) -> None:
        (self.folder / name).write_bytes(orjson.dumps(document))  # JSON is YAML.

    def limit(self, **limits: int) -> None:
        """Add these limits to the collection's own."""
        self._write("bench.yaml", {"kind": "collection", "spec": {**self._spec, **limits}})

    def run(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        return subprocess.run(
            [*self._command, *arguments],
            env=self.environ,
            cwd=self.folder,
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

    def results(self, number: int, patience_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """The whole stream, once it holds ``number`` results or none came for ``patience_s``."""
        stream = ["tail", "--from", "beginning", "--json", "--limit", str(number)]
        lines = self.run(*stream, "--timeout", str(patience_s)).splitlines()
        return [orjson.loads(line) for line in lines]

    def await_results(self, number: int) -> None:
        """Wait until the file of results holds ``number``: a reader would slow the workers down."""
        deadline = time.monotonic() + PATIENCE_S
        while self._stored() < number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._stored()} of {number} results are in the file")
            time.sleep(0.05)

    def _stored(self) -> int:
        try:
            with closing(sqlite3.connect(f"{self.stream_file.as_uri()}?mode=ro", uri=True)) as db:
                return int(db.execute("SELECT count(DISTINCT task_id) FROM records").fetchone()[0])
        except sqlite3.OperationalError:  # The workers are about to make it.
            return 0

    @contextmanager
    def working(self, *options: str) -> Iterator[int]:
        """Run workers in the background, ready when the block begins; yield one process id."""
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [*self._command, "work", *options],
                env=self.environ,
                cwd=self.folder,
                stderr=log,
            )
        try:
            yield self.worker_pid()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()

    def worker_pid(self, nth: int = 1) -> int:
        """The process id of the nth worker, once it is ready."""
        deadline = time.monotonic() + PATIENCE_S
        while len(pids := self.worker_pids()) < nth:
            if time.monotonic() > deadline:
                raise TimeoutError(self._log.read_text())
            time.sleep(0.02)
        return pids[nth - 1]

    def worker_pids(self) -> list[int]:
        """Process ids of all workers that have served so far, in the order of their starts."""
        names = re.findall(r"worker \S+-(\d+)-\w+ serves", self._log.read_text())
        return list(map(int, names))


@contextmanager
def fleet(
    number: int, agent: str, broker: str = "", concurrency: int = 1, **options: Any
) -> Iterator[Fleet]:
    """A fleet on ``broker``, or on SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        yield Fleet(Path(folder), number, agent, broker=broker, concurrency=concurrency, **options)


def seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def results_per_s(results: list[dict[str, Any]]) -> float:
    first = min(seconds(result["started_at"]) for result in results)
    last = max(seconds(result["finished_at"]) for result in results)
    return len(results) / (last - first)


def cpu_shares(pids: list[int], duration_s: float) -> list[float]:
    """Shares of one core used over the next ``duration_s``."""
    before = [cpu_s(pid) for pid in pids]
    time.sleep(duration_s)
    return [(cpu_s(pid) - at) / duration_s for pid, at in zip(pids, before, strict=True)]


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
