"""What operators do with tasks: read, cancel, locate and move them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from agentpipe.brokers.location import TaskLocation

Fate = Literal["signalled", "marked", "waiting", "settled", "unknown"]


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Which unsettled tasks to read: those that match every field that is set.

    Attributes:
        state: ``unclaimed`` tasks are waiting or delayed.
        queues: None for all queues.
        task_ids: None for any id.
        after: Cursor: only tasks with a higher ``number``.
        limit: Maximum number of tasks; None for all. A page can be shorter, but is empty only at
            the end.
    """

    state: Literal["unclaimed", "running"] = "unclaimed"
    queues: Sequence[str] | None = None
    task_ids: Sequence[str] | None = None
    after: int = -1
    limit: int | None = None

    def selects(self, task: TaskSeen) -> bool:
        """Whether a task in this state matches; for stores that filter in Python."""
        return (
            task.number > self.after
            and (self.queues is None or task.queue in self.queues)
            and (self.task_ids is None or task.task_id in self.task_ids)
        )


@dataclass(frozen=True, slots=True)
class TaskSeen:
    """An unsettled task."""

    number: int
    task_id: str
    queue: str
    payload: bytes
    submitted_at: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The Result of a task that never ran."""

    task_id: str
    result: bytes
    outcome: str


@runtime_checkable
class ReadsTasks(Protocol):
    """Reads unsettled tasks, and settles unclaimed ones."""

    def tasks(self, query: TaskQuery) -> list[TaskSeen]:
        """Read tasks by ascending ``number``."""

    def answer(self, answers: Sequence[Answer]) -> list[bool]:
        """Settle unclaimed tasks; False for each task that is no longer unclaimed."""


@runtime_checkable
class CancelsTasks(Protocol):
    """Cancels tasks by id."""

    def cancel(self, task_ids: Sequence[str]) -> list[Fate]:
        """Mark tasks as cancelled, and signal the workers of running ones.

        A claim of a marked task has ``cancelled`` set. A store with ``ReadsTasks`` marks only
        running tasks and returns ``waiting`` for the others; the caller must ``answer`` those. A
        store without it returns ``marked``: the task, if it exists, is cancelled when claimed.
        """

    def take_cancelled(self) -> Collection[str]:
        """Return ids of running tasks that any process cancelled since the last call.

        Each id is returned at least once; ``wait`` returns early for them. Call it on the thread
        that calls ``wait``.
        """


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which unsettled tasks to cancel: those of these queues and, unless None, of this group.

    Attributes:
        run: Only tasks of this run. Not combined with a group, which belongs to one run.
    """

    queues: Sequence[str]
    group_id: str | None = None
    run: str | None = None


@runtime_checkable
class CancelsUnread(Protocol):
    """Cancels tasks by a filter, for stores that cannot read their tasks."""

    def cancel_matching(self, wanted: TaskFilter) -> list[str]:
        """Mark all matching tasks that were submitted before now, and signal running ones.

        A claim of a marked task has ``cancelled`` set. Returns the ids of the running ones.
        """

    def purge(self, queues: Sequence[str] | None, answer: Callable[[TaskSeen], Answer]) -> int:
        """Settle all unclaimed tasks of these queues, or of all queues; returns how many."""


@runtime_checkable
class LocatesTasks(Protocol):
    """Explains where a task is."""

    def locate(self, task_id: str) -> TaskLocation:
        """Return what is known of one task, in few round trips; changes nothing."""


@runtime_checkable
class MovesTasks(Protocol):
    """Moves unclaimed tasks away from agents that left their collection."""

    def move(self, collection: str, agents: Sequence[str], limit: int) -> int:
        """Move up to ``limit`` of these agents' tasks to the collection's current agents.

        Tasks move round-robin and up to the queues' bounds, like first offers, each atomically.
        Agents that are still in the collection are skipped. Returns the number moved; 0 at the end.
        """
