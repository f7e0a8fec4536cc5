"""A RabbitMQ worker whose channels are closed again and again opens them one at a time."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.rabbitmq import succession
from agentpipe.brokers.records import Worker

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def nothing(*_: Any) -> None:
    """Do nothing."""


def closed(began_at: float) -> Any:
    """A worker whose channel has closed."""
    return SimpleNamespace(
        worker=Worker("w"),
        wakeup=None,
        began_at=began_at,
        is_cut_off=lambda: True,
        is_on=lambda _: True,
        check=nothing,
    )


@pytest.mark.parametrize(("age_s", "waits"), [(0.0, True), (600.0, False)])
def test_a_worker_waits_before_it_opens_another_channel_soon(
    monkeypatch: pytest.MonkeyPatch, age_s: float, *, waits: bool
) -> None:
    """Regression: it opened thirty a second, each with a line in the log."""
    waited: list[float] = []

    def sleep(delay_s: float) -> Coroutine[Any, Any, None]:
        waited.append(delay_s)
        return nothing()

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(succession, "AGAIN_S", 300.0)
    successor = SimpleNamespace(inherit=lambda _: None, open=nothing)
    monkeypatch.setattr(succession, "RabbitWorker", lambda *_: successor)
    services: Any = SimpleNamespace(locks=SimpleNamespace(hand_over=nothing))
    workers = {"w": closed(time.monotonic() - age_s)}
    asyncio.run(succession.replace_ended(workers, services, None))
    assert workers == {"w": successor}
    assert any(each > 0 for each in waited) == waits
