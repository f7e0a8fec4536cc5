"""RolloutGroup: the samples of one prompt, with what a trainer computes of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from agentpipe.core.groups import GroupStatus, is_good
from agentpipe.errors import ConfigError
from agentpipe.rollouts import samples

if TYPE_CHECKING:
    from agentpipe.core.result import Result
    from agentpipe.rollouts import Sample

Kind = Literal["grpo", "rloo", "mean"]
# As in GRPO's implementations: no division by zero.
_EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """A group that has ended.

    Attributes:
        results: One for each member, in the order of ``sample_index``.
        status: complete, short or cancelled.
        versions: The oldest and the newest policy version of the goods; empty if unknown.
    """

    group_id: str
    results: tuple[Result, ...]
    status: GroupStatus
    versions: tuple[int, ...] = ()

    @property
    def goods(self) -> list[Result]:
        """The members whose reward is trustworthy."""
        return [result for result in self.results if is_good(result)]

    @property
    def rewards(self) -> list[float | None]:
        """One for each member; None where no evaluator could judge: never take that for 0."""
        return [result.reward if is_good(result) else None for result in self.results]

    def samples(self) -> list[Sample]:
        """The rows of token ids of the goods; see ``agentpipe.rollouts``."""
        return [sample for result in self.goods for sample in samples(result)]

    def advantages(self, kind: Kind = "grpo") -> list[float]:
        """One for each of ``goods``: by how much it is better than the others.

        Args:
            kind: ``mean`` subtracts the mean, ``grpo`` divides by the standard deviation, too;
                ``rloo`` subtracts the mean of the others.
        """
        rewards = [result.reward or 0.0 for result in self.goods]
        if kind not in ("grpo", "rloo", "mean"):
            raise ConfigError(f"advantages: kind must be 'grpo', 'rloo' or 'mean', not {kind!r}")
        if len(rewards) <= 1:
            return [0.0] * len(rewards)
        mean = fmean(rewards)
        scale = {"grpo": 1 / ((stdev(rewards) if kind == "grpo" else 0.0) + _EPSILON), "mean": 1.0}
        leave_one_out = len(rewards) / (len(rewards) - 1)
        return [(reward - mean) * scale.get(kind, leave_one_out) for reward in rewards]


def varied(group: RolloutGroup) -> bool:
    """Whether its rewards differ: a group of equal ones teaches nothing."""
    return len({result.reward for result in group.goods}) > 1
