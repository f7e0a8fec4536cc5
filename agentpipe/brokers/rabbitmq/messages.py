"""Message: a task as it lies in a queue."""

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
}
NUMBERS = (
    "failures", "crashes", "suspect", "submitted_ms", "priority", "cooled_ms", "judged_ms",
)  # fmt: skip
READ = tuple((name, header, int if name in NUMBERS else str) for name, header in HEADERS.items())
# What AMQP's largest number leaves of an UUID's bits.
UNSIGNED_BITS = 128 - 63
# What most messages have, and need not carry.
UNSET: tuple[Any, ...] = (None, 0, "")


@dataclass(frozen=True, slots=True)
class Message:
    """A task in a queue: everything but the payload is in the headers.

    Attributes:
        ticket: A delayed first offer's: where it has a ticket, until a worker has received it.
        suspect: Not 0 if it may have killed a worker that had others, and one crash is the
            limit: then a number that no other copy of it has.
        judged_ms: When it was last blamed for the end of a worker that had it. So it differs from
            what that had, and from what is said of that.
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
        """A delivered one; a message from elsewhere gets an id of ours.

        Its ``queue`` is known from where it came, but for the delay queues.
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
        """The same with one failure more."""
        return replace(self.noting(error), failures=self.failures + 1, suspect=0)

    def noting(self, error: str) -> Self:
        """The same with its last error, where there was one."""
        return replace(self, error=error or self.error)

    def cooled(self, cooldown_s: float) -> Self:
        """The same with one cooldown more."""
        return replace(self, cooled_ms=self.cooled_ms + round(cooldown_s * 1000))

    def carrying(self, payload: bytes) -> Self:
        """The same with another payload, if there is one."""
        return replace(self, payload=payload or self.payload)

    def crashed(self) -> Self:
        """The same with one crash more."""
        return replace(self, crashes=self.crashes + 1)

    def lost(self, max_crashes: int) -> Self:
        """The same after the end of its worker, which may have been another task's doing.

        A crash that would be the first and the last does not count then.
        """
        return self.suspected() if max_crashes == 1 else self.crashed()

    @property
    def delivered(self) -> Delivered:
        """What the worker has of it to which it is delivered now."""
        return Delivered(self.task_id, self.judged_ms)

    def judged(self) -> Self:
        """The same after it was blamed for the end of a worker; see ``Verdicts``."""
        return replace(self, judged_ms=max(now_ms(), self.judged_ms + 1))

    def suspected(self) -> Self:
        """The same as a suspect that has not run alone yet."""
        return replace(self, suspect=uuid.uuid4().int >> UNSIGNED_BITS)

    def given_back(self) -> Self:
        """The same after a run that does not count."""
        return self.suspected() if self.suspect else self

    def with_ticket(self, name: str | None) -> Self:
        """The same with another ticket, or with none."""
        return self if self.ticket == name else replace(self, ticket=name)

    def to(self, queue: Declaration) -> OutgoingMessage:
        """On its way to that queue."""
        level = 1 + (self.priority < 0) - (self.priority > 0)
        return OutgoingMessage(queue.name, self.payload, self._headers(), priority=level)

    def delayed(self, topology: Topology, delay_s: float) -> OutgoingMessage:
        """On its way to the delay queues, and from there to where returned tasks wait."""
        delay_ms = delay_ms_of(delay_s)
        later = topology.later(delay_level(delay_ms)).name
        # Each delay queue has a fanout exchange of its own name: the key is left to say where to.
        key = topology.back(self.queue).name
        return OutgoingMessage(key, self.payload, self._headers(), later, expires_ms=delay_ms)

    def _headers(self) -> dict[str, Any]:
        values = ((header, getattr(self, name)) for name, header in HEADERS.items())
        headers = {header: value for header, value in values if value not in UNSET}
        return {HEADERS["task_id"]: self.task_id} | headers  # Any text is an id, also none.


def delay_ms_of(delay_s: float) -> int:
    """As long as a delay queue holds it."""
    return min(LONGEST_DELAY_MS, max(1, round(delay_s * 1000)))


def now_ms() -> int:
    """Unix time in milliseconds, as in the headers."""
    return time.time_ns() // 1_000_000
