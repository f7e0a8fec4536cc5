"""What operators do with tasks: read, end, explain and move them, and send groups of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from agentpipe.brokers.location import TaskLocation
    from agentpipe.brokers.records import Admission, Group, Offer
    from agentpipe.core.loop_holds import LoopHold

Fate = Literal["signalled", "marked", "waiting", "settled", "unknown"]


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Which unsettled tasks to read: those that match all that is given.

    Attributes:
        state: ``unclaimed`` tasks wait or are delayed.
        queues: None for all queues.
        task_ids: None for any.
        after: Only higher numbers: where the last page ended.
        limit: Tasks at most; None for all. A page may be shorter, and is empty only at the end.
    """

    state: Literal["unclaimed", "running"] = "unclaimed"
    queues: Sequence[str] | None = None
    task_ids: Sequence[str] | None = None
    after: int = -1
    limit: int | None = None

    def selects(self, task: TaskSeen) -> bool:
        """Whether a task of this state matches; for stores that look at each."""
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
        """Read tasks by rising ``number``."""

    def answer(self, answers: Sequence[Answer]) -> list[bool]:
        """Settle unclaimed tasks; False for those that are not unclaimed now."""


@runtime_checkable
class CancelsTasks(Protocol):
    """Ends tasks by their ids."""

    def cancel(self, task_ids: Sequence[str]) -> list[Fate]:
        """Mark tasks as cancelled, and signal the workers of those that run.

        A claim of a marked task has ``cancelled`` set. A store that reads its tasks marks
        running ones only and returns ``waiting`` for the others: answer those. One that cannot
        returns ``marked``: each is answered at its turn, if it exists.
        """

    def take_cancelled(self) -> Collection[str]:
        """Ids of running tasks that were cancelled since the last call, by any process.

        Each at least once; ``wait`` returns early for them. The same thread as ``wait``.
        """


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which unsettled tasks to end: those of these queues and, unless None, of this group.

    Attributes:
        run: Those whose ids begin with this run's name; not beside a group, which is of one run.
    """

    queues: Sequence[str]
    group_id: str | None = None
    run: str | None = None


@runtime_checkable
class CancelsUnread(Protocol):
    """Ends tasks by a filter where the store cannot read its tasks."""

    def cancel_matching(self, wanted: TaskFilter) -> list[str]:
        """Mark all that match and were submitted before now, and signal those that run.

        A claim of a marked task has ``cancelled`` set. Returns the ids of those that run.
        """

    def purge(self, queues: Sequence[str] | None, answer: Callable[[TaskSeen], Answer]) -> int:
        """Settle all unclaimed tasks of these queues, or of all; returns how many."""


@runtime_checkable
class LocatesTasks(Protocol):
    """Explains where a task is."""

    def locate(self, task_id: str) -> TaskLocation:
        """What is known of one task, in few round trips; changes nothing."""


@runtime_checkable
class MovesTasks(Protocol):
    """Moves unclaimed tasks of agents that have left their collection."""

    def move(self, collection: str, agents: Sequence[str], limit: int) -> int:
        """Move up to ``limit`` of these agents' tasks to the agents that the collection has.

        Round-robin and up to their bounds, like first offers; each task in one step. Agents that
        are still in the collection are left as they are. Returns how many; 0 at the end.
        """


@runtime_checkable
class OffersAside(Protocol):
    """Says when an offer leaves the interpreter to others: the next one is made in such pauses."""

    def offer_aside(
        self,
        target: str,
        offers: Sequence[Offer],
        *,
        round_robin: bool,
        aside: Callable[[], None],
    ) -> Admission:
        """As ``offer``; calls ``aside`` before each long step that is not Python's."""


@runtime_checkable
class OffersAhead(Protocol):
    """Sends a batch of offers whole, and then only waits: the next one is made meanwhile."""

    def pack(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """The same offers, ready to be sent; they stay as they are from now on."""

    def offer_ahead(
        self,
        target: str,
        offers: Sequence[Offer],
        *,
        round_robin: bool,
        sent: Callable[[], None],
    ) -> Admission:
        """As ``offer``, also of what is packed; calls ``sent`` once the server has all of it."""


@runtime_checkable
class CountsGroups(Protocol):
    """Accepts groups whole, and counts them in the step that settles their members.

    At ``need`` good members the others are cancelled in that step: those that wait are claimed as
    ``cancelled``, before all else. While ``repairs`` are left, ``MemberEnd.repair`` is admitted in
    place of a member that ended without judgement, even if its queue is full. The end of the last
    member puts one ``GroupEnd`` into the outbox, under the group's id.
    """

    def offer_groups(
        self, target: str, groups: Sequence[Group], hold: LoopHold | None = None
    ) -> Admission:
        """Admit groups round-robin to the collection ``target``: a verdict for each group.

        One of which any id is known is a ``duplicate``; one without room for all its members is
        ``refused``. A ``hold`` is given to stores that keep loops only (``KeepsLoops``).

        Raises:
            LoopTaken: It is not held; nothing is admitted.
        """
