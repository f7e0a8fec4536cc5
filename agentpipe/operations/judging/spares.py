"""Spares: what groups have cut off that took their first good samples, and how slow that was."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.operations.judging.samples import Sample

CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Spares:
    """Of the groups that had what they need and cancelled the rest.

    Attributes:
        groups: How many there are.
        kept: Their samples with a reward.
        cut: Those that were cancelled while they ran.
        unbegun: Those that were cancelled before.
        kept_s: How long the kept ones ran, on average; None if unknown.
        cut_s: The same of those that were cut: each would have run for longer.
    """

    groups: int
    kept: int
    cut: int
    unbegun: int
    kept_s: float | None
    cut_s: float | None


def spares_of(samples: Iterable[Sample]) -> Spares | None:
    """None where no group of these has cut anything off."""
    counted = defaultdict[str, list["Sample"]](list)
    for each in samples:
        if each.need:
            counted[each.group].append(each)
    groups = [members for members in counted.values() if _has_cut(members)]
    if not groups:
        return None
    kept = [it for members in groups for it in members if it.reward is not None]
    ended = [it for members in groups for it in members if it.outcome == CANCELLED]
    cut = [it for it in ended if it.started is not None]
    return Spares(
        len(groups), len(kept), len(cut), len(ended) - len(cut), _mean_s(kept), _mean_s(cut)
    )


def _has_cut(members: Sequence[Sample]) -> bool:
    """A group that was cancelled by hand has fewer than it needs."""
    good = sum(it.reward is not None for it in members)
    return good >= members[0].need and any(it.outcome == CANCELLED for it in members)


def _mean_s(samples: Iterable[Sample]) -> float | None:
    times = [it.run_s for it in samples if it.run_s is not None]
    return round(fmean(times), 6) if times else None
