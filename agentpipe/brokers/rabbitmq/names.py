"""Names: what this broker calls its queues, how each is made, and the messages in them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from agentpipe.connections.amqp.message import CONSUMER_TIMEOUT_MS, Declaration, Letter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.records import Offer, Queue
    from agentpipe.connections.amqp.channel import Channel

# Each delay queue holds delays of up to twice those of the one before, so that a message never
# waits for one ahead of it for longer than it would have waited anyway.
SHORTEST_DELAY_MS = 100
DELAY_QUEUES = 24
LONGEST_DELAY_MS = 40 * 86_400_000
# Numbers count up, and higher ones are delivered first; each level costs the server memory.
PRIORITIES = 2


@dataclass(frozen=True, slots=True)
class Names:
    """All names begin with the URL's ``prefix``, so that several fleets may share a vhost.

    Attributes:
        quorum: Whether queues are replicated ones.
    """

    prefix: str
    quorum: bool = False

    def admission(self, queue: str, bound: int) -> Declaration:
        """Where first offers wait; the bound is a part of the name since it cannot be changed.

        After a restart the server applies the bound to what was unacknowledged as well, and
        drops the oldest, whatever ``x-overflow`` says: they are dead-lettered to where returned
        tasks wait, which must be there before.
        """
        limits = {
            "x-max-length": bound,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.back(queue).name,
        }
        if not self.quorum:
            limits["x-max-priority"] = PRIORITIES
        return self._durable(f"{self.prefix}.{queue}.in.{bound}", **limits)

    def back(self, queue: str) -> Declaration:
        """Where returned tasks wait; nothing is refused here."""
        return self.unbounded(f"{self.prefix}.{queue}.back")

    def lock(self, unit: str) -> str:
        """An exclusive queue: whoever has it serves the agent, or all agents of the gate."""
        return f"{self.prefix}.{unit}.lock"

    @property
    def outbox(self) -> Declaration:
        """Results on their way to the sink."""
        return self.unbounded(f"{self.prefix}.outbox")

    @property
    def dead(self) -> Declaration:
        """Dead letters."""
        return self.unbounded(f"{self.prefix}.dead")

    @property
    def registry(self) -> Declaration:
        """Which collections and queues there are."""
        return self.unbounded(f"{self.prefix}.registry")

    @property
    def calendar(self) -> Declaration:
        """How far schedules have come."""
        return self.unbounded(f"{self.prefix}.calendar")

    @property
    def cancelled(self) -> Declaration:
        """Which tasks were told to end, for workers that come later."""
        return self.unbounded(f"{self.prefix}.cancelled")

    @property
    def crew(self) -> str:
        """The exchange on which workers hear of each other."""
        return f"{self.prefix}.crew"

    def later(self, level: int) -> Declaration:
        """Delayed tasks; a message keeps its key on the way back, which names its queue."""
        return self._durable(f"{self.prefix}.later.{level}", **{"x-dead-letter-exchange": ""})

    def unbounded(self, name: str) -> Declaration:
        """Any of those that take whatever comes, by its full name."""
        return self._durable(name)

    def _durable(self, name: str, **arguments: Any) -> Declaration:
        if self.quorum:
            # Crashes are counted by us: a limit here would drop a task without a Result.
            kind = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
            arguments = {**kind, **arguments}
        return Declaration(name, {"x-consumer-timeout": CONSUMER_TIMEOUT_MS, **arguments})


def unit_of(queue: Queue) -> str:
    """What one worker serves as a whole: an agent, or all agents of a gate."""
    group = queue.concurrency_group
    return queue.name if group is None else f"gate {group}"


def delay_level(delay_ms: int) -> int:
    """Which delay queue holds such delays."""
    return min(DELAY_QUEUES - 1, max(0, (delay_ms - 1) // SHORTEST_DELAY_MS).bit_length())


@dataclass(frozen=True, slots=True)
class Message:
    """A task as it lies in a queue: all but the payload is in the headers."""

    task_id: str
    queue: str
    payload: bytes
    failures: int = 0
    crashes: int = 0
    submitted_ms: int = 0
    priority: int = 0
    error: str = ""

    @classmethod
    def offered(cls, offer: Offer, queue: str) -> Self:
        """One that is sent for the first time."""
        return cls(
            offer.task_id,
            queue,
            offer.payload,
            submitted_ms=time.time_ns() // 1_000_000,
            priority=offer.priority,
        )

    @classmethod
    def read(cls, queue: str, body: bytes, headers: Mapping[str, Any], fallback: str) -> Self:
        """A delivered one; what somebody else has put there gets the id ``fallback``."""
        task_id = headers.get("agentpipe-id", fallback)
        return cls(
            task_id if isinstance(task_id, str) else fallback,
            queue,
            body,
            _count(headers, "agentpipe-failures"),
            _count(headers, "agentpipe-crashes"),
            _count(headers, "agentpipe-submitted-ms") or time.time_ns() // 1_000_000,
            _count(headers, "agentpipe-priority"),
            str(headers.get("agentpipe-error", "")),
        )

    def failed(self, error: str) -> Self:
        """The same with one failure more."""
        return replace(self.noting(error), failures=self.failures + 1)

    def noting(self, error: str) -> Self:
        """The same with its last error, where there was one."""
        return replace(self, error=error or self.error)

    def told(self, since: float | None) -> dict[str, Any]:
        """What a worker that has it tells of it."""
        return {
            "queue": self.queue,
            "failures": self.failures,
            "crashes": self.crashes,
            "submitted_at": self.submitted_ms / 1000,
            "error": self.error,
            "since": since,
        }

    def crashed(self) -> Self:
        """The same with one crash more."""
        return replace(self, crashes=self.crashes + 1)

    def to(self, queue: Declaration) -> Letter:
        """On its way to that queue."""
        level = 1 + (self.priority < 0) - (self.priority > 0)
        return Letter(queue.name, self.payload, self._headers(), priority=level)

    def delayed(self, names: Names, delay_s: float) -> Letter:
        """On its way to the delay queues, and from there to where returned tasks wait."""
        delay_ms = min(LONGEST_DELAY_MS, max(1, round(delay_s * 1000)))
        later = names.later(delay_level(delay_ms)).name
        # Each delay queue has a fanout exchange of its own name: the key is left to say where to.
        key = names.back(self.queue).name
        return Letter(key, self.payload, self._headers(), later, expires_ms=delay_ms)

    def _headers(self) -> dict[str, Any]:
        return {
            "agentpipe-id": self.task_id,
            "agentpipe-queue": self.queue,
            "agentpipe-failures": self.failures,
            "agentpipe-crashes": self.crashes,
            "agentpipe-submitted-ms": self.submitted_ms,
            "agentpipe-priority": self.priority,
            **({"agentpipe-error": self.error} if self.error else {}),
        }


def _count(headers: Mapping[str, Any], name: str) -> int:
    value = headers.get(name)
    return value if isinstance(value, int) else 0


async def make_delays(channel: Channel, names: Names) -> None:
    """Make the delay queues, and for each an exchange that leaves a letter's key as it is."""
    for level in range(DELAY_QUEUES):
        later = names.later(level)
        await channel.call("exchange_declare", later.name, "fanout", durable=True)
        await channel.declare(later)
        await channel.call("queue_bind", later.name, later.name)
