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
    """Whether nothing of these queues waits, is delayed or runs, and the outbox is empty.

    What a store cannot know of a queue is taken from its whole, and what it cannot know at all
    is not done.
    """
    mine = [depth for depth in stats.queues if depth.queue in queues]
    stages = (
        _known([depth.waiting for depth in mine], stats.waiting),
        _known([depth.delayed for depth in mine], stats.delayed),
        _known([depth.running for depth in mine], stats.running),
        stats.outbox,
    )
    return all(stage == 0 for stage in stages)


def _known(parts: list[int | None], whole: int | None) -> int | None:
    return whole if None in parts else sum(part or 0 for part in parts)


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
        "held_s": None if depth.held_s is None else round(depth.held_s, 3),
        "paused": depth.paused,
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
