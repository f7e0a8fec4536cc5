"""Snapshots of a store: its ledger, queues and workers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from agentpipe.core.groups import MEMBERS, STATUSES, UNUSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.brokers.measures import Measures
    from agentpipe.brokers.records import Settlement, Source
    from agentpipe.core.budgets import Spending
    from agentpipe.core.loop_holds import LoopState
    from agentpipe.core.policy import PolicyState

# The window of ``Stats.recent``.
RECENT_S = 10.0
# Prefix of the counters of outcomes.
OUTCOME = "outcome:"
# Longer errors are truncated before they are stored with their queue.
MAX_LAST_ERROR_CHARS = 300
# The mean run duration covers about this many of an agent's last runs.
RUNS_IN_MEAN = 8
Side = Literal["sender", "worker", "group"]
SIDES: tuple[Side, ...] = ("group", "sender", "worker")


@dataclass(frozen=True, slots=True)
class Tally:
    """Totals over the tasks that workers settled.

    Attributes:
        done: Tasks that ended ``ok``.
        failed: Tasks that ended neither ``ok`` nor ``cancelled``.
        evaluated: Tasks with a reward.
        passed: Sum of their rewards.
        usd: Cost of the runs, as far as known.
        error: The last error as ``type: message``, including errors of runs that are retried.
        error_s: Age of that error in seconds; None if there is none.
    """

    done: int = 0
    failed: int = 0
    evaluated: int = 0
    passed: float = 0.0
    usd: float = 0.0
    error: str = ""
    error_s: float | None = None

    @classmethod
    def of(cls, settlement: Settlement) -> Self:
        """Return the tally of one settlement."""
        ended = settlement.action in ("complete", "bury")
        return cls(
            done=int(ended and settlement.outcome == "ok"),
            failed=int(ended and settlement.outcome not in ("ok", "cancelled")),
            evaluated=int(settlement.reward is not None),
            passed=settlement.reward or 0.0,
            usd=settlement.usd,
            error=settlement.reason[:MAX_LAST_ERROR_CHARS],
            error_s=0.0 if settlement.reason else None,
        )

    def __add__(self, later: Tally) -> Tally:
        """Sum both; keep ``later``'s error if it has one."""
        last = self if later.error_s is None else later
        return Tally(
            self.done + later.done,
            self.failed + later.failed,
            self.evaluated + later.evaluated,
            self.passed + later.passed,
            self.usd + later.usd,
            last.error,
            last.error_s,
        )


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """A snapshot of one queue; None for values that the store does not know.

    Attributes:
        cooldown_s: Seconds until its cooldown ends; 0 if there is none.
        paused: Whether the queue or its collection is paused.
        pause_reason: Why it is paused, if known; always set by the breaker.
        group: Name and limit of its concurrency group; None if it has no group.
        tally: Its settled tasks; if only workers count them, those settled by live workers.
        removed: Whether it left its collection and gets no new tasks from it.
        parked: How many of the ``delayed`` tasks belong to a run that has spent its budget.
        budget_spent: Whether its collection has spent its budget; the queue is then paused.
    """

    queue: str
    collection: str | None
    waiting: int | None
    delayed: int | None
    running: int | None
    limit: int
    concurrency: int
    cooldown_s: float | None = None
    paused: bool = False
    tally: Tally = Tally()
    pause_reason: str = ""
    group: tuple[str, int] | None = None
    removed: bool = False
    parked: int = 0
    budget_spent: bool = False


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A snapshot of a live worker.

    Attributes:
        seen_s: Age of its last heartbeat in seconds.
        report: The report of its last heartbeat; empty before the first.
        draining: Whether it finishes its runs, claims nothing new, and then exits.
    """

    name: str
    host: str
    pid: int
    slots: int
    running: int
    seen_s: float
    report: bytes = b""
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Declared:
    """A source that declared a collection.

    Attributes:
        by: The last ``sender``, the last ``worker``, or the source of the current ``group``.
    """

    collection: str
    by: Side
    source: Source


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """A store's groups by state.

    Attributes:
        records: Records of ended groups, in the outbox beside the results.
        counted: Members that complete groups counted.
        wasted: Ended members that are useless for training: members of groups that did not
            complete, members that were not good, and cancelled members.
        flat: Complete groups that trainers did not use because their rewards are all equal.
        stale: Complete groups that trainers did not use because they were too old.
    """

    open: int = 0
    complete: int = 0
    short: int = 0
    cancelled: int = 0
    records: int = 0
    counted: int = 0
    wasted: int = 0
    flat: int = 0
    stale: int = 0

    @classmethod
    def of(cls, living: int, counters: Mapping[str, int], records: int) -> Self:
        """Build it from the number of open groups, the store's counters, and the group records."""
        ended = (counters.get(f"group:{it}", 0) for it in (*STATUSES, *MEMBERS, *UNUSED))
        complete, short, cancelled, *rest = ended
        return cls(living, complete, short, cancelled, records, *rest)


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a store's ledger.

    ``accepted = waiting + delayed + running + outbox + undeliverable + delivered`` holds in each
    snapshot.

    Attributes:
        undeliverable: Results that the sink refused and has not accepted since, including dropped
            ones if the store counts them.
        tally: Over all queues, including those that left their round-robin group.
        recent: Tasks that ended within the last ``RECENT_S``.
        undelivered_s: Age in seconds of the oldest result in the outbox; 0 if it is empty.
        requests: Requests to the server that this snapshot took.
        declared: Where collections come from, as far as the store keeps that.
        spendings: All budgets, for stores with budgets.
        policies: All policies, for stores with policies.
        loops: All trainer loops, for stores with loops.
        measures: By collection, or by queue outside any collection; None if the store does not
            count for all workers.
        groups: For stores that count groups. Group records are not part of ``outbox``.
    """

    accepted: int | None
    waiting: int | None
    delayed: int | None
    running: int | None
    outbox: int | None
    outbox_bytes: int | None
    delivered: int | None
    dead: int | None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    queues: tuple[QueueDepth, ...] = ()
    workers: tuple[WorkerSeen, ...] = ()
    tally: Tally = Tally()
    recent: int | None = None
    undelivered_s: float | None = None
    requests: int = 1
    declared: tuple[Declared, ...] = ()
    undeliverable: int | None = None
    spendings: tuple[Spending, ...] = ()
    measures: Mapping[str, Measures] | None = None
    groups: GroupCounts | None = None
    policies: tuple[PolicyState, ...] = ()
    loops: tuple[LoopState, ...] = ()

    @classmethod
    def counted(
        cls, counters: Mapping[str, int], queues: tuple[QueueDepth, ...], **others: Any
    ) -> Self:
        """Build a snapshot from named counters and the depths of all queues.

        Args:
            counters: Counts since the store was created; outcomes as ``outcome:NAME``.
            queues: All queues; their depths are summed for the store's.
            others: All other fields.
        """
        ended = sorted(it for it in counters.items() if it[0].startswith(OUTCOME))
        return cls(
            accepted=counters.get("accepted", 0),
            waiting=sum(queue.waiting or 0 for queue in queues),
            delayed=sum(queue.delayed or 0 for queue in queues),
            running=sum(queue.running or 0 for queue in queues),
            outbox_bytes=counters.get("outbox_bytes", 0),
            delivered=counters.get("delivered", 0),
            undeliverable=counters.get("undeliverable", 0),
            outcomes={name.removeprefix(OUTCOME): number for name, number in ended},
            queues=queues,
            **others,
        )


def with_spent(
    depths: Iterable[QueueDepth], spendings: Iterable[Spending]
) -> tuple[QueueDepth, ...]:
    """Return the depths, marked as paused if their collection has spent its budget."""
    spent = {it.name: it.reason for it in spendings if it.kind == "collection" and it.is_spent}
    return tuple(
        replace(
            depth,
            paused=True,
            pause_reason=depth.pause_reason or spent[depth.collection],
            budget_spent=True,
        )
        if depth.collection in spent
        else depth
        for depth in depths
    )


def is_done(stats: Stats, queues: frozenset[str], left_alone: int = 0) -> bool:
    """Whether no task of these queues waits, is delayed or runs, and the outbox is empty.

    Up to ``left_alone`` delayed tasks are ignored. Parked tasks and tasks behind a pause with a
    reason are ignored too: they do not run until an operator acts.

    If the store does not know a queue's value, the whole store's value is used; if it does not
    know that either, the queues are not done.
    """
    mine = [depth for depth in stats.queues if depth.queue in queues]
    open_ = [depth for depth in mine if not depth.pause_reason]
    stages = (
        _known([depth.waiting for depth in open_], stats.waiting),
        _known([_delayed(depth) for depth in open_], stats.delayed),
        _known([depth.running for depth in mine], stats.running),
        stats.outbox
        if stats.groups is None
        else _known([stats.outbox, stats.groups.records], None),
    )
    waiting, delayed, running, outbox = stages
    rest = delayed is not None and delayed <= left_alone
    return rest and waiting == 0 and running == 0 and outbox == 0


def is_idle(stats: Stats, queue: str) -> bool:
    """Whether no task of the queue waits, is delayed or runs.

    Unlike in ``is_done``, paused and parked tasks count, and the outbox does not.
    """
    mine = [depth for depth in stats.queues if depth.queue == queue]
    stages = (
        _known([depth.waiting for depth in mine], stats.waiting),
        _known([depth.delayed for depth in mine], stats.delayed),
        _known([depth.running for depth in mine], stats.running),
    )
    return all(stage == 0 for stage in stages)


def _delayed(depth: QueueDepth) -> int | None:
    return None if depth.delayed is None else depth.delayed - depth.parked


def _known(parts: list[int | None], whole: int | None) -> int | None:
    return whole if None in parts else sum(part or 0 for part in parts)
