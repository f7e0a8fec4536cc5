"""Phrases about times, runs and workers."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import orjson

from agentpipe.core.text import counted, duration
from agentpipe.core.timestamps import utc
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.location import ClaimSeen, GroupSeen
    from agentpipe.brokers.statistics import WorkerSeen

MAX_NAMED = 3
# Clocks differ: a stream is read from this many seconds before the time of the task.
SKEW_S = 60


def lasting(since: float | None, now: float) -> str:
    """`` for 5 min``, or nothing."""
    return "" if since is None else f" for {duration(now - since)}"


def ago(moment: float | None, now: float) -> str:
    """`` 5 min ago``, or nothing."""
    return "" if moment is None else f" {duration(now - moment)} ago"


def listed(names: Sequence[str]) -> str:
    """The first few, and the number of the rest."""
    more = len(names) - MAX_NAMED
    return "; ".join([*names[:MAX_NAMED], *([f"{more:,} more"] if more > 0 else [])])


def runs(found: Sequence[ClaimSeen], now: float) -> str:
    """The runs' tasks, workers and durations."""
    return listed([f"{run.task_id} (on {run.worker}{lasting(run.since, now)})" for run in found])


def workers(found: Sequence[WorkerSeen]) -> str:
    """The workers' names and uptimes."""
    return listed([f"{worker.name} ({_age(worker)})" for worker in found])


def _age(worker: WorkerSeen) -> str:
    up_s = up_for_s(worker)
    return f"heard {duration(worker.seen_s)} ago" if up_s is None else f"up for {duration(up_s)}"


def up_for_s(worker: WorkerSeen) -> float | None:
    """The worker's uptime; None before its first heartbeat."""
    up_s = Heartbeat.decode(worker.report).up_s
    return None if up_s is None else up_s + worker.seen_s


def group_sentence(group: GroupSeen) -> str:
    """A group's good samples, and what it still waits for."""
    states = (
        f"{number:,} {word}"
        for number, word in (
            (group.running, "running"),
            (group.waiting, "waiting"),
            (group.delayed, "delayed"),
            (group.other, "of no use"),
        )
        if number
    )
    good = f"{group.good:,} of the {counted(group.need, 'good sample')} that it needs"
    rest = ", ".join([good, *states])
    return f"the group {group.group_id} has {rest}, and {counted(group.repairs, 'repair')} left"


def sink_trouble(found: Sequence[WorkerSeen]) -> str:
    """The report of the worker with the longest sink outage; empty if there is none."""
    reports = [(Heartbeat.decode(worker.report), worker) for worker in found]
    down = [(each.sink_down_s + it.seen_s, each, it) for each, it in reports if each.sink_down_s]
    if not down:
        return ""
    for_s, heartbeat, worker = max(down, key=lambda each: each[0])
    return f"{worker.name} has failed to publish for {duration(for_s)}: {heartbeat.sink_error}"


def reading(task_id: str, since: float | None) -> str:
    """The command that prints a task's Result."""
    start = "beginning" if since is None else utc(int(since) - SKEW_S).replace(".000000", "")
    found = f"agentpipe tail --from {start} --timeout 2 --json"
    key = f'"task_id":{orjson.dumps(task_id).decode()}'
    return f"{found} | grep -F {shlex.quote(key)}"
