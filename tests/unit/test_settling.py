"""A settlement that the store refuses is found, and its neighbours are not affected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import (
    MAX_DELAY_S,
    Claim,
    ClaimRequest,
    Offer,
    Queue,
    Settlement,
    Worker,
)
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.errors import StoreError, Unreachable
from agentpipe.settings import Settings
from agentpipe.worker.claims.settling import CUT_BYTES, ClaimSettling
from tests.stores import ROOMY, claim_up_to, open_any
from tests.support import refuse_in_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.stores import AnyStore

WORKER = Worker("worker-1", slots=100, queues=frozenset({"queue"}))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnyStore]:
    opened = open_any(Settings(broker=f"sqlite:///{tmp_path / 'broker.db'}?synchronous=normal"))
    opened.declare([Queue("queue", concurrency=100)])
    opened.join(WORKER)
    yield opened
    opened.close()


def claims(store: AnyStore, number: int) -> list[Claim]:
    offers = [Offer(str(task), b"{}") for task in range(number)]
    store.offer("queue", offers, round_robin=False)
    found = claim_up_to(100, store, WORKER)
    assert len(found) == number
    return found


def answer(claim: Claim, **fields: Any) -> Settlement:
    given: dict[str, Any] = {"result": f"answer {claim.task_id}", **fields}
    result = Result(task_id=claim.task_id, **given).encode(Redactor(()))
    return Settlement(claim, "complete", result, "ok", reward=1.0)


def results(store: AnyStore) -> dict[str, Result]:
    records = store.take_outbox(WORKER, 1_000, 2**30)
    return {record.task_id: Result.decode(record.payload) for record in records}


def refuse(tmp_path: Path, condition: str) -> None:
    refuse_in_sqlite(tmp_path / "broker.db", "outbox_bodies", condition)


def one_too_large(found: list[Claim], place: int) -> list[Settlement]:
    """Answers for these claims; the one at ``place`` is too large for ``refuse``."""
    given = [answer(each) for each in found]
    given[place] = answer(found[place], trace=[{"text": "x" * 1_000}] * 800)
    return given


def test_a_claim_waits_until_the_settlement_that_is_refused_is_found(
    store: AnyStore, tmp_path: Path
) -> None:
    refuse(tmp_path, "length(NEW.body) > 400000")
    found = claims(store, 3)
    given = one_too_large(found, 1)
    store.offer("queue", [Offer("next", b"{}")], round_robin=False)
    settling, request = ClaimSettling(store), ClaimRequest(WORKER, 10, ROOMY)
    assert settling.settle_and_claim(given, request) is None
    assert results(store) == {}
    assert settling.settle_all(given) == [True] * 3
    assert settling.settle_and_claim([], request) is not None
    assert store.stats().running == 1


def test_one_result_that_is_refused_is_cut_and_its_neighbours_are_whole(
    store: AnyStore, tmp_path: Path
) -> None:
    refuse(tmp_path, "length(NEW.body) > 400000")
    found = claims(store, 20)
    given = one_too_large(found, 7)
    assert ClaimSettling(store).settle_all(given) == [True] * 20
    settled = results(store)
    assert len(settled) == 20
    assert {result.outcome for result in settled.values()} == {"ok"}
    cut = settled.pop("7")
    assert (cut.result, cut.outcome) == ("answer 7", "ok")
    assert cut.truncated is not None
    assert cut.truncated["fields"] == ["trace"]
    assert "refused by a trigger" in cut.truncated["reason"]
    assert {result.truncated for result in settled.values()} == {None}
    assert store.stats().running == 0


def test_a_result_that_is_refused_however_short_says_so_and_keeps_its_answer(
    store: AnyStore, tmp_path: Path
) -> None:
    refuse(tmp_path, 'instr(NEW.body, \'"outcome":"ok","stop":null,"reward":0.25\')')
    first, second = claims(store, 2)
    assert ClaimSettling(store).settle_all([answer(first, reward=0.25), answer(second)]) == [
        True,
        True,
    ]
    settled = results(store)
    assert (settled["0"].outcome, settled["0"].result) == ("infra_error", "answer 0")
    assert "refused by a trigger" in (settled["0"].error or {})["message"]
    assert (settled["1"].outcome, settled["1"].result) == ("ok", "answer 1")


def test_what_is_refused_whatever_is_left_of_it_is_kept_and_stops_nobody(
    store: AnyStore, tmp_path: Path
) -> None:
    refuse(tmp_path, 'instr(NEW.body, \'"task_id":"1"\')')
    given = [answer(each) for each in claims(store, 3)]
    assert ClaimSettling(store).settle_all(given) == [True, None, True]
    assert set(results(store)) == {"0", "2"}
    assert store.stats().running == 1


def test_an_answer_of_any_size_outlives_its_trace(store: AnyStore, tmp_path: Path) -> None:
    refuse(tmp_path, "instr(NEW.body, 'poison')")
    (claimed,) = claims(store, 1)
    assert ClaimSettling(store).settle_all(
        [answer(claimed, result="x" * 1_000, trace=[{"text": "poison"}])]
    ) == [True]
    settled = results(store)["0"]
    assert (settled.outcome, settled.result, settled.trace) == ("ok", "x" * 1_000, [])


def test_an_outage_is_none_of_this(store: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [answer(each) for each in claims(store, 3)]

    def away(_: Sequence[Settlement]) -> list[bool]:
        raise Unreachable("gone")

    monkeypatch.setattr(store, "settle", away)
    with pytest.raises(Unreachable):
        ClaimSettling(store).settle_all(given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"reason": "\ud800"},
        {"outcome": "\udfff"},
        {"reward": "high"},
        {"delay_s": None},
    ],
)
def test_what_cannot_even_be_bound_costs_only_its_own_settlement(
    store: AnyStore, wrong: dict[str, Any]
) -> None:
    bad, good = claims(store, 2)
    spoilt = answer(bad)
    for name, value in wrong.items():
        object.__setattr__(spoilt, name, value)
    done = ClaimSettling(store).settle_all([answer(good), spoilt])
    assert done[0] is True
    assert results(store)["1"].result == "answer 1"


def number(settlement: Settlement) -> tuple[float | None, float, float]:
    return settlement.reward, settlement.usd, settlement.delay_s


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 2**70, -(2**70), 1e300])
def test_numbers_that_no_store_could_add_up_are_left_out(bad: float) -> None:
    reward, usd, delay_s = number(Settlement(Claim("a", "q", b"", "w", 1), "retry", reward=bad))
    assert (reward, usd, delay_s) == (None, 0.0, 0.0)
    reward, usd, delay_s = number(
        Settlement(Claim("a", "q", b"", "w", 1), "retry", usd=bad, delay_s=bad)
    )
    assert (reward, usd) == (None, 0.0)
    assert delay_s == (MAX_DELAY_S if bad > 0 else 0.0)


def test_a_store_without_words_is_named_by_its_error(
    store: AnyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original: Callable[[Sequence[Settlement]], list[bool]] = store.settle
    (claimed,) = claims(store, 1)
    tried: list[Settlement] = []

    def picky(settlements: Sequence[Settlement]) -> list[bool]:
        tried.extend(settlements)
        if len(tried) == 1:
            raise StoreError("no such shelf")
        return original(settlements)

    monkeypatch.setattr(store, "settle", picky)
    assert ClaimSettling(store).settle_all([answer(claimed, trace=[{"x": "y" * CUT_BYTES}])]) == [
        True
    ]
    assert (
        "task 0: the broker refused its result, and took less of it: StoreError: no such shelf"
        in (caplog.text)
    )


def test_what_was_learned_of_a_refusal_outlives_an_outage(
    store: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with RabbitMQ, which closes the connection when it refuses."""
    original: Callable[[Sequence[Settlement]], list[bool]] = store.settle
    given = [answer(each) for each in claims(store, 9)]
    away, settling = [False], ClaimSettling(store)
    worst = Result(task_id="5", result="answer 5").encode(Redactor(()))

    def picky(settlements: Sequence[Settlement]) -> list[bool]:
        if away[0]:
            away[0] = False
            raise Unreachable("connecting")
        if any(len(each.result) >= len(worst) and each.reward for each in settlements[5:]):
            away[0] = True
            raise StoreError("too many")
        if any(each.claim.task_id == "5" and each.reward for each in settlements):
            away[0] = True
            raise StoreError("too large")
        return original(settlements)

    monkeypatch.setattr(store, "settle", picky)
    outages, left = 0, given
    while left:
        try:
            left = left[len(settling.settle(left)) :]
        except Unreachable:
            outages += 1
            assert outages < 20
    assert set(results(store)) == set("012345678")
    assert outages > 2


def test_a_worker_goes_on_beside_what_the_store_refuses(store: AnyStore, tmp_path: Path) -> None:
    refuse(tmp_path, 'instr(NEW.body, \'"task_id":"1"\')')
    settling, (first, second) = ClaimSettling(store), claims(store, 2)
    assert settling.settle_all([answer(second)]) == [None]
    assert settling.settle_all([answer(first)]) == [True]
    assert settling.settle_all([answer(second)]) == [None]
