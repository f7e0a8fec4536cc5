"""The last snapshots, and the rates computed from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import RECENT_S
from agentpipe.operations.stats import oldest_runs_s, undelivered_s
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.runs import KeptRun
    from agentpipe.brokers.statistics import Stats

# Rates are averages over this many seconds.
WINDOW_S = 10.0
MAX_TOTALS = 600


@dataclass(frozen=True)
class Snapshot:
    """The store at one moment.

    Attributes:
        at: On the monotonic clock.
        runs: The store's runs, as last read.
    """

    at: float
    stats: Stats
    runs: tuple[KeptRun, ...] = ()

    @cached_property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """Each worker's last report."""
        return tuple(Heartbeat.decode(worker.report) for worker in self.stats.workers)

    @cached_property
    def oldest_s(self) -> dict[str, float]:
        """The age of the oldest run of each queue."""
        return oldest_runs_s(self.heartbeats)

    @property
    def sink_lag_s(self) -> float | None:
        """The age of the oldest result that the sink has not confirmed."""
        return undelivered_s(self.stats, self.heartbeats)

    @cached_property
    def totals(self) -> Totals:
        """The counters, which are kept after the snapshot itself is dropped."""
        stats = self.stats
        left = (stats.waiting, stats.delayed, stats.running, stats.outbox)
        return Totals(
            self.at,
            stats.accepted,
            sum(stats.outcomes.values()),
            stats.delivered,
            None if None in left else sum(part or 0 for part in left),
            dict(stats.outcomes),
            {run.name: sum(run.outcomes.values()) for run in self.runs if run.outcomes},
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """The counters of a snapshot.

    Attributes:
        left: Tasks that are not delivered yet.
        runs: Number of ended tasks by run.
    """

    at: float
    accepted: int | None
    ended: int
    delivered: int | None
    left: int | None
    outcomes: Mapping[str, int]
    runs: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outage:
    """The broker does not answer; ``since`` is on the monotonic clock."""

    since: float
    why: str


@dataclass(frozen=True, slots=True)
class FleetHistory:
    """Past snapshots, newest last.

    Attributes:
        recent: Complete snapshots of about the last ``WINDOW_S``.
        totals: The counters of these and of older snapshots.
    """

    recent: tuple[Snapshot, ...] = ()
    totals: tuple[Totals, ...] = ()
    outage: Outage | None = None

    def seen(self, snapshot: Snapshot) -> FleetHistory:
        """Add a snapshot; it ends an outage."""
        kept = [each for each in self.recent if snapshot.at - each.at <= WINDOW_S]
        # Rates need the ends of the window, not every snapshot within it.
        if len(kept) > 1 and kept[-1].at - kept[-2].at < WINDOW_S / 5:
            kept.pop()
        totals = (*self.totals[-MAX_TOTALS + 1 :], snapshot.totals)
        return FleetHistory((*kept, snapshot), totals)

    def failed(self, at: float, why: str) -> FleetHistory:
        """Add a failed snapshot."""
        since = self.outage.since if self.outage else at
        return replace(self, outage=Outage(since, why))

    @property
    def now(self) -> Snapshot | None:
        """The last snapshot."""
        return self.recent[-1] if self.recent else None


@dataclass(frozen=True, slots=True)
class Rates:
    """Tasks per second over about ``WINDOW_S``; None if unknown."""

    sent: float | None = None
    ended: float | None = None
    delivered: float | None = None
    drained: float | None = None


def rates_of(history: FleetHistory) -> Rates:
    """How fast tasks pass each stage."""
    if history.now is None:
        return Rates()
    last, first = history.totals[-1], _window(history.totals)
    if first is None:
        recent = history.now.stats.recent
        return Rates(ended=None if recent is None else recent / RECENT_S)
    elapsed_s = last.at - first.at
    return Rates(
        _rate(first.accepted, last.accepted, elapsed_s),
        _rate(first.ended, last.ended, elapsed_s),
        _rate(first.delivered, last.delivered, elapsed_s),
        _rate(last.left, first.left, elapsed_s, floor=False),
    )


def outcome_rates(history: FleetHistory) -> dict[str, float]:
    """Ended tasks per second by outcome."""
    first = _window(history.totals)
    if first is None:
        return {}
    last = history.totals[-1]
    elapsed_s = last.at - first.at
    gains = {name: number - first.outcomes.get(name, 0) for name, number in last.outcomes.items()}
    return {name: gain / elapsed_s for name, gain in gains.items() if gain > 0}


def queue_rates(history: FleetHistory) -> dict[str, float]:
    """Ended tasks per second by queue."""
    first, last = history.recent[:1], history.recent[1:][-1:]
    return _gains(first[0], last[0]) if last and last[0].at > first[0].at else {}


def _gains(first: Snapshot, last: Snapshot) -> dict[str, float]:
    before = {depth.queue: depth.tally for depth in first.stats.queues}
    gains = {
        depth.queue: depth.tally.done
        + depth.tally.failed
        - before[depth.queue].done
        - before[depth.queue].failed
        for depth in last.stats.queues
        if depth.queue in before
    }
    return {queue: max(0, gain) / (last.at - first.at) for queue, gain in gains.items()}


def eta_s(history: FleetHistory, rates: Rates) -> float | None:
    """Seconds until nothing is left at the current rate.

    None if the backlog does not shrink, nothing moves any more, or a pause holds a part of it.
    """
    if history.now is None or not moves(history) or is_held(history.now.stats):
        return None
    if not rates.drained or rates.drained <= 0:
        return None
    left = history.totals[-1].left
    return left / rates.drained if left else None


def moves(history: FleetHistory) -> bool:
    """Whether tasks still move: rates look back, so they look good after the last worker ended."""
    if history.now is not None and history.now.stats.running != 0:
        return True
    left = [each.left or 0 for each in history.totals[-2:]]
    return left[-1] < left[0]


def is_held(stats: Stats) -> bool:
    """Whether a pause holds tasks."""
    return any(depth.paused and (depth.waiting or depth.delayed) for depth in stats.queues)


def throughput(history: FleetHistory, buckets: int, bucket_s: float) -> list[float]:
    """Ended tasks per second in each of the last ``buckets``, newest last.

    Tasks that ended between two snapshots are spread evenly over the time between them.
    """
    gains, covered_s = [0.0] * buckets, [0.0] * buckets
    newest = history.totals[-1].at if history.totals else 0.0
    for before, after in pairwise(history.totals):
        oldest, youngest = ((newest - each.at) / bucket_s for each in (before, after))
        last = min(buckets, math.ceil(oldest)) if oldest > youngest else 0
        for age in range(int(youngest), last):
            part = min(oldest, age + 1) - max(youngest, age)
            covered_s[age] += part * bucket_s
            gains[age] += max(0, after.ended - before.ended) * part / (oldest - youngest)
    pairs = [pair for pair in zip(gains, covered_s, strict=True) if pair[1] > 0]
    return [gain / seconds for gain, seconds in reversed(pairs)]


def _window(totals: tuple[Totals, ...]) -> Totals | None:
    """The first totals within ``WINDOW_S`` before the last ones."""
    if len(totals) < 2:  # noqa: PLR2004 - a rate needs two
        return None
    inside = (each for each in totals[:-1] if totals[-1].at - each.at <= WINDOW_S)
    return next(inside, totals[-2])


def _rate(
    before: int | None, after: int | None, elapsed_s: float, *, floor: bool = True
) -> float | None:
    """Units per second; negative only without ``floor``: counters fall when a store is emptied."""
    if before is None or after is None or elapsed_s <= 0:
        return None
    gain = (after - before) / elapsed_s
    return max(0.0, gain) if floor else gain
