"""Cancelled requests for channels and consumers leave no channel open."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agentpipe.brokers.rabbitmq.queues import Queues
from agentpipe.connections.amqp.connection import Session


class Connection:
    """A connection whose server blocks us and opens no channel; also its own channel."""

    is_open = True
    is_closing = is_closed = False

    def channel(self, on_open_callback: Any) -> Connection:  # noqa: ARG002 - pika's API
        return self

    def close(self) -> None:
        self.is_closing = True

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_options: None


async def given_up(work: Any) -> None:
    working = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


def test_a_channel_that_nobody_waits_for_any_more_is_closed() -> None:
    connection = Connection()

    async def give_up() -> None:
        await given_up(Session(connection).channel())

    asyncio.run(give_up())
    assert connection.is_closing


def test_a_question_for_a_depth_that_is_given_up_leaves_no_channel() -> None:
    closed: list[bool] = []

    class Silent:
        async def depth(self, _name: str) -> int:
            return await asyncio.Event().wait()

        def close(self) -> None:
            closed.append(True)

    async def channel() -> Silent:
        return Silent()

    async def give_up() -> None:
        connection: Any = SimpleNamespace(session=SimpleNamespace(channel=channel))
        nothing: Any = None
        await given_up(Queues(connection, nothing, nothing)._probe_one("q"))  # noqa: SLF001 - one of several

    asyncio.run(give_up())
    assert closed == [True]
