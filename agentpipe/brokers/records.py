"""Records passed to and from a ``Store``."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from agentpipe.core.budgets import NO_BUDGET, Budget
from agentpipe.core.usage import NO_TOKENS, Tokens

if TYPE_CHECKING:
    from agentpipe.core.policy import PolicySpec
    from agentpipe.settings import OutboxLimits

Verdict = Literal["accepted", "duplicate", "refused"]
# A double holds every integer up to this exactly.
MAX_SUMMAND = 2**53
MAX_DELAY_S = 40 * 86_400.0
Action = Literal["complete", "bury", "retry", "release", "crash", "cooldown"]


@dataclass(frozen=True, slots=True)
class Source:
    """The collection file that declared queues come from.

    Attributes:
        fingerprint: Equal if the same agent runs in the same way; empty if unknown.
        place: Host and path of the file.
        edited_us: When the file was last changed, in Unix microseconds.
        config_us: When the file or the agent config was last changed, in Unix microseconds.
        serves: Whether a worker that serves the queues declared them, rather than a sender.
    """

    fingerprint: str
    place: str
    edited_us: int
    config_us: int
    serves: bool = False


def is_outdated(given: Source | None, group: Source | None) -> bool:
    """Whether a sender's file is older than the file that its collection's group came from."""
    if given is None or group is None or given.serves:
        return False
    return given.edited_us < group.edited_us


@dataclass(frozen=True, slots=True)
class Queue:
    """One agent's queue.

    Attributes:
        collection: The round-robin group it belongs to; None outside any collection.
        max_waiting: Offers are refused while this many tasks wait or are delayed.
        concurrency: Maximum concurrent claims across the fleet.
        max_crashes: How many of a task's claims can end because their worker died.
        concurrency_group: Queues that name the same group share its limit; None for no group.
        concurrency_group_limit: Maximum concurrent claims over all queues of the group; the last
            declared value applies.
        source: The same for all queues of a collection; None if they come from no file.
        budget: The same for all queues of a collection: its budget. For stores with budgets
            (``KeepsBudgets``).
        policy: The same for all queues of a collection: its agents' policy. For stores with
            policies (``KeepsPolicies``).
    """

    name: str
    collection: str | None = None
    max_waiting: int = 100
    concurrency: int = 1
    max_crashes: int = 3
    concurrency_group: str | None = None
    concurrency_group_limit: int = 1
    source: Source | None = None
    budget: Budget = NO_BUDGET
    policy: PolicySpec | None = None

    @property
    def group(self) -> tuple[str, int] | None:
        """The name and limit of its concurrency group; None if it has no group."""
        name = self.concurrency_group
        return None if name is None else (name, self.concurrency_group_limit)


@dataclass(frozen=True, slots=True)
class Offer:
    """A task submitted for admission.

    Attributes:
        priority: Lower values are claimed first.
        group_id: For stores that cancel tasks without reading them.
        made_at: Unix seconds, unchanged when the offer is repeated. Stores that remember no ids
            use it as ``submitted_at``.
        bounded: Whether a full queue refuses it. False for a task that follows an ended one: a
            refusal would lose it. All offers of one call have the same value.
    """

    task_id: str
    payload: bytes
    priority: int = 0
    delay_s: float = 0.0
    group_id: str | None = None
    made_at: float = field(default_factory=time.time, compare=False)
    bounded: bool = True


@dataclass(frozen=True, slots=True)
class Admission:
    """The result of a batch of offers.

    Attributes:
        verdicts: One per offer, in order.
        depth: Tasks waiting or delayed in the target afterwards.
        bound: The maximum ``depth``.
    """

    verdicts: tuple[Verdict, ...]
    depth: int
    bound: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process.

    Attributes:
        name: Unique across hosts and restarts.
        queues: The queues it serves.
        lease_s: The worker counts as dead after this long without a heartbeat.
    """

    name: str
    host: str = ""
    pid: int = 0
    slots: int = 1
    lease_s: float = 30.0
    queues: frozenset[str] = frozenset()

    @property
    def queues_digest(self) -> bytes:
        """A key that is equal for workers with the same queues."""
        names = "\n".join(sorted(self.queues))
        return hashlib.blake2b(names.encode(), digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Claim:
    """A task leased to a worker.

    Attributes:
        number: Identifies this claim among all claims of the task.
        failures: Earlier runs that ended in an infrastructure failure.
        crashes: Earlier claims whose worker died.
        submitted_at: Unix seconds.
        cancelled: It was cancelled before this claim: complete it as ``cancelled``, do not run it.
        cooled_s: Sum of the delays of its cooldowns; 0 if the store does not count them.
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
    cooled_s: float = 0.0

    @property
    def key(self) -> tuple[str, int]:
        """Identifies this claim: task id and claim number."""
        return self.task_id, self.number

    @property
    def is_first(self) -> bool:
        """Whether no earlier claim of the task ended in a failure, crash or cooldown."""
        return not (self.failures or self.crashes or self.cooled_s)


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A worker's request for claims.

    Attributes:
        limit: Maximum number of claims.
        outbox: The store returns no claims while the outbox is above these limits.
        held: How many claims the worker holds. If set, it gets at most an even share of the
            running and runnable tasks; the rest is for the other workers of the same queues. If
            None, the share is not limited.
    """

    worker: Worker
    limit: int
    outbox: OutboxLimits
    held: int | None = None


@dataclass(frozen=True, slots=True)
class RunFailure:
    """A failed run, as the breaker counts it.

    Attributes:
        digest: Equal for runs that failed in the same way.
        limit: This many in a row, without an ``ok`` in between, pause the collection.
    """

    digest: str
    limit: int


@dataclass(frozen=True, slots=True)
class Group:
    """Tasks submitted together: either all are accepted or none.

    Attributes:
        need: Once this many members are good, the others are cancelled.
        repairs: How many members can be replaced.
    """

    group_id: str
    offers: tuple[Offer, ...]
    need: int
    repairs: int = 0


@dataclass(frozen=True, slots=True)
class MemberEnd:
    """How a group member ended, for stores that count groups (``CountsGroups``).

    Attributes:
        good: Whether it counts towards the group's ``need``.
        versions: The oldest and newest policy version of a good member; empty if unknown.
        repair: Replacement for a member that ended without judgement, while repairs are left.
    """

    good: bool = False
    versions: tuple[int, ...] = ()
    repair: Offer | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What to do with a claimed task.

    Attributes:
        action: What happens to the task. ``complete`` puts ``result`` into the outbox and removes
            the task. ``bury`` does the same and keeps the payload as a dead letter. ``retry``
            requeues the task after ``delay_s`` with one more failure. ``release`` requeues it
            after ``delay_s`` as if it had never been claimed. ``crash`` requeues it with one more
            crash, as if its worker had died. ``cooldown`` releases it, adds ``delay_s`` to the
            task's ``cooled_s``, and blocks claims from its queue and from ``cooldown_queues`` for
            ``delay_s``; the task counts as waiting meanwhile. A cooldown never shortens an earlier
            one.
        outcome: The outcome in ``result``, for the counters.
        reason: The failure as a message: stored with the dead letter, as the queue's last error,
            and for ``locate`` of a task that runs again.
        reward: The reward in ``result``, if any.
        usd: Cost of the run, as far as known; also set if the task is retried.
        tokens: Tokens of the run, like ``usd``; for budgets.
        tokens_by_kind: Tokens of the run by kind, like ``usd``; for measures.
        failure: For stores with a breaker (``BreaksOnFailures``); None if it does not count.
        cooldown_queues: Queues that a ``cooldown`` covers besides the task's own; undeclared ones
            have no effect. A store can ignore them.
        config_hash: Fingerprint of the config that ran, for stores that keep runs (``KeepsRuns``).
        member: For ``complete`` and ``bury`` of a group member: how it ended.
        payload: Replaces the task's payload, also in a dead letter; empty for no change.
        ran: Whether a run ends; a task that must not run has none, and no time of one.

    Numbers that stores cannot sum are dropped: a single NaN would ruin a sum permanently.
    """

    claim: Claim
    action: Action
    result: bytes = b""
    outcome: str = ""
    reason: str = ""
    delay_s: float = 0.0
    reward: float | None = None
    usd: float = 0.0
    failure: RunFailure | None = None
    cooldown_queues: tuple[str, ...] = ()
    payload: bytes = b""
    tokens: int = 0
    config_hash: str = ""
    tokens_by_kind: Tokens = NO_TOKENS
    member: MemberEnd | None = None
    ran: bool = True

    def __post_init__(self) -> None:
        if self.reward is not None and not -MAX_SUMMAND <= self.reward <= MAX_SUMMAND:
            object.__setattr__(self, "reward", None)
        if not 0 <= self.usd <= MAX_SUMMAND:
            object.__setattr__(self, "usd", 0.0)
        if not 0 <= self.tokens <= MAX_SUMMAND:
            object.__setattr__(self, "tokens", 0)
        kinds = self.tokens_by_kind
        if kinds is not NO_TOKENS and not all(0 <= it <= MAX_SUMMAND for it in kinds):
            object.__setattr__(self, "tokens_by_kind", NO_TOKENS)
        if not 0 <= self.delay_s <= MAX_DELAY_S:
            bounded_s = MAX_DELAY_S if self.delay_s > MAX_DELAY_S else 0.0
            object.__setattr__(self, "delay_s", bounded_s)


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """A Result in the outbox, waiting for the sink.

    Attributes:
        holds_task: Whether its task is settled only once the sink has confirmed it.
    """

    number: int
    task_id: str
    payload: bytes
    holds_task: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A Result in the outbox that the sink refuses because of its content.

    Attributes:
        queue: Taken from the Result, like ``collection`` and ``outcome``.
        reason: The sink's error message.
    """

    record: OutboxRecord
    queue: str
    collection: str | None
    outcome: str
    reason: str
