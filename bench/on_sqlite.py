"""Figures of the embedded store, beside SQLite with bare rows."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path

from agentpipe.brokers.sqlite.admission import admit as store
from agentpipe.brokers.sqlite.admission import known_ids
from agentpipe.brokers.sqlite.layout import LAYOUT
from agentpipe.sending.admission import admit
from bench import asking, crowds, settling
from bench.figures import (
    EVALUATOR,
    bulk_per_s,
    latencies_ms,
    ratio,
    show,
    show_latencies,
    single_per_s,
    tasks,
)
from bench.fleet import cpu_shares, fleet, memory_mb, results_per_s
from bench.peers.sending import QUESTION
from bench.recording import attempt


def measure() -> None:
    attempt("sending", sending)
    attempt("instant agents", instant)
    attempt("agents waiting", crowds.turns, crowds.embedded)
    attempt("thousands of agents", crowds.sizes, crowds.embedded)
    attempt("killed workers", crowds.recoveries, crowds.embedded)
    attempt("1,000 idle queues", idle)
    attempt("claim and settle", settling.measure)
    attempt("why", asking.measure, "sqlite")


def bare_rows_per_s(rows: int, batch: int, synchronous: str) -> float:
    """Speed of SQLite alone with rows of the same size, ``batch`` per commit."""
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


def statements_per_s(rows: int, batch: int, synchronous: str) -> float:
    """Speed of SQLite alone with an offer's statements and indices, for rows of the same size."""
    with tempfile.TemporaryDirectory() as folder:
        db = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        for statement in LAYOUT.statements_from(0) or ():
            db.execute(statement)
        offers = [admit(task).offer("") for task in tasks(rows)]
        started = time.perf_counter()
        for first in range(0, rows, batch):
            part = offers[first : first + batch]
            db.execute("BEGIN IMMEDIATE")
            known_ids(db, [offer.task_id for offer in part])
            store(db, [(offer, 1 + at % 8) for at, offer in enumerate(part)], time.time())
            db.execute("COMMIT")
        duration_s = time.perf_counter() - started
        db.close()
    return rows / duration_s


def sending() -> None:
    for synchronous in ("full", "normal"):
        with fleet(8, "Instant") as scratch:
            scratch.environ["AGENTPIPE_BROKER"] += f"?synchronous={synchronous}"
            bulk = bulk_per_s(scratch, 30_000)
            bare = bare_rows_per_s(30_000, 1_000, synchronous)
            beside = ratio(bulk, bare, "SQLite's bare rows,")
            show(f"send_many, 1.5 KB, {synchronous}", f"{bulk:,.0f}/s", beside)
            alone = statements_per_s(30_000, 1_000, synchronous)
            show("", f"{bulk:,.0f}/s", ratio(bulk, alone, "its own statements alone,"))
            single = single_per_s(scratch, 2_000)
            bare = bare_rows_per_s(2_000, 1, synchronous)
            beside = ratio(single, bare, "SQLite's bare rows,")
            show(f"send, 1.5 KB, {synchronous}", f"{single:,.0f}/s", beside)


def instant() -> None:
    with fleet(8, "Instant") as scratch:
        scratch.send([{"question": QUESTION, "evaluators": [EVALUATOR]}] * 10_000)
        scratch.run("work", "--processes", "2", "--burst")
        speed = results_per_s(scratch.results(10_000))
    bare = bare_rows_per_s(3_000, 1, "full")
    beside = ratio(speed, bare, "SQLite's bare durable rows,")
    show("instant agents, one evaluator, two processes", f"{speed:,.0f}/s", beside)


def idle() -> None:
    with fleet(1_000, "Instant") as scratch, scratch.working("--processes", "1") as pid:
        time.sleep(1)
        (share,) = cpu_shares([pid], 15)
        show("1,000 idle queues", f"{share:.2%}", f"of one core, {memory_mb(pid):.0f} MB")
        show_latencies("from send to start, idle", latencies_ms(scratch, 100))
