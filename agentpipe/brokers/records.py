"""Records that cross the Store seam."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from agentpipe.core.budgets import NO_BUDGET, Budget
from agentpipe.core.usage import NO_TOKENS, Tokens

if TYPE_CHECKING:
    from agentpipe.core.policy import PolicySpec
    from agentpipe.settings import OutboxLimits

Verdict = Literal["accepted", "duplicate", "refused"]
# A double holds sums of these exactly.
MAX_SUMMAND = 2**53
MAX_DELAY_S = 40 * 86_400.0
Action = Literal["complete", "bury", "retry", "release", "crash", "cooldown"]


@dataclass(frozen=True, slots=True)
class Source:
    """The collection file that declared queues come from.

    Attributes:
        fingerprint: Equal where the same agent runs in the same way; empty if unknown.
        place: Host and path of the file.
        edited_us: When the file was changed last, in Unix microseconds.
        config_us: When it or the agent config was.
        serves: A worker has declared them, which serves them.
    """

    fingerprint: str
    place: str
    edited_us: int
    config_us: int
    serves: bool = False


def is_outdated(given: Source | None, group: Source | None) -> bool:
    """Whether a sender's file is older than the one that its collection's agents come from."""
    if given is None or group is None or given.serves:
        return False
    return given.edited_us < group.edited_us


@dataclass(frozen=True, slots=True)
class Queue:
    """One agent's queue.

    Attributes:
        collection: The round-robin group it belongs to; None outside any collection.
        max_waiting: Offers are refused while so many tasks wait or are delayed.
        concurrency: Claims at once, over the whole fleet.
        max_crashes: How many of a task's claims may end with their worker.
        concurrency_group: Queues that name the same group share its limit; None for no group.
        concurrency_group_limit: Claims at once over all queues of the group; the value that was
            declared last holds.
        source: The same for all queues of a collection; None where they come from no file.
        budget: Likewise: what the runs of the collection may cost. For stores with budgets
            (``KeepsBudgets``).
        policy: Likewise: what its agents follow. For stores with policies (``KeepsPolicies``).
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
        """The name and the limit of its concurrency group."""
        name = self.concurrency_group
        return None if name is None else (name, self.concurrency_group_limit)


@dataclass(frozen=True, slots=True)
class Offer:
    """A task submitted for admission.

    Attributes:
        priority: A lower one is claimed first.
        group_id: For stores that cancel tasks without reading them.
        made_at: Unix seconds, the same whenever the offer is repeated: for stores that remember no
            ids, whose ``submitted_at`` it is.
        bounded: Whether it may find its queue full. What follows an ended task may not: it would
            be lost. All offers of one call are alike.
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
    """What became of a batch of offers.

    Attributes:
        verdicts: One per offer, in order.
        depth: Tasks that wait or are delayed in the target afterwards.
        bound: How many may.
    """

    verdicts: tuple[Verdict, ...]
    depth: int
    bound: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process, as the fleet knows it.

    Attributes:
        name: Unique over hosts and restarts.
        queues: The queues it serves.
        lease_s: It is dead without a heartbeat for this long.
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
        number: Identifies this claim among all claims of the task.
        failures: Earlier runs that ended in a failure of the infrastructure.
        crashes: Earlier claims whose worker died.
        submitted_at: Unix seconds.
        cancelled: It was cancelled before this claim: complete it as ``cancelled``, do not run it.
        cooled_s: The delays of all its cooldowns; 0 where a store does not count them.
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
        """Which claim of which task this is."""
        return self.task_id, self.number

    @property
    def is_first(self) -> bool:
        """Whether no earlier claim of the task counts."""
        return not (self.failures or self.crashes or self.cooled_s)


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What a worker asks for.

    Attributes:
        limit: Claims at most.
        outbox: Above these limits the store gives nothing.
        held: How many claims the worker holds. With a number, it gets at most an even share of
            what runs and could run, and leaves the rest to the other workers of the same queues.
            With None, it takes what there is.
    """

    worker: Worker
    limit: int
    outbox: OutboxLimits
    held: int | None = None


@dataclass(frozen=True, slots=True)
class RunFailure:
    """A failed run, as the breaker counts it.

    Attributes:
        digest: Equal for runs that failed the same way.
        limit: So many in a row, with none ``ok`` between, pause the collection.
    """

    digest: str
    limit: int


@dataclass(frozen=True, slots=True)
class Group:
    """Tasks submitted together, of which all are accepted or none.

    Attributes:
        need: At so many good members the others are cancelled.
        repairs: How many members may be replaced.
    """

    group_id: str
    offers: tuple[Offer, ...]
    need: int
    repairs: int = 0


@dataclass(frozen=True, slots=True)
class MemberEnd:
    """What a settlement says of a member of a group, for stores that count (``CountsGroups``).

    Attributes:
        good: It counts towards the group's need.
        versions: The oldest and the newest policy version of a good one; empty if unknown.
        repair: What replaces a member that ended without judgement, while repairs are left.
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
            puts the task back after ``delay_s`` with one more failure. ``release`` puts it back
            after ``delay_s`` as if it had never been claimed. ``crash`` puts it back with one more
            crash, as if its worker had died. ``cooldown`` releases it, adds ``delay_s`` to the
            task's ``cooled_s``, and no worker claims from its queue, nor from any of
            ``cooldown_queues``, for ``delay_s``; a cooldown never shortens an earlier one. The
            task counts as waiting meanwhile.
        outcome: Of ``result``, for the counters.
        reason: The failure, for people: kept with the dead letter, as the queue's last error, and
            for ``locate`` of a task that runs again.
        reward: Of ``result``, where it has one.
        usd: What the run cost, where that is known; also where it is tried again.
        tokens: Likewise, for budgets.
        tokens_by_kind: Likewise, for measures.
        failure: For stores with a breaker (``BreaksOnFailures``); None for what it does not count.
        cooldown_queues: What a ``cooldown`` covers beside the task's own queue; those that are
            not declared do not matter. A store may leave them out.
        config_hash: The fingerprint of what ran, for stores that keep runs (``KeepsRuns``).
        member: Of ``complete`` and ``bury``: its part in a group; None for what is in none.
        payload: From now on the task's payload, unless it is empty; a dead letter's, too.

    A number that no store could add up is left out: one NaN would spoil a sum for good.
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
    """A finished Result on its way to the sink."""

    number: int
    task_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """A Result in the outbox that the sink refuses for what it is.

    Attributes:
        queue: As the Result says, like ``collection`` and ``outcome``.
        reason: The sink's words.
    """

    record: OutboxRecord
    queue: str
    collection: str | None
    outcome: str
    reason: str
