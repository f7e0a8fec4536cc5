"""When many runs end at once, the next ones start between these ends, not after them."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import Claim
from agentpipe.worker.claims import refill
from agentpipe.worker.claims.refill import Refill
from agentpipe.worker.loop import event_loop
from agentpipe.worker.loop.event_loop import EventLoop
from agentpipe.worker.running.message import ClaimedMessage
from agentpipe.worker.watch.last_word import LastWord
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TOGETHER = 16
RUNS = 4 * TOGETHER
FIRST, NEXT = "first", "next"


def messages(name: str, number: int = RUNS) -> list[ClaimedMessage]:
    claims = [Claim(f"{name}-{at}", "q", b"{}", "w", 1, 0, 0, 0.0, False) for at in range(number)]
    return list(map(ClaimedMessage, claims))


def _round_of(message: ClaimedMessage) -> str:
    return message.claim.task_id.partition("-")[0]


class Agents:
    """Runs of the first round end together, when the last of them has begun; others do not end."""

    def __init__(self) -> None:
        self.together, self.never = asyncio.Event(), asyncio.Event()
        self.order: list[str] = []

    async def perform(self, message: ClaimedMessage) -> None:
        name = _round_of(message)
        self.order.append(f"{name} begins")
        if name != FIRST:
            await self.never.wait()
        if self.order.count(f"{FIRST} begins") == RUNS:
            self.together.set()
            await asyncio.sleep(0)  # It ends after the others.
        await self.together.wait()

    async def before(self, message: ClaimedMessage) -> None:
        """Nothing to announce."""

    async def after(self, message: ClaimedMessage, **_: Any) -> None:
        self.order.append(f"{_round_of(message)} ends")

    def release(self, message: ClaimedMessage) -> None:
        """Nothing to release."""

    async def end_threads(self, _: float) -> None:
        """There are no threads."""

    def close_idle(self) -> None:
        """Nothing is idle."""


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Agents:
    agents = Agents()
    monkeypatch.setattr(event_loop, "served_actor", lambda *_: agents)
    monkeypatch.setattr(event_loop, "served_actors", lambda _: [])
    return agents


@pytest.fixture
def loop(agents: Agents) -> Iterator[EventLoop]:
    def settle_many(ended: list[ClaimedMessage]) -> None:
        if _round_of(ended[0]) == FIRST:
            made.start_runs(messages(NEXT, len(ended)))

    broker: Any = None
    signals: Any = agents
    made = EventLoop(
        broker,
        signals,
        lambda _: None,
        settle_many=settle_many,
        together=TOGETHER,
        grace_s=0.0,
        died=lambda _: None,
        word=LastWord.of(""),
    )
    made.start()
    yield made
    made.stop()
    made.join(20)


def test_the_next_runs_start_before_the_other_ends(loop: EventLoop, agents: Agents) -> None:
    loop.start_runs(messages(FIRST))
    wait_until(lambda: agents.order.count(f"{NEXT} begins") == RUNS, 20, "the next round runs")
    ends = [at for at, what in enumerate(agents.order) if what == f"{FIRST} ends"]
    starts = [at for at, what in enumerate(agents.order) if what == f"{NEXT} begins"]
    for first in range(0, RUNS, TOGETHER):
        last_end = ends[first + TOGETHER - 1]
        started = [last_end + 1 + at for at in range(TOGETHER)]
        assert starts[first : first + TOGETHER] == started


def test_the_loop_waits_until_its_ends_are_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refill, "PATIENCE_S", 20.0)
    waiting, handled = Refill(waits=True), list[bool]()

    def turn() -> None:
        handled.append(True)
        waiting.done(waiting.posted)

    for rounds in (1, 2):
        waiting.after(threading.Thread(target=turn).start)
        assert len(handled) == rounds


def test_a_store_that_does_not_answer_delays_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Refill(waits=True)
    monkeypatch.setattr(refill, "PATIENCE_S", 0.001)
    waiting.after(lambda: None)
    monkeypatch.setattr(refill, "PATIENCE_S", 600.0)
    for _ in range(3):
        waiting.after(lambda: None)  # These return at once.
    waiting.done(waiting.posted)
    waiting.after(lambda: threading.Thread(target=lambda: waiting.done(waiting.posted)).start())


def test_beside_a_server_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refill, "PATIENCE_S", 600.0)
    posted = []
    Refill(waits=False).after(lambda: posted.append(True))
    assert posted == [True]
