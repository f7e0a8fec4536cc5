"""Message: a task in a queue."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from agentpipe.brokers.rabbitmq.topology import LONGEST_DELAY_MS, delay_level
from agentpipe.connections.amqp.message import OutgoingMessage
from agentpipe.core.delivered import Delivered

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.topology import Topology
    from agentpipe.brokers.records import Offer
    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.message import Declaration


# Fields of a message, and the headers that carry them.
HEADERS = {
    "task_id": "agentpipe-id",
    "queue": "agentpipe-queue",
    "failures": "agentpipe-failures",
    "crashes": "agentpipe-crashes",
    "suspect": "agentpipe-suspect",
    "submitted_ms": "agentpipe-submitted-ms",
    "priority": "agentpipe-priority",
    "error": "agentpipe-error",
    "group_id": "agentpipe-group",
    "cooled_ms": "agentpipe-cooled-ms",
    "ticket": "agentpipe-ticket",
    "judged_ms": "agentpipe-judged-ms",
    "culprit": "agentpipe-culprit",
}
NUMBERS = (
    "failures", "crashes", "suspect", "submitted_ms", "priority", "cooled_ms", "judged_ms",
    "culprit",
)  # fmt: skip
READ = tuple((name, header, int if name in NUMBERS else str) for name, header in HEADERS.items())
# The bits of a UUID that do not fit into AMQP's largest number.
UNSIGNED_BITS = 128 - 63
# Default values, which are not sent.
UNSET: tuple[Any, ...] = (None, 0, "")

Copy = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A task in a queue: everything except the payload is in the headers.

    Attributes:
        ticket: The queue that holds the ticket of a delayed first offer, until a worker receives
            the task.
        suspect: Nonzero if the task possibly killed a worker that had other tasks too, and
            ``max_crashes`` is 1: then a number that is unique to this copy.
        judged_ms: When the task was last blamed for a worker's death. Distinguishes this copy from
            the one that the worker had, and from verdicts about that one.
        culprit: 1 if it is known to have ended a worker.
    """

    task_id: str
    queue: str
    payload: bytes
    failures: int = 0
    crashes: int = 0
    submitted_ms: int = 0
    priority: int = 0
    error: str = ""
    group_id: str | None = None
    cooled_ms: int = 0
    ticket: str | None = None
    suspect: int = 0
    judged_ms: int = 0
    culprit: int = 0

    @classmethod
    def offered(cls, offer: Offer, queue: str) -> Self:
        """A task that is sent for the first time."""
        return cls(
            offer.task_id,
            queue,
            offer.payload,
            submitted_ms=int(offer.made_at * 1000),
            priority=offer.priority,
            group_id=offer.group_id,
        )

    @classmethod
    def read(cls, delivery: Delivery, queue: str = "") -> Self:
        """Decode a delivery; a foreign message gets a new id.

        ``queue`` is known from the consumed queue, except for the delay queues.
        """
        headers = delivery.headers
        found: dict[str, Any] = {
            name: value
            for name, header, kind in READ
            if isinstance(value := headers.get(header), kind)
        }
        if "task_id" not in found:
            found["task_id"] = f"foreign-{uuid.uuid4().hex}"
        if "submitted_ms" not in found:
            found["submitted_ms"] = now_ms()
        return cls(**{**found, "queue": queue or found.get("queue", ""), "payload": delivery.body})

    def failed(self, error: str) -> Self:
        """A copy with one more failure."""
        return replace(self.noting(error), failures=self.failures + 1, suspect=0)

    def noting(self, error: str) -> Self:
        """A copy with the last error, if there was one."""
        return replace(self, error=error or self.error)

    def cooled(self, cooldown_s: float) -> Self:
        """A copy with one more cooldown."""
        return replace(self, cooled_ms=self.cooled_ms + round(cooldown_s * 1000))

    def carrying(self, payload: bytes) -> Self:
        """A copy with another payload, if one is given."""
        return replace(self, payload=payload or self.payload)

    def crashed(self) -> Self:
        """A copy with one more crash."""
        return replace(self, crashes=self.crashes + 1)

    def lost(self, max_crashes: int) -> Self:
        """A copy after its worker died, possibly because of another task.

        If the first crash would be the last, it does not count yet: the copy becomes a suspect.
        """
        return self.suspected() if max_crashes == 1 else self.crashed()

    @property
    def delivered(self) -> Delivered:
        """The identity of this delivery, for verdicts."""
        return Delivered(self.task_id, self.judged_ms)

    @property
    def copy(self) -> Copy:
        """Differs between the copies of a task, unless it was put back or released."""
        sent = (self.queue, self.task_id, self.submitted_ms)
        return *sent, self.failures, self.crashes, self.cooled_ms, self.suspect, self.judged_ms

    @property
    def is_risky(self) -> bool:
        """Whether it may end its worker: it is known to have done so, or crashed repeatedly."""
        return self.crashes > 1 or self.culprit > 0

    @property
    def has_only_lost_workers(self) -> bool:
        """Whether it has neither failed nor met a cooldown, and ended no worker as far as known."""
        return not (self.culprit or self.failures or self.cooled_ms)

    def judged(self, *, is_culprit: bool = False) -> Self:
        """A copy after it was blamed for a worker's death; see ``Verdicts``."""
        judged_ms = max(now_ms(), self.judged_ms + 1)
        return replace(self, judged_ms=judged_ms, culprit=self.culprit or int(is_culprit))

    def suspected(self) -> Self:
        """A copy as a suspect that has not run alone yet."""
        return replace(self, suspect=uuid.uuid4().int >> UNSIGNED_BITS)

    def given_back(self) -> Self:
        """A copy after a run that does not count."""
        return self.suspected() if self.suspect else self

    def with_ticket(self, name: str | None) -> Self:
        """A copy with another ticket, or without."""
        return self if self.ticket == name else replace(self, ticket=name)

    def to(self, queue: Declaration, level: int | None = None) -> OutgoingMessage:
        """The message to publish to that queue, at another level than its priority's if given."""
        own = 1 + (self.priority < 0) - (self.priority > 0)
        level = own if level is None else level
        return OutgoingMessage(queue.name, self.payload, self._headers(), priority=level)

    def delayed(self, topology: Topology, delay_s: float) -> OutgoingMessage:
        """The message to a delay queue, which forwards it to the queue of returned tasks."""
        delay_ms = delay_ms_of(delay_s)
        later = topology.later(delay_level(delay_ms)).name
        # Each delay queue has a fanout exchange of the same name, so the key can name the target.
        key = topology.back(self.queue).name
        return OutgoingMessage(key, self.payload, self._headers(), later, expires_ms=delay_ms)

    def _headers(self) -> dict[str, Any]:
        values = ((header, getattr(self, name)) for name, header in HEADERS.items())
        headers = {header: value for header, value in values if value not in UNSET}
        return {HEADERS["task_id"]: self.task_id} | headers  # Any string is an id, even "".


def delay_ms_of(delay_s: float) -> int:
    """The time in a delay queue."""
    return min(LONGEST_DELAY_MS, max(1, round(delay_s * 1000)))


def now_ms() -> int:
    """Unix time in milliseconds, as in the headers."""
    return time.time_ns() // 1_000_000
