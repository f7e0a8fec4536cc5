"""Posts: the agents that a worker serves, with what was delivered for them and what runs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.names import Message
    from agentpipe.brokers.store import Claim, Queue


@dataclass(frozen=True, slots=True)
class Prefetched:
    """A task that was delivered and that nobody has claimed yet."""

    message: Message
    tag: int


@dataclass(slots=True)
class Post:
    """An agent that this worker serves.

    Attributes:
        consumers: Their tags, by the queue's name.
        leaving: It is to be another worker's as soon as nothing runs.
    """

    queue: Queue
    consumers: dict[str, str] = field(default_factory=dict)
    ready: deque[Prefetched] = field(default_factory=deque)
    running: int = 0
    leaving: bool = False

    @property
    def has_room(self) -> bool:
        """Whether a task could be claimed now."""
        return bool(self.ready) and not self.leaving and self.running < self.queue.concurrency


@dataclass(frozen=True, slots=True)
class Held:
    """A claimed task."""

    claim: Claim
    message: Message
    tag: int
    post: Post


def in_last_chance(message: Message, post: Post) -> bool:
    """Whether one crash more would end it; one that never crashed is not thought to be guilty."""
    return 0 < message.crashes == post.queue.max_crashes - 1
