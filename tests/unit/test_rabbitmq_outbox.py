"""What happens to results that the outbox was about to lend."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentpipe.brokers.rabbitmq.outbox import AT_ONCE, Outbox
from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.connections.amqp.arrivals import Delivery


class Blocked:
    """A channel whose server answers only the first request."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.given_back: list[int] = []
        self._answers = [[Delivery(tag, redelivered=False, body=b"x") for tag in (1, 2)]]

    async def get_many(self, _queue: str, number: int) -> list[Delivery]:
        if not self._answers:
            self.asked.set()
            await asyncio.Event().wait()
        assert number == len(self._answers[0])
        return self._answers.pop()

    def requeue(self, tag: int) -> None:
        self.given_back.append(tag)


def test_results_of_a_request_that_is_given_up_go_back() -> None:
    asyncio.run(_give_up())


async def _give_up() -> None:
    channel: Any = Blocked()
    outbox = Outbox(Topology("fleet"), channel)
    taking = asyncio.ensure_future(outbox.take("w", 500, 1_000))
    await channel.asked.wait()
    assert outbox.lent_to("w") == 2, "they are counted meanwhile"
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert (channel.given_back, outbox.lent_to("w")) == ([1, 2], 0)


class Full:
    """A channel with an endless outbox; its first results are small."""

    def __init__(self) -> None:
        self.delivered = self.given_back = 0

    async def get_many(self, _queue: str, number: int) -> list[Delivery]:
        first, self.delivered = self.delivered, self.delivered + number
        sizes = [1 if at < 100 else 1_000 for at in range(first, self.delivered)]
        return [Delivery(1, redelivered=False, body=bytes(size)) for size in sizes]

    def requeue(self, _tag: int) -> None:
        self.given_back += 1


def test_small_results_before_large_ones_do_not_bring_all_of_these_at_once() -> None:
    channel: Any = Full()
    taken = asyncio.run(Outbox(Topology("fleet"), channel).take("w", 500, 8_000))
    assert 100 < len(taken) == channel.delivered - channel.given_back
    assert channel.given_back <= AT_ONCE
