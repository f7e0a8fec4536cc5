"""How an ended run is settled: a middleware, an actor, and messages for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from dramatiq.middleware import SkipMessage

from agentpipe.brokers import open_store
from agentpipe.brokers.records import Claim, Settlement
from agentpipe.config.collection import ContextSpec
from agentpipe.core import masking
from agentpipe.core.result import Result
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.errors import (
    InfraError,
)
from agentpipe.evaluation.evaluators import Evaluation
from agentpipe.sending.actor import AgentActor
from agentpipe.sending.broker import StoreBroker
from agentpipe.settings import Settings
from agentpipe.worker.outcomes.results import ResultsMiddleware
from agentpipe.worker.running.message import ClaimedMessage
from agentpipe.worker.running.runner import Completed
from tests.unit.agents import CREW, runner_of

if TYPE_CHECKING:
    from pathlib import Path


CANARY = 'canary-"zebrawing'
TASK = Task(
    question="Why?",
    task_id="t1",
    metadata={"mine": 1},
    group_id="g1",
    sample_index=2,
    group_size=4,
    policy_version="v7",
    seed=9,
    replay_of="t0",
    run="v2",
    retry_of="t00",
)


class Bench:
    """A middleware, an actor, and messages for the actor."""

    def __init__(self, folder: Path) -> None:
        self.results = ResultsMiddleware("worker-1", retry_delay_s=1.0)
        settings = Settings(broker=f"sqlite:///{folder / 'broker.db'}")
        self.broker = StoreBroker(open_store(settings), [self.results])
        self.declare()

    def declare(self, **limits: Any) -> None:
        contexts = tuple(ContextSpec({}, {}, "crew.yaml", 1) for _ in "ab")
        crew = replace(CREW, number=3, contexts=contexts)
        crew = replace(crew, **{"max_retries": 2, "max_crashes": 3, **limits})
        masking.install([CANARY])
        runner = runner_of(object, env={"TOKEN": CANARY, "MODE": "on"})
        self.broker.actors.pop("crew_0", None)
        AgentActor(crew, crew.agents[0], self.broker, runner)

    def message(self, task: Task = TASK, **claim: Any) -> ClaimedMessage:
        fields = {"payload": task.encode(), "submitted_at": 1000.0, **claim}
        message = ClaimedMessage(Claim("t1", "crew_0", worker="worker-1", number=1, **fields))
        message.tracer = Tracer()
        return message

    def end(self, message: ClaimedMessage | None = None, **end: Any) -> Settlement:
        message = message or self.message()
        self.results.after_process_message(self.broker, message, **end)
        assert message.settlement is not None
        return message.settlement

    def skip(self, message: ClaimedMessage) -> Settlement:
        with pytest.raises(SkipMessage):
            self.results.before_process_message(self.broker, message)
        assert message.settlement is not None
        return message.settlement


def result_of(settlement: Settlement) -> Result:
    result = Result.decode(settlement.result)
    assert result.outcome == settlement.outcome
    return result


def evaluation(*, passed: bool, broken: bool = False) -> Evaluation:
    error = "it broke" if broken else ""
    return Evaluation({"func": "raw"}, "4", passed=passed, error=error, broken=broken)


def away(cause: BaseException | None = None) -> Evaluation:
    cause = cause or InfraError("the judge is away")
    return Evaluation({"func": "raw"}, "4", passed=False, error="away", broken=True, cause=cause)


def unjudged(answer: Any = "4", *evaluations: Evaluation, **more: Any) -> Completed:
    env = {"TOKEN": CANARY, "MODE": "on"}
    return Completed(answer, evaluations or (away(),), keepable=True, env=env, **more)
