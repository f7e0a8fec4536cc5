"""Topology: the broker's queues and exchanges, their names and arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.connections.amqp.message import CONSUMER_TIMEOUT_MS, Declaration

if TYPE_CHECKING:
    from agentpipe.brokers.records import Queue
    from agentpipe.connections.amqp.channel import Channel

# Each delay queue takes delays up to twice those of the previous one, so a message waits behind
# longer ones for less than its own delay.
SHORTEST_DELAY_MS = 100
DELAY_QUEUES = 24
# The queues of a whole fleet, except those of named runs.
SHARED = (
    "calendar",
    "cancels",
    "dead",
    "drains",
    "outbox",
    "registry",
    "runs",
    "suspects",
    "undeliverable",
    "verdicts",
)
LONGEST_DELAY_MS = 40 * 86_400_000
# How long the queue of a lock without a holder is kept: a worker boots within this time.
LOCK_KEPT_MS = 60_000
# The highest priority; higher ones are delivered first, and each level costs server memory.
PRIORITIES = 2


@dataclass(frozen=True, slots=True)
class Topology:
    """All names begin with the URL's ``prefix``, so several fleets can share a vhost.

    Attributes:
        quorum: Whether to use quorum queues.
    """

    prefix: str
    quorum: bool = False

    def admission(self, queue: str, bound: int) -> Declaration:
        """The queue of first offers; its bound is part of the name because it cannot be changed.

        After a restart the server also applies the bound to messages that were unacknowledged, and
        drops the oldest regardless of ``x-overflow``. They are dead-lettered to the queue of
        returned tasks, which must exist first.
        """
        limits = {
            "x-max-length": bound,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.back(queue).name,
        }
        if not self.quorum:
            limits["x-max-priority"] = PRIORITIES
        return self.durable(f"{self.prefix}.{queue}.in.{bound}", **limits)

    def back(self, queue: str) -> Declaration:
        """The queue of returned tasks, without a bound."""
        return self.durable(f"{self.prefix}.{queue}.back")

    def tickets(self, queue: str, bound: int) -> Declaration:
        """The queue with a ticket for each delayed first offer, up to the bound."""
        limits = {"x-max-length": bound, "x-overflow": "reject-publish"}
        return self.durable(f"{self.prefix}.{queue}.delayed.{bound}", **limits)

    def lock(self, unit: str) -> str:
        """The queue whose owner or only consumer serves the agent, or all agents of the group."""
        return f"{self.prefix}.{unit}.lock"

    def lock_queue(self, unit: str) -> Declaration:
        """For locks by consumers; an exclusive queue of that name, by older versions, bars them."""
        return Declaration(self.lock(unit), {"x-expires": LOCK_KEPT_MS})

    def shared(self, noun: str) -> Declaration:
        """A queue of the whole fleet, such as its ``outbox``."""
        return self.durable(f"{self.prefix}.{noun}")

    def all_shared(self) -> set[str]:
        """The names of the fleet's queues."""
        return {self.shared(noun).name for noun in SHARED}

    @property
    def made(self) -> str:
        """The temporary exchange for ``Channel.keep_made``."""
        return f"{self.prefix}.made"

    @property
    def fleet(self) -> str:
        """The fanout exchange between workers."""
        return f"{self.prefix}.crew"

    def later(self, level: int) -> Declaration:
        """A queue of delayed tasks; an expired message's key names the queue that it returns to."""
        return self.durable(f"{self.prefix}.later.{level}", **{"x-dead-letter-exchange": ""})

    def delays(self) -> list[Declaration]:
        """All delay queues, in the order of their creation."""
        return [self.later(level) for level in range(DELAY_QUEUES)]

    def durable(self, name: str, **arguments: Any) -> Declaration:
        """A queue by its full name."""
        if self.quorum:
            # We count crashes ourselves: a limit here would drop a task without a Result.
            kind = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
            arguments = {**kind, **arguments}
        return Declaration(name, {"x-consumer-timeout": CONSUMER_TIMEOUT_MS, **arguments})


def unit_of(queue: Queue) -> str:
    """The unit that one worker serves as a whole: an agent, or a concurrency group."""
    group = queue.concurrency_group
    return queue.name if group is None else f"gate {group}"


def delay_level(delay_ms: int) -> int:
    """The index of the delay queue for such delays."""
    return min(DELAY_QUEUES - 1, max(0, (delay_ms - 1) // SHORTEST_DELAY_MS).bit_length())


async def make_delays(channel: Channel, topology: Topology) -> None:
    """Create the delay queues, each with an exchange that preserves a message's key."""
    for later in topology.delays():
        await channel.call("exchange_declare", later.name, "fanout", durable=True)
        await channel.declare(later)
        await channel.call("queue_bind", later.name, later.name)
    await channel.keep_made(topology.made)
