"""Membership: the workers of the fleet as one of them knows it, and messages between them.

Workers send to each other through a fanout exchange. Each has its own queue there, which disappears
with its connection: an undeliverable message shows that the worker is dead.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.rpc import Member, Request, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.rabbitmq.worker_channel import WorkerChannel
    from agentpipe.connections.amqp.arrivals import Delivery

PROBE = Request("probe")


class Membership:
    """The other workers.

    Args:
        me: Describes this worker.
        heard: Called with each request that is not about membership.
    """

    def __init__(
        self, channel: WorkerChannel, me: Callable[[], Member], heard: Callable[[Request], None]
    ) -> None:
        self.members: dict[str, Member] = {}
        self.address = ""
        self._channel, self._me, self._heard = channel, me, heard

    async def open(self) -> None:
        """Start to receive, and ask the others to introduce themselves."""
        raw, fleet = self._channel.raw, self._channel.services.topology.fleet
        own = await raw.call("queue_declare", "", exclusive=True, auto_delete=True)
        self.address = str(own.queue)
        await raw.consume(self.address, 0, self._receive)
        await raw.call("queue_bind", self.address, fleet)
        await self.say_hello(reply=True)

    async def say_hello(self, *, reply: bool = False) -> None:
        """Announce this worker and the agents that it serves."""
        await self._say(Request("hello", self._me(), greet=reply))

    async def _say(self, request: Request) -> None:
        fleet = self._channel.services.topology.fleet
        await self._channel.raw.publish([encode(request, exchange=fleet)])

    def _receive(self, delivery: Delivery) -> None:
        self._channel.raw.ack(delivery.tag)
        request = decode(Request, delivery.body)
        member = request and request.member
        if request is None or (member and member.name == self._me().name):
            return
        if member and request.kind == "hello":
            self._meet(member, greet=request.greet)
        elif member and request.kind == "gone":
            self._forget(member)
        else:
            self._heard(request)

    def _meet(self, member: Member, *, greet: bool) -> None:
        self.members[member.name] = member
        for queue, left_s in member.cooldowns.items():
            self._heard(Request("cooldown", queues=frozenset({queue}), cooldown_s=left_s))
        self._channel.look.set()
        if greet:
            self._channel.begin(self.say_hello())

    def _forget(self, gone: Member) -> bool:
        """Forget a dead worker, unless it has returned at another address."""
        known = self.members.get(gone.name)
        if known is None or known.address != gone.address:
            return False
        del self.members[gone.name]
        self._channel.look.set()
        return True

    async def probe(self) -> None:
        """Check whether two of the other workers live.

        Probes the next one in the ring, so that each is checked every second, and a random one,
        because views of the ring can differ.
        """
        mine = self._me().name
        names = sorted([*self.members, mine])
        following = names[(names.index(mine) + 1) % len(names)]
        asked = {following, random.choice(names)} - {mine}  # noqa: S311 - not a secret
        # Look up all first: a member can disappear while another is probed.
        for member in [self.members[name] for name in asked]:
            sent = await self._channel.raw.publish([encode(PROBE, key=member.address)])
            if sent == ["unroutable"] and self._forget(member):
                await self._say(Request("gone", member))
