"""Measures: a collection's monotonic task counters, kept in the store for all workers."""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.core.result import OUTCOMES
from agentpipe.core.usage import NO_TOKENS, Tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Settlement

# Upper bounds of the buckets of both histograms, in seconds; one more bucket takes longer times.
# Stores persist the counts, so these bounds must never change.
BUCKETS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
TOKEN_KINDS = Tokens._fields
_HISTOGRAM = len(BUCKETS_S) + 2
_RETRIES = len(OUTCOMES)
_REJECTS = _RETRIES + 1
_TOKENS = _REJECTS + 1
_USD = _TOKENS + len(TOKEN_KINDS)
_RUN_S = _USD + 1
_WAIT_S = _RUN_S + _HISTOGRAM
# Numbers kept per collection. A double holds any count that a fleet can reach.
WIDTH = _WAIT_S + _HISTOGRAM
_PACKED = struct.Struct(f"<{WIDTH}d")
_RUN_ENDS = ("complete", "bury", "retry")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts per bucket, the last for times above every bound, and the sum of all times."""

    counts: Sequence[float]
    sum_s: float


@dataclass(frozen=True, slots=True)
class Measures:
    """The counters of one collection, or of one queue outside any collection.

    Attributes:
        outcomes: Ended tasks by outcome.
        retries: Runs that ended in a retry.
        rejects: Tasks that became dead letters.
        tokens: Tokens by kind, see ``TOKEN_KINDS``.
        run_s: Time from each claim to its end.
        wait_s: Time from submission to the first claim.
    """

    outcomes: Mapping[str, float] = field(default_factory=dict)
    retries: float = 0.0
    rejects: float = 0.0
    tokens: Mapping[str, float] = field(default_factory=dict)
    usd: float = 0.0
    run_s: Histogram = Histogram((), 0.0)
    wait_s: Histogram = Histogram((), 0.0)

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Measures:
        """Build it from the numbers that a store keeps."""
        return cls(
            dict(zip(OUTCOMES, numbers[:_RETRIES], strict=True)),
            numbers[_RETRIES],
            numbers[_REJECTS],
            dict(zip(TOKEN_KINDS, numbers[_TOKENS:_USD], strict=True)),
            numbers[_USD],
            _histogram(numbers, _RUN_S),
            _histogram(numbers, _WAIT_S),
        )


def _histogram(numbers: Sequence[float], place: int) -> Histogram:
    *counts, sum_s = numbers[place : place + _HISTOGRAM]
    return Histogram(tuple(counts), sum_s)


def pack(numbers: Sequence[float]) -> bytes:
    """Encode one collection's numbers for the store."""
    return _PACKED.pack(*numbers)


def unpack(packed: bytes) -> list[float]:
    """Decode what ``pack`` wrote; counters that an older version did not write are 0."""
    return list(_PACKED.unpack(packed[: _PACKED.size].ljust(_PACKED.size, b"\0")))


def added(numbers: Sequence[float], more: Mapping[int, float]) -> list[float]:
    """Return ``numbers`` plus ``more``, which maps a position to its increment."""
    summed = list(numbers)
    for place, number in more.items():
        summed[place] += number
    return summed


def increments_of_answer(outcome: str) -> dict[int, float]:
    """Return the increments, by position, for a task that ended without a run."""
    return {OUTCOMES.index(outcome): 1.0} if outcome in OUTCOMES else {}


def increments_of(each: Settlement) -> dict[int, float]:
    """Return the increments, by position, for a settlement, without the histograms."""
    counts: dict[int, float] = {}
    if each.action in ("complete", "bury"):
        counts |= increments_of_answer(each.outcome)
    if each.action == "retry":
        counts[_RETRIES] = 1.0
    if each.action == "bury":
        counts[_REJECTS] = 1.0
    if each.usd:
        counts[_USD] = each.usd
    if each.tokens_by_kind != NO_TOKENS:
        counts |= {at: float(number) for at, number in enumerate(each.tokens_by_kind, _TOKENS)}
    return counts


def observed_by(each: Settlement) -> tuple[int | None, int | None]:
    """Return the positions of its run histogram and its wait histogram; None if it counts in none.

    Only a task's first claim counts in the wait histogram, and only if it began a run.
    """
    if each.action not in _RUN_ENDS or not each.ran:
        return None, None
    return _RUN_S, _WAIT_S if each.claim.is_first else None


def count_settlement(
    counts: dict[int, float], each: Settlement, run_s: float, waited_s: float
) -> None:
    """Add a settlement to ``counts``.

    Args:
        counts: Increments by position; updated in place.
        each: The settlement.
        run_s: Time from the claim to its end.
        waited_s: Time that the task waited before the claim.
    """
    for place, number in increments_of(each).items():
        counts[place] = counts.get(place, 0.0) + number
    for at, seconds in zip(observed_by(each), (run_s, waited_s), strict=True):
        if at is not None:
            _observe(counts, at, max(0.0, seconds))


def _observe(counts: dict[int, float], place: int, seconds: float) -> None:
    bucket, total = place + bisect_left(BUCKETS_S, seconds), place + _HISTOGRAM - 1
    counts[bucket] = counts.get(bucket, 0.0) + 1.0
    counts[total] = counts.get(total, 0.0) + seconds


def cumulative_counts(counts: Sequence[float]) -> Iterable[tuple[float, float]]:
    """Yield each upper bound with its cumulative count, ending with infinity, as in Prometheus."""
    total = 0.0
    for limit, count in zip((*BUCKETS_S, float("inf")), counts, strict=True):
        total += count
        yield limit, total
