"""Topology: the broker's queues and exchanges, their names and arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.connections.amqp.message import CONSUMER_TIMEOUT_MS, Declaration

if TYPE_CHECKING:
    from agentpipe.brokers.records import Queue
    from agentpipe.connections.amqp.channel import Channel

# Each delay queue holds delays of up to twice those of the one before, so that a message never
# waits for one ahead of it for longer than it would have waited anyway.
SHORTEST_DELAY_MS = 100
DELAY_QUEUES = 24
# The queues of a whole fleet, but for those of named runs.
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
# Numbers count up, and higher ones are delivered first; each level costs the server memory.
PRIORITIES = 2


@dataclass(frozen=True, slots=True)
class Topology:
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
        tasks wait, which must exist before.
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
        """Where returned tasks wait, without a bound."""
        return self.durable(f"{self.prefix}.{queue}.back")

    def tickets(self, queue: str, bound: int) -> Declaration:
        """One for each delayed first offer, up to the bound."""
        limits = {"x-max-length": bound, "x-overflow": "reject-publish"}
        return self.durable(f"{self.prefix}.{queue}.delayed.{bound}", **limits)

    def lock(self, unit: str) -> str:
        """An exclusive queue: its owner serves the agent, or all agents of the group."""
        return f"{self.prefix}.{unit}.lock"

    def shared(self, noun: str) -> Declaration:
        """A queue of the whole fleet, such as its ``outbox``."""
        return self.durable(f"{self.prefix}.{noun}")

    def all_shared(self) -> set[str]:
        """The names of these queues."""
        return {self.shared(noun).name for noun in SHARED}

    @property
    def made(self) -> str:
        """The exchange that comes and goes; see ``Channel.keep_made``."""
        return f"{self.prefix}.made"

    @property
    def fleet(self) -> str:
        """The fanout exchange between workers."""
        return f"{self.prefix}.crew"

    def later(self, level: int) -> Declaration:
        """Delayed tasks; a message keeps its key on the way back, which names its queue."""
        return self.durable(f"{self.prefix}.later.{level}", **{"x-dead-letter-exchange": ""})

    def delays(self) -> list[Declaration]:
        """All delay queues, in the order in which they are made."""
        return [self.later(level) for level in range(DELAY_QUEUES)]

    def durable(self, name: str, **arguments: Any) -> Declaration:
        """A queue by its full name."""
        if self.quorum:
            # Crashes are counted by us: a limit here would drop a task without a Result.
            kind = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
            arguments = {**kind, **arguments}
        return Declaration(name, {"x-consumer-timeout": CONSUMER_TIMEOUT_MS, **arguments})


def unit_of(queue: Queue) -> str:
    """What one worker serves as a whole: an agent, or all agents of a concurrency group."""
    group = queue.concurrency_group
    return queue.name if group is None else f"gate {group}"


def delay_level(delay_ms: int) -> int:
    """The index of the delay queue for such delays."""
    return min(DELAY_QUEUES - 1, max(0, (delay_ms - 1) // SHORTEST_DELAY_MS).bit_length())


async def make_delays(channel: Channel, topology: Topology) -> None:
    """Make the delay queues, and for each an exchange that leaves a message's key as it is."""
    for later in topology.delays():
        await channel.call("exchange_declare", later.name, "fanout", durable=True)
        await channel.declare(later)
        await channel.call("queue_bind", later.name, later.name)
    await channel.keep_made(topology.made)
