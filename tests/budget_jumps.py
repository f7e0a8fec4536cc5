"""A budget that is nearly spent, while the clock jumps; the same on each broker with budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.records import ClaimRequest, Offer, Queue, Settlement
from agentpipe.core.budgets import Budget
from tests.stores import ROOMY
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.records import Worker
    from tests.stores import AnyStore

PATIENCE_S = 10
TASKS = ("r/1", "r/2", "r/3", "x", "y", "z")


def check_caps_over_jumps(
    store: AnyStore, worker: Worker, jump: Callable[[], None], back: Callable[[], None]
) -> None:
    """Spend the budgets of a run and of its collection to the cap, with a jump before each step.

    Args:
        store: Has a queue ``q``, which the worker serves.
        worker: Has joined.
        jump: Sets the clock.
        back: Sets it back.
    """
    store.declare([Queue("q", "crew", concurrency=10, budget=Budget(tokens=100))])
    store.set_budget("run", "r", Budget(tokens=50))
    offers = [Offer(task_id, b"{}") for task_id in TASKS]
    assert {*store.offer("q", offers, round_robin=False).verdicts} == {"accepted"}

    def ran(tokens: int) -> str:
        request = ClaimRequest(worker, 1, ROOMY)
        (claimed,) = wait_until(lambda: store.claim(request), PATIENCE_S, "a task is claimed")
        jump()
        (settled,) = store.settle([Settlement(claimed, "complete", b"{}", "ok", tokens=tokens)])
        assert settled
        back()
        return claimed.task_id

    def claimed() -> list[str]:
        return [each.task_id for each in store.claim(ClaimRequest(worker, 1, ROOMY))]

    assert [ran(49), ran(1)] == ["r/1", "r/2"]  # The run's budget is spent.
    assert [ran(49), ran(1)] == ["x", "y"]  # So is the collection's.
    jump()
    assert claimed() == []
    back()
    assert claimed() == []
    assert {it.name: (it.tokens, it.is_spent) for it in store.spendings()} == {
        "crew": (100, True),
        "r": (50, True),
    }
    jump()
    store.set_budget("run", "r", Budget(tokens=60))
    store.set_budget("collection", "crew", Budget(tokens=101))
    back()
    assert ran(1) in {"r/3", "z"}
    assert claimed() == []
