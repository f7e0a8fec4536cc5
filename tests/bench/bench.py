"""Figures of the embedded store, each beside something of the same run: ``make bench``.

Absolute numbers are this machine's; the ratios travel. Linux only (/proc).
"""

from __future__ import annotations

import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe import Dispatcher, Settings, load
from tests.bench.fleet import (
    AGENTPIPE,
    Fleet,
    cpu_share,
    fleet,
    memory_mb,
    results_per_s,
    seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION = "x" * 1_400
EVALUATOR = {"func": "raw", "op": "contain", "value": "42"}


def show(label: str, value: str, beside: str) -> None:
    sys.stdout.write(f"{label:<52} {value:>14}   {beside}\n")
    sys.stdout.flush()


def bare_rows_per_s(rows: int, batch: int, synchronous: str) -> float:
    """What SQLite alone does with rows of the same size, ``batch`` to a commit."""
    with tempfile.TemporaryDirectory() as folder:
        db = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        db.execute("CREATE TABLE rows (id TEXT PRIMARY KEY, body BLOB)")
        started = time.perf_counter()
        for first in range(0, rows, batch):
            db.execute("BEGIN IMMEDIATE")
            values = [(f"{number:032}", QUESTION) for number in range(first, first + batch)]
            db.executemany("INSERT INTO rows VALUES (?, ?)", values)
            db.execute("COMMIT")
        duration_s = time.perf_counter() - started
        db.close()
    return rows / duration_s


def sending() -> None:
    for synchronous in ("full", "normal"):
        with fleet(8, "Instant") as scratch:
            url = f"{scratch.environ['AGENTPIPE_BROKER']}?synchronous={synchronous}"
            collections = load(scratch.environ["AGENT_COLLECTION_CONFIG_FILE"])
            dispatcher = Dispatcher.open(collections, Settings(broker=url))
            _sending(dispatcher, synchronous)
            dispatcher.close()


def _sending(dispatcher: Dispatcher, synchronous: str) -> None:
    bulk = _per_s(30_000, lambda tasks: dispatcher.send_many("bench", tasks))
    bare = bare_rows_per_s(30_000, 1_000, synchronous)
    show(f"send_many, 1.5 KB, {synchronous}", f"{bulk:,.0f}/s", _ratio(bulk, bare, "rows"))
    single = _per_s(2_000, lambda tasks: [dispatcher.send("bench", task) for task in tasks])
    bare = bare_rows_per_s(2_000, 1, synchronous)
    show(f"send, 1.5 KB, {synchronous}", f"{single:,.0f}/s", _ratio(single, bare, "rows"))


def _per_s(number: int, send: Callable[[list[dict[str, Any]]], Any]) -> float:
    tasks = [{"question": QUESTION, "metadata": {"index": index}} for index in range(number)]
    started = time.perf_counter()
    send(tasks)
    return number / (time.perf_counter() - started)


def _ratio(value: float, bare: float, noun: str) -> str:
    return f"{value / bare:.2f} of SQLite's bare {bare:,.0f} {noun}/s"


def instant() -> None:
    with fleet(8, "Instant") as scratch:
        scratch.send([{"question": QUESTION, "evaluators": [EVALUATOR]}] * 10_000)
        scratch.run("work", "--processes", "2", "--burst")
        speed = results_per_s(scratch.results())
    bare = bare_rows_per_s(3_000, 1, "full")
    beside = _ratio(speed, bare, "durable rows")
    show("instant agents, one evaluator, two processes", f"{speed:,.0f}/s", beside)


def waiting() -> None:
    with fleet(1_000, "Waiting") as scratch:
        scratch.send([{"question": "q"}] * 8_000)
        with scratch.working("--processes", "1", "--slots", "1000"):
            pid = scratch.worker_pid()
            time.sleep(4)
            memory = memory_mb(pid)
            _finish(scratch, 8_000)
        speed = results_per_s(scratch.results())
    show(
        "1,000 agents waiting 1 s, one process", f"{speed:,.0f}/s", f"{speed / 1_000:.2f} of ideal"
    )
    show("  its memory", f"{memory:.0f} MB", "")
    with fleet(5_000, "Waiting", pause_s=30) as scratch:
        scratch.send([{"question": "q"}] * 5_000)
        with scratch.working("--processes", "1", "--slots", "5000"):
            while scratch.status()["running"] < 5_000:
                time.sleep(0.1)
            pid = scratch.worker_pid()
            share = cpu_share(pid, 10)
            memory = memory_mb(pid)
            _finish(scratch, 5_000)
    show("5,000 agents waiting", f"{share:.1%}", "of one core")
    show("  its memory", f"{memory:.0f} MB", "")


def _finish(scratch: Fleet, number: int) -> None:
    while scratch.status()["delivered"] < number:
        time.sleep(0.2)


def idle() -> None:
    with fleet(1_000, "Instant") as scratch, scratch.working("--processes", "1"):
        pid = scratch.worker_pid()
        time.sleep(1)
        share = cpu_share(pid, 15)
        show("1,000 idle queues", f"{share:.2%}", f"of one core, {memory_mb(pid):.0f} MB")
        latencies_ms = _latencies_ms(scratch, 100)
        p50, p99 = statistics.median(latencies_ms), latencies_ms[98]
        show("from send to start, idle", f"{p50:.1f} ms", f"median; {p99:.1f} ms at p99")


def _latencies_ms(scratch: Fleet, number: int) -> list[float]:
    settings = Settings(broker=scratch.environ["AGENTPIPE_BROKER"])
    collections = load(scratch.environ["AGENT_COLLECTION_CONFIG_FILE"])
    dispatcher = Dispatcher.open(collections, settings)
    sent = {}
    for _ in range(number):
        time.sleep(0.05)
        at = time.time()
        sent[dispatcher.send("bench", "q")] = at
    _finish(scratch, number)
    dispatcher.close()
    found = scratch.results()
    return sorted((seconds(each["started_at"]) - sent[each["task_id"]]) * 1000 for each in found)


def starting() -> None:
    with fleet(8, "Instant") as scratch:
        bare_ms = _start_ms([sys.executable, "-c", "pass"], scratch)
        for arguments in (["--help"], ["send", "bench", "q"]):
            took_ms = _start_ms([*AGENTPIPE, *arguments], scratch)
            beside = f"{took_ms - bare_ms:.0f} ms more than bare Python's {bare_ms:.0f} ms"
            show(f"agentpipe {arguments[0]}", f"{took_ms:.0f} ms", beside)


def _start_ms(command: list[str], scratch: Fleet) -> float:
    samples = []
    for _ in range(11):
        started = time.perf_counter()
        subprocess.run(command, env=scratch.environ, capture_output=True, check=True)
        samples.append((time.perf_counter() - started) * 1000)
    return statistics.median(samples)


if __name__ == "__main__":
    for measure in (starting, sending, instant, waiting, idle):
        measure()
