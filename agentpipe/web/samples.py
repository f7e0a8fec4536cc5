"""Samples: selects and sorts the samples of a run for a page. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from agentpipe.operations.judging.rewards import PASSED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentpipe.operations.judging.samples import Sample
    from agentpipe.web.results import Extract, RunView

PAGE = 100
MAX_TEXT = 200
# If a page needs less than one sample in this many, not all are sorted.
FEW = 10
REWARDS = ("passed", "failed", "none")
SORTS: Mapping[str, Callable[[Sample], float]] = {
    "newest": lambda sample: -(sample.finished or 0.0),
    "oldest": lambda sample: sample.finished or 0.0,
    "reward": lambda sample: math.inf if sample.reward is None else sample.reward,
    "longest": lambda sample: -(sample.run_s or 0.0),
    "dearest": lambda sample: -sample.usage.get("usd", 0.0),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which samples to show; an empty value selects all.

    Attributes:
        reward: One of ``REWARDS``.
        text: Words in the id, question, agent or error, in any case.
        sort: One of ``SORTS``.
        page: The page's number, from 0.
    """

    outcome: str = ""
    reward: str = ""
    group: str = ""
    text: str = ""
    sort: str = "newest"
    page: int = 0

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Wanted:
        """Read a query; ignore invalid values."""
        sort, page = given.get("sort", ""), given.get("page", "")
        return cls(
            outcome=given.get("outcome", ""),
            reward=reward if (reward := given.get("reward", "")) in REWARDS else "",
            group=given.get("group", ""),
            text=given.get("q", "")[:MAX_TEXT],
            sort=sort if sort in SORTS else "newest",
            page=page_of(page),
        )

    def parameters(self, **changes: Any) -> dict[str, Any]:
        """The query of a link to the same samples, with some changes."""
        it = replace(self, **changes)
        return {
            "outcome": it.outcome,
            "reward": it.reward,
            "group": it.group,
            "q": it.text,
            "sort": "" if it.sort == "newest" else it.sort,
            "page": it.page or "",
        }

    @property
    def filters(self) -> bool:
        """Whether any filter is set."""
        return bool(self.outcome or self.reward or self.group or self.text)


@dataclass(frozen=True, slots=True)
class Found:
    """A page of the wanted samples.

    Attributes:
        total: How many samples there are on all pages.
    """

    rows: tuple[tuple[Sample, Extract], ...]
    total: int
    page: int
    pages: int

    @property
    def first(self) -> int:
        """The number of its first row, from 1."""
        return self.page * PAGE + 1


def page_of(given: str) -> int:
    """Parse the number of a page; the first page for an invalid number."""
    is_number = given.isascii() and given.isdigit() and len(given) < 10  # noqa: PLR2004 - digits
    return int(given) if is_number else 0


def find(view: RunView, wanted: Wanted) -> Found:
    """The wanted page, or the last one."""
    samples = _matching(view, wanted.text.lower().split())
    if wanted.outcome or wanted.group or wanted.reward:
        samples = [each for each in samples if _fits(each, wanted)]
    pages = max(1, -(-len(samples) // PAGE))
    page = min(wanted.page, pages - 1)
    shown = _sorted(samples, wanted.sort, page)
    return Found(
        tuple((each, view.extracts[each.task_id]) for each in shown), len(samples), page, pages
    )


def _matching(view: RunView, words: Sequence[str]) -> Sequence[Sample]:
    """The samples that contain all these words."""
    if not words:
        return view.samples
    # Search the tuple of texts: looking up each sample's text takes three times as long.
    first, *others = words
    places = [place for place, text in enumerate(view.searched) if first in text]
    for word in others:
        places = [place for place in places if word in view.searched[place]]
    return [view.samples[place] for place in places]


def _sorted(samples: Sequence[Sample], sort: str, page: int) -> Sequence[Sample]:
    """The page's samples; ``samples`` are already sorted by time."""
    first, last = page * PAGE, (page + 1) * PAGE
    if sort == "oldest":
        return samples[first:last]
    if sort == "newest":
        end = len(samples)
        return samples[max(0, end - last) : end - first][::-1]
    if last < len(samples) // FEW:  # No need to sort all of them.
        return nsmallest(last, samples, key=SORTS[sort])[first:]
    return sorted(samples, key=SORTS[sort])[first:last]


def _fits(sample: Sample, wanted: Wanted) -> bool:
    return (
        wanted.outcome in ("", sample.outcome)
        and wanted.group in ("", sample.group)
        and wanted.reward in ("", judged(sample))
    )


def judged(sample: Sample) -> str:
    """Which of ``REWARDS`` the sample has."""
    if sample.reward is None:
        return "none"
    return "passed" if sample.reward >= PASSED else "failed"
