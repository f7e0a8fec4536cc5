"""The list of runs: each run's record on the broker, with a summary of its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import KeepsRuns
from agentpipe.brokers.runs import KeptRun
from agentpipe.errors import AgentpipeError
from agentpipe.monitoring import numbers
from agentpipe.operations.runs import by_report, by_store, kept_runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from agentpipe.brokers.base import Store
    from agentpipe.operations.runs import RunSummary
    from agentpipe.web.results import RunResults

    OpenStore = Callable[[], AbstractContextManager[Store]]

# The list reads the results of this many runs; other runs are read when they are viewed.
READ = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A run in the list.

    Attributes:
        on_broker: Whether the broker knows how many tasks the run has.
        passes_or_fails: Whether each reward is 0 or 1; None if only their sum is known.
    """

    run: RunSummary
    on_broker: bool
    passes_or_fails: bool | None = None

    def shown(self, reward: float | None) -> str:
        """A mean reward, or its bound, in the form for all rewards of the run."""
        if reward is None or self.run.pass_rate is None:
            return numbers.NONE
        return f"{reward:.3f}" if self.is_graded else f"{reward:.1%}"

    @property
    def is_graded(self) -> bool:
        """Whether some reward is neither 0 nor 1."""
        rate = self.run.pass_rate
        if rate is None:
            return False
        if self.passes_or_fails is not None:
            return not self.passes_or_fails
        return not numbers.passes_or_fails(rate * self.run.rewarded)


def entries(open_store: OpenStore, results: RunResults | None) -> tuple[list[Entry], bool]:
    """All runs, newest first; and whether results of some are still being read."""
    kept = _kept(open_store)
    with_results = results.runs() if results else []
    known = {run.name for run in kept}
    others = [KeptRun(name, b"{}", 0, exact=False) for name in with_results if name not in known]
    found, reading = [], False
    for place, run in enumerate([*reversed(kept), *others]):
        is_wanted = place < READ and run.name in with_results
        entry = _read(run, results) if results and is_wanted else None
        reading |= is_wanted and entry is None
        found.append(entry or Entry(by_store(run), on_broker=run.name in known))
    return found, reading


def _read(run: KeptRun, results: RunResults) -> Entry | None:
    view = results.view(run.name, 0.0)
    if view.report is None or not view.complete:
        return None
    summary, exact = by_report(run, view.report, view.read), view.report.passes_or_fails
    return Entry(summary, on_broker=bool(run.tasks), passes_or_fails=exact)


def _kept(open_store: OpenStore) -> list[KeptRun]:
    """The broker's runs; empty if it keeps no runs or is unreachable."""
    try:
        with open_store() as store:
            return kept_runs(store) if isinstance(store, KeepsRuns) else []
    except AgentpipeError:
        return []
