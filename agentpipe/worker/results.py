"""Results: a Dramatiq middleware that turns the outcome of a run into a Result.

It only puts a settlement on the message. What is raised in ``after_process_message`` is
swallowed by Dramatiq and the message acked, so nothing that can fail for want of a server
belongs here: the consumer settles, and the outbox delivers.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import dramatiq
import orjson
from dramatiq.middleware import SkipMessage

from agentpipe.brokers.records import Settlement
from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS
from agentpipe.core.failures import (
    MAX_ERROR_CHARS,
    error_kind,
    error_record,
    error_text,
    hold_s,
    is_infra,
    retry_delay_s,
)
from agentpipe.core.json_values import answer_text
from agentpipe.core.logs import Bound
from agentpipe.core.redaction import Redactor
from agentpipe.core.task import Result, Task, utc
from agentpipe.core.usage import USD
from agentpipe.errors import AgentCrashed, AgentpipeError, Cancelled, Interrupted, RunLimitExceeded
from agentpipe.evaluation.evaluators import reward
from agentpipe.sending.actor import AgentActor
from agentpipe.worker.runner import Run

if TYPE_CHECKING:
    from agentpipe.brokers.capabilities import TaskSeen
    from agentpipe.brokers.records import Action
    from agentpipe.sending.broker import ClaimedMessage

# For actors outside any collection.
PLAIN_RETRIES = 2
PLAIN_CRASHES = 3
EVALUATOR_BROKE = "EvaluationError: an evaluator broke; the result says how"
WITHHELD = "not shown: the answer holds a credential"

log = logging.getLogger(__name__)


class Results(dramatiq.Middleware):
    """Decides what each message's end means: answered, tried again, dead, or given back."""

    def __init__(self, worker: str, retry_delay_s: float) -> None:
        self._worker, self._retry_delay_s = worker, retry_delay_s
        self._redactors: dict[str, Redactor] = {}

    def before_process_message(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,  # type: ignore[override]
    ) -> None:
        """Skip what must not run: unreadable, crashed too often, past its deadline."""
        message.started_at = time.time()
        if message.claim.cancelled:
            message.settlement = self._settle(broker, message, "complete", "cancelled")
            raise SkipMessage("cancelled")
        end = _end_without_a_run(broker, message)
        if end is not None:
            action, outcome, error = end
            message.settlement = self._settle(broker, message, action, outcome, error=error)
            raise SkipMessage(outcome)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,  # type: ignore[override]
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Put the settlement of a run on its message."""
        if exception is None:
            run = result if isinstance(result, Run) else _plain_run(result)
            broken = any(evaluation.broken for evaluation in run.evaluations)
            outcome = "eval_error" if broken else "ok"
            message.settlement = self._settle(broker, message, "complete", outcome, run=run)
        elif isinstance(exception, Cancelled):
            message.settlement = self._settle(broker, message, "complete", "cancelled")
        elif isinstance(exception, Interrupted):
            message.settlement = Settlement(message.claim, "release")
        elif isinstance(exception, AgentCrashed):
            # Unlike a worker's death it is this task's own doing, so it is not tried again.
            message.settlement = self._settle(broker, message, "bury", "crashed", error=exception)
        elif is_infra(exception):
            asked_s = hold_s(exception)
            message.settlement = (
                self._retry(broker, message, exception)
                if asked_s is None
                else self._hold(broker, message, exception, asked_s)
            )
        else:
            outcome = "limit" if isinstance(exception, RunLimitExceeded) else "agent_error"
            message.settlement = self._settle(broker, message, "complete", outcome, error=exception)

    def give_up(self, broker: dramatiq.Broker, message: ClaimedMessage) -> Settlement:
        """Bury a message that no hook could make a settlement for; the log says why."""
        error = AgentpipeError("agentpipe failed to make a result of this run: see the log")
        actor = broker.actors.get(message.actor_name)
        collection = actor.collection.name if isinstance(actor, AgentActor) else None
        result = Result(
            task_id=message.claim.task_id,
            collection=collection,
            agent=message.claim.queue,
            outcome="infra_error",
            error=error_record(error, Redactor(())),
            worker=self._worker,
            finished_at=utc(time.time()),
            **_carried(message.task),
        )
        encoded = orjson.dumps(result.to_dict())
        return Settlement(message.claim, "bury", encoded, "infra_error", str(error))

    def _retry(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        failures = message.claim.failures
        actor = broker.actors.get(message.actor_name)
        allowed = actor.collection.max_retries if isinstance(actor, AgentActor) else PLAIN_RETRIES
        if failures >= allowed:
            return self._settle(broker, message, "bury", "infra_error", error=error)
        delay_s = retry_delay_s(error, self._retry_delay_s, failures)
        log.warning(
            "%s; run %d of %d follows in %.1f s",
            type(error).__name__,
            failures + 2,
            allowed + 1,
            delay_s,
            extra=_bound(message),
        )
        reason = self._reason(broker, message, error)
        usd = _usd(message)
        return Settlement(message.claim, "retry", reason=reason, delay_s=delay_s, usd=usd)

    def _hold(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException, asked_s: float
    ) -> Settlement:
        """The service is at its limit, and nobody's failure: the run does not count."""
        log.warning(
            "%s; nobody runs tasks of %s for %.1f s, as the service asked",
            type(error).__name__,
            message.claim.queue,
            asked_s,
            extra=_bound(message),
        )
        reason = self._reason(broker, message, error)
        usd = _usd(message)
        return Settlement(message.claim, "cooldown", reason=reason, delay_s=asked_s, usd=usd)

    def _reason(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> str:
        """Of a run that does not end its task: masked, and short."""
        redactor = self._redactor(broker, message.actor_name)
        return redactor.text(f"{error_kind(error)}: {error_text(error)}")[:MAX_LAST_ERROR_CHARS]

    def _settle(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,
        action: Action,
        outcome: str,
        *,
        error: BaseException | None = None,
        run: Run | None = None,
    ) -> Settlement:
        redactor = self._redactor(broker, message.actor_name)
        failure = None if error is None else error_record(error, redactor)
        result = self._result(broker, message, outcome, failure, run)
        encoded = encode(result, redactor)
        # What an evaluator says may quote the answer, and that may hold a credential.
        reason = EVALUATOR_BROKE if outcome == "eval_error" else ""
        if failure is not None:
            reason = redactor.text(f"{failure['type']}: {failure['message']}")
            # Messages of errors quote questions and answers; the Result has them.
            log.warning("%s, %s", outcome, failure["type"], extra=_bound(message))
            log.debug("%s", reason[:300], extra=_bound(message))
        return Settlement(
            message.claim,
            action,
            encoded,
            outcome,
            reason[:MAX_ERROR_CHARS],
            reward=result.reward,
            usd=_usd(message),
        )

    def _result(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,
        outcome: str,
        failure: dict[str, Any] | None,
        run: Run | None,
    ) -> Result:
        claim = message.claim
        actor = broker.actors.get(message.actor_name)
        evaluations = list(run.evaluations) if run else []
        score = reward(evaluations) if outcome == "ok" else None
        ran = run is not None or message.tracer is not None
        return Result(
            result=run.answer if run else None,
            evaluation_results=[evaluation.to_dict() for evaluation in evaluations],
            trace=message.tracer.spans if message.tracer else [],
            task_id=claim.task_id,
            collection=actor.collection.name if isinstance(actor, AgentActor) else None,
            agent=message.actor_name,
            attempt=claim.failures + claim.crashes + int(ran),
            outcome=outcome,
            reward=score,
            reward_trustworthy=score is not None,
            error=failure or _evaluation_error(evaluations),
            usage=message.tracer.usage.to_dict() if message.tracer else {},
            worker=self._worker,
            submitted_at=utc(claim.submitted_at),
            started_at=utc(message.started_at) if ran else None,
            finished_at=utc(time.time()),
            **_carried(message.task),
        )

    def _redactor(self, broker: dramatiq.Broker, actor_name: str) -> Redactor:
        if actor_name not in self._redactors:
            actor = broker.actors.get(actor_name)
            runner = actor.runner if isinstance(actor, AgentActor) else None
            self._redactors[actor_name] = Redactor(runner.secrets if runner else ())
        return self._redactors[actor_name]


def _bound(message: ClaimedMessage) -> dict[str, Bound]:
    """For lines about a run, wherever they are logged."""
    return {"bound": Bound(message.message_id, message.claim.queue)}


def _usd(message: ClaimedMessage) -> float:
    """What the run cost, where its models' prices are known."""
    usage = message.tracer.usage.to_dict() if message.tracer else {}
    return float(usage.get(USD, 0.0))


def cancelled(entry: TaskSeen, task: Task | None, collection: str | None) -> Result:
    """The Result of a task that was taken back before it ran; no task if it is unreadable."""
    return Result(
        task_id=entry.task_id,
        collection=collection,
        agent=entry.queue,
        outcome="cancelled",
        submitted_at=utc(entry.submitted_at),
        finished_at=utc(time.time()),
        **_carried(task),
    )


def encode(result: Result, redactor: Redactor) -> bytes:
    """The wire form of a Result. Ids and metadata are the sender's own words and stay."""
    record = result.to_dict()
    encoded = orjson.dumps(record)
    if redactor.occurs_in(encoded):
        record = orjson.loads(encoded)  # Tuples and dataclasses of the agent's are JSON by now.
        if redactor.occurs_in(orjson.dumps(record["result"])):
            _withhold_quotations(record)
        for name in ("result", "evaluation_results", "trace", "error", "usage"):
            record[name] = redactor.value(record[name])
        encoded = orjson.dumps(record)
    return encoded


def _withhold_quotations(record: dict[str, Any]) -> None:
    """Evaluators quote the answer in part, and a part of a secret cannot be recognised."""
    for evaluation in record["evaluation_results"]:
        for name in ("reason", "error"):
            evaluation[name] = evaluation[name] and WITHHELD
    if record["error"]:
        record["error"]["message"] = WITHHELD


def _end_without_a_run(
    broker: dramatiq.Broker, message: ClaimedMessage
) -> tuple[Action, str, BaseException] | None:
    if message.problem is not None:
        return "bury", "infra_error", message.problem
    actor = broker.actors.get(message.actor_name)
    if actor is None:
        known = AgentpipeError(f"no actor {message.actor_name!r} is known to this worker")
        return "bury", "infra_error", known
    crashes, allowed = message.claim.crashes, PLAIN_CRASHES
    if isinstance(actor, AgentActor):
        allowed = actor.collection.max_crashes
        if message.task is None:
            return "bury", "infra_error", AgentpipeError("a plain message in an agent's queue")
    if crashes >= allowed:
        return "bury", "crashed", AgentpipeError(f"its worker died {crashes} times while it ran")
    deadline = message.task.deadline if message.task else None
    if deadline is not None and time.time() > deadline:
        return "complete", "stale", AgentpipeError(f"not started by its deadline, {utc(deadline)}")
    return None


def _carried(task: Task | None) -> dict[str, Any]:
    """What a Result repeats of its task."""
    if task is None:
        return {}
    return {
        "metadata": task.metadata,
        "group_id": task.group_id,
        "sample_index": task.sample_index,
        "group_size": task.group_size,
        "policy_version": task.policy_version,
        "seed": task.seed,
        "replay_of": task.replay_of,
    }


def _plain_run(value: Any) -> Run:
    """What a plain Dramatiq actor returned, if it is JSON."""
    answer_text(value)
    return Run(value)


def _evaluation_error(evaluations: list[Any]) -> dict[str, Any] | None:
    for evaluation in evaluations:
        if evaluation.broken:
            return {"type": "EvaluationError", "message": evaluation.error, "traceback": None}
    return None
