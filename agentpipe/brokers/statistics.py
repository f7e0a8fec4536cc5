"""Snapshots of a store: its ledger, its queues, its workers."""

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
# How a store's counter of an outcome is called.
OUTCOME = "outcome:"
# A longer error is cut before it is stored with its queue.
MAX_LAST_ERROR_CHARS = 300
# The mean duration weighs about this many of an agent's last runs.
RUNS_IN_MEAN = 8
Side = Literal["sender", "worker", "group"]
SIDES: tuple[Side, ...] = ("group", "sender", "worker")


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over the tasks that workers have settled.

    Attributes:
        done: Tasks that ended ``ok``.
        failed: Tasks that ended otherwise; ``cancelled`` ones are neither.
        evaluated: Tasks with a reward.
        passed: The sum of their rewards.
        usd: The cost of the runs, as far as known.
        error: The last error, ``type: message``; also of a run that is retried.
        error_s: How long ago that was; None without an error.
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
        """The part of one settlement."""
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
        """The sum; the error is the later one's, if it has one."""
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
    """A snapshot of one queue; None for what the store cannot know.

    Attributes:
        cooldown_s: Seconds until workers may claim from it again; 0 without a cooldown.
        paused: The queue or its collection is paused.
        pause_reason: Why, where that is known: a collection whose runs failed has one.
        group: The name and the limit of its concurrency group; None without one.
        tally: Its settled tasks; where only workers count, those of the living ones.
        removed: It has left its collection, and gets no new tasks from it.
        parked: Those of ``delayed`` whose run has spent its budget.
        budget_spent: Its collection has spent its budget; then it is paused with that reason.
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
    """A snapshot of a living worker.

    Attributes:
        seen_s: The age of its last heartbeat.
        report: What its last heartbeat reported; empty before the first.
        draining: It finishes what it runs, takes nothing new, and ends.
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
    """Who has declared a collection.

    Attributes:
        by: The last ``sender`` or the last ``worker``; or the one whose agents the ``group`` has.
    """

    collection: str
    by: Side
    source: Source


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """Groups that a store counts, by what has become of them.

    Attributes:
        records: Those of groups that have ended, in the outbox beside the results.
        counted: Members that complete groups have counted.
        wasted: Members that have ended and train nothing: those of other groups, those that were
            not good, and those that were cancelled.
        flat: Complete groups that trainers have not used, since their rewards do not differ.
        stale: The same of those that had become too old.
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
        """Those that have ended are in a store's counters."""
        ended = (counters.get(f"group:{it}", 0) for it in (*STATUSES, *MEMBERS, *UNUSED))
        complete, short, cancelled, *rest = ended
        return cls(living, complete, short, cancelled, records, *rest)


@dataclass(frozen=True, slots=True)
class Stats:
    """The ledger of a store: one snapshot.

    ``accepted = waiting + delayed + running + outbox + undeliverable + delivered`` holds in each
    snapshot.

    Attributes:
        undeliverable: Results that the sink has refused and not taken since; dropped ones too,
            except where the store cannot know them.
        tally: Over all queues, also those that left their round-robin group.
        recent: Tasks that ended within the last ``RECENT_S``.
        undelivered_s: The age of the oldest result in the outbox; 0 if it is empty.
        requests: Requests to a server for this snapshot.
        declared: Where collections come from, as far as the store keeps it.
        spendings: All budgets, for stores with budgets.
        policies: All of them, for stores with policies.
        loops: Those of trainers, for stores with loops.
        measures: By collection, or by queue outside any, where the store counts for all workers.
        groups: For stores that count groups. Their records are not part of ``outbox``.
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
        """A snapshot of a store that knows each queue's depth, and counts the rest by name.

        Args:
            counters: What happened since the store is there; outcomes as ``outcome:NAME``.
            queues: Their depths add up to those of the store.
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
    """The same, paused for its budget where that of the collection is spent."""
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

    So many of them, ``left_alone`` by the workers, may be delayed.
    What waits behind a pause with a reason does not count, nor what is parked: nothing runs before
    an operator acts.
    What a store does not know of a queue is taken from the whole store; what it does not know at
    all counts as not done.
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
    """Whether no task of the queue waits, is delayed or runs; as ``is_done`` without the outbox."""
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
