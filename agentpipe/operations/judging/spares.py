"""Spares: what groups cut off once they had enough good samples, and how slow those were."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from agentpipe.core.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.operations.judging.samples import Sample

CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Spares:
    """Statistics of the groups that had what they need and cancelled the rest.

    Attributes:
        groups: Number of such groups.
        kept: Number of their samples with a reward.
        cut: Number of their samples cancelled while running.
        unbegun: Number of their samples cancelled before they began.
        kept_s: Mean run time of the kept samples; None if unknown.
        cut_s: Mean run time of the cut samples so far; each would have run longer.
    """

    groups: int
    kept: int
    cut: int
    unbegun: int
    kept_s: float | None
    cut_s: float | None

    @property
    def sentence(self) -> str:
        """One sentence for people."""
        groups, cut = counted(self.groups, "group"), counted(self.cut + self.unbegun, "sample")
        after = "" if self.cut_s is None else f" after {self.cut_s:.1f} s on average"
        unbegun = f" ({self.unbegun:,} had not begun)" if self.unbegun else ""
        took = "" if self.kept_s is None else f" took {self.kept_s:.1f} s, and"
        those = f"the {self.kept:,} that count{took} are the quick ones"
        return f"{groups} cut off {cut}{after}{unbegun}; {those}"


def spares_of(samples: Iterable[Sample]) -> Spares | None:
    """The statistics; None if no group has cut anything off."""
    by_group = defaultdict[str, list["Sample"]](list)
    for each in samples:
        if each.need:
            by_group[each.group].append(each)
    groups = [members for members in by_group.values() if _has_cut(members)]
    if not groups:
        return None
    kept = [it for members in groups for it in members if it.reward is not None]
    ended = [it for members in groups for it in members if it.outcome == CANCELLED]
    cut = [it for it in ended if it.started is not None]
    return Spares(
        len(groups), len(kept), len(cut), len(ended) - len(cut), _mean_s(kept), _mean_s(cut)
    )


def _has_cut(members: Sequence[Sample]) -> bool:
    """Whether it reached its need and cancelled the rest; one cancelled by hand has fewer."""
    good = sum(it.reward is not None for it in members)
    return good >= members[0].need and any(it.outcome == CANCELLED for it in members)


def _mean_s(samples: Iterable[Sample]) -> float | None:
    times = [it.run_s for it in samples if it.run_s is not None]
    return round(fmean(times), 6) if times else None
