"""Requests with a lost answer are repeated; settlements then return their first answer."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import Claim, Settlement
from agentpipe.brokers.redis.idempotency import MAX_UNSURE, Requests
from agentpipe.brokers.redis.scripts import PORTION
from agentpipe.brokers.redis.settling import PORTION_BYTES, Settler
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence


def asked(requests: Requests, what: Any, *, answered: bool = True) -> tuple[str, int, bool]:
    ends = nullcontext() if answered else pytest.raises(Unreachable)
    with ends, requests.request(what) as request:
        seen = (request.name, request.number, request.repeated)
        if not answered:
            raise Unreachable("gone")
    return seen


def test_each_request_of_a_session_has_a_higher_number() -> None:
    requests = Requests()
    session, first, _ = asked(requests, "a")
    assert asked(requests, "b") == (session, first + 1, False)


def test_requests_at_the_same_time_have_sessions_of_their_own() -> None:
    requests = Requests()
    with requests.request("a") as one, requests.request("b") as other:
        assert one.name != other.name


def test_what_got_no_answer_is_asked_again_under_its_number() -> None:
    requests = Requests()
    session, number, _ = asked(requests, "a", answered=False)
    assert asked(requests, "b")[0] != session
    assert asked(requests, "a", answered=False) == (session, number, True)
    assert asked(requests, "a") == (session, number, True)
    assert asked(requests, "a")[2] is False


def test_only_so_many_unanswered_requests_are_kept() -> None:
    requests = Requests()
    session, *_ = asked(requests, 0, answered=False)
    for what in range(1, MAX_UNSURE + 1):
        asked(requests, what, answered=False)
    assert asked(requests, 0)[0] != session
    assert asked(requests, MAX_UNSURE)[2] is True


class Server:
    """Settles each claim once, and loses answers on demand."""

    def __init__(self) -> None:
        self.settled: set[str] = set()
        self.answers: dict[tuple[str, ...], list[bool]] = {}
        self.reaches_it = self.answers_come = True

    def ask(self, settlements: Sequence[Settlement]) -> list[bool]:
        if not self.reaches_it:
            raise Unreachable("away")
        what = tuple(each.claim.task_id for each in settlements)
        if what not in self.answers:  # Mirrors the store's idempotent requests.
            self.answers[what] = [self._settle(task_id) for task_id in what]
        if not self.answers_come:
            raise Unreachable("lost")
        return self.answers.pop(what)

    def _settle(self, task_id: str) -> bool:
        new = task_id not in self.settled
        self.settled.add(task_id)
        return new


@pytest.fixture
def server() -> Server:
    return Server()


def settlements(ids: str, action: Any = "complete") -> list[Settlement]:
    return [Settlement(Claim(task_id, "q", b"", "w", 7), action) for task_id in ids]


def unanswered(settler: Settler, batch: Sequence[Settlement]) -> None:
    with pytest.raises(Unreachable):
        settler.settle(batch)


def test_settlements_whose_answer_was_lost_are_done_when_settled_again(server: Server) -> None:
    settler = Settler(server.ask)
    server.answers_come = False
    unanswered(settler, settlements("ab"))
    unanswered(settler, settlements("abc"))
    server.answers_come = True
    assert settler.settle(settlements("abc")) == [True, True, True]
    assert settler.settle(settlements("abc")) == [False, False, False]


def test_settlements_that_never_arrived_are_carried_out_when_settled_again(server: Server) -> None:
    settler = Settler(server.ask)
    server.reaches_it = False
    unanswered(settler, settlements("ab"))
    server.reaches_it = True
    assert settler.settle(settlements("ba")) == [True, True]
    assert server.settled == {"a", "b"}


def test_another_action_than_the_one_that_was_done_is_not_done(server: Server) -> None:
    settler = Settler(server.ask)
    server.answers_come = False
    unanswered(settler, settlements("a"))
    server.answers_come = True
    assert settler.settle(settlements("a", "release")) == [False]


def test_a_failure_between_portions_forgets_none_of_them(server: Server) -> None:
    settler = Settler(server.ask)
    large = Settlement(Claim("large", "q", b"", "w", 7), "complete", b"x" * PORTION_BYTES)
    batch = [*settlements("ab"), large, *settlements("c")]
    before = server.ask

    def fail_at_the_last(portion: Sequence[Settlement]) -> list[bool]:
        server.reaches_it = portion[-1].claim.task_id != "c"
        return before(portion)

    settler = Settler(fail_at_the_last)
    unanswered(settler, batch)
    settler._ask = server.ask  # noqa: SLF001 - the server is back
    server.reaches_it = True
    assert settler.settle(batch) == [True] * 4


def test_many_settlements_are_asked_for_in_portions() -> None:
    sizes = []

    def ask(portion: Sequence[Settlement]) -> list[bool]:
        sizes.append(len(portion))
        return [True] * len(portion)

    assert Settler(ask).settle(settlements("x" * (2 * PORTION + 1))) == [True] * (2 * PORTION + 1)
    assert sizes == [PORTION, PORTION, 1]
    assert Settler(ask).settle([]) == []
