"""Whatever a run ends with, its settlement succeeds, and so do those beside it."""

from __future__ import annotations

import json
import math
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from agentpipe.brokers.records import Offer, Settlement
from agentpipe.core.result import Result
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.errors import InfraError
from agentpipe.evaluation.evaluators import Evaluation
from agentpipe.operations.stats import as_dict
from agentpipe.sending.broker import StoreBroker
from agentpipe.worker.claims.settling import ClaimSettling
from agentpipe.worker.outcomes.results import ResultsMiddleware
from agentpipe.worker.running.message import ClaimedMessage
from agentpipe.worker.running.runner import Completed
from tests.conformance.steps import PATIENCE_S, claim, declared, joined
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.records import Claim, Worker
    from tests.stores import AnyStore

SEEDS = [pytest.param(1), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))]
TASKS = 60
ODD_NUMBERS: tuple[Any, ...] = (
    *(2**53, 2**63 - 1, 2**63, 2**64, 2**70, -(2**70), 10**400, -1, 0, 1),
    *(math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 0.1, -0.0, True, None),
)
ODD_TEXTS = (
    "",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "\x1b[31m",
    "\uffff",
    "'\"\\",
    "é" * 500,
    "x" * 70_000,
)


class Odd:
    """Random values: kinds that have caused bugs, and some that could."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def number(self) -> Any:
        return self._random.choice(ODD_NUMBERS)

    def text(self) -> str:
        return self._random.choice(ODD_TEXTS)

    def value(self) -> Any:
        kinds: tuple[Callable[[], Any], ...] = (
            *(self.number, self.text, self.nested, object, lambda: {1, 2}, lambda: b"\xff"),
            *(lambda: {self.text(): self.number()}, lambda: [self.text()] * 3, lambda: {1: 2}),
        )
        return self._random.choice(kinds)()

    def nested(self) -> Any:
        value: Any = self.text()
        for _ in range(self._random.choice((5, 200, 230, 240, 250, 254, 400, 5_000))):
            value = [value] if self._random.random() < 0.5 else {"x": value}
        return value

    def tracer(self) -> Tracer:
        tracer = Tracer()
        for _ in range(self._random.randrange(4)):
            fields = ("id", "parent_id", "records", "running_time", "timestamp", "type")
            span = {name: self.value() for name in self._random.sample(fields, 3)}
            if self._random.random() < 0.5:
                span["records"] = [{"data": {"x": self.value()}, "timestamp": self.value()}]
            tracer.take(span)
        with suppress(TypeError):  # The agent's own mistake, which the tracer reports to it.
            tracer.usage.add({"usd": self.number(), "tokens": self.number(), self.text(): 1})
        if self._random.random() < 0.1:
            tracer.spans.append(self.value())  # An agent can modify a recorded value.
        return tracer

    def evaluation(self) -> Evaluation:
        config = {"func": "raw", "value": self.value()}
        if self._random.random() < 0.3:
            config["weight"] = self.number()
        score = self.number() if self._random.random() < 0.5 else None
        return Evaluation(config, "4", passed=self._random.random() < 0.5, score=score)

    def end(self) -> dict[str, Any]:
        if self._random.random() < 0.3:
            retry_after_s = self.number()
            error = InfraError(self.text(), retry_after_s=retry_after_s)
            return {"exception": self._random.choice((error, ValueError(self.text())))}
        evaluations = tuple(self.evaluation() for _ in range(self._random.randrange(3)))
        return {"result": Completed(self._random.choice(("4", {"x": 4})), evaluations)}


def ended(store: AnyStore, claimed: Claim, odd: Odd) -> Settlement:
    results, broker = ResultsMiddleware("worker-1", retry_delay_s=0.01), StoreBroker(store, [])
    message = ClaimedMessage(claimed)
    message.tracer = odd.tracer()
    results.after_process_message(broker, message, **odd.end())
    return results.settlement_of(broker, message)


def claimed_tasks(store: AnyStore, worker: Worker, queue: str) -> list[Claim]:
    offers = [Offer(f"t{number}", Task(task_id=f"t{number}").encode()) for number in range(TASKS)]
    store.offer(queue, offers, round_robin=False)
    found: list[Claim] = []

    def claim_more() -> bool:
        found.extend(claim(store, worker, TASKS - len(found)))
        return len(found) == TASKS

    wait_until(claim_more, PATIENCE_S, "all tasks are claimed")
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_random_results_are_settled_one_and_all(store: AnyStore, seed: int) -> None:
    (queue,) = declared(store, max_waiting=1_000)
    worker = joined(store, [queue])
    odd, sound = Odd(seed), set[str]()
    settlements: list[Settlement] = []
    for claimed in claimed_tasks(store, worker, queue):
        if len(settlements) % 3:
            settlements.append(ended(store, claimed, odd))
        else:
            result = Result(task_id=claimed.task_id, result="4").to_dict()
            settlements.append(_plain(claimed, result))
            sound.add(claimed.task_id)
    assert ClaimSettling(store).settle_all(settlements) == [True] * TASKS
    store.sync()
    json.dumps(as_dict(store.stats()), allow_nan=False)
    expected = {it.claim.task_id for it in settlements if it.action in ("complete", "bury")}
    found: dict[str, Result] = {}

    def take_more() -> bool:
        for record in store.take_outbox(worker, 1_000, 2**30):
            found[record.task_id] = Result.decode(record.payload)
        return found.keys() == expected

    wait_until(take_more, PATIENCE_S, "each result is in the outbox")
    assert {found[task_id].result for task_id in sound} == {"4"}
    answers = [found[it.claim.task_id] for it in settlements if it.outcome == "ok"]
    assert all(result.result in ("4", {"x": 4}) for result in answers)


def _plain(claimed: Claim, result: dict[str, Any]) -> Settlement:
    return Settlement(claimed, "complete", orjson.dumps(result), "ok", reward=1.0, usd=0.5)
