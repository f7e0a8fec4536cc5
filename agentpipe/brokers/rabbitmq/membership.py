"""Membership: the workers of the fleet as one of them knows it, and messages between them.

Workers send to each other through a fanout exchange. Each has its own queue there, which disappears
with its connection: an undeliverable message shows that the worker is lost. It has ended, or is cut
off and its runs continue until its lease is over. So it keeps its agents for that long, unless it
or its watcher has said that it has ended; those that join meanwhile learn this from the others. A
worker that does not answer is silent: a frozen one keeps its connection and its agents until it is
ended.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.rpc import Member, Request, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.confirmations import Fate

# A member that leaves a probe unanswered for this long is silent; members are probed every second.
SILENT_S = 1.0
# How often, and how many times, a member is probed whose end a watcher has reported.
END_EVERY_S, END_PROBES = 0.1, 30
# How long a worker that joins waits for the others to answer.
MEET_S = 0.5


@dataclass(slots=True)
class Contact:
    """What is known about the connection of a member; times are on the monotonic clock.

    Attributes:
        heard_at: Its last message; 0 before the first.
        asked_at: The first probe since then that it has not answered.
        silent_since: When it was found not to answer; None while it answers.
        is_lost: Whether its queue has gone with its connection.
    """

    heard_at: float = 0.0
    asked_at: float | None = None
    silent_since: float | None = None
    is_lost: bool = False


class Membership:
    """The other workers.

    Args:
        me: Describes this worker.
        heard: Called with each request that is not about membership.
        lease_s: How long the runs of a worker continue after it is cut off.

    Attributes:
        members: The other workers by name.
    """

    def __init__(
        self,
        channel: WorkerChannel,
        me: Callable[[], Member],
        heard: Callable[[Request], None],
        lease_s: float,
    ) -> None:
        self.members: dict[str, Member] = {}
        self.address = self._name = ""
        self._channel, self._me, self._heard, self._lease_s = channel, me, heard, lease_s
        self._contacts: dict[str, Contact] = defaultdict(Contact)
        # When a watcher reported the end of a worker, by name, or one said goodbye, by address.
        # The worker need not be a member yet.
        self._ended: dict[str, float] = {}
        # Workers that others know to answer; None until one of them has answered.
        self._named: set[str] | None = None
        self._heard_one = asyncio.Event()

    @property
    def awake(self) -> list[Member]:
        """The members that answer, which can take over agents."""
        return [it for it in self.members.values() if not self._is_silent(it.name)]

    @property
    def connected(self) -> int:
        """The number of members that can answer requests."""
        return sum(not self._contacts[name].is_lost for name in self.members)

    async def open(self) -> None:
        """Start to receive, and ask the others to introduce themselves."""
        raw = self._channel.raw
        own = await raw.call("queue_declare", "", exclusive=True, auto_delete=True)
        self.address, self._name = str(own.queue), self._me().name
        await raw.consume(self.address, 0, self._receive)
        await self._make_exchange()
        if await self._say(Request("probe")) == ["unroutable"]:  # No worker has a queue there.
            self._named = set()
        await self._introduce(reply=True)

    async def meet(self) -> None:
        """Wait until the members that answer have answered, with the losses that they know."""
        with suppress(TimeoutError):
            async with asyncio.timeout(MEET_S):
                while self._named is None or self._named - self.members.keys():
                    await self._heard_one.wait()

    async def say_hello(self) -> None:
        """Announce this worker and the agents that it serves."""
        await self._make_exchange()
        await self._introduce()

    async def _introduce(self, *, reply: bool = False) -> None:
        """Say hello; also binds its queue: a deleted exchange takes its bindings with it."""
        await self._channel.raw.call("queue_bind", self.address, self._fleet)
        await self._say(Request("hello", self._me(), greet=reply))

    async def _make_exchange(self) -> None:
        """Make the exchange again, if it was deleted while the connection lived."""
        await self._channel.raw.call("exchange_declare", self._fleet, "fanout", durable=True)

    async def _say(self, request: Request, address: str = "") -> list[Fate]:
        """Send a request to all workers, or to one."""
        exchange = "" if address else self._fleet
        return await self._channel.raw.publish([encode(request, key=address, exchange=exchange)])

    @property
    def _fleet(self) -> str:
        return self._channel.services.topology.fleet

    def _receive(self, delivery: Delivery) -> None:
        self._channel.raw.ack(delivery.tag)
        request = decode(Request, delivery.body)
        if request is None or (request.member and request.member.name == self._name):
            return
        if request.kind in ("hello", "gone", "lost"):
            self._hear_member(request)
        elif request.kind in ("probe", "here", "silent", "ended"):
            self._hear_names(request)
        else:
            self._heard(request)

    def _hear_member(self, request: Request) -> None:
        if request.member is None:
            return
        if request.kind == "hello":
            self._meet(request.member, greet=request.greet)
            self._note_named(request.workers)
        elif request.kind == "gone":
            self._note_ended([request.member.address])
            self._forget(request.member)
        else:
            self._learn_loss(request.member, request.lost_s)

    def _note_named(self, others: frozenset[str]) -> None:
        if others:
            self._named = (self._named or set()) | (others - {self._name})
        self._heard_one.set()
        self._heard_one = asyncio.Event()

    def _learn_loss(self, lost: Member, lost_s: float) -> None:
        """Learn of a worker that was lost before this one knew it.

        Another can find it lost between the end of its queue and its goodbye, and say so later.
        """
        known = self.members.keys() | self._ended.keys()
        if known.isdisjoint((lost.name, lost.address)):
            self.members[lost.name] = lost
            since = time.monotonic() - lost_s
            self._contacts[lost.name] = Contact(silent_since=since, is_lost=True)
            self._channel.look.set()

    def _meet(self, member: Member, *, greet: bool) -> None:
        self.members[member.name] = member
        self._hear_of(member.name)
        for queue, left_s in member.cooldowns.items():
            self._heard(Request("cooldown", queues=frozenset({queue}), cooldown_s=left_s))
        self._channel.look.set()
        if greet:
            self._channel.begin(self._greet(member))

    async def _greet(self, joined: Member) -> None:
        """Answer a worker that joins: first with what is lost, as it takes over agents then.

        The server can notice the end of a silent worker's connection later.
        """
        await self.probe()
        for name in [name for name in self.members if self._is_silent(name)]:
            await self._say_lost(name, joined.address)
        others = frozenset(it.name for it in self.awake)
        await self._say(Request("hello", self._me(), workers=others), joined.address)

    async def _say_lost(self, name: str, address: str = "") -> None:
        lost, since = self.members.get(name), self._contacts[name].silent_since
        if lost is not None and since is not None and name not in self._ended:
            lost_s = time.monotonic() - since
            await self._say(Request("lost", lost, lost_s=lost_s), address)

    def _hear_of(self, name: str) -> None:
        """Note that the member lives and answers."""
        self._contacts[name] = Contact(time.monotonic())

    def _is_silent(self, name: str) -> bool:
        return self._contacts[name].silent_since is not None

    def _forget(self, gone: Member) -> bool:
        """Forget a worker that has ended, unless it has returned at another address."""
        known = self.members.get(gone.name)
        if known is None or known.address != gone.address:
            return False
        del self.members[gone.name]
        self._contacts.pop(gone.name, None)
        self._channel.look.set()
        return True

    def _hear_names(self, request: Request) -> None:
        """Hear what concerns workers by name."""
        if request.kind == "probe" and request.to:
            self._channel.begin(self._answer(request.to))
        elif request.kind == "here":
            for name in request.workers & self.members.keys():
                self._hear_of(name)
        elif request.kind == "ended":
            self._note_ended(request.workers)
            for name in request.workers & self.members.keys():
                self._channel.begin(self._await_end(name))
        elif request.kind == "silent" and self._name in request.workers:
            self._channel.begin(self.say_hello())
        elif request.kind == "silent":
            self._note_silence(request.workers)

    def _note_ended(self, names: Iterable[str]) -> None:
        """Note that these workers have ended; forgets those whose lease would be over, too."""
        now = time.monotonic()
        recent = {it: at for it, at in self._ended.items() if now - at < self._lease_s}
        self._ended = recent | dict.fromkeys(names, now)

    async def _answer(self, address: str) -> None:
        here = Request("here", workers=frozenset({self._name}))
        await self._channel.raw.publish([encode(here, key=address)])

    def _note_silence(self, names: Iterable[str]) -> set[str]:
        """Note members that do not answer; returns those that were not silent before."""
        new = {name for name in {*names} & self.members.keys() if not self._is_silent(name)}
        for name in new:
            self._contacts[name].silent_since = time.monotonic()
        if new:
            self._channel.look.set()
        return new

    async def _await_end(self, name: str) -> None:
        """Probe a worker until the server has noticed its end."""
        for _ in range(END_PROBES):
            if name in self.members:
                await self._probe_one(self.members[name])
            if name not in self.members:
                return
            await asyncio.sleep(END_EVERY_S)

    async def probe(self) -> None:
        """Check whether the other workers live and answer.

        Probes the following ones in the ring up to one that answers, so that each is checked every
        second, and the one that was heard longest ago, because views of the ring can differ.
        """
        # Look up all first: a member can disappear while another is probed.
        for member in [self.members[name] for name in self._next()]:
            # Before it is sent: the answer can arrive before the server's confirmation.
            contact = self._contacts[member.name]
            contact.asked_at = contact.asked_at or time.monotonic()
            await self._probe_one(member)
        before = time.monotonic() - SILENT_S
        asked = {name: it.asked_at for name, it in self._contacts.items() if it.asked_at}
        if new := self._note_silence(name for name, at in asked.items() if at <= before):
            await self._say(Request("silent", workers=frozenset(new)))

    def _next(self) -> set[str]:
        """The names of the members to probe."""
        if not self.members:
            return set()
        return {*self._following(), min(self.members, key=lambda it: self._contacts[it].heard_at)}

    def _following(self) -> Iterator[str]:
        for name in sorted(self.members, key=lambda it: (it < self._name, it)):
            yield name
            if not self._is_silent(name):
                return

    async def _probe_one(self, member: Member) -> None:
        """Probe the member; note that it is lost, and forget it everywhere once it has ended."""
        probe = Request("probe", to=self.address)
        if await self._channel.raw.publish([encode(probe, key=member.address)]) != ["unroutable"]:
            return
        known = self.members.get(member.name)
        if known is None or known.address != member.address:
            return
        contact = self._contacts[member.name]
        is_new, contact.is_lost = not contact.is_lost, True
        self._note_silence([member.name])
        if self._has_ended(member.name) and self._forget(member):
            await self._say(Request("gone", member))
        elif is_new:
            await self._say_lost(member.name)

    def _has_ended(self, lost: str) -> bool:
        """Whether no run of a lost member can continue.

        It was connected when it was last heard, so its lease is over by its own clock, too.
        """
        since = self._contacts[lost].silent_since
        is_over = since is not None and time.monotonic() - since >= self._lease_s
        return lost in self._ended or is_over
