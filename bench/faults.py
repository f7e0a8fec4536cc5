"""What faults cost: ``python -m bench.faults [sqlite | redis | rabbitmq ...]``.

2,000 tasks, of which 20 hold the interpreter each time they run, under 200 kill -9 and 20 SIGSTOP
of twice the lease. It takes some ten minutes for each broker.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from bench.figures import show
from bench.fleet import Fleet, fleet
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

TASKS, HOLDERS, KILLS, FREEZES = 2_000, 20, 200, 20
AGENTS, PROCESSES, SLOTS, RUN_S = 8, 4, 3, 0.7
# A killed run counts as a crash, whoever killed it. While faults come, they end about every third
# run: with a limit of 6, some innocent task of 2,000 would reach it by chance alone.
MAX_CRASHES = 10
LEASE_S = 12
BETWEEN_FAULTS_S = 1.0
PATIENCE_S = 1_800.0
SERVERS = {"redis": RedisServer, "rabbitmq": RabbitServer}


@dataclass(frozen=True, slots=True)
class Run:
    """A run that began, by its journal: ``at`` is a wall clock's."""

    task_id: str
    pid: int
    at: float


def measure(broker: str) -> bool:
    """Print one broker's figures; returns whether each promise held."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = ""
        if server := SERVERS.get(broker):
            url = stack.enter_context(server(folder / broker, environ=os.environ)).url
        journal = folder / "journal"
        journal.touch()
        scratch = stack.enter_context(
            fleet(AGENTS, "Holding", url, SLOTS, journal=str(journal), pause_s=RUN_S)
        )
        # Holders that die one after the other would pause the collection.
        scratch.limit(max_crashes=MAX_CRASHES, breaker=0)
        return _measure(scratch, broker, journal)


def _measure(scratch: Fleet, broker: str, journal: Path) -> bool:
    scratch.environ |= {"AGENTPIPE_LEASE_S": str(LEASE_S)}
    scratch.send(list(_tasks()))
    began = time.monotonic()
    with scratch.working("--processes", str(PROCESSES), "--slots", str(SLOTS)):
        faults = _Faults(scratch)
        faults.cause()
        results = scratch.results(TASKS, patience_s=PATIENCE_S)
        faults.close()
        took_s = time.monotonic() - began
        later = scratch.results(TASKS + 1, patience_s=2 * LEASE_S)
    return _judge(broker, took_s, [*results, *later[TASKS:]], _runs(journal), faults.at)


def _tasks() -> Iterator[dict[str, Any]]:
    every = TASKS // HOLDERS
    for number in range(TASKS):
        holds = number % every == every // 2
        task_id = f"{'holder' if holds else 'innocent'}-{number}"
        yield {"task_id": task_id, "question": "hold" if holds else "wait"}


class _Faults:
    """Kills and freezes workers at random, one after the other.

    Attributes:
        at: When each process was first struck, by its id.
    """

    def __init__(self, scratch: Fleet) -> None:
        self._scratch, self._random = scratch, random.Random(0)
        self._thawing: list[threading.Timer] = []
        self.at: dict[int, float] = {}

    def cause(self) -> None:
        kinds = [signal.SIGKILL] * KILLS + [signal.SIGSTOP] * FREEZES
        self._random.shuffle(kinds)
        for kind in kinds:
            self._strike(kind)
            time.sleep(BETWEEN_FAULTS_S)

    def _strike(self, kind: signal.Signals) -> None:
        while not (living := self._living()):
            time.sleep(0.1)
        pid = self._random.choice(living)
        self.at[pid] = time.time()
        os.kill(pid, kind)
        if kind is signal.SIGSTOP:
            thaw = threading.Timer(2 * LEASE_S, _go_on, (pid,))
            thaw.start()
            self._thawing.append(thaw)

    def _living(self) -> list[int]:
        """Those that serve and were not struck yet."""
        return [pid for pid in self._scratch.worker_pids() if pid not in self.at and _lives(pid)]

    def close(self) -> None:
        for thaw in self._thawing:
            thaw.join()


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _go_on(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _runs(journal: Path) -> list[Run]:
    return [Run(**orjson.loads(line)) for line in journal.read_text().splitlines()]


def _judge(
    broker: str, took_s: float, results: list[dict[str, Any]], runs: list[Run], at: dict[int, float]
) -> bool:
    answers = Counter(result["task_id"] for result in results)
    lost, twice = TASKS - len(answers), len(results) - len(answers)
    wrong = [result for result in results if result["outcome"] != _due(result["task_id"])]
    recovered_s = sorted(_recoveries_s(runs, at))
    p95_s = recovered_s[len(recovered_s) * 95 // 100]
    show(f"{broker}: {TASKS:,} tasks", f"{took_s:.0f} s", f"{len(runs):,} runs")
    show("  lost", str(lost))
    show("  twice in the stream", str(twice))
    show("  another outcome than theirs", str(len(wrong)), ", ".join(_shown(wrong, runs, at)))
    beside = f"p95 of {len(recovered_s)}, lease {LEASE_S} s, longest {recovered_s[-1]:.1f} s"
    show("  from the fault to the next run", f"{p95_s:.1f} s", beside)
    return not (lost or twice or wrong) and p95_s <= LEASE_S + 5


def _due(task_id: str) -> str:
    return "crashed" if task_id.startswith("holder") else "ok"


def _shown(results: list[dict[str, Any]], runs: list[Run], at: dict[int, float]) -> list[str]:
    """The first ones, with how many of their runs were in a process that was struck."""
    begun = Counter(run.task_id for run in runs)
    struck = Counter(run.task_id for run in runs if run.pid in at)
    return [
        f"{it['task_id']} {it['outcome']} at attempt {it['attempt']} ({it['error']}), "
        f"struck {struck[it['task_id']]} of {begun[it['task_id']]}"
        for it in results[:5]
    ]


def _recoveries_s(runs: list[Run], at: dict[int, float]) -> Iterator[float]:
    """From a fault to the next run, for each innocent run that the fault ended."""
    struck = dict(at)
    for run in runs:
        if run.task_id.startswith("holder"):
            struck[run.pid] = min(run.at, struck.get(run.pid, run.at))
    by_task = defaultdict[str, list[Run]](list)
    for run in runs:
        by_task[run.task_id].append(run)
    for task_id, of_task in by_task.items():
        if not task_id.startswith("holder"):
            for ended, following in pairwise(of_task):
                if ended.pid in struck:
                    yield following.at - max(struck[ended.pid], ended.at)


def main() -> None:
    held = [measure(broker) for broker in sys.argv[1:] or ("sqlite", *SERVERS)]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
