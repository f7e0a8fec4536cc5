"""Runs as a store keeps them: each run's record, its task count and its outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.core.run_names import run_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.brokers.records import Settlement

_ENDS = ("complete", "bury")


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A run that has begun and was not dropped.

    Attributes:
        record: Its provenance, as first passed to ``begin_run``.
        tasks: Number of tasks accepted since then, including replays and retries.
        exact: Whether ``tasks`` is exact; if False, it is a lower bound.
        outcomes: Number of Results by outcome; None if the store does not count them.
        configs: Number of Results by config fingerprint; the key is empty for an unknown config.
        rewarded: Number of Results with a reward; ``rewards`` is the sum of those rewards.
        usd: Cost of its tasks' runs, as far as known.
    """

    name: str
    record: bytes
    tasks: int
    exact: bool = True
    outcomes: Mapping[str, int] | None = None
    configs: Mapping[str, int] = field(default_factory=dict)
    rewarded: int = 0
    rewards: float = 0.0
    usd: float = 0.0

    @property
    def known_configs(self) -> dict[str, int]:
        """``configs`` without the results of an unknown config, such as those that never ran."""
        return {name: number for name, number in self.configs.items() if name}


@dataclass(frozen=True, slots=True)
class RunCount:
    """Totals over the results of one run, config and outcome."""

    done: int = 0
    rewarded: int = 0
    rewards: float = 0.0
    usd: float = 0.0

    def __add__(self, other: RunCount) -> RunCount:
        return RunCount(
            self.done + other.done,
            self.rewarded + other.rewarded,
            self.rewards + other.rewards,
            self.usd + other.usd,
        )


def tasks_by_run(task_ids: Iterable[str]) -> dict[str, int]:
    """Count the ids by the run that each names."""
    found: dict[str, int] = {}
    for task_id in task_ids:
        if (run := run_of(task_id)) is not None:
            found[run] = found.get(run, 0) + 1
    return found


def run_counts_of(settlements: Iterable[Settlement]) -> dict[tuple[str, str, str], RunCount]:
    """Sum settlements by run, config and outcome; the outcome is empty if the task did not end."""
    found: dict[tuple[str, str, str], RunCount] = {}
    for each in settlements:
        run, ends = run_of(each.claim.task_id), each.action in _ENDS
        if run is None or not (ends or each.usd):
            continue
        key = (run, each.config_hash, each.outcome if ends else "")
        rewarded = each.reward is not None
        count = RunCount(ends, rewarded, each.reward or 0.0, each.usd)
        found[key] = found.get(key, RunCount()) + count
    return found
