"""Store: the seam between the broker and what keeps its tasks, and the records that cross it.

A store never looks into a payload. Each of its operations is one atomic step, takes many
ids, and may be called from any thread. A store that is away raises ``Unreachable``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

Verdict = Literal["accepted", "duplicate", "refused"]
Action = Literal["answer", "bury", "retry", "release", "hold"]
# What ``Stats.recent`` looks back at.
RECENT_S = 10.0
# So much of an error is kept beside its queue.
MAX_TOLD_ERROR = 300
Fate = Literal["told", "waiting", "settled", "unknown"]
Place = Literal["waiting", "delayed", "running", "outbox", "dead", "settled", "unknown"]
# Of an agent's runs, the mean duration reckons with about so many.
RUNS_IN_MEAN = 8


@dataclass(frozen=True, slots=True)
class Queue:
    """One agent's queue.

    Attributes:
        collection: The ring it belongs to; None for a queue outside any collection.
        max_waiting: Offers are refused while so many tasks wait.
        concurrency: Claims at once, over the whole fleet.
        max_crashes: How many of a task's claims may end with their worker.
        gate: What it shares with other queues: of all that name it together, no more than
            ``gate_limit`` tasks are claimed at once; None for a queue that shares nothing.
        gate_limit: The gate's; of several that were declared the last one holds.
    """

    name: str
    collection: str | None = None
    max_waiting: int = 100
    concurrency: int = 1
    max_crashes: int = 3
    gate: str | None = None
    gate_limit: int = 1


@dataclass(frozen=True, slots=True)
class Offer:
    """A task that asks to be admitted. Lower ``priority`` is claimed first."""

    task_id: str
    payload: bytes
    priority: int = 0
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a batch of offers.

    Attributes:
        verdicts: One per offer, in order.
        depth: Tasks waiting in the target afterwards.
        bound: How many may wait there.
    """

    verdicts: tuple[Verdict, ...]
    depth: int
    bound: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process, as the fleet knows it.

    Attributes:
        name: Unique over hosts and restarts.
        queues: What it serves.
        lease_s: It is dead when it has not called ``extend`` for so long.
    """

    name: str
    host: str = ""
    pid: int = 0
    slots: int = 1
    lease_s: float = 30.0
    queues: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Claim:
    """A task leased to a worker.

    Attributes:
        number: Tells this claim of the task from every other one.
        failures: Earlier runs that ended in a failure of the infrastructure.
        crashes: Earlier claims whose worker died.
        submitted_at: Unix seconds.
        cancelled: Somebody cancelled it while an earlier claim ran: it must not run again.
    """

    task_id: str
    queue: str
    payload: bytes
    worker: str
    number: int
    failures: int = 0
    crashes: int = 0
    submitted_at: float = 0.0
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Settlement:
    """What to do with a claimed task.

    Attributes:
        action: ``answer`` puts ``result`` into the outbox and forgets the task; ``bury`` also
            keeps its payload with the dead letters; ``retry`` puts it back after ``delay_s``
            with one failure more; ``release`` puts it back as if it had not been claimed;
            ``hold`` does that, too, and for ``delay_s`` nobody claims from its queue. A hold
            never shortens an earlier one. The task counts as waiting meanwhile.
        outcome: Of ``result``, for the counters.
        reason: What failed, for people: kept with a dead letter, as the queue's last error, and
            as what ``where`` tells of a task that is tried again.
        reward: Of ``result``, where it has one.
        usd: What the run cost, where that is known; also where it is tried again.
    """

    claim: Claim
    action: Action
    result: bytes = b""
    outcome: str = ""
    reason: str = ""
    delay_s: float = 0.0
    reward: float | None = None
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the tasks that workers have settled.

    Attributes:
        done: Answered ``ok``.
        failed: Answered otherwise; ``cancelled`` ones are neither.
        evaluated: Those with a reward.
        passed: The sum of their rewards.
        usd: What the runs cost, as far as they told.
        error: What failed last, ``type: message``; a run that is tried again counts.
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
        """What one settlement adds."""
        ended = settlement.action in ("answer", "bury")
        return cls(
            done=int(ended and settlement.outcome == "ok"),
            failed=int(ended and settlement.outcome not in ("ok", "cancelled")),
            evaluated=int(settlement.reward is not None),
            passed=settlement.reward or 0.0,
            usd=settlement.usd,
            error=settlement.reason[:MAX_TOLD_ERROR],
            error_s=0.0 if settlement.reason else None,
        )

    def __add__(self, later: Tally) -> Tally:
        """Both together; the error is that of the later one, if it has any."""
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
class OutboxRecord:
    """A finished Result on its way to the sink."""

    number: int
    task_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that is not settled."""

    number: int
    task_id: str
    queue: str
    payload: bytes
    submitted_at: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A Result for a task that never ran."""

    task_id: str
    result: bytes
    outcome: str


@dataclass(frozen=True, slots=True)
class DeadSummary:
    """A task that was given up, without what may be large.

    Attributes:
        died_at: Unix seconds, the same at each look.
    """

    task_id: str
    queue: str
    collection: str | None
    outcome: str
    reason: str
    died_at: float


@dataclass(frozen=True, slots=True)
class DeadLetter(DeadSummary):
    """A task that was given up, as it was sent, with the Result that said so."""

    payload: bytes
    result: bytes

    @property
    def summary(self) -> DeadSummary:
        """The letter without them."""
        return DeadSummary(
            self.task_id, self.queue, self.collection, self.outcome, self.reason, self.died_at
        )


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters are meant: those that fit all that is set.

    Attributes:
        error: A part of the reason; the case of ASCII letters does not count.
        since: Unix seconds: those that died then or later.
        until: Unix seconds: those that died earlier.
    """

    collection: str | None = None
    outcome: str | None = None
    error: str = ""
    since: float | None = None
    until: float | None = None

    @property
    def folded_error(self) -> str:
        """``error`` in small letters, as far as every store knows the case of letters."""
        return folded(self.error)

    @property
    def asks_for_times_only(self) -> bool:
        """Whether an order by time is all that is needed to tell what fits."""
        return self.collection is None and self.outcome is None and not self.error

    def fits(self, letter: DeadSummary) -> bool:
        """Whether a letter is one of them; for stores that look at each."""
        return (
            self.collection in (None, letter.collection)
            and self.outcome in (None, letter.outcome)
            and self.folded_error in folded(letter.reason)
            and (self.since is None or letter.died_at >= self.since)
            and (self.until is None or letter.died_at < self.until)
        )


@dataclass(frozen=True, slots=True)
class DeadPage:
    """Some dead letters, oldest first.

    Attributes:
        after: Where to go on; None at the end. A page may be short, or empty, before that.
    """

    letters: tuple[DeadSummary, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """One queue at a moment; a store gives None for what it cannot know.

    Attributes:
        held_s: For so long nobody claims from it; 0 if it is not held.
        paused: It, or its collection, gives nothing until somebody resumes it.
        tally: What has ended of it; where only the workers count, what the living ones did.
    """

    queue: str
    collection: str | None
    waiting: int | None
    delayed: int | None
    running: int | None
    limit: int
    concurrency: int
    held_s: float | None = None
    paused: bool = False
    tally: Tally = Tally()


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A living worker at a moment.

    Attributes:
        seen_s: How long ago it was heard.
        report: What it told of itself with its last ``extend``; empty before that.
    """

    name: str
    host: str
    pid: int
    slots: int
    running: int
    seen_s: float
    report: bytes = b""


@dataclass(frozen=True, slots=True)
class Stats:
    """The ledger of a store at one moment.

    ``accepted = waiting + delayed + running + outbox + delivered`` holds in each snapshot.

    Attributes:
        tally: Of all queues, those that left their ring among them.
        recent: How many tasks ended within the last ``RECENT_S``.
        undelivered_s: For how long the oldest result is in the outbox; 0 where it is empty.
        requests: How many a server had to answer for all this.
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


@dataclass(frozen=True, slots=True)
class Run:
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
        held_s: For so long nobody claims from it; 0 if it is not held.
        runs: Its tasks that run.
        gate_limit: So many tasks of all that share its gate may run; None without a gate.
        gate_runs: Those that do.
        servers: Living workers that serve it; None where that is not known.
        run_s: How long its runs took lately; None before the first.
    """

    queue: str
    collection: str | None
    concurrency: int
    waiting: int | None = None
    paused: bool = False
    collection_paused: bool = False
    held_s: float = 0.0
    runs: tuple[Run, ...] = ()
    gate_limit: int | None = None
    gate_runs: tuple[Run, ...] = ()
    servers: tuple[WorkerSeen, ...] | None = None
    run_s: float | None = None


@dataclass(frozen=True, slots=True)
class Whereabouts:
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
    run: Run | None = None
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


class Store(Protocol):
    """Keeps tasks, results on their way out, and dead letters. Brokers are built on it."""

    def declare(self, queues: Sequence[Queue]) -> None:
        """Make the queues known with these limits; a collection's ring becomes its queues here.

        A queue that left its ring keeps its tasks and takes no new ones.
        """

    def offer(self, target: str, offers: Sequence[Offer], *, ring: bool) -> Admission:
        """Admit tasks to the queue ``target``, or round-robin to the ring of that name.

        An id that lives, or was settled within the retention time, is a ``duplicate``.
        Queues at their bound are passed over; where all are, the offer is ``refused``.
        """

    def join(self, worker: Worker) -> None:
        """Register a worker; its lease starts now."""

    def extend(self, worker: Worker, report: bytes | None = None) -> bool:
        """Renew the worker's lease; False when it had lapsed and its tasks are others' now.

        ``report`` is for ``WorkerSeen``; without one the last stays.
        """

    def leave(self, worker: Worker) -> int:
        """End the worker: what it still holds goes back uncounted. Returns how many."""

    def claim(
        self,
        worker: Worker,
        limit: int,
        *,
        high_water: int,
        high_water_bytes: int,
        held: int | None = None,
    ) -> list[Claim]:
        """Lease up to ``limit`` tasks of the worker's queues; none above the outbox's marks.

        With ``held``, the number of claims it has, it may get no more than an even share of what
        runs and could run: the rest is left for the other living workers of the same queues.

        A queue that is held gives nothing, a gate no more than its limit over all workers; of
        the queues of one gate, too, the longest unserved comes first.

        Also puts back the tasks of lapsed workers (one crash more) and those whose delay is over,
        and ends the holds whose time is over.
        A task that one more crash would kill is claimed only by a worker that holds no other
        such task: of those that ran beside the one that kills its worker, none dies with it.
        """

    def wait(self, timeout_s: float) -> Collection[str]:
        """Return early when a claim may have become possible. One thread at a time.

        It is possible, too, where a claim gave some of the tasks and kept others back. Returns
        early as well with the ids of running tasks that were cancelled, anybody's; each at
        least once.
        """

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Carry them out; False, and nothing done, for each whose claim has been lost.

        They are safe from the death of any process at once, from a power loss after ``sync``.
        """

    def sync(self) -> None:
        """Return once what was settled is as durable as the store's URL promises."""

    def take_outbox(self, worker: Worker, limit: int, max_bytes: int) -> list[OutboxRecord]:
        """Lend the oldest results to the worker until it drops them or its lease ends."""

    def drop_outbox(self, worker: Worker, numbers: Sequence[int]) -> None:
        """Forget results that the sink has confirmed; they count as delivered."""

    def peek(self, queues: Sequence[str] | None, after: int, limit: int) -> list[Waiting]:
        """Read tasks that wait or are delayed, by rising ``number`` above ``after``."""

    def answer(self, answers: Sequence[Answer]) -> list[bool]:
        """Settle tasks that nobody has claimed; False for those that are not waiting now."""

    def pause(
        self, *, queues: Sequence[str] = (), collections: Sequence[str] = (), paused: bool
    ) -> None:
        """Have nobody claim from these, or again, until told otherwise; what runs goes on.

        A collection's pause is for whatever queues it has, also for those that it gets later. A
        queue gives nothing while it is paused or its collection is. Both survive all workers.
        """

    def find(self, task_ids: Sequence[str]) -> list[Waiting]:
        """Those of the tasks that wait or are delayed."""

    def claimed(self, queues: Sequence[str] | None) -> list[Waiting]:
        """The tasks that run, of these queues or of all."""

    def cancel(self, task_ids: Sequence[str]) -> list[Fate]:
        """Have the workers end those that run: they hear of it by ``wait``.

        A cancelled task that comes back instead of being settled is not run again: whoever
        claims it is told so. What waits is left as it is: ``answer`` it.
        """

    def where(self, task_id: str) -> Whereabouts:
        """All that can be told of one task, in few round trips; nothing is changed by it."""

    def dead_letters(self, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
        """Up to ``limit`` of them, from the oldest on, or from where a page said to go on.

        Where looking at a letter holds up others, one call looks at a bounded number of them.

        Raises:
            ConfigError: ``after`` is not from a page of such a store.
        """

    def count_dead(self, wanted: DeadFilter) -> int | None:
        """How many there are; None where each of them would have to be looked at."""

    def read_dead(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        """Those of them that are dead letters, whole, oldest first; all are in memory at once."""

    def drop_dead(self, task_ids: Sequence[str]) -> int:
        """Forget dead letters; returns how many there were."""

    def stats(self) -> Stats:
        """One consistent snapshot."""

    def close(self) -> None:
        """Release files and connections. Whoever made the store closes it."""


@runtime_checkable
class Calendar(Protocol):
    """What a scheduler needs of a store beside it; ours have it."""

    def progress(self, name: str, mark: int) -> int | None:
        """The highest mark that was ever set under ``name``, this one among them; 0 at first.

        None, and nothing done, while another process has the calendar: a store that knows no
        ids lets only one have it, until its connection ends.
        """


def folded(text: str) -> str:
    """``text`` in small letters, but for those outside ASCII."""
    return text.encode(errors="replace").lower().decode()


def is_done(stats: Stats, queues: frozenset[str]) -> bool:
    """Whether nothing of these queues waits, is delayed or runs, and the outbox is empty.

    What a store cannot know of a queue is taken from its whole, and what it cannot know at all
    is not done.
    """
    mine = [depth for depth in stats.queues if depth.queue in queues]
    stages = (
        _known([depth.waiting for depth in mine], stats.waiting),
        _known([depth.delayed for depth in mine], stats.delayed),
        _known([depth.running for depth in mine], stats.running),
        stats.outbox,
    )
    return all(stage == 0 for stage in stages)


def _known(parts: list[int | None], whole: int | None) -> int | None:
    return whole if None in parts else sum(part or 0 for part in parts)
