"""TaskLocation: where a task is, and what could keep it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from agentpipe.brokers.statistics import WorkerSeen

Place = Literal["waiting", "delayed", "running", "outbox", "dead", "settled", "unknown"]


@dataclass(frozen=True, slots=True)
class ClaimSeen:
    """A claim, as others see it.

    Attributes:
        worker: Who holds it.
        since: Unix seconds; None where the store does not know.
    """

    task_id: str
    queue: str
    worker: str
    since: float | None = None


@dataclass(frozen=True, slots=True)
class AgentSeen:
    """What could keep an agent from its next task, at a moment.

    Attributes:
        waiting: How many tasks wait in its queue.
        paused: It was paused itself.
        collection_paused: All of its collection was.
        cooldown_s: Seconds until anybody may claim from it again; 0 without a cooldown.
        runs: Its tasks that run.
        group_limit: How many tasks of its concurrency group may run; None without a group.
        group_runs: Those of the group that run.
        servers: Living workers that serve it; None where that is not known.
        run_s: How long its runs took lately; None before the first.
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


@dataclass(frozen=True, slots=True)
class TaskLocation:
    """Where a task is, with all that could explain why it is there.

    Attributes:
        complete: Whether the store knows each task; else ``unknown`` says little.
        agent: None where the task is unknown; and once it is settled, where that is forgotten.
        submitted_at: Like all moments here in Unix seconds.
        position: Of a waiting task, from 1, in its queue; None where that cannot be told.
        cancelled: It was told to end.
        error: What its last failed run ended with, or a dead one's reason.
        run: Where it runs.
        due_at: When its delay is over; None where that cannot be told.
        since: Since when it is settled or dead.
        outcome: Of a dead one.
        outbox: Results in the outbox.
        outbox_before: Of these, before its own.
        outbox_since: When the oldest of them was put there.
        workers: All that live.
        candidates: Where the store does not know each task: agents with whom it may wait.
        delayed: Where it does not: how many tasks are, of all.
        unclaimed: Where it does not: how many tasks wait, of all.
        dead_unread: Where it does not: dead letters that were not looked at.
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
