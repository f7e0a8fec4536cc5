"""An answer to a get belongs to the oldest request, even if its caller is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agentpipe.connections.amqp.arrivals import Delivery
from agentpipe.connections.amqp.gets import Gets

if TYPE_CHECKING:
    from collections.abc import Sequence


async def asked(gets: Gets, number: int) -> asyncio.Task[list[Delivery]]:
    done = asyncio.get_running_loop().create_future()
    request = asyncio.ensure_future(gets.answers("q", number, done))
    await asyncio.sleep(0)
    return request


def answer(gets: Gets, tags: Sequence[int | None]) -> None:
    for tag in tags:
        gets.answer(None if tag is None else Delivery(tag, redelivered=False))


def tags_of(found: Sequence[Delivery]) -> list[int]:
    return [delivery.tag for delivery in found]


def test_each_request_gets_its_own_answers() -> None:
    async def ask_twice() -> tuple[list[Delivery], list[Delivery]]:
        gets = Gets(lambda _: None)
        first, second = await asked(gets, 3), await asked(gets, 2)
        answer(gets, [1, 2, None, 3, None])
        return await first, await second

    first, second = asyncio.run(ask_twice())
    assert (tags_of(first), tags_of(second)) == ([1, 2], [3])


@pytest.mark.parametrize("before", [[], [1], [1, 2]])
def test_what_a_caller_no_longer_waits_for_goes_back(before: list[int]) -> None:
    given_back: list[int] = []

    async def give_up() -> list[Delivery]:
        gets = Gets(given_back.append)
        gone = await asked(gets, 3)
        answer(gets, before)
        gone.cancel()
        await asyncio.wait([gone])
        other = await asked(gets, 1)
        answer(gets, [*range(len(before) + 1, 4), 4])
        return await other

    assert tags_of(asyncio.run(give_up())) == [4]
    assert sorted(given_back) == [1, 2, 3]
