"""The peer, ``mcpuniverse.pipeline`` with Celery, on the same servers; see ``make bench``.

Its own environment is ``.venv-mcpuniverse`` at the top of the checkout.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from brokers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-mcpuniverse" / "bin" / "python"
PEERS = Path(__file__).parent / "peers"
AGENTS = 8
# All eight of its workers take about 20 s to be ready.
READY_S = 120.0


class Peer:
    """Eight of its workers, with an agent each, and a model that answers at once."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self._folder, self._environ = folder, environ
        self.pids: list[int] = []

    def send(self, number: int, pause_s: float = 0.0) -> None:
        arguments = [str(self._folder / "peer.yaml"), "peer", str(number), str(pause_s)]
        subprocess.run(
            [PYTHON, PEERS / "mcpuniverse_send.py", *arguments],
            env=self._environ,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @contextmanager
    def working(self) -> Iterator[None]:
        with ExitStack() as stack:
            for index in range(AGENTS):
                self.pids.append(stack.enter_context(self._worker(index)))
            self._await_ready()
            yield

    def memory_mb(self) -> float:
        """Memory per agent: its two processes' own memory and their share of the rest."""
        return sum(map(_pss_mb, _with_children(self.pids))) / AGENTS

    @contextmanager
    def _worker(self, index: int) -> Iterator[int]:
        command = ["-m", "celery", "-A", "mcpuniverse.pipeline.worker", "worker", "-c", "1"]
        command += ["-Q", f"peer_{index}", "-n", f"peer{index}@%h", "--loglevel=info"]
        with self._log(index).open("wb") as log:
            process = subprocess.Popen(
                [PYTHON, *command],
                env=self._environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _log(self, index: int) -> Path:
        return self._folder / f"worker-{index}.log"

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while not all(b" ready." in self._log(index).read_bytes() for index in range(AGENTS)):
            if time.monotonic() > deadline:
                raise TimeoutError(self._log(0).read_text()[-2_000:])
            time.sleep(0.2)


@contextmanager
def peer(redis_url: str, kafka_url: str, topic: str) -> Iterator[Peer]:
    with tempfile.TemporaryDirectory() as folder, _model() as base_url:
        _write(Path(folder), base_url)
        redis, kafka = urlsplit(redis_url), urlsplit(kafka_url)
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "REDIS_HOST": str(redis.hostname),
            "REDIS_PORT": str(redis.port),
            "KAFKA_HOST": str(kafka.hostname),
            "KAFKA_PORT": str(kafka.port),
            "MQ_TOPIC": topic,
            "OPENAI_API_KEY": "none",
            "AGENT_COLLECTION_CONFIG_FILE": f"{folder}/peer.yaml",
        }
        yield Peer(Path(folder), environ)


def _write(folder: Path, base_url: str) -> None:
    """Write the files as JSON, which is YAML except for several documents in a file."""
    model: Any = {"model_name": "stub", "base_url": base_url}
    agent = {"llm": "model", "instruction": "Answer."}
    documents = [
        {"kind": "llm", "spec": {"name": "model", "type": "openai", "config": model}},
        {"kind": "agent", "spec": {"name": "agent", "type": "basic", "config": agent}},
    ]
    (folder / "agent.yaml").write_bytes(b"\n---\n".join(map(orjson.dumps, documents)))
    spec = {"name": "peer", "config": str(folder / "agent.yaml"), "number": AGENTS}
    (folder / "peer.yaml").write_bytes(orjson.dumps({"kind": "collection", "spec": spec}))


@contextmanager
def _model() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, PEERS / "openai_stub.py", str(port)])
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _with_children(pids: list[int]) -> list[int]:
    found = list(pids)
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _pss_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) / 1024
