"""Other task runners, started and fed as by their users, each with two worker processes.

Some cannot share our environment: they use ``.venv-rivals`` and ``.venv-arq`` at the top of the
checkout.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PEERS = "bench.peers"
PATIENCE_S = 60.0
ROOT = Path(__file__).parents[1]
# Most of them share the first; arq needs an older Redis client.
RIVALS_PYTHON = str(ROOT / ".venv-rivals" / "bin" / "python")
ARQ_PYTHON = str(ROOT / ".venv-arq" / "bin" / "python")


@dataclass(frozen=True, slots=True)
class Rival:
    """One other task runner.

    Attributes:
        settings: Settings that differ from its defaults, for the reader of the figures.
        starts: How often the command is started, for two worker processes in total.
        python: The Python of its environment.
    """

    name: str
    module: str
    command: tuple[str, ...]
    settings: str
    starts: int = 1
    python: str = sys.executable
    environ: dict[str, str] = field(default_factory=dict)


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
# With these settings, a worker that dies loses no task.
DRAMATIQ_CONFIRMED = replace(
    DRAMATIQ,
    name="Dramatiq with confirms",
    settings="16 at once, publications confirmed",
    environ={"PEER_CONFIRM": "1"},
)
TASKIQ_STREAMS = Rival(
    "taskiq on streams",
    f"{PEERS}.taskiq_streams_noop",
    (
        *("taskiq", "worker", f"{PEERS}.taskiq_streams_noop:broker", "-w", "2"),
        *("--ack-type", "when_executed", "--max-async-tasks", "8", "--log-level", "ERROR"),
    ),
    "16 at once, acknowledged when executed",
)
CELERY = Rival(
    "Celery",
    f"{PEERS}.celery_noop",
    ("celery", "-A", f"{PEERS}.celery_noop", "worker", "-c", "2", "--loglevel", "ERROR"),
    "acks_late, prefetch 1, a process for each of 2 at once",
    python=RIVALS_PYTHON,
)
SAQ = Rival(
    "saq",
    f"{PEERS}.saq_noop",
    ("saq", f"{PEERS}.saq_noop.settings", "--quiet"),
    "16 at once",
    starts=2,
    python=RIVALS_PYTHON,
)
STREAQ = Rival(
    "streaq",
    f"{PEERS}.streaq_noop",
    ("streaq", "run", f"{PEERS}.streaq_noop:worker"),
    "16 at once, no prefetch",
    starts=2,
    python=RIVALS_PYTHON,
)
ARQ = Rival(
    "arq",
    f"{PEERS}.arq_noop",
    ("arq", f"{PEERS}.arq_noop.WorkerSettings"),
    "16 at once",
    starts=2,
    python=ARQ_PYTHON,
)


class Bout:
    """A rival on a server, with a journal of what its workers ran."""

    def __init__(self, rival: Rival, url: str, folder: Path) -> None:
        self._rival, self._folder = rival, folder
        own = {"PEER_BROKER": url, "PEER_JOURNAL": str(folder), "PYTHONPATH": str(ROOT)}
        self._environ = {**os.environ, **own, **rival.environ}

    def send(self, number: int, pause_s: float = 0.0) -> float:
        """Send ``number`` tasks one by one; return tasks per second."""
        command = [self._rival.python, "-m", self._rival.module, str(number), str(pause_s)]
        done = subprocess.run(
            command,
            env=self._environ,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_S,
        )
        return float(done.stdout)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run its two workers in the background."""
        with ExitStack() as stack:
            for _ in range(self._rival.starts):
                stack.enter_context(self._worker())
            yield

    @contextmanager
    def _worker(self) -> Iterator[None]:
        process = subprocess.Popen(
            [self._rival.python, "-m", *self._rival.command],
            env=self._environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def noted(self, number: int) -> list[tuple[float, float]]:
        """When each task was sent and when it ran, once ``number`` tasks have run."""
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
    """Speed from the first run to the last, of tasks sent before the workers started."""
    with bout(rival, url) as match:
        match.send(number)
        with match.working():
            ran = [ran for _, ran in match.noted(number)]
    return number / (max(ran) - min(ran))


def latencies_ms(rival: Rival, url: str, number: int, pause_s: float) -> list[float]:
    """Times from sending to running on idle workers, sorted."""
    with bout(rival, url) as match, match.working():
        match.send(20, pause_s)  # Warms up the workers.
        match.noted(20)
        match.send(number, pause_s)
        noted = sorted(match.noted(number + 20))[20:]
    return sorted((ran - sent) * 1000 for sent, ran in noted)
