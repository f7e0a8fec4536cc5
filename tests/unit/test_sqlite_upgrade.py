"""The embedded store's file as earlier versions left it."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from agentpipe.brokers import open_store
from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.core.budgets import Budget
from agentpipe.settings import Settings
from tests.stores import ROOMY, open_any

if TYPE_CHECKING:
    from pathlib import Path


def test_tasks_of_a_file_that_counts_no_cooldowns_are_read(tmp_path: Path) -> None:
    settings = Settings(broker=f"sqlite:///{tmp_path / 'a.db'}?synchronous=normal")
    store = open_store(settings)
    store.declare([Queue("q")])
    store.offer("q", [Offer("a", b"{}")], round_robin=False)
    store.close()
    file = sqlite3.connect(tmp_path / "a.db")
    file.execute("ALTER TABLE tasks DROP COLUMN cooled_s")
    file.execute("DROP TABLE sources")
    file.execute("PRAGMA user_version = 4")
    file.close()
    store = open_store(settings)
    worker = Worker("w", queues=frozenset({"q"}))
    store.join(worker)
    (claim,) = store.claim(ClaimRequest(worker, 1, ROOMY))
    assert (claim.task_id, claim.cooled_s) == ("a", 0)
    store.close()


def test_a_pause_of_a_file_without_a_breaker_stays_and_has_no_reason(tmp_path: Path) -> None:
    settings = Settings(broker=f"sqlite:///{tmp_path / 'a.db'}?synchronous=normal")
    store = open_any(settings)
    store.declare([Queue("q_0", "q")])
    store.pause(collections=["q"], paused=True)
    store.close()
    file = sqlite3.connect(tmp_path / "a.db")
    for table in ("streaks", "pause_reasons", "sources"):
        file.execute(f"DROP TABLE {table}")
    file.execute("PRAGMA user_version = 3")
    file.execute("ALTER TABLE tasks DROP COLUMN cooled_s")
    file.close()
    store = open_any(settings)
    (depth,) = store.stats().queues
    assert (depth.paused, depth.pause_reason) == (True, "")
    store.pause(collections=["q"], paused=False)
    (depth,) = store.stats().queues
    assert not depth.paused
    store.close()


def test_a_file_without_runs_keeps_them_from_now_on(tmp_path: Path) -> None:
    settings = Settings(broker=f"sqlite:///{tmp_path / 'a.db'}?synchronous=normal")
    store = open_any(settings)
    store.declare([Queue("q")])
    store.offer("q", [Offer("v2/a", b"{}")], round_robin=False)
    store.close()
    file = sqlite3.connect(tmp_path / "a.db")
    for table in ("runs", "run_results"):
        file.execute(f"DROP TABLE {table}")
    file.execute("PRAGMA user_version = 9")
    file.close()
    store = open_any(settings)
    store.begin_run("v2", b"{}")
    offers = [Offer("v2/a", b"{}"), Offer("v2/b", b"{}")]
    assert store.offer("q", offers, round_robin=False).verdicts == ("duplicate", "accepted")
    assert [(run.name, run.tasks) for run in store.runs()] == [("v2", 1)]
    store.close()


def test_a_file_without_budgets_gets_them_and_keeps_its_tasks(tmp_path: Path) -> None:
    settings = Settings(broker=f"sqlite:///{tmp_path / 'a.db'}?synchronous=normal")
    store = open_any(settings)
    store.declare([Queue("q_0", "q")])
    store.offer("q_0", [Offer("a", b"{}"), Offer("b", b"{}")], round_robin=False)
    store.close()
    file = sqlite3.connect(tmp_path / "a.db")
    file.execute("DROP TABLE budgets")
    file.execute("PRAGMA user_version = 8")
    file.close()
    store = open_any(settings)
    store.declare([Queue("q_0", "q", budget=Budget(usd=1.0))])
    worker = Worker("w", queues=frozenset({"q_0"}))
    store.join(worker)
    (claim,) = store.claim(ClaimRequest(worker, 1, ROOMY))
    store.settle([Settlement(claim, "complete", b"{}", "ok", usd=1.5)])
    assert [it.usd for it in store.spendings()] == [1.5]
    assert store.claim(ClaimRequest(worker, 1, ROOMY)) == []
    store.close()


def test_a_worker_of_a_version_that_kept_the_queues_in_its_row_is_found(tmp_path: Path) -> None:
    settings = Settings(broker=f"sqlite:///{tmp_path / 'a.db'}?synchronous=normal")
    store = open_any(settings)
    store.declare([Queue("q")])
    store.offer("q", [Offer("a", b"{}")], round_robin=False)
    store.join(Worker("old", queues=frozenset({"q"})))
    store.close()
    file = sqlite3.connect(tmp_path / "a.db")
    file.execute("""UPDATE workers SET queues = '["q"]'""")
    file.execute("DROP TABLE served_queues")
    file.execute("PRAGMA user_version = 15")
    file.commit()
    file.close()
    store = open_any(settings)
    store.join(Worker("new", queues=frozenset({"q"})))
    store.join(Worker("other", queues=frozenset({"r"})))
    agent = store.locate("a").agent
    assert agent is not None
    assert {worker.name for worker in agent.servers or ()} == {"old", "new"}
    store.close()
