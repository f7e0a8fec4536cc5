"""Purge: answers all waiting tasks with ``cancelled``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.capabilities import Answer, CancelsUnread, ReadsTasks, require
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.core.task import Task
from agentpipe.errors import FormatError
from agentpipe.sending.unclaimed import unclaimed_pages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.capabilities import TaskSeen

    Collections = Mapping[str, str | None]


def purge_queues(store: Store, queues: Sequence[str] | None) -> int:
    """Answer every waiting or delayed task of these queues, or of all; return their number.

    Raises:
        ConfigError: This broker cannot purge tasks.
    """
    owners = collections_of(store)
    if isinstance(store, CancelsUnread):
        return store.purge(queues, lambda task: cancelled(task, owners))
    reads = require(store, ReadsTasks, "purge tasks")
    pages = unclaimed_pages(reads, queues)
    return sum(sum(reads.answer([cancelled(task, owners) for task in page])) for page in pages)


# A sender has no context's secrets, but recognizes keys of well-known services.
_KEYS = Redactor(())


def collections_of(store: Store) -> dict[str, str | None]:
    """The collection of each queue."""
    return {depth.queue: depth.collection for depth in store.stats().queues}


def cancelled(task: TaskSeen, collections: Collections) -> Answer:
    """The Result of a cancelled task, even of one that cannot be decoded."""
    result = Result.cancelled(
        task_of(task),
        task_id=task.task_id,
        queue=task.queue,
        collection=collections.get(task.queue),
        submitted_at=task.submitted_at,
    )
    return Answer(task.task_id, result.encode(_KEYS), result.outcome)


def task_of(seen: TaskSeen) -> Task | None:
    """The task; None if it cannot be decoded."""
    try:
        return Task.decode(orjson.loads(seen.payload))
    except (FormatError, orjson.JSONDecodeError):
        return None
