"""Roster: which workers there are, as one of them hears it, and what it tells them.

Workers hear each other on a fanout exchange. Each has a queue of its own there, which goes with
its connection: whether a worker lives is asked by sending to its queue.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.rabbitmq.crew import Member
from agentpipe.connections.amqp.message import Letter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from agentpipe.brokers.rabbitmq.names import Names
    from agentpipe.connections.amqp.channel import Channel, Delivery

# What workers are asked about tasks, beside the roll call.
QUESTIONS = ("lent", "cancel", "claims", "where", "yield")


class Roster:
    """The others, and what is said between them and us.

    Args:
        me: What there is to tell of us.
        account: What we tell besides in a roll call.
        changed: Called when somebody came, went, or serves something else.
        registry_changed: Called when somebody has told of new queues or limits.
        held: Called with each queue of which somebody tells for how long it is held.
        cancelled: Called with tasks that are told to end.
        asked: Answers a question about tasks.
        begin: Runs a coroutine on the side.
    """

    def __init__(
        self,
        names: Names,
        *,
        me: Callable[[], Member],
        account: Callable[[], dict[str, Any]],
        changed: Callable[[], None],
        registry_changed: Callable[[], Coroutine[Any, Any, None]],
        held: Callable[[str, float], None],
        cancelled: Callable[[Mapping[str, int]], None],
        asked: Callable[[Mapping[str, Any]], Coroutine[Any, Any, bytes]],
        begin: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.members: dict[str, Member] = {}
        self.address = ""
        self._crew, self._me, self._account, self._changed = names.crew, me, account, changed
        self._registry_changed, self._held, self._begin = registry_changed, held, begin
        self._asked, self._cancelled = asked, cancelled

    async def open(self, channel: Channel) -> None:
        """Begin to hear, and have the others say who they are."""
        self._channel = channel
        answer = await channel.call("queue_declare", "", exclusive=True)
        self.address = str(answer.queue)
        await channel.consume(self.address, 0, self._hear)
        await channel.call("queue_bind", self.address, self._crew)
        await self.tell(reply=True)

    async def tell(self, *, reply: bool = False) -> None:
        """Say who we are and what we serve."""
        hello = self._me().encode(kind="hello", reply=reply)
        await self._channel.publish([_note(hello, exchange=self._crew)])

    def _hear(self, delivery: Delivery) -> None:
        self._channel.ack(delivery.tag)
        note = orjson.loads(delivery.body)
        if note["kind"] == "roll":
            self._begin(self._answer(note["to"], self._me().encode(**self._account())))
        elif note["kind"] in QUESTIONS:
            self._begin(self._reply(note))
        elif note["kind"] == "hello" and note["name"] != self._me().name:
            self._meet(Member.decode(note), reply=note["reply"])
        elif note["kind"] == "gone":
            self._forget(note["name"], note["address"])
        elif note["kind"] == "change":
            self._begin(self._registry_changed())
        elif note["kind"] == "hold":
            self._held(note["queue"], note["hold_s"])
        elif note["kind"] == "cancelling":
            self._cancelled(note["tasks"])

    async def _reply(self, question: Mapping[str, Any]) -> None:
        await self._answer(question["to"], await self._asked(question))

    async def _answer(self, to: str, answer: bytes) -> None:
        await self._channel.publish([_note(answer, key=to)])

    def _meet(self, member: Member, *, reply: bool) -> None:
        self.members[member.name] = member
        for queue, hold_s in member.held.items():
            self._held(queue, hold_s)
        self._changed()
        if reply:
            self._begin(self.tell())

    def _forget(self, name: str, address: str) -> None:
        if name in self.members and self.members[name].address == address:
            del self.members[name]
            self._changed()

    async def probe(self) -> None:
        """See whether two of the others are still there.

        The next one of the round, so that each is looked at each second, and any other one, for
        rounds may differ.
        """
        mine = self._me().name
        names = sorted([*self.members, mine])
        following = names[(names.index(mine) + 1) % len(names)]
        for name in {following, random.choice(names)} - {mine}:  # noqa: S311 - no secret
            await self._probe_one(self.members[name])

    async def _probe_one(self, member: Member) -> None:
        note = _note(orjson.dumps({"kind": "probe"}), key=member.address)
        if await self._channel.publish([note]) == ["unroutable"]:
            self._forget(member.name, member.address)
            await self._channel.publish([note_of_absence(member.name, member.address, self._crew)])


def note_of_absence(name: str, address: str, crew: str) -> Letter:
    """What tells the others that a worker is gone; it may have come back at another address."""
    gone = {"kind": "gone", "name": name, "address": address}
    return _note(orjson.dumps(gone), exchange=crew)


def note_of_change(crew: str) -> Letter:
    """What tells the workers to read the registry again."""
    return _note(orjson.dumps({"kind": "change"}), exchange=crew)


def note_of_hold(queue: str, hold_s: float, crew: str) -> Letter:
    """What tells the workers that nobody may claim from a queue."""
    hold = {"kind": "hold", "queue": queue, "hold_s": hold_s}
    return _note(orjson.dumps(hold), exchange=crew)


def note_of_cancelling(sent_ms: Mapping[str, int], crew: str) -> Letter:
    """What tells the workers which tasks must not run any more."""
    cancelling = {"kind": "cancelling", "tasks": sent_ms}
    return _note(orjson.dumps(cancelling), exchange=crew)


def _note(body: bytes, *, key: str = "", exchange: str = "") -> Letter:
    return Letter(key, body, {}, exchange, lasting=False)
