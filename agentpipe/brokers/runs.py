"""Runs, as a store keeps them: a record of each, how many tasks it has, and what became of them."""

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
    """A run that was begun and not dropped.

    Attributes:
        record: Its provenance, as ``begin_run`` got it first.
        tasks: How many were accepted since, replays and retries included.
        exact: Whether that is their number, rather than the least that it can be.
        outcomes: Of those that have a Result; None where the store does not count them.
        configs: How many Results each config has, by its fingerprint; empty for an unknown one.
        rewarded: Results with a reward; ``rewards`` is its sum over them.
        usd: What its runs cost, as far as that is known.
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


@dataclass(frozen=True, slots=True)
class RunCount:
    """What results of one run, config and outcome add up to."""

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
    """How many ids there are of each run that they name."""
    found: dict[str, int] = {}
    for task_id in task_ids:
        if (run := run_of(task_id)) is not None:
            found[run] = found.get(run, 0) + 1
    return found


def counts_of(settlements: Iterable[Settlement]) -> dict[tuple[str, str, str], RunCount]:
    """What they add, by run, config and outcome; the outcome is empty where the task goes on."""
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
