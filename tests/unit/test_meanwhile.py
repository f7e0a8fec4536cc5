"""Settlements in progress while their worker continues."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentpipe.brokers.records import Claim, Settlement
from agentpipe.worker.claims.held import HeldClaims
from agentpipe.worker.claims.meanwhile import Meanwhile
from agentpipe.worker.running.message import ClaimedMessage
from agentpipe.worker.watch.last_word import LastWord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import ClaimRequest

NEXT = Claim("next", "q", b"", "w", 3)


class Slow:
    """A store that settles when the test allows it."""

    def __init__(self) -> None:
        self.settled = Future[list[bool]]()

    def settle_meanwhile(
        self, _settlements: Sequence[Settlement], _request: ClaimRequest | None
    ) -> tuple[Future[list[bool]], list[Claim] | None] | None:
        return self.settled, [NEXT]


class Fixture:
    def __init__(self) -> None:
        self.store, self.held = Slow(), HeldClaims(LastWord.of(""))
        self.fates: list[tuple[str, bool]] = []
        self.failed: list[str] = []
        self.messages = [
            ClaimedMessage(Claim(name, "q", b"", "w", n)) for n, name in enumerate("ab")
        ]
        self.held.add(self.messages)
        self.meanwhile = Meanwhile(cast("Store", self.store), self.held, self.settle, self.fail)

    def settle(self, batch: Sequence[ClaimedMessage], done: Sequence[bool]) -> None:
        for message, counted in zip(batch, done, strict=True):
            self.held.remove(message)
            self.fates.append((message.claim.task_id, counted))

    def fail(self, batch: Sequence[ClaimedMessage]) -> None:
        self.failed += [message.claim.task_id for message in batch]

    def begin(self) -> Any:
        settlements = [
            Settlement(message.claim, "complete", b"", "ok") for message in self.messages
        ]
        assert self.meanwhile.takes(settlements)
        return self.meanwhile.begin(self.messages, settlements, None)


def test_what_is_being_settled_fills_no_slot_until_it_is_gone() -> None:
    it = Fixture()
    assert it.meanwhile.running == 2
    assert it.begin() == ([NEXT],)
    assert (it.meanwhile.running, len(it.held)) == (0, 2)
    it.store.settled.set_result([True, False])
    assert it.fates == [("a", True), ("b", False)]
    assert (it.meanwhile.running, len(it.held)) == (0, 0)


def test_what_fails_is_held_and_runs_no_more() -> None:
    it = Fixture()
    it.begin()
    it.store.settled.set_exception(OSError("away"))
    assert (it.failed, it.fates, it.meanwhile.running) == (["a", "b"], [], 2)


@pytest.mark.parametrize(
    ("action", "outcome"), [("complete", "limit"), ("release", ""), ("bury", "ok")]
)
def test_what_others_have_to_see_first_is_settled_in_its_order(action: Any, outcome: str) -> None:
    it = Fixture()
    good = Settlement(it.messages[0].claim, "complete", b"", "ok")
    assert not it.meanwhile.takes([good, Settlement(NEXT, action, b"", outcome)])
