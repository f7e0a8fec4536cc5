"""Stats: a store's snapshot as plain data for people and scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentpipe.brokers.store import QueueDepth, Stats, WorkerSeen


def as_dict(stats: Stats) -> dict[str, Any]:
    """The JSON of ``agentpipe status``; None where the broker cannot know."""
    return {
        "accepted": stats.accepted,
        "waiting": stats.waiting,
        "delayed": stats.delayed,
        "running": stats.running,
        "outbox": stats.outbox,
        "outbox_bytes": stats.outbox_bytes,
        "delivered": stats.delivered,
        "outcomes": dict(stats.outcomes),
        "dead": stats.dead,
        "agents": [_agent(depth) for depth in stats.queues],
        "workers": [_worker(worker) for worker in stats.workers],
    }


def is_done(stats: Stats, queues: frozenset[str]) -> bool:
    """Whether nothing of these queues waits, is delayed or runs, and the outbox is empty."""
    mine = [depth for depth in stats.queues if depth.queue in queues]
    open_tasks = sum((d.waiting or 0) + (d.delayed or 0) + (d.running or 0) for d in mine)
    return not open_tasks and not stats.outbox


def _agent(depth: QueueDepth) -> dict[str, Any]:
    return {
        "agent": depth.queue,
        "collection": depth.collection,
        "queue": depth.queue,
        "waiting": depth.waiting,
        "delayed": depth.delayed,
        "running": depth.running,
        "limit": depth.limit,
        "concurrency": depth.concurrency,
    }


def _worker(worker: WorkerSeen) -> dict[str, Any]:
    return {
        "worker": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "slots": worker.slots,
        "running": worker.running,
        "seen_s": round(worker.seen_s, 3),
    }
