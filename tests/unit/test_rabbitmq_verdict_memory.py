"""Which verdicts a RabbitMQ worker remembers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.rabbitmq.messages import Message, now_ms
from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.brokers.rabbitmq.verdicts import KEPT_MS, Verdicts

if TYPE_CHECKING:
    from agentpipe.core.delivered import Delivered

NOBODY: Any = None


def test_verdicts_on_tasks_that_others_took_are_forgotten() -> None:
    """A worker that lives for months hears of every death in its fleet."""
    verdicts = Verdicts(NOBODY, Topology("p"))
    verdicts.note({"0 old": KEPT_MS + 1 - now_ms(), "0 new": -now_ms()})
    verdicts.note({})
    assert set(verdicts._said) == {"0 new"}  # noqa: SLF001 - nothing else shows what it remembers


@pytest.mark.parametrize("sign", [1, -1])
def test_a_verdict_is_about_one_delivery(sign: int) -> None:
    verdicts, before = Verdicts(NOBODY, Topology("p")), Message("t", "c_0", b"")
    after = before.judged()
    assert after.judged().delivered != after.delivered

    async def judge(delivered: Delivered) -> bool:
        on = asyncio.ensure_future(verdicts.blame(delivered, 600, lambda: False))
        await asyncio.sleep(0)
        verdicts.note({"0 t": -sign * now_ms()})
        verdicts.note({f"{after.judged_ms} t": sign * now_ms()})
        return await on

    assert asyncio.run(judge(after.delivered)) == (sign < 0)
    assert asyncio.run(judge(before.delivered)) == (sign > 0)
