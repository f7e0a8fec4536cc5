"""TaskLocation: where a task is, and what can hold it there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.statistics import WorkerSeen
    from agentpipe.core.budgets import Spending
    from agentpipe.core.policy import PolicyState

# Open members that ``GroupSeen`` lists by id.
MAX_OPEN = 20
Place = Literal["waiting", "delayed", "running", "outbox", "dead", "settled", "unknown"]


@dataclass(frozen=True, slots=True)
class ClaimSeen:
    """A claim, as operators see it.

    Attributes:
        worker: The worker that holds it.
        since: Unix seconds; None if unknown.
    """

    task_id: str
    queue: str
    worker: str
    since: float | None = None


@dataclass(frozen=True, slots=True)
class AgentSeen:
    """What can keep an agent from its next task.

    Attributes:
        waiting: Number of tasks waiting in its queue.
        paused: Whether the agent is paused.
        collection_paused: Whether its collection is paused.
        pause_reason: Why it is paused; empty if unknown.
        cooldown_s: Seconds until its cooldown ends; 0 if there is none.
        runs: Its running tasks.
        group_limit: Limit of its concurrency group; None if it has no group.
        group_runs: Running tasks of its concurrency group.
        servers: Live workers that serve it; None if unknown.
        run_s: Mean duration of its recent runs; None before the first.
        spending: Its collection's budget; None if there is none.
    """

    queue: str
    collection: str | None
    concurrency: int
    waiting: int | None = None
    paused: bool = False
    collection_paused: bool = False
    cooldown_s: float = 0.0
    runs: tuple[ClaimSeen, ...] = ()
    group_limit: int | None = None
    group_runs: tuple[ClaimSeen, ...] = ()
    servers: tuple[WorkerSeen, ...] | None = None
    run_s: float | None = None
    pause_reason: str = ""
    spending: Spending | None = None


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """A group that is still open.

    Attributes:
        repairs: How many members can still be replaced.
        good: Members that count towards ``need``.
        other: Members that ended without counting.
        open: Up to ``MAX_OPEN`` open members; those that are not running come first.
    """

    group_id: str
    need: int
    repairs: int
    good: int
    other: int
    waiting: int
    delayed: int
    running: int
    open: tuple[str, ...] = ()

    @classmethod
    def of(cls, counts: tuple[str, int, int, int], size: int, places: Mapping[str, str]) -> Self:
        """Build it from what a store knows.

        Args:
            counts: Group id, need, repairs, good members.
            size: Number of members.
            places: Where each open member is, in order.
        """
        group_id, need, repairs, good = counts
        number = Counter(places.values())
        other = size - len(places) - good
        states = (number["waiting"], number["delayed"], number["running"])
        blocked_first = sorted(places, key=lambda each: places[each] == "running")
        return cls(group_id, need, repairs, good, other, *states, tuple(blocked_first[:MAX_OPEN]))


@dataclass(frozen=True, slots=True)
class TaskLocation:
    """Where a task is, and what can explain it.

    Attributes:
        complete: Whether the store knows every task. If not, ``unknown`` says little.
        agent: None if the task is unknown, or settled and its agent is forgotten.
        submitted_at: Unix seconds, like all times here.
        position: A waiting task's position in its queue, from 1; None if unknown.
        cancelled: Whether it was cancelled.
        error: The error of its last failed run, or the reason of a dead letter.
        run: Its current claim.
        due_at: When its delay ends; None if unknown.
        since: When it was settled or became a dead letter.
        outcome: The outcome of a dead letter.
        outbox: Number of records in the outbox, including group records.
        outbox_before: Number of records ahead of its own.
        outbox_since: When the oldest result entered the outbox.
        workers: All live workers.
        candidates: If not ``complete``: agents in whose queues it can wait.
        delayed: If not ``complete``: number of all delayed tasks.
        unclaimed: If not ``complete``: number of all waiting tasks.
        dead_unread: If not ``complete``: number of dead letters that were not read.
        spending: The budget of the run that its id names; None if there is none.
        policy: If the task is delayed by its policy: that policy, which admits no more runs yet.
        held_by: If the task is running: the policy whose pause holds its requests, or empty.
        group: The open group that it belongs to, or that its id names.
    """

    task_id: str
    place: Place
    complete: bool = True
    agent: AgentSeen | None = None
    submitted_at: float | None = None
    position: int | None = None
    failures: int = 0
    crashes: int = 0
    cancelled: bool = False
    error: str = ""
    run: ClaimSeen | None = None
    due_at: float | None = None
    since: float | None = None
    outcome: str = ""
    outbox: int = 0
    outbox_bytes: int = 0
    outbox_before: int | None = None
    outbox_since: float | None = None
    workers: tuple[WorkerSeen, ...] = ()
    candidates: tuple[AgentSeen, ...] = ()
    delayed: int | None = None
    unclaimed: int | None = None
    dead_unread: int = 0
    spending: Spending | None = None
    policy: PolicyState | None = None
    held_by: str = ""
    group: GroupSeen | None = None
