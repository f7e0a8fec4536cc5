"""Capabilities: what a store may offer to operators beside the core.

Each is a protocol of its own. A command on a store without one says so (``require``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, runtime_checkable

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.breaker import Tripped
    from agentpipe.brokers.dead_letter import DeadFilter, DeadLetter, DeadPage
    from agentpipe.brokers.location import TaskLocation
    from agentpipe.brokers.records import Admission, Group, Refusal, Worker
    from agentpipe.brokers.runs import KeptRun
    from agentpipe.core.budgets import Budget, Holder, Spending
    from agentpipe.core.policy import PolicyChange, PolicyState

# So long is a drain remembered; a process starts faster than that.
DRAIN_NOTED_S = 86_400.0

Fate = Literal["signalled", "marked", "waiting", "settled", "unknown"]
C = TypeVar("C")


def require(store: Store, capability: type[C], action: str) -> C:
    """The store as one with this capability.

    Raises:
        ConfigError: It lacks it: this broker cannot do ``action``.
    """
    if not isinstance(store, capability):
        raise ConfigError(f"this broker cannot {action}")
    return store


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


@runtime_checkable
class SparesTasks(Protocol):
    """Learns which tasks are not to blame, where the end of a worker shows only in deliveries."""

    def spare(self, task_ids: Sequence[str]) -> None:
        """The worker of these tasks is about to be ended: count no crash for them.

        Elsewhere another process settles the claims of a worker that is gone.
        """


@runtime_checkable
class BuriesWorkers(Protocol):
    """Ends a worker before its lease is over, where its death would show only then."""

    def bury(self, worker: Worker, begun: Sequence[str]) -> None:
        """The process of this worker has died: all is as if its lease were over.

        Only the tasks whose runs had ``begun`` count a crash.
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
class PausesQueues(Protocol):
    """Keeps workers away from queues."""

    def pause(
        self,
        *,
        queues: Sequence[str] = (),
        collections: Sequence[str] = (),
        paused: bool,
        reason: str = "",
    ) -> None:
        """Stop claims from these, or allow them again; what runs goes on.

        A collection's pause covers the queues that it has and those that it gets later. A queue
        gives nothing while it or its collection is paused. Both survive all workers. ``reason`` is
        kept with the pause; one without keeps the reason of the pause that it repeats.
        """


@runtime_checkable
class DrainsWorkers(Protocol):
    """Has workers finish what they run, take nothing new, and end.

    A mark is of one process: it goes when the worker leaves, or its lease ends.
    ``WorkerSeen.draining`` says which are marked.
    """

    def drain(self, workers: Collection[str]) -> None:
        """Mark those of these workers that live; once more is the same."""

    def is_draining(self, worker: Worker) -> bool:
        """Whether it is marked; its own process asks, with each heartbeat."""


@runtime_checkable
class NotesDrains(Protocol):
    """Remembers drains of all workers, or of a host's, for those that are still starting.

    Such a worker is not known yet, so that no mark can reach it.
    """

    def note_drain(self, host: str | None) -> None:
        """All workers of this host are to end, or of the broker."""

    def last_drain(self, host: str) -> int:
        """A number that rises with each drain of this host or of the broker.

        It is 0 before the first one, and once the last is longer ago than ``DRAIN_NOTED_S``.
        """


@runtime_checkable
class BreaksOnFailures(Protocol):
    """Pauses a collection whose runs fail the same way again and again: its breaker.

    ``Settlement.failure`` says what counts, and how often. The pause has a reason, and is ended
    like any other; then the count begins anew.
    """

    def take_tripped(self) -> list[Tripped]:
        """The pauses that settlements of this process have caused since the last call."""


@runtime_checkable
class KeepsBudgets(Protocol):
    """Stops claims from what has spent its budget: collections, and named runs.

    ``settle`` adds ``usd`` and ``tokens`` of what it carries out, in the step that settles. From
    the step on that reaches a cap, no worker claims from a collection's queues, or tasks of the
    run; what runs goes on. A task is of the run that its id names (``run_of``).

    ``Queue.budget`` is declared: it holds from when it differs from what was declared before, so
    that one that was set meanwhile stays. Costs count from the first budget on.
    """

    def set_budget(self, kind: Holder, name: str, budget: Budget) -> None:
        """Give a collection or run these caps instead of those that it has."""

    def spendings(self) -> Sequence[Spending]:
        """All budgets, with what is spent of each."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Where a store and a worker did not agree.

    Attributes:
        lost: Claims that the store does not know: their tasks are settled, another worker's, or
            wait.
        returned: Tasks that are back in their queues, uncounted, since the worker does not hold
            them.
        freed: Results that are back in the outbox, since the worker does not forward them.
    """

    lost: frozenset[tuple[str, int]] = frozenset()
    returned: int = 0
    freed: int = 0


@runtime_checkable
class ComparesClaims(Protocol):
    """Finds out where a worker and the store differ about what the worker holds.

    They differ after a store came back as it was some time ago, and after answers that were lost.

    Attributes:
        in_doubt: The store may have been away since the last comparison: compare before the next
            run begins.
    """

    @property
    def in_doubt(self) -> bool: ...  # noqa: D102 - see the class

    def compare(
        self,
        worker: Worker,
        held: Collection[tuple[str, int]],
        forwarding: Collection[int] | None,
    ) -> Comparison:
        """Put back what the store believes the worker to hold, and the worker does not.

        Nothing happens where the worker has no lease. No claim and no ``take_outbox`` of the
        worker may be under way.

        Args:
            worker: Whose claims they are.
            held: The keys of all claims that the worker has not settled.
            forwarding: The numbers of the results that it has taken and not dropped; None where
                that is not known now.
        """


@runtime_checkable
class KeepsDeadLetters(Protocol):
    """Lists dead letters, and forgets them."""

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        """Up to ``limit`` of them, from the oldest on, or from where the last page ended.

        Where looking at a letter delays others, one call looks at a bounded number of them.

        Raises:
            ConfigError: ``after`` does not come from a page of such a store.
        """

    def count_dead(self, wanted: DeadFilter) -> int | None:
        """How many there are; None where each would have to be looked at."""

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        """Those of them that are dead letters, whole, oldest first; all are in memory at once."""

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        """Forget dead letters; returns how many there were."""


@runtime_checkable
class KeepsUndeliverable(Protocol):
    """Keeps results that the sink refuses beside the outbox, where they hold up no others."""

    @property
    def undeliverable(self) -> KeepsDeadLetters:
        """Lists, reads and drops them, as dead letters without a payload."""

    def set_aside(self, worker: Worker, refusals: Sequence[Refusal]) -> None:
        """Take results that the worker has borrowed out of the outbox, with the sink's reasons."""

    def deliver_again(self, task_ids: Sequence[str]) -> int:
        """Put these back into the outbox; returns how many."""


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
class KeepsRuns(Protocol):
    """Keeps a record of each run, and counts its tasks, which its ids tell."""

    def begin_run(self, name: str, record: bytes) -> bytes:
        """Keep the record unless the run has one; returns that which it has now."""

    def runs(self) -> list[KeptRun]:
        """All that have a record, in the order in which they were begun."""

    def drop_run(self, name: str) -> bool:
        """Forget a run's record and its counts, no task; False where it has none."""


@runtime_checkable
class CountsGroups(Protocol):
    """Accepts groups whole, and counts them in the step that settles their members.

    At ``need`` good members the others are cancelled in that step: those that wait are claimed as
    ``cancelled``, before all else. While ``repairs`` are left, ``MemberEnd.repair`` is admitted in
    place of a member that ended without judgement, even if its queue is full. The end of the last
    member puts one ``GroupEnd`` into the outbox, under the group's id.
    """

    def offer_groups(self, target: str, groups: Sequence[Group]) -> Admission:
        """Admit groups round-robin to the collection ``target``: a verdict for each group.

        One of which any id is known is a ``duplicate``; one without room for all its members is
        ``refused``.
        """


@runtime_checkable
class KeepsPolicies(Protocol):
    """Keeps the policies that collections follow, for trainers and workers.

    ``Queue.policy`` is declared: it holds from when it differs from what was declared before, so
    that endpoints that were published meanwhile stay. ``wait`` returns early where one changes.
    """

    def policies(self) -> Sequence[PolicyState]:
        """All of them, in the order of their names."""

    def change_policy(self, name: str, change: PolicyChange) -> PolicyState | None:
        """Change one in one step; returns what holds then, None where there is none."""


@runtime_checkable
class KeepsSchedules(Protocol):
    """Remembers how far schedules have come."""

    def progress(self, name: str, mark: int) -> int | None:
        """The highest mark ever set under ``name``, this one included; 0 at first.

        None, and nothing done, while another process holds the schedule: a store without ids
        lets only one process have it, until its connection ends.
        """
