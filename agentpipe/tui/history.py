"""History: the last snapshots, as much of each as is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from agentpipe.brokers.base import RECENT_S
from agentpipe.operations.stats import oldest_runs_s, undelivered_s
from agentpipe.worker.heartbeat import Vitals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.brokers.base import Stats

# What a rate is measured over.
WINDOW_S = 10.0
MAX_MARKS = 600


@dataclass(frozen=True)
class Snapshot:
    """The store at one moment.

    Attributes:
        at: On the monotonic clock of whoever took it.
    """

    at: float
    stats: Stats

    @cached_property
    def vitals(self) -> tuple[Vitals, ...]:
        """What each worker tells of itself."""
        return tuple(Vitals.decode(worker.report) for worker in self.stats.workers)

    @cached_property
    def oldest_s(self) -> dict[str, float]:
        """For how long the oldest run of each queue has been running."""
        return oldest_runs_s(self.vitals)

    @property
    def sink_lag_s(self) -> float | None:
        """For how long the oldest result is not in the stream."""
        return undelivered_s(self.stats, self.vitals)

    @cached_property
    def mark(self) -> Mark:
        """What of it is kept for long."""
        stats = self.stats
        left = (stats.waiting, stats.delayed, stats.running, stats.outbox)
        return Mark(
            self.at,
            stats.accepted,
            sum(stats.outcomes.values()),
            stats.delivered,
            None if None in left else sum(part or 0 for part in left),
            dict(stats.outcomes),
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """The sums of one moment; ``left`` is all that is not delivered."""

    at: float
    accepted: int | None
    ended: int
    delivered: int | None
    left: int | None
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Away:
    """The broker does not answer: since when, on the monotonic clock, and why."""

    since: float
    why: str


@dataclass(frozen=True, slots=True)
class History:
    """What has been seen so far, the newest last.

    Attributes:
        recent: Whole snapshots of about the last ``WINDOW_S``.
    """

    recent: tuple[Snapshot, ...] = ()
    marks: tuple[Mark, ...] = ()
    away: Away | None = None

    def seen(self, snapshot: Snapshot) -> History:
        """With one more."""
        kept = [each for each in self.recent if snapshot.at - each.at <= WINDOW_S]
        # Thinned out: what is drawn needs the ends of the window, not all within it.
        if len(kept) > 1 and kept[-1].at - kept[-2].at < WINDOW_S / 5:
            kept.pop()
        marks = (*self.marks[-MAX_MARKS + 1 :], snapshot.mark)
        return History((*kept, snapshot), marks)

    def failed(self, at: float, why: str) -> History:
        """The broker did not answer."""
        since = self.away.since if self.away else at
        return replace(self, away=Away(since, why))

    @property
    def now(self) -> Snapshot | None:
        """The last one."""
        return self.recent[-1] if self.recent else None


@dataclass(frozen=True, slots=True)
class Rates:
    """A second, over about ``WINDOW_S``; None where it is not known (yet)."""

    sent: float | None = None
    ended: float | None = None
    delivered: float | None = None
    drained: float | None = None


def rates_of(history: History) -> Rates:
    """How fast it goes through each stage."""
    if history.now is None:
        return Rates()
    last, first = history.marks[-1], _window(history.marks)
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


def outcome_rates(history: History) -> dict[str, float]:
    """How many tasks a second end how."""
    first = _window(history.marks)
    if first is None:
        return {}
    last = history.marks[-1]
    elapsed_s = last.at - first.at
    gains = {name: number - first.outcomes.get(name, 0) for name, number in last.outcomes.items()}
    return {name: gain / elapsed_s for name, gain in gains.items() if gain > 0}


def queue_rates(history: History) -> dict[str, float]:
    """How many tasks of each queue end a second."""
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


def eta_s(history: History, rates: Rates) -> float | None:
    """When nothing is left, if it goes on like this; None where it does not get less."""
    if not history.marks or not rates.drained or rates.drained <= 0:
        return None
    left = history.marks[-1].left
    return left / rates.drained if left else None


def throughput(history: History, buckets: int, bucket_s: float) -> list[float]:
    """Ended tasks a second in each of the last times of ``bucket_s``, the newest last.

    What ended between two looks counts as spread evenly over the time between them.
    """
    gains, covered_s = [0.0] * buckets, [0.0] * buckets
    newest = history.marks[-1].at if history.marks else 0.0
    for before, after in pairwise(history.marks):
        oldest, youngest = ((newest - mark.at) / bucket_s for mark in (before, after))
        last = min(buckets, math.ceil(oldest)) if oldest > youngest else 0
        for age in range(int(youngest), last):
            part = min(oldest, age + 1) - max(youngest, age)
            covered_s[age] += part * bucket_s
            gains[age] += max(0, after.ended - before.ended) * part / (oldest - youngest)
    pairs = [pair for pair in zip(gains, covered_s, strict=True) if pair[1] > 0]
    return [gain / seconds for gain, seconds in reversed(pairs)]


def _window(marks: tuple[Mark, ...]) -> Mark | None:
    """Where the window begins that ends with the last mark."""
    if len(marks) < 2:  # noqa: PLR2004 - likewise
        return None
    inside: Iterable[Mark] = (mark for mark in marks[:-1] if marks[-1].at - mark.at <= WINDOW_S)
    return next(iter(inside), marks[-2])


def _rate(
    before: int | None, after: int | None, elapsed_s: float, *, floor: bool = True
) -> float | None:
    """The gain a second; a store that was emptied meanwhile gained nothing."""
    if before is None or after is None or elapsed_s <= 0:
        return None
    gain = (after - before) / elapsed_s
    return max(0.0, gain) if floor else gain
