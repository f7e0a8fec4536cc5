"""Other task runners, started and fed as their users do it, each with two worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PEERS = "bench.peers"
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Rival:
    """One of them.

    Attributes:
        settings: Those that differ from its own, for the reader of the figures.
    """

    name: str
    module: str
    command: tuple[str, ...]
    settings: str


DRAMATIQ = Rival(
    "Dramatiq",
    f"{PEERS}.dramatiq_noop",
    ("dramatiq", f"{PEERS}.dramatiq_noop", "-p", "2", "-t", "8", "--skip-logging"),
    "16 at once",
)
TASKIQ = Rival(
    "taskiq",
    f"{PEERS}.taskiq_noop",
    ("taskiq", "worker", f"{PEERS}.taskiq_noop:broker", "-w", "2", "--log-level", "ERROR"),
    "200 at once, nothing acknowledged",
)


class Bout:
    """A rival on a server, with a journal of what its workers ran."""

    def __init__(self, rival: Rival, url: str, folder: Path) -> None:
        self._rival, self._folder = rival, folder
        self._environ = {**os.environ, "PEER_BROKER": url, "PEER_JOURNAL": str(folder)}

    def send(self, number: int, pause_s: float = 0.0) -> float:
        """Send so many, one by one; returns how many a second."""
        command = [sys.executable, "-m", self._rival.module, str(number), str(pause_s)]
        done = subprocess.run(command, env=self._environ, check=True, stdout=subprocess.PIPE)
        return float(done.stdout)

    @contextmanager
    def working(self) -> Iterator[int]:
        """Its two workers in the background; gives the process that started them."""
        command = [sys.executable, "-m", *self._rival.command]
        process = subprocess.Popen(
            command, env=self._environ, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def noted(self, number: int) -> list[tuple[float, float]]:
        """When each task was sent and when it ran, once there are so many."""
        deadline = time.monotonic() + PATIENCE_S
        while len(lines := self._lines()) < number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._rival.name}: {len(lines)} of {number} tasks ran")
            time.sleep(0.1)
        pairs = (line.split() for line in lines)
        return [(float(sent), float(ran)) for sent, ran in pairs]

    def _lines(self) -> list[str]:
        texts = (path.read_text() for path in self._folder.iterdir())
        return [line for text in texts for line in text.splitlines(keepends=True) if "\n" in line]


@contextmanager
def bout(rival: Rival, url: str) -> Iterator[Bout]:
    with tempfile.TemporaryDirectory() as folder:
        yield Bout(rival, url, Path(folder))


def tasks_per_s(rival: Rival, url: str, number: int) -> float:
    """From the first run to the last, of tasks that were there before the workers."""
    with bout(rival, url) as match:
        match.send(number)
        with match.working():
            ran = [ran for _, ran in match.noted(number)]
    return number / (max(ran) - min(ran))


def latencies_ms(rival: Rival, url: str, number: int, pause_s: float) -> list[float]:
    """From sending to running on idle workers, sorted."""
    with bout(rival, url) as match, match.working():
        match.send(20, pause_s)  # They warm up.
        match.noted(20)
        match.send(number, pause_s)
        noted = sorted(match.noted(number + 20))[20:]
    return sorted((ran - sent) * 1000 for sent, ran in noted)
