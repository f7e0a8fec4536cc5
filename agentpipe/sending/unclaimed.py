"""Unclaimed: all tasks of a broker that wait or are delayed, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import TaskQuery

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.capabilities import ReadsTasks, TaskSeen

PAGE = 500


def unclaimed_pages(
    reads: ReadsTasks, queues: Sequence[str] | None = None
) -> Iterator[Sequence[TaskSeen]]:
    """Yield the tasks of these queues, or of all; the caller may answer a page before the next."""
    after = -1
    while page := reads.tasks(TaskQuery(queues=queues, after=after, limit=PAGE)):
        after = page[-1].number
        yield page
