"""Which processes a commit of the embedded store wakes."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement, Worker
from agentpipe.brokers.sqlite import SqliteStore
from agentpipe.settings import Settings
from tests.stores import ROOMY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentpipe.brokers.records import Claim

ONE = Worker("one", slots=4, queues=frozenset({"a", "b"}))
TWO = Worker("two", slots=4, queues=frozenset({"b"}))
NOW_S, SOON_S = 0.02, 10.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(f"sqlite:///{tmp_path}/a.db", Settings())) as store:
        store.declare([Queue("a", "c", 100, 1), Queue("b", "c", 100, 1)])
        store.join(ONE)
        store.join(TWO)
        yield store


@pytest.fixture
def wakes(store: SqliteStore, tmp_path: Path) -> Iterator[Callable[[float], bool]]:
    """Whether another process was woken since the last call, or is woken within the given time."""
    with closing(SqliteStore(f"sqlite:///{tmp_path}/a.db", Settings())) as other:
        other._listener.wait(NOW_S)  # noqa: SLF001 - what ``wait`` does not return
        yield other._listener.wait  # noqa: SLF001 - as above
        del store


def offered(store: SqliteStore, *queues: str) -> None:
    for number, queue in enumerate(queues):
        store.offer(queue, [Offer(f"{queue}{number}", b"{}")], round_robin=False)


def turn(store: SqliteStore, claims: list[Claim], worker: Worker, limit: int = 4) -> list[Claim]:
    done = [Settlement(claim, "complete", b"{}", "ok") for claim in claims]
    settled, claimed = store.settle_and_claim(done, ClaimRequest(worker, limit, ROOMY))
    assert all(settled)
    return claimed


def test_a_turn_that_leaves_nothing_to_claim_wakes_nobody(
    store: SqliteStore, wakes: Callable[[float], bool]
) -> None:
    offered(store, "a", "a", "a")
    assert wakes(SOON_S)
    claims = store.claim(ClaimRequest(ONE, 4, ROOMY))
    while claims:  # Each settlement makes room for the next task, which the same turn claims.
        claims = turn(store, claims, ONE)
    (record, *_) = store.take_outbox(ONE, 10, 10**6)
    store.drop_outbox(ONE, [record.number])
    assert not wakes(NOW_S)


def test_a_turn_that_leaves_something_wakes_those_who_may_have_it(
    store: SqliteStore, wakes: Callable[[float], bool]
) -> None:
    offered(store, "a", "a", "b", "b")
    claims = store.claim(ClaimRequest(ONE, 4, ROOMY))
    assert wakes(SOON_S)
    assert len(turn(store, claims, ONE, limit=1)) == 1  # Both queues have room now.
    assert wakes(SOON_S)
    assert len(store.claim(ClaimRequest(TWO, 4, ROOMY))) <= 1


def test_what_is_settled_without_a_claim_wakes_others(
    store: SqliteStore, wakes: Callable[[float], bool]
) -> None:
    offered(store, "b", "b")
    (claim,) = store.claim(ClaimRequest(TWO, 4, ROOMY))
    wakes(NOW_S)
    assert store.settle([Settlement(claim, "complete", b"{}", "ok")]) == [True]
    assert wakes(SOON_S)


def test_a_run_that_is_to_be_cancelled_wakes_its_worker(
    store: SqliteStore, wakes: Callable[[float], bool]
) -> None:
    offered(store, "a")
    (claim,) = store.claim(ClaimRequest(ONE, 4, ROOMY))
    wakes(NOW_S)
    assert store.cancel([claim.task_id]) == ["signalled"]
    assert wakes(SOON_S)
