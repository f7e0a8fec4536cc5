"""Detects wrong clocks from workers' heartbeats and from the times in results."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from agentpipe.connections.health import MAX_SKEW_S, Finding, is_close, ok, skew, warn
from agentpipe.core.text import counted
from agentpipe.errors import FormatError
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from agentpipe.brokers.statistics import WorkerSeen
    from agentpipe.core.result import Result

MAX_SHOWN = 3


def worker_clocks(workers: Sequence[WorkerSeen], now: float, precision_s: float) -> Finding:
    """Compare the clock in each heartbeat, plus its age, with ours."""
    name = "clocks of workers"
    ahead = {
        worker: clock + worker.seen_s - now
        for worker in workers
        if (clock := Heartbeat.decode(worker.report).clock) is not None
    }
    if not ahead:
        return ok(name, "no heartbeat with a clock yet")
    worst = max(ahead, key=lambda worker: abs(ahead[worker]))
    off = [worker for worker in ahead if not is_close(ahead[worker], precision_s)]
    if off:
        found = (
            f"{len(off)} of {len(ahead)} off: {worst.name} on {worst.host} by "
            f"{skew(ahead[worst])} against this machine"
        )
        return warn(name, found, f"run an NTP client on {_some({each.host for each in off})}")
    found = f"{counted(len(ahead), 'worker')}, at most {skew(ahead[worst])} against this machine"
    return ok(name, f"{found}, to within {precision_s:.3f} s")


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:MAX_SHOWN])
    return shown if len(names) <= MAX_SHOWN else f"{shown} and {len(names) - MAX_SHOWN} more"


def clocks_in_results(results: Iterable[Result], now: Callable[[], float]) -> Finding:
    """Check whether a run ended in the future, or started before its task was accepted.

    This covers workers that have exited, but finds only clocks that are clearly wrong. ``now`` is
    called after each result: on a busy fleet, results end while the stream is read.
    """
    name = "clocks in results"
    worst, who, seen = 0.0, "", 0
    for result in results:
        seen += 1
        for off_s in _offsets(result, now()):
            if off_s > worst:
                worst, who = off_s, str(result.worker)
    if not seen:
        return ok(name, "no result in the last hour")
    if worst > MAX_SKEW_S:
        advice = "run an NTP client there and on the senders: deadlines are off"
        found = f"{who}, or the sender of its tasks, is off by {worst:.1f} s or more"
        return warn(name, found, advice)
    return ok(name, f"plausible in {counted(seen, 'result')} in the last hour")


def _offsets(result: Result, now: float) -> Iterator[float]:
    with suppress(ValueError, FormatError):
        if result.finished_at:
            yield datetime.fromisoformat(result.finished_at).timestamp() - now
        if result.started_at and result.submitted_at:
            begun = datetime.fromisoformat(result.started_at).timestamp()
            yield datetime.fromisoformat(result.submitted_at).timestamp() - begun
