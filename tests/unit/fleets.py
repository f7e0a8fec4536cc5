"""Fake fleets for the tests of top."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from agentpipe.brokers.statistics import QueueDepth, Stats, Tally, WorkerSeen
from agentpipe.monitoring.history import FleetHistory, Snapshot
from agentpipe.settings import OutboxLimits
from agentpipe.tui.frame import Display
from agentpipe.worker.claims.heartbeat import Heartbeat

MARKS = OutboxLimits(10_000, 256 * 1024 * 1024)
SCENE = Display("redis://localhost:6379/0", MARKS, now=1_000.0, clock="03:00:00")
NASTY = "\x1b[2J\r\n[bold red]x[/]\u202e\ud800\u0000漢字漢字👩‍👩‍👧ﷺ" + "z" * 500
# Worker reports are sanitized for JSON.
TOLD = NASTY.encode(errors="replace").decode()


def agent(name: str = "crew_0", **fields: Any) -> QueueDepth:
    known = {"collection": "crew", "waiting": 0, "delayed": 0, "running": 0, "cooldown_s": 0.0}
    return QueueDepth(name, **{**known, "limit": 100, "concurrency": 2, **fields})


def worker(name: str = "host-1-a", slots: int = 8, running: int = 0, **report: Any) -> WorkerSeen:
    report = {"lag_s": 0.002, "rss_bytes": 64 * 1024 * 1024, **report}
    return WorkerSeen(name, "host", 1, slots, running, 1.0, Heartbeat(**report).encode())


def fleet(*queues: QueueDepth, workers: tuple[WorkerSeen, ...] = (), **fields: Any) -> Stats:
    waiting, delayed, running = (
        sum(getattr(depth, stage) or 0 for depth in queues)
        for stage in ("waiting", "delayed", "running")
    )
    stats = Stats(0, waiting, delayed, running, 0, 0, 0, 0, undelivered_s=0.0)
    return replace(stats, queues=queues, workers=workers, **fields)


def history(*looks: Stats, every_s: float = 1.0) -> FleetHistory:
    """Snapshots that end at the scene's time."""
    seen = FleetHistory()
    for back, stats in zip(range(len(looks) - 1, -1, -1), looks, strict=True):
        seen = seen.seen(Snapshot(SCENE.now - back * every_s, stats))
    return seen


@cache
def large() -> FleetHistory:
    """A thousand agents in ten collections, with nasty names and errors, and fifty workers."""
    agents = tuple(
        agent(
            f"c{number % 10}_{NASTY if number % 7 == 0 else number}",
            collection=f"c{number % 10}",
            waiting=number * 1_000_003,
            running=number % 3,
            cooldown_s=float(number % 5),
            tally=Tally(number * 77, number, 5, 2.5, 1e6 * number, NASTY, float(number)),
        )
        for number in range(1_000)
    )
    workers = tuple(
        worker(f"{NASTY}-{number}", sink_down_s=9.0, sink_error=TOLD) for number in range(50)
    )
    outcomes = dict.fromkeys(("ok", "agent_error", "limit", "infra_error", NASTY), 10**9)
    return history(
        fleet(*agents, workers=workers, outcomes={}, accepted=0),
        fleet(*agents, workers=workers, outcomes=outcomes, accepted=10**10, dead=7, outbox=3),
    )
