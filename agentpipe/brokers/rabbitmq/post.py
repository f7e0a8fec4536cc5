"""Posts: the agents that a worker serves, with what was delivered for them and what runs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import RUNS_IN_MEAN

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.names import Message
    from agentpipe.brokers.records import Claim, Queue


@dataclass(frozen=True, slots=True)
class Prefetched:
    """A task that was delivered and that nobody has claimed yet."""

    message: Message
    tag: int


@dataclass(slots=True)
class Gate:
    """What runs of all agents that share it, all of which this worker serves.

    Attributes:
        posts: These agents, by queue.
    """

    limit: int
    running: int = 0
    posts: dict[str, Post] = field(default_factory=dict)

    @property
    def has_room(self) -> bool:
        """Whether one more may run."""
        return self.running < self.limit

    def ready(self) -> list[Post]:
        """Those with a task that may run now, the longest unserved first."""
        if not self.has_room:
            return []
        return sorted((it for it in self.posts.values() if it.has_room), key=lambda it: it.served)


@dataclass(slots=True)
class Post:
    """An agent that this worker serves.

    Attributes:
        unit: What the lock is of under which it is served.
        consumers: Their tags, by the queue's name.
        leaving: It is to be another worker's as soon as nothing runs.
        served: The number of its last claim.
        yields_until: Until then what waits for it is an operator's; on the monotonic clock.
        run_s: A mean of how long its runs took; None before the first.
    """

    queue: Queue
    unit: str
    gate: Gate | None = None
    consumers: dict[str, str] = field(default_factory=dict)
    ready: deque[Prefetched] = field(default_factory=deque)
    running: int = 0
    leaving: bool = False
    served: int = 0
    yields_until: float = 0.0
    run_s: float | None = None

    @property
    def has_room(self) -> bool:
        """Whether a task could be claimed now."""
        return bool(self.ready) and not self.leaving and self.running < self.queue.concurrency

    def note_run_s(self, run_s: float) -> None:
        """One has ended; the latest count most."""
        mean = run_s if self.run_s is None else self.run_s
        self.run_s = mean + (run_s - mean) / RUNS_IN_MEAN

    def count(self, runs: int) -> None:
        """So many more run, or fewer."""
        self.running += runs
        if self.gate is not None:
            self.gate.running += runs


@dataclass(frozen=True, slots=True)
class Held:
    """A claimed task, since when in Unix seconds."""

    claim: Claim
    message: Message
    tag: int
    post: Post
    since: float


def in_last_chance(message: Message, post: Post) -> bool:
    """Whether one crash more would end it; one that never crashed is not thought to be guilty."""
    return 0 < message.crashes == post.queue.max_crashes - 1
