"""Measures the cost of faults: ``python -m bench.faults [sqlite | redis | rabbitmq ...]``.

2,000 tasks, 20 of which hold the interpreter on every run, under 200 kill -9 and 20 SIGSTOP of
twice the lease. It takes about ten minutes per broker.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.chaos.ledger import Ledger, Run, recoveries_s, runs_in
from agentpipe.chaos.strikes import Strikes
from bench.figures import show
from bench.fleet import Fleet, fleet
from brokers.server_rabbitmq import RabbitServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

TASKS, HOLDERS, KILLS, FREEZES = 2_000, 20, 200, 20
AGENTS, PROCESSES, SLOTS, RUN_S = 8, 4, 3, 0.7
# Each killed run counts as a crash, even an innocent one. Faults end about every third run: with a
# limit of 6, some innocent task of 2,000 would reach it by chance.
MAX_CRASHES = 10
LEASE_S = 12
BETWEEN_FAULTS_S = 1.0
PATIENCE_S = 1_800.0
SERVERS = {"redis": RedisServer, "rabbitmq": RabbitServer}


def measure(broker: str) -> bool:
    """Print one broker's figures; return whether every promise held."""
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
        # Otherwise, holders that die in a row would pause the collection.
        scratch.limit(max_crashes=MAX_CRASHES, breaker=0)
        return _measure(scratch, broker, journal)


def _measure(scratch: Fleet, broker: str, journal: Path) -> bool:
    scratch.environ |= {"AGENTPIPE_LEASE_S": str(LEASE_S)}
    scratch.send(list(_tasks()))
    began = time.monotonic()
    with scratch.working("--processes", str(PROCESSES), "--slots", str(SLOTS)):
        strikes = Strikes(scratch.worker_pids)
        _cause(strikes)
        results = scratch.results(TASKS, patience_s=PATIENCE_S)
        strikes.await_thaw()
        took_s = time.monotonic() - began
        later = scratch.results(TASKS + 1, patience_s=2 * LEASE_S)
    return _judge(broker, took_s, [*results, *later[TASKS:]], runs_in(journal), strikes.at)


def _tasks() -> Iterator[dict[str, Any]]:
    every = TASKS // HOLDERS
    for number in range(TASKS):
        holds = number % every == every // 2
        task_id = f"{'holder' if holds else 'innocent'}-{number}"
        yield {"task_id": task_id, "question": "hold" if holds else "wait"}


def _cause(strikes: Strikes) -> None:
    kinds = [strikes.kill] * KILLS + [partial(strikes.freeze, 2 * LEASE_S)] * FREEZES
    random.Random(0).shuffle(kinds)
    for strike in kinds:
        strike()
        time.sleep(BETWEEN_FAULTS_S)


def _judge(
    broker: str, took_s: float, results: list[dict[str, Any]], runs: list[Run], at: dict[int, float]
) -> bool:
    pairs = [(result["task_id"], result["outcome"]) for result in results]
    ledger = Ledger.of([it["task_id"] for it in _tasks()], pairs, runs, at)
    wrong = [result for result in results if result["outcome"] != _due(result["task_id"])]
    recovered_s = sorted(recoveries_s(list(_innocent(runs)), _ends(runs, at)))
    p95_s = recovered_s[len(recovered_s) * 95 // 100]
    show(f"{broker}: {TASKS:,} tasks", f"{took_s:.0f} s", f"{len(runs):,} runs")
    show("  lost", str(len(ledger.lost)))
    show("  twice in the stream", str(len(ledger.twice)))
    show("  another outcome than theirs", str(len(wrong)), ", ".join(_shown(wrong, runs, at)))
    beside = f"p95 of {len(recovered_s)}, lease {LEASE_S} s, longest {recovered_s[-1]:.1f} s"
    show("  from the fault to the next run", f"{p95_s:.1f} s", beside)
    return ledger.balances and not wrong and p95_s <= LEASE_S + 5


def _due(task_id: str) -> str:
    return "crashed" if task_id.startswith("holder") else "ok"


def _shown(results: list[dict[str, Any]], runs: list[Run], at: dict[int, float]) -> list[str]:
    """Describe the first ones, with how many of their runs were in a struck process."""
    begun = Counter(run.task_id for run in runs)
    struck = Counter(run.task_id for run in runs if run.pid in at)
    return [
        f"{it['task_id']} {it['outcome']} at attempt {it['attempt']} ({it['error']}), "
        f"struck {struck[it['task_id']]} of {begun[it['task_id']]}"
        for it in results[:5]
    ]


def _innocent(runs: list[Run]) -> Iterator[Run]:
    return (run for run in runs if not run.task_id.startswith("holder"))


def _ends(runs: list[Run], at: dict[int, float]) -> dict[int, float]:
    """When each process was struck, or first held by one of its own runs."""
    ends = dict(at)
    for run in runs:
        if run.task_id.startswith("holder"):
            ends[run.pid] = min(run.at, ends.get(run.pid, run.at))
    return ends


def main() -> None:
    held = [measure(broker) for broker in sys.argv[1:] or ("sqlite", *SERVERS)]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
