"""Rows of runs: their progress and ETA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.monitoring.history import is_held, moves

if TYPE_CHECKING:
    from agentpipe.brokers.runs import KeptRun
    from agentpipe.monitoring.history import FleetHistory

# Runs are read less often than other values, so their rates need a longer window.
WINDOW_S = 60.0
MAX_RUNS = 8


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as one row.

    Attributes:
        done: How many of its tasks have a Result; None if the broker does not count them.
        pass_rate: The mean reward; None without rewards.
        configs: How many different configs its Results have.
    """

    name: str
    tasks: int
    done: int | None
    failed: int
    pass_rate: float | None
    rewarded: int
    usd: float
    configs: int
    eta_s: float | None


def run_rows(history: FleetHistory, wanted: str = "") -> list[RunRow]:
    """The ``wanted`` run, or the runs in progress, newest first."""
    if history.now is None:
        return []
    if wanted:
        chosen = [run for run in history.now.runs if run.name == wanted]
    else:
        chosen = [run for run in reversed(history.now.runs) if is_under_way(run)][:MAX_RUNS]
    return [_row(history, run) for run in chosen]


def is_under_way(run: KeptRun) -> bool:
    """Whether the run has unfinished tasks; False if the broker does not count them."""
    return run.outcomes is not None and sum(run.outcomes.values()) < run.tasks


def _row(history: FleetHistory, run: KeptRun) -> RunRow:
    outcomes = run.outcomes or {}
    done = None if run.outcomes is None else sum(outcomes.values())
    return RunRow(
        run.name,
        run.tasks,
        done,
        sum(number for name, number in outcomes.items() if name not in ("ok", "cancelled")),
        run.rewards / run.rewarded if run.rewarded else None,
        run.rewarded,
        run.usd,
        len(run.known_configs),
        None if done is None else _eta_s(history, run.name, run.tasks - done),
    )


def _eta_s(history: FleetHistory, name: str, left: int) -> float | None:
    """Seconds left; None during a pause, if nothing runs, or if none of its tasks ended lately."""
    now = history.now
    if now is None or left <= 0 or not moves(history) or is_held(now.stats):
        return None
    since = now.at - WINDOW_S
    seen = [(each.at, each.runs[name]) for each in history.totals if name in each.runs]
    inside = [each for each in seen if each[0] >= since]
    if len(inside) < 2 or inside[-1][1] <= inside[0][1]:  # noqa: PLR2004 - a rate needs two
        return None
    (first_at, first), (last_at, last) = inside[0], inside[-1]
    return left * (last_at - first_at) / (last - first)
