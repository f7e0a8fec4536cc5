"""Which verdicts a RabbitMQ worker remembers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.rabbitmq import verdicts
from agentpipe.brokers.rabbitmq.messages import Message, now_ms
from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.brokers.rabbitmq.verdicts import Verdicts

if TYPE_CHECKING:
    from agentpipe.core.delivered import Delivered

NOBODY: Any = None


def test_verdicts_on_tasks_that_others_took_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that lives for months hears of every death in its fleet."""
    known = Verdicts(NOBODY, Topology("p"))
    known.note({"0 old": -1, "0 again": 1})
    monkeypatch.setattr(verdicts, "KEPT_S", -1.0)
    known.note({"0 again": 2})
    monkeypatch.undo()
    known.note({"0 again": 1})
    assert known._said == {"0 again": 2}  # noqa: SLF001 - nothing else shows what it remembers


@pytest.mark.parametrize("sign", [1, -1])
def test_a_verdict_is_about_one_delivery(sign: int) -> None:
    known, before = Verdicts(NOBODY, Topology("p")), Message("t", "c_0", b"")
    after = before.judged()
    assert after.judged().delivered != after.delivered

    async def judge(delivered: Delivered) -> bool:
        on = asyncio.ensure_future(known.blame(delivered, 600, lambda: False))
        await asyncio.sleep(0)
        known.note({"0 t": -sign * now_ms()})
        known.note({f"{after.judged_ms} t": sign * now_ms()})
        return await on

    assert asyncio.run(judge(after.delivered)) == (sign < 0)
    assert asyncio.run(judge(before.delivered)) == (sign > 0)
