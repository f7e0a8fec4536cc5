"""A store's snapshot as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.statistics import RECENT_S
from agentpipe.operations.loops import loops_seen
from agentpipe.operations.policies import flights_of, policy_as_dict
from agentpipe.worker.claims.configs import configs_in_use
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.brokers.statistics import QueueDepth, Stats, Tally, WorkerSeen
    from agentpipe.core.budgets import Spending
    from agentpipe.worker.claims.configs import ConfigInUse


def as_dict(stats: Stats) -> dict[str, Any]:
    """The JSON of ``agentpipe status``; None for what the broker cannot know."""
    heartbeats = [Heartbeat.decode(worker.report) for worker in stats.workers]
    oldest_s = oldest_runs_s(heartbeats)
    return {
        "accepted": stats.accepted,
        "waiting": stats.waiting,
        "delayed": stats.delayed,
        "running": stats.running,
        "outbox": stats.outbox,
        "outbox_bytes": stats.outbox_bytes,
        "undeliverable": stats.undeliverable,
        "delivered": stats.delivered,
        "outcomes": dict(stats.outcomes),
        "groups": None if stats.groups is None else asdict(stats.groups),
        "dead": stats.dead,
        "per_s": None if stats.recent is None else stats.recent / RECENT_S,
        "undelivered_s": undelivered_s(stats, heartbeats),
        **_sums(stats.tally),
        "agents": [_agent(depth, oldest_s.get(depth.queue)) for depth in stats.queues],
        "workers": list(map(_worker, stats.workers, heartbeats)),
        "configs": list(map(_config, configs_in_use(stats))),
        "budgets": list(map(budget_as_dict, stats.spendings)),
        "policies": [policy_as_dict(it, flights_of(stats, it)) for it in stats.policies],
        "loops": [loop.to_dict() for loop in loops_seen(stats.loops)],
    }


def budget_as_dict(spending: Spending) -> dict[str, Any]:
    """The JSON of one budget; null for a missing cap."""
    cap = spending.cap
    return {
        "collection": spending.name if spending.kind == "collection" else None,
        "run": spending.name if spending.kind == "run" else None,
        "cap": {"usd": cap.usd, "tokens": cap.tokens},
        "spent": {"usd": round(spending.usd, 9), "tokens": spending.tokens},
        "overshoot": {
            "usd": spending.overshoot_usd,
            "tokens": spending.overshoot_tokens,
        },
        "is_spent": spending.is_spent,
    }


def _config(config: ConfigInUse) -> dict[str, Any]:
    return {
        "collection": config.collection,
        "config_hash": config.fingerprint or None,
        "place": config.place,
        "sender": config.sender,
        "workers": list(config.workers),
        "differs": config.differs,
    }


def oldest_runs_s(heartbeats: Iterable[Heartbeat]) -> dict[str, float]:
    """The age of the oldest run of each queue, as of the heartbeats."""
    oldest: dict[str, float] = {}
    for heartbeat in heartbeats:
        for queue, age_s in heartbeat.oldest_s.items():
            oldest[queue] = max(age_s, oldest.get(queue, 0.0))
    return oldest


def undelivered_s(stats: Stats, heartbeats: Iterable[Heartbeat]) -> float | None:
    """The sink's lag: the age of the oldest result in the outbox or with a forwarder."""
    carried = [heartbeat.carrying_s for heartbeat in heartbeats]
    if stats.outbox is None or (stats.undelivered_s is None and not carried):
        return None
    if not stats.outbox:
        return 0.0
    return round(max([stats.undelivered_s or 0.0, *carried]), 3)


def _sums(tally: Tally) -> dict[str, Any]:
    return {
        "evaluated": tally.evaluated,
        "passed": round(tally.passed, 6),
        "usd": round(tally.usd, 6),
    }


def _agent(depth: QueueDepth, oldest_s: float | None) -> dict[str, Any]:
    tally = depth.tally
    return {
        "agent": depth.queue,
        "collection": depth.collection,
        "queue": depth.queue,
        "waiting": depth.waiting,
        "delayed": depth.delayed,
        "running": depth.running,
        "limit": depth.limit,
        "concurrency": depth.concurrency,
        "held_s": _rounded(depth.cooldown_s),
        "paused": depth.paused,
        "pause_reason": depth.pause_reason or None,
        "budget_spent": depth.budget_spent,
        "removed": depth.removed,
        "oldest_s": oldest_s if depth.running else None,
        "done": tally.done,
        "failed": tally.failed,
        **_sums(tally),
        "last_error": tally.error or None,
        "last_error_s": _rounded(tally.error_s),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _worker(worker: WorkerSeen, heartbeat: Heartbeat) -> dict[str, Any]:
    return {
        "worker": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "slots": worker.slots,
        "running": worker.running,
        "draining": worker.draining,
        "seen_s": round(worker.seen_s, 3),
        "lag_s": _rounded(heartbeat.lag_s),
        "rss_bytes": heartbeat.rss_bytes,
        "servers": heartbeat.servers,
        "children_bytes": heartbeat.children_bytes,
        "sink_down_s": _rounded(heartbeat.sink_down_s),
        "sink_error": heartbeat.sink_error or None,
    }
