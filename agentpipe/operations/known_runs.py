"""KnownRuns: whether the name of a run is known here.

A run has a record once ``send --run`` has begun it. Without a record, as after ``runs drop`` or if
a program sent its tasks, its tasks, dead letters and results still name it.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

from agentpipe.archive import Archive
from agentpipe.brokers import open_to_read
from agentpipe.brokers.capabilities import KeepsDeadLetters, KeepsRuns, ReadsTasks
from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.core.did_you_mean import unknown
from agentpipe.errors import AgentpipeError
from agentpipe.operations.explain.lookup import unsettled_of
from agentpipe.sinks import is_searchable

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.settings import Settings


def why_unknown(run: str, settings: Settings, *, ask_broker: bool = True) -> str:
    """A sentence with the nearest name; empty if the run is known or this cannot be checked."""
    if _has_results(run, settings):
        return ""
    if not ask_broker:
        return unknown("run", run, (), "in this archive") if is_searchable(settings) else ""
    try:
        with closing(open_to_read(settings)) as store:
            return _why_unknown_to(store, run, settings)
    except AgentpipeError:  # The command itself reports it if it needs the broker.
        return ""


def _why_unknown_to(store: Store, run: str, settings: Settings) -> str:
    if not isinstance(store, KeepsRuns):
        return ""
    names = [each.name for each in store.runs()]
    if run in names or _has_letters(store, run) or _has_tasks(store, run, settings):
        return ""
    return unknown("run", run, names, "on this broker", "see `agentpipe runs`")


def _has_results(run: str, settings: Settings) -> bool:
    if is_searchable(settings):
        with suppress(AgentpipeError), Archive.open(settings) as archive:
            return any(True for _ in archive.results(run=run))
    return False


def _has_letters(store: Store, run: str) -> bool:
    return isinstance(store, KeepsDeadLetters) and bool(
        store.dead_letters(DeadFilter(run=run), "", 1).letters
    )


def _has_tasks(store: Store, run: str, settings: Settings) -> bool:
    return isinstance(store, ReadsTasks) and bool(unsettled_of(run, settings))
