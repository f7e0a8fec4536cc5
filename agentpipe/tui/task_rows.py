"""The tasks of one agent: the running tasks that workers report, then those that ended last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.monitoring.history import Snapshot
    from agentpipe.tui.state import EndedRow, ScreenState


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task in the list.

    Attributes:
        ended: The ended task; None while it runs.
        age_s: How long it has run until now, or how long ago it ended.
        said: Its current activity, or the error or answer that it ended with.
    """

    task_id: str
    queue: str
    age_s: float
    said: str
    ended: EndedRow | None = None


def running_rows(now: Snapshot, queue: str | None = None) -> list[TaskRow]:
    """The runs that workers report, oldest first; of one queue, or of all."""
    found = [
        TaskRow(run.task_id, run.queue, run.age_s + worker.seen_s, run.activity)
        for worker, heartbeat in zip(now.stats.workers, now.heartbeats, strict=True)
        for run in heartbeat.runs
        if queue in (None, run.queue)
    ]
    return sorted(found, key=lambda row: -row.age_s)


def task_rows(now: Snapshot | None, state: ScreenState, clock_s: float) -> list[TaskRow]:
    """The rows in the list of ``state.agent``; ``clock_s`` is now, in Unix seconds."""
    ended = state.ended or ()
    known = {row.task_id for row in ended}
    running = [] if now is None else running_rows(now, state.agent)
    rows = [row for row in running if row.task_id not in known]
    return rows + [
        TaskRow(row.task_id, state.agent, max(0.0, clock_s - row.finished_s), row.said, row)
        for row in ended
    ]


def chosen_index(rows: Sequence[TaskRow], state: ScreenState) -> int:
    """The index of the selected row; 0 without rows."""
    for index, row in enumerate(rows):
        if row.task_id == state.task_id:
            return index
    return max(0, min(state.task_index, len(rows) - 1))
