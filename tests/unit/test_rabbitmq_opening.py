"""What a worker that cannot join leaves behind."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.brokers.rabbitmq.wakeup import Wakeup
from agentpipe.brokers.rabbitmq.worker import RabbitWorker
from agentpipe.brokers.records import Worker


class Unanswered:
    """A session, and its channel, whose server blocks it."""

    def __init__(self) -> None:
        self.asked, self.is_closed = asyncio.Event(), False

    async def channel(self, _on_closed: Any) -> Unanswered:
        return self

    async def call(self, *_: Any, **__: Any) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    def close(self) -> None:
        self.is_closed = True


def test_a_worker_that_cannot_join_answers_no_questions_later() -> None:
    """Otherwise it would answer beside the worker that joins later under the same name."""
    asyncio.run(_give_up())


async def _give_up() -> None:
    session = Unanswered()
    connection = SimpleNamespace(session=session)
    services: Any = SimpleNamespace(
        topology=Topology("fleet"),
        suspects=None,
        marks=None,
        registry=None,
        outbox=None,
        connection=connection,
    )
    joining = RabbitWorker(services, Worker("w", lease_s=30.0), Wakeup(), None)
    opening = asyncio.ensure_future(joining.open())
    asked = asyncio.ensure_future(session.asked.wait())
    await asyncio.wait([opening, asked], return_when=asyncio.FIRST_COMPLETED)
    assert asked.done()  # Otherwise ``opening`` has failed.
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert session.is_closed
