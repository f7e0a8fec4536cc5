"""GroupChoice: which of the groups that have ended a trainer gets, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core.arguments import check_function
from agentpipe.core.groups import is_good
from agentpipe.errors import ConfigError
from agentpipe.training.rollout_group import varied

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.sending.groups import GroupPlan
    from agentpipe.training.rollout_group import RolloutGroup

YIELDED = "yielded"


@dataclass(frozen=True, slots=True)
class GroupChoice:
    """What a trainer asks of a group; ``GroupStream`` explains the fields."""

    keep: Callable[[RolloutGroup], bool]
    trains: Callable[[RolloutGroup], bool] | None
    min_good: int | None

    def fate(self, group: RolloutGroup, oldest_version: int | None) -> str:
        """``YIELDED``, or why the group is not; one with an older version is stale."""
        good = sum(map(is_good, group.results))
        if group.status != "complete" and (self.min_good is None or good < self.min_good):
            return group.status
        if oldest_version is not None and group.versions and group.versions[0] < oldest_version:
            return "stale"
        try:
            if not self.keep(group):
                return "flat"
        except Exception as error:
            error.add_note(f"raised by `keep` for the group {group.group_id!r}")
            raise
        return YIELDED if self.trains is None or self.trains(group) else "inexact"


def refuse_flat(plan: GroupPlan, keep: Callable[[RolloutGroup], bool]) -> None:
    """Refuse a plan by which no group would be of use: each costs money.

    Raises:
        ConfigError: A group has only one good member, and ``keep`` wants rewards that differ.
    """
    check_function("keep", keep)
    if keep is varied and plan.need == 1:
        raise ConfigError(
            "a group with one good member has no rewards that differ, and by default such groups "
            "are dropped: give keep=lambda group: True, or a larger n or need"
        )
