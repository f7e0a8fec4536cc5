"""Requests to all workers of the fleet, and their replies, as JSON."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import orjson

from agentpipe.brokers.location import ClaimSeen
from agentpipe.brokers.statistics import Tally
from agentpipe.connections.amqp.message import OutgoingMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.channel import Channel
    from agentpipe.connections.amqp.connection import Session

ANSWER_S = 1.0
T = TypeVar("T", "Request", "Reply")


@dataclass(frozen=True, slots=True)
class Member:
    """A worker's description of itself.

    Attributes:
        address: Its own queue, which disappears with its connection.
        queues: The queues that it can serve.
        owned: The queues that it serves.
        running: The number of its claims, by queue.
        prefetched: The number of its unclaimed deliveries, by queue.
        lent: The number of Results that it is forwarding.
        known: The number of connected workers that it knows, including itself.
        cooldowns: The remaining seconds of each cooldown that it knows.
        report: The report of its last heartbeat.
        seen_s: The age of that heartbeat.
        draining: Whether it only finishes its runs and then ends.
    """

    name: str
    address: str
    host: str = ""
    pid: int = 0
    slots: int = 0
    queues: frozenset[str] = frozenset()
    owned: frozenset[str] = frozenset()
    running: Mapping[str, int] = field(default_factory=dict)
    prefetched: Mapping[str, int] = field(default_factory=dict)
    lent: int = 0
    known: int = 1
    cooldowns: Mapping[str, float] = field(default_factory=dict)
    report: str = ""
    seen_s: float = 0.0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run of a collection that was ``ok``, or failed.

    Attributes:
        digest: Equal for runs that failed the same way; empty for ``ok``.
        limit: The number of consecutive equal failures that pauses the collection.
        reason: The reason that such a pause would give.
    """

    collection: str
    digest: str = ""
    limit: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A message to all workers; they reply to those that name a queue in ``to``.

    Attributes:
        kind: ``hello``: a ``member`` joined, or serves other queues; a reply names in ``workers``
            those that answer. ``gone``: the ``member`` has ended, or its lease is over. ``lost``:
            it has not answered for ``lost_s``, its connection may be lost, and its runs may go on.
            ``ended``: a watcher says that ``workers`` have ended. ``silent``: ``workers`` do not
            answer. ``here``: ``workers`` answer a probe. ``runs``: how ``runs`` ended, as
            ``number`` of its ``origin``. ``judged``: ``marks`` are ``Verdicts``. ``change``: the
            registry changed. ``cooldown``: of ``queues``. ``probe``: tests whether it arrives, and
            whether the worker answers. ``members``: describe yourself. ``tallies``: report your
            counters. ``cancel``: by ``marks``. ``put_back``: the prefetched tasks of ``queues``.
            ``locate``: the task with this id. ``drain``: take nothing new, if your name is in
            ``workers``.
        greet: With ``hello``: reply with a ``hello``.
    """

    kind: Literal[
        "hello", "gone", "lost", "ended", "silent", "here", "judged", "change", "cooldown", "probe",
        "runs", "members", "tallies", "cancel", "put_back", "locate", "drain",
    ]  # fmt: skip
    member: Member | None = None
    greet: bool = False
    queue: str = ""
    cooldown_s: float = 0.0
    marks: Mapping[str, int] = field(default_factory=dict)
    queues: frozenset[str] = frozenset()
    task_id: str = ""
    to: str = ""
    runs: tuple[Any, ...] = ()
    origin: str = ""
    number: int = 0
    workers: frozenset[str] = frozenset()
    lost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskHeld:
    """A task that a worker has; ``since`` is when its run began, or None if it does not run."""

    queue: str
    failures: int
    crashes: int
    submitted_at: float
    error: str
    cancelled: bool
    since: float | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of one worker; fields that were not requested are empty.

    Attributes:
        tallies: Counters by queue, since it joined.
        outcomes: Counters by outcome, since it joined.
        recent: The number of tasks that ended recently.
        ending: Ids of its runs that the marks end.
        found: The task, if the worker has it.
        run_s: The mean duration of recent runs, by queue.
        drained: Queues whose waiting tasks were all delivered to it.
        measures: The numbers of ``Measures``, by collection, since it joined ``age_s`` ago.
    """

    member: Member
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    recent: int = 0
    ending: tuple[str, ...] = ()
    found: tuple[TaskHeld, ...] = ()
    runs: tuple[ClaimSeen, ...] = ()
    run_s: Mapping[str, float] = field(default_factory=dict)
    drained: frozenset[str] = frozenset()
    measures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Replies:
    """The replies of the workers; some are missing unless ``complete``."""

    each: tuple[Reply, ...]
    complete: bool

    @property
    def members(self) -> list[Member]:
        """The workers that replied."""
        return [reply.member for reply in self.each]


def encode(content: Request | Reply, *, key: str = "", exchange: str = "") -> OutgoingMessage:
    """A message that does not survive a server restart."""
    body = orjson.dumps(content, default=sorted)
    return OutgoingMessage(key, body, {}, exchange, lasting=False)


def decode(content: type[T], body: bytes) -> T | None:
    """Decode a message of ``encode``; None if another version or program wrote it."""
    try:
        return cast("T", _built(content, orjson.loads(body)))
    except (ValueError, TypeError, LookupError):
        return None


def _built(cls: Any, record: Mapping[str, Any] | None) -> Any:
    """Build an instance from a record; ignores unknown fields."""
    if record is None:
        return None
    names = [each.name for each in fields(cls) if each.name in record]
    readers = _FIELDS | ({"runs": _runs_ended} if cls is Request else {})
    return cls(**{name: readers.get(name, _same)(record[name]) for name in names})


def _runs_ended(records: Any) -> tuple[RunEnded, ...]:
    return tuple(_built(RunEnded, each) for each in records)


def _same(value: Any) -> Any:
    return value


# Conversions for types that JSON does not have.
_FIELDS: dict[str, Callable[[Any], Any]] = {
    "member": partial(_built, Member),
    "queues": frozenset,
    "owned": frozenset,
    "workers": frozenset,
    "drained": frozenset,
    "tallies": lambda tallies: {name: Tally(**each) for name, each in tallies.items()},
    "ending": tuple,
    "found": lambda records: tuple(_built(TaskHeld, each) for each in records),
    "runs": lambda records: tuple(_built(ClaimSeen, each) for each in records),
}


async def ask(session: Session, exchange: str, request: Request) -> Replies:
    """Ask all workers; each reports how many it knows, which is how many must reply."""
    channel = await session.channel()
    try:
        return await _ask(channel, exchange, request)
    finally:
        channel.close()


async def _ask(channel: Channel, exchange: str, request: Request) -> Replies:
    arrived: asyncio.Queue[Reply] = asyncio.Queue()

    def receive(delivery: Delivery) -> None:
        channel.ack(delivery.tag)
        if reply := decode(Reply, delivery.body):
            arrived.put_nowait(reply)

    queue = str((await channel.call("queue_declare", "", exclusive=True)).queue)
    await channel.consume(queue, 0, receive)
    if await channel.publish([encode(replace(request, to=queue), exchange=exchange)]) != ["taken"]:
        return Replies((), complete=True)  # No worker has a queue there.
    found: list[Reply] = []
    number = 1
    ends = time.monotonic() + ANSWER_S
    while len(found) < number:
        try:
            found.append(await asyncio.wait_for(arrived.get(), max(0.0, ends - time.monotonic())))
        except TimeoutError:
            break
        number = max(number, found[-1].member.known)
    await channel.call("queue_delete", queue)
    return Replies(tuple(found), complete=len(found) >= number)
