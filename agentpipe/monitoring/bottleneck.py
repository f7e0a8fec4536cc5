"""The bottleneck: which stage limits the throughput, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentpipe.monitoring import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.statistics import QueueDepth, Stats
    from agentpipe.monitoring.history import Rates, Snapshot
    from agentpipe.settings import OutboxLimits

Stage = Literal["sent", "waiting", "running", "outbox", "delivered", ""]
# Results are delivered in batches: below this lag the sink does not count as slow.
SLOW_SINK_S = 5.0


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """Where tasks pile up; an empty stage means nowhere.

    Attributes:
        urgent: An operator has to act.
    """

    stage: Stage
    reason: str
    urgent: bool = False


def find_bottleneck(now: Snapshot, rates: Rates, limits: OutboxLimits) -> Bottleneck:
    """The last blocked stage, because it blocks all stages before it."""
    found = [*_outbox(now, limits), *_waiting(now.stats), *_running(now.stats)]
    return found[0] if found else _none(now, rates)


def _outbox(now: Snapshot, limits: OutboxLimits) -> Iterator[Bottleneck]:
    stats = now.stats
    down = [heartbeat for heartbeat in now.heartbeats if heartbeat.sink_down_s is not None]
    if down:
        longest = max(down, key=lambda heartbeat: heartbeat.sink_down_s or 0.0)
        since = numbers.duration(longest.sink_down_s)
        yield Bottleneck("outbox", f"sink down for {since}: {longest.sink_error}", urgent=True)
    if limits.reached_by(stats.outbox or 0, stats.outbox_bytes or 0):
        reason = "outbox full: no claims until the sink accepts results"
        yield Bottleneck("outbox", reason, urgent=True)


def _waiting(stats: Stats) -> Iterator[Bottleneck]:
    queued = [depth for depth in stats.queues if depth.waiting]
    if not queued:
        return
    if not any(worker.slots for worker in stats.workers):
        reason = "no worker is running: start one with `agentpipe work`"
        yield Bottleneck("waiting", reason, urgent=True)
    if all(map(_is_blocked, queued)):
        reason, paused = _blocked_reason(queued), any(depth.paused for depth in queued)
        yield Bottleneck("waiting", reason, urgent=paused)


def _is_blocked(depth: QueueDepth) -> bool:
    return depth.paused or bool(depth.cooldown_s)


def _blocked_reason(queued: Sequence[QueueDepth]) -> str:
    cooling = [depth.cooldown_s or 0.0 for depth in queued if not depth.paused]
    if not cooling:
        reasons = {depth.pause_reason for depth in queued} - {""}
        why = f" ({min(reasons)})" if reasons else ""
        is_spent = any(depth.budget_spent for depth in queued)
        what = "agentpipe resume with a higher budget goes on" if is_spent else "p resumes"
        return f"all agents with work are paused{why}: {what}"
    names = "in cooldown" if len(cooling) == len(queued) else "paused or in cooldown"
    return f"all agents with work are {names}: {numbers.duration(min(cooling))} left"


def _running(stats: Stats) -> Iterator[Bottleneck]:
    slots, running = sum(worker.slots for worker in stats.workers), stats.running or 0
    ready = [depth for depth in stats.queues if depth.waiting and not _is_blocked(depth)]
    if not ready or not slots:
        return
    held_up = _limits(ready, _running_by_group(stats))
    if held_up:
        yield Bottleneck("running", held_up)
    if running >= slots:
        yield Bottleneck("running", f"all {slots:,} slots busy")
    if not running:
        reason = "workers are idle: check that they serve these agents"
        yield Bottleneck("waiting", reason, urgent=True)


def _running_by_group(stats: Stats) -> Counter[str]:
    runs: Counter[str] = Counter()
    for depth in stats.queues:
        runs[depth.group[0] if depth.group else ""] += depth.running or 0
    return runs


def _limits(ready: Sequence[QueueDepth], group_runs: Counter[str]) -> str:
    """The limits that block every queue with work; empty if some queue can run more."""
    groups = {depth.group for depth in ready if depth.group}
    full = {(name, limit) for name, limit in groups if group_runs[name] >= limit}
    if not all(depth.group in full or _is_at_limit(depth) for depth in ready):
        return ""
    if len(full) == 1 and all(depth.group in full for depth in ready):
        ((name, limit),) = full
        return f"context {name} is at its limit of {limit:,}: more workers would not run more"
    whose = "its context's" if full else "its"
    return f"each agent with work is at {whose} concurrency limit: more workers would not run more"


def _is_at_limit(depth: QueueDepth) -> bool:
    return (depth.running or 0) >= depth.concurrency


def _none(now: Snapshot, rates: Rates) -> Bottleneck:
    stats = now.stats
    if (now.sink_lag_s or 0.0) > SLOW_SINK_S:
        return Bottleneck("outbox", "the sink is slower than the agents")
    if stats.waiting:
        return Bottleneck("", "tasks start as they arrive")
    if stats.running:
        return Bottleneck("", "every task is running or done")
    if stats.delayed:
        return Bottleneck("waiting", _why_delayed(stats))
    return Bottleneck("", "every task is done" if rates.ended else "no tasks")


def _why_delayed(stats: Stats) -> str:
    """Why all tasks are delayed: tasks ahead of their policy are delayed too."""
    full = [it.name for it in stats.policies if it.room is not None and it.room <= 0]
    if full:
        return f"policy {min(full)} lets none begin before its trainer's next version"
    return "failed tasks wait for their next try"
