"""Assembly: builds groups from a stream's records, in whatever order they arrive."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from agentpipe.core.attempts import is_later, last_of_each
from agentpipe.core.groups import UNJUDGED, GroupEnd, is_good, status_of, versions_of
from agentpipe.core.result import Result
from agentpipe.training.rollout_group import RolloutGroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.core.groups import GroupStatus


# The records of an ended group arrive together, except those of a forwarder that died.
GRACE_S = 60.0
LOOK_EVERY_S = 1.0


class Assembled(NamedTuple):
    """A group whose records are all here.

    Attributes:
        is_accepted: Whether the broker counted it as complete.
    """

    group: RolloutGroup
    is_accepted: bool


class GivenUp(NamedTuple):
    """Groups for which nothing more is expected.

    Attributes:
        accepted: How many of them the broker counted as complete.
    """

    group_ids: tuple[str, ...] = ()
    accepted: int = 0


@dataclass(slots=True)
class _Open:
    """A group with records still missing."""

    results: dict[str, Result] = field(default_factory=dict)
    end: GroupEnd | None = None
    heard_at: float = 0.0

    @property
    def has_ended(self) -> bool:
        """Whether the missing records were sent along with these, so nothing still runs."""
        members = _last_of_each_sample(self.results.values())
        size = max((it.group_size or 0 for it in members), default=0)
        all_judged = all(it.outcome not in UNJUDGED for it in members)  # Else a member is repaired.
        return self.end is not None or (len(members) >= size > 0 and all_judged)

    def add(self, result: Result) -> None:
        """Store a Result; if its id was used again, keep the later one."""
        known = self.results.get(result.task_id)
        if known is None or is_later(result, known):
            self.results[result.task_id] = result


class Assembly:
    """Collects the records of groups until each group is complete.

    If the broker counts groups, a group's end record names its members; otherwise ``group_size``
    says how many there are.
    """

    def __init__(self, grace_s: float = GRACE_S, abandon_s: float | None = None) -> None:
        """Create an empty assembly; ``GroupStream`` explains both times."""
        self._open: dict[str, _Open] = {}
        self._grace_s = grace_s
        self._abandon_s = math.inf if abandon_s is None else abandon_s
        self._look_at = 0.0

    def add(self, entry: Result | GroupEnd) -> Assembled | None:
        """Add a record; returns the group if this record completes it."""
        group_id = entry.group_id
        if group_id is None or (isinstance(entry, Result) and not entry.group_size):
            return None
        group = self._open.setdefault(group_id, _Open())
        group.heard_at = time.monotonic()
        if isinstance(entry, GroupEnd):
            group.end = entry
        else:
            group.add(entry)
        whole = _counted(group_id, group) or _assembled(group_id, group)
        if whole is None:
            return None
        end = self._open.pop(group_id).end or whole
        return Assembled(whole, end.status == "complete")

    def missing(self, group_id: str) -> set[str]:
        """Ids of members whose Results are missing, if the group's end record has arrived."""
        group = self._open.get(group_id)
        return set(group.end.members) - group.results.keys() if group and group.end else set()

    def drop(self, group_id: str) -> int:
        """Forget a group; returns how many of its Results had arrived."""
        return len(self._open.pop(group_id).results)

    def give_up(self) -> GivenUp:
        """Drop the groups for which nothing more is expected; checks once per second."""
        now = time.monotonic()
        if now < self._look_at:
            return GivenUp()
        self._look_at = now + LOOK_EVERY_S
        lost = tuple(name for name, group in self._open.items() if self._is_lost(group, now))
        ends = [self._open.pop(name).end for name in lost]
        return GivenUp(lost, sum(end is not None and end.status == "complete" for end in ends))

    def _is_lost(self, group: _Open, now: float) -> bool:
        silent_s = now - group.heard_at
        if silent_s >= self._abandon_s:
            return True
        return silent_s >= self._grace_s and group.has_ended


def _counted(group_id: str, group: _Open) -> RolloutGroup | None:
    if group.end is None or not group.results.keys() >= set(group.end.members):
        return None
    members = tuple(group.results[task_id] for task_id in group.end.members)
    return RolloutGroup(group_id, members, _status_here(group.end, members), group.end.versions)


def _status_here(end: GroupEnd, members: Sequence[Result]) -> GroupStatus:
    """Status judged by what arrived: a sink may have truncated a rollout counted as good."""
    good, need = sum(map(is_good, members)), max(it.group_need or 0 for it in members)
    return "short" if end.status == "complete" and good < min(need, end.good) else end.status


def _assembled(group_id: str, group: _Open) -> RolloutGroup | None:
    """Build the group from its size alone, for a broker that does not count groups."""
    if not group.results or any(it.group_need is not None for it in group.results.values()):
        return None
    members = _last_of_each_sample(group.results.values())
    if len(members) < max(it.group_size or 0 for it in members):
        return None
    goods = [result for result in members if is_good(result)]
    cancelled = any(result.outcome == "cancelled" for result in members)
    status = status_of(len(goods), len(members), cancelled=cancelled)
    return RolloutGroup(group_id, members, status, versions_of(goods))


def _last_of_each_sample(results: Iterable[Result]) -> tuple[Result, ...]:
    """Results by sample index; for a retried or re-sent sample, the attempt that counts."""
    samples: dict[int | str, Result] = {}
    for result in last_of_each(list(results)):
        index = result.task_id if result.sample_index is None else result.sample_index
        if index not in samples or is_later(result, samples[index]):
            samples[index] = result
    return tuple(sorted(samples.values(), key=lambda it: (it.sample_index or 0, it.task_id)))
