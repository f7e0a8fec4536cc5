"""RolloutGroup: the samples of one prompt, with what a trainer computes from them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal, get_args

from agentpipe.core.groups import GroupStatus, is_good
from agentpipe.errors import ConfigError
from agentpipe.rollouts import samples

if TYPE_CHECKING:
    from agentpipe.core.result import Result
    from agentpipe.rollouts import Sample

Kind = Literal["grpo", "rloo", "mean"]
# As in GRPO implementations: avoids division by zero.
_EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """A group that has ended.

    Attributes:
        results: One per member, in the order of ``sample_index``.
        status: complete, short or cancelled.
        versions: Oldest and newest policy version of the good members; empty if unknown.
    """

    group_id: str
    results: tuple[Result, ...]
    status: GroupStatus
    versions: tuple[int, ...] = ()

    @property
    def goods(self) -> list[Result]:
        """The good members: those with a trustworthy reward."""
        return [result for result in self.results if is_good(result)]

    @property
    def rewards(self) -> list[float | None]:
        """One reward per member; None (not 0) if no evaluator could judge the member."""
        return [result.reward if is_good(result) else None for result in self.results]

    def samples(self) -> list[Sample]:
        """The token id rows of the good members; see ``agentpipe.rollouts``."""
        return [sample for result in self.goods for sample in samples(result)]

    def advantages(self, kind: Kind = "grpo") -> list[float]:
        """One advantage per member of ``goods``: how much better it is than the others.

        Args:
            kind: ``mean`` subtracts the mean; ``grpo`` also divides by the standard deviation;
                ``rloo`` subtracts the mean of the others.

        Raises:
            ConfigError: The kind is invalid.
        """
        check_kind(kind)
        rewards = [result.reward or 0.0 for result in self.goods]
        if len(rewards) <= 1:
            return [0.0] * len(rewards)
        mean = fmean(rewards)
        scale = {"grpo": 1 / ((stdev(rewards) if kind == "grpo" else 0.0) + _EPSILON), "mean": 1.0}
        leave_one_out = len(rewards) / (len(rewards) - 1)
        return [(reward - mean) * scale.get(kind, leave_one_out) for reward in rewards]


def check_kind(kind: Any) -> None:
    """Refuse what is not a kind of advantages.

    Raises:
        ConfigError: The message names the kinds.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"advantages: kind must be 'grpo', 'rloo' or 'mean', not {kind!r:.40}")


def varied(group: RolloutGroup) -> bool:
    """Whether rewards in the group differ: a group with equal rewards teaches nothing."""
    return len({result.reward for result in group.goods}) > 1
