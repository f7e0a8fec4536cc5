"""What a RabbitMQ worker remembers of verdicts."""

from __future__ import annotations

import asyncio
from typing import Any

from agentpipe.brokers.rabbitmq.messages import Message, now_ms
from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.brokers.rabbitmq.verdicts import KEPT_MS, PATIENCE_S, Verdicts


def test_verdicts_on_tasks_that_others_took_are_forgotten() -> None:
    """A worker that lives for months hears of each death in its fleet."""
    nobody: Any = None
    verdicts = Verdicts(nobody, Topology("p"))
    verdicts.note({"old": KEPT_MS + 1 - now_ms(), "new": -now_ms()})
    verdicts.note({})
    assert set(verdicts._said) == {"new"}  # noqa: SLF001 - what it takes memory for


def test_a_verdict_that_was_carried_out_is_no_verdict_on_the_next_end() -> None:
    nobody: Any = None
    verdicts, message = Verdicts(nobody, Topology("p")), Message("t", "c_0", b"")
    said_ms = now_ms()
    verdicts.note({"t": -said_ms})

    async def judge() -> int:
        judged = message.judged(await verdicts.on(message, PATIENCE_S))
        verdicts.note({"t": -said_ms})  # As it is read again.
        on_next = asyncio.ensure_future(verdicts.on(judged, PATIENCE_S))
        await asyncio.sleep(0)
        verdicts.note({"t": said_ms + 1})
        return await on_next

    assert asyncio.run(judge()) == said_ms + 1
