"""TaskLocation: where a task is, and what could keep it there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.statistics import WorkerSeen
    from agentpipe.core.budgets import Spending
    from agentpipe.core.policy import PolicyState

# Members of a group that are named.
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
    """What could keep an agent from its next task.

    Attributes:
        waiting: How many tasks wait in its queue.
        paused: The agent is paused.
        collection_paused: Its collection is paused.
        pause_reason: Why, where that is known.
        cooldown_s: Seconds until workers may claim from it again; 0 without a cooldown.
        runs: Its running tasks.
        group_limit: How many tasks of its concurrency group may run; None without a group.
        group_runs: Those of the group that run.
        servers: Living workers that serve it; None if unknown.
        run_s: Mean duration of its last runs; None before the first.
        spending: The budget of its collection; None without one.
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
    """A group that has not ended.

    Attributes:
        repairs: How many members may still be replaced.
        good: Members that count.
        other: Members that have ended otherwise.
        open: Members that have not ended, those first that do not run; the first ``MAX_OPEN``.
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
        """From its id, need, repairs and goods; and where its unended members are, in order."""
        group_id, need, repairs, good = counts
        number = Counter(places.values())
        other = size - len(places) - good
        states = (number["waiting"], number["delayed"], number["running"])
        blocked_first = sorted(places, key=lambda each: places[each] == "running")
        return cls(group_id, need, repairs, good, other, *states, tuple(blocked_first[:MAX_OPEN]))


@dataclass(frozen=True, slots=True)
class TaskLocation:
    """Where a task is, and what could explain it.

    Attributes:
        complete: Whether the store knows every task; if not, ``unknown`` means little.
        agent: None for an unknown task, and for a settled one whose agent is forgotten.
        submitted_at: In Unix seconds, like all times here.
        position: A waiting task's position in its queue, from 1; None if unknown.
        cancelled: It was cancelled.
        error: The error of its last failed run, or the reason of a dead letter.
        run: Its claim.
        due_at: When its delay is over; None if unknown.
        since: When it was settled or died.
        outcome: The outcome of a dead letter.
        outbox: Results in the outbox.
        outbox_before: Results before its own.
        outbox_since: When the oldest of them entered the outbox.
        workers: All living workers.
        candidates: Without ``complete``: agents in whose queues it may wait.
        delayed: Without ``complete``: all delayed tasks.
        unclaimed: Without ``complete``: all waiting tasks.
        dead_unread: Without ``complete``: dead letters that were not read.
        spending: The budget of the run that its id names; None without one.
        policy: Where it is delayed for that: the policy that may not begin more yet.
        held_by: Of a running one: the policy whose pause holds its requests; empty without.
        group: The one that it is an unended member of; of a group's id, that group.
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
