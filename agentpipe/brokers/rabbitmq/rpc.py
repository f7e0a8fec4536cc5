"""Requests to all workers of the fleet, and each one's reply, as JSON."""

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
    """A worker, as it describes itself.

    Attributes:
        address: Its own queue, gone as soon as its connection is.
        queues: What it could serve.
        owned: What it serves.
        running: Its claims, by queue.
        prefetched: What was delivered to it and is not claimed, by queue.
        lent: How many results it is forwarding.
        known: How many workers it knows, itself among them.
        cooldowns: The seconds that are left of each, as it has heard.
        report: Of its last heartbeat.
        seen_s: How long ago that was.
        draining: It finishes what it runs, and ends.
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
        limit: So many equal failures in a row pause the collection.
        reason: What that pause would say.
    """

    collection: str
    digest: str = ""
    limit: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What one says to all workers; those that name a queue ``to`` reply to are questions.

    Attributes:
        kind: ``hello``: a ``member`` came, or serves something else. ``gone``: the ``member`` is.
            ``runs``: how ``runs`` ended, as ``number`` of its ``origin``.
            ``judged``: ``marks`` are ``Verdicts``. ``change``: of the registry.
            ``cooldown``: of ``queues``. ``probe``: whether it arrives.
            ``members``: who are you? ``tallies``: what have you settled? ``cancel``: by ``marks``.
            ``put_back``: what is prefetched of ``queues``. ``locate``: the task of this id.
            ``drain``: take nothing new, if your name is in ``workers``.
        greet: With ``hello``: say it, too.
    """

    kind: Literal[
        "hello", "gone", "judged", "change", "cooldown", "probe", "runs",
        "members", "tallies", "cancel", "put_back", "locate", "drain",
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


@dataclass(frozen=True, slots=True)
class TaskHeld:
    """A task that a worker has; it runs ``since`` then, unless that is None."""

    queue: str
    failures: int
    crashes: int
    submitted_at: float
    error: str
    cancelled: bool
    since: float | None


@dataclass(frozen=True, slots=True)
class Reply:
    """One worker's; what was not asked for is empty.

    Attributes:
        tallies: By queue, since it joined; so are ``outcomes``, by outcome.
        recent: How many tasks ended lately.
        ending: Ids of its runs that the marks end.
        found: The task, where the worker has it.
        run_s: How long runs took lately, by queue.
        drained: Queues of which everything that waited was delivered to it.
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
    """Those of all workers, or, unless it is ``complete``, of all but some."""

    each: tuple[Reply, ...]
    complete: bool

    @property
    def members(self) -> list[Member]:
        """The workers that replied."""
        return [reply.member for reply in self.each]


def encode(content: Request | Reply, *, key: str = "", exchange: str = "") -> OutgoingMessage:
    """A message that does not survive a restart of the server."""
    body = orjson.dumps(content, default=sorted)
    return OutgoingMessage(key, body, {}, exchange, lasting=False)


def decode(content: type[T], body: bytes) -> T | None:
    """What ``encode`` wrote; None for messages of another version or another program."""
    try:
        return cast("T", _built(content, orjson.loads(body)))
    except (ValueError, TypeError, LookupError):
        return None


def _built(cls: Any, record: Mapping[str, Any] | None) -> Any:
    """One of a record; fields that are not known here are left out."""
    if record is None:
        return None
    names = [each.name for each in fields(cls) if each.name in record]
    readers = _FIELDS | ({"runs": _runs_ended} if cls is Request else {})
    return cls(**{name: readers.get(name, _same)(record[name]) for name in names})


def _runs_ended(records: Any) -> tuple[RunEnded, ...]:
    return tuple(_built(RunEnded, each) for each in records)


def _same(value: Any) -> Any:
    return value


# What JSON does not keep.
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
    """Ask all workers; each says how many it knows, which is how many have to reply."""
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
