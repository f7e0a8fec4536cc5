"""Endings: the settlements that end a task, each with a Result."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import Settlement
from agentpipe.core import masking
from agentpipe.core.failures import MAX_ERROR_CHARS, error_record
from agentpipe.core.result import Result
from agentpipe.core.timestamps import utc
from agentpipe.evaluation.evaluators import reward, rewards
from agentpipe.worker.outcomes.members import member_end
from agentpipe.worker.outcomes.rollouts import rollout_of
from agentpipe.worker.outcomes.run_failures import causes_of, failure_of_end
from agentpipe.worker.outcomes.spending import cost_of, total_of, usage_of
from agentpipe.worker.outcomes.unjudged import attempt_of, evaluation_error
from agentpipe.worker.running.served_actor import served_actor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dramatiq

    from agentpipe.brokers.records import Action
    from agentpipe.core.redaction import Redactor
    from agentpipe.evaluation.evaluators import Evaluation
    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.running.runner import Completed
    from agentpipe.worker.running.served_actor import ServedActor

EVALUATOR_BROKE = "EvaluationError: an evaluator broke; the result says how"

log = logging.getLogger(__name__)


def _judgement(
    message: ClaimedMessage,
    outcome: str,
    evaluations: Sequence[Evaluation],
    actor: ServedActor | None,
) -> tuple[float | None, dict[str, float]]:
    """The total reward, and the rewards of named evaluators."""
    if outcome == "ok":
        return reward(evaluations), rewards(evaluations)
    judges = message.task.evaluators if message.task else []
    if outcome != "limit" or not judges or actor is None or actor.limits.on_limit is None:
        return None, {}
    worth = actor.limits.on_limit
    return worth, {each["name"]: worth for each in judges if each.get("name")}


def _logged_reason(
    message: ClaimedMessage, outcome: str, failure: dict[str, Any] | None, redactor: Redactor
) -> str:
    """The reason for a dead letter; logs the failure."""
    if failure is None:
        # An evaluator's error can quote the answer, which can contain a credential.
        return EVALUATOR_BROKE if outcome == "eval_error" else ""
    reason = redactor.text(f"{failure['type']}: {failure['message']}")
    # An error can quote the question or the answer: only the Result contains it whole.
    log.warning("%s, %s", outcome, failure["type"], extra=message.log_extra)
    log.debug("%s", reason[:300], extra=message.log_extra)
    return reason


def _ran(message: ClaimedMessage, run: Completed | None) -> bool:
    return run is not None or message.tracer is not None


@dataclass(frozen=True, slots=True)
class Endings:
    """Makes the final settlements of one worker, named ``worker``."""

    worker: str

    def settle(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,
        action: Action,
        outcome: str,
        *,
        error: BaseException | None = None,
        run: Completed | None = None,
    ) -> Settlement:
        """Settle a message for good, with its task's Result."""
        redactor = masking.redactor()
        failure = None if error is None else error_record(error, redactor)
        rollout = rollout_of(message, run, outcome, error)
        result = self._result(broker, message, outcome, failure=failure, run=run, rollout=rollout)
        encoded = result.encode(redactor)
        causes = causes_of(run) if error is None else [error]
        return Settlement(
            message.claim,
            action,
            encoded,
            outcome,
            _logged_reason(message, outcome, failure, redactor)[:MAX_ERROR_CHARS],
            reward=result.reward,
            **cost_of(message),
            config_hash=result.config_hash or "",
            member=member_end(message, result),
            failure=failure_of_end(broker, message, outcome, result.error, causes),
            ran=_ran(message, run),
        )

    def _result(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,
        outcome: str,
        *,
        failure: dict[str, Any] | None,
        run: Completed | None,
        rollout: dict[str, Any] | None,
    ) -> Result:
        claim = message.claim
        actor = served_actor(broker, message.actor_name)
        evaluations = list(run.evaluations) if run else []
        score, named = _judgement(message, outcome, evaluations, actor)
        return Result.of(
            message.task,
            result=run.answer if run else None,
            evaluation_results=[evaluation.to_dict() for evaluation in evaluations],
            trace=message.tracer.spans if message.tracer else [],
            task_id=claim.task_id,
            collection=actor.collection if actor else None,
            agent=message.actor_name,
            context=actor.context if actor else None,
            attempt=attempt_of(message, run),
            outcome=outcome,
            stop=run.stop if run else None,
            reward=score,
            rewards=named,
            reward_trustworthy=score is not None,
            error=failure or evaluation_error(evaluations),
            usage=usage_of(message),
            usage_total=total_of(message),
            rollout=rollout,
            worker=self.worker,
            config_hash=(actor.config_hash or None) if actor else None,
            submitted_at=utc(claim.submitted_at),
            started_at=utc(message.started_at) if _ran(message, run) else None,
        )
