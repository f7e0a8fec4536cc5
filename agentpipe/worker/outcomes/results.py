"""Results: a Dramatiq middleware that decides how each message is settled.

It only puts the settlement on the message. What is raised in ``after_process_message`` is
swallowed by Dramatiq and the message acked, so nothing that can fail for want of a server
belongs here: the consumer settles, and the outbox delivers.
"""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.middleware import SkipMessage

from agentpipe.brokers.records import Settlement
from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS
from agentpipe.core import masking
from agentpipe.core.failures import (
    MAX_ERROR_CHARS,
    error_kind,
    error_line,
    error_record,
    error_text,
    is_infra,
    is_permanent,
    rate_limit,
    retry_delay_s,
)
from agentpipe.core.json_values import checked_answer
from agentpipe.core.logs import Bound
from agentpipe.core.masking import shorten
from agentpipe.core.result import Result
from agentpipe.core.shortage import shortage_of
from agentpipe.core.timestamps import utc
from agentpipe.errors import (
    AgentCrashed,
    AgentFailed,
    AgentpipeError,
    AnswerError,
    Cancelled,
    Interrupted,
    RunLimitExceeded,
    TimeLimitExceeded,
)
from agentpipe.evaluation.evaluators import all_broken, reward, rewards
from agentpipe.sending.broker import StoreBroker
from agentpipe.worker.outcomes.cooldowns import Cooldown, Cooldowns, bound_s, endless, log_cooldown
from agentpipe.worker.outcomes.left_alone import LeftAlone
from agentpipe.worker.outcomes.members import member_end
from agentpipe.worker.outcomes.rollouts import rollout_of
from agentpipe.worker.outcomes.run_failures import causes_of, failure_of_end, run_failure
from agentpipe.worker.outcomes.spending import cost_of, given_back, total_of, usage_of
from agentpipe.worker.outcomes.unjudged import (
    attempt_of,
    evaluation_error,
    kinds_of,
    payload_with_answer,
    reason_of_services,
    services_failed,
    tries_before,
)
from agentpipe.worker.outcomes.unmade import unmade
from agentpipe.worker.outcomes.unrun import end_without_run
from agentpipe.worker.running.capacity import Capacity
from agentpipe.worker.running.runner import Completed
from agentpipe.worker.running.served_actor import served_actor, time_limit_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.records import Action
    from agentpipe.core.failures import RateLimit
    from agentpipe.worker.running.message import ClaimedMessage

EVALUATOR_BROKE = "EvaluationError: an evaluator broke; the result says how"

log = logging.getLogger(__name__)


class Results(dramatiq.Middleware):
    """Completes, buries, retries or releases each message, by how its run ended.

    Attributes:
        capacity: Reduced when a run finds that the machine has no more of something.
        left_alone: What must not run here.
        configs: What this worker has of its collections, as its heartbeat says.
    """

    def __init__(
        self,
        worker: str,
        retry_delay_s: float,
        configs: Mapping[str, tuple[str, str, int]] = MappingProxyType({}),
    ) -> None:
        self.configs = configs
        self.capacity, self.left_alone = Capacity(), LeftAlone()
        self._worker, self._retry_delay_s = worker, retry_delay_s
        self._cooldowns = Cooldowns()

    def before_process_message(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,  # type: ignore[override]
    ) -> None:
        """Skip what must not run: cancelled, unreadable, crashed too often, past its deadline."""
        message.started_at = time.time()
        if message.claim.cancelled:
            message.settlement = self._settle(broker, message, "complete", "cancelled")
            message.stuff_exception(Cancelled("the task was cancelled"))
            raise SkipMessage("cancelled")
        assert isinstance(broker, StoreBroker)
        actor = served_actor(broker, message.actor_name)
        if actor and (apart := self.left_alone.settlement_of(actor, message)):
            message.settlement = apart
            raise SkipMessage("sent with another config")
        end = end_without_run(broker, message)
        if end is not None:
            action, outcome, error = end
            message.settlement = self._settle(broker, message, action, outcome, error=error)
            message.stuff_exception(error)
            raise SkipMessage(outcome)

    def after_skip_message(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,  # type: ignore[override]
    ) -> None:
        """Put the settlement of a message on it that a middleware has skipped."""
        action: Action = "bury" if message.failed else "complete"
        message.settlement = self._settle(broker, message, action, "cancelled", error=message.error)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,  # type: ignore[override]
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Put the settlement of a run on its message."""
        try:
            message.settlement = (
                self._completed(broker, message, result)
                if exception is None
                else self._failed(broker, message, exception)
            )
        except Exception as fault:  # noqa: BLE001 - no bug of ours may cost an answer
            self._log_fault(message, fault)
            ended = message.completed or result
            message.settlement = self._unmade(broker, message, fault, ended)

    def _log_fault(self, message: ClaimedMessage, fault: Exception) -> None:
        said = masking.masked(error_text(fault))
        where = "".join(traceback.format_tb(fault.__traceback__))
        kind = error_kind(fault)
        log.error(
            "no result could be made of a run: %s: %s\n%s", kind, said, where, extra=_bound(message)
        )

    def _completed(
        self, broker: dramatiq.Broker, message: ClaimedMessage, result: Any
    ) -> Settlement:
        if message.failed:
            error = AgentpipeError("a middleware marked the message as failed")
            return self._settle(broker, message, "bury", "agent_error", error=error)
        run = result if isinstance(result, Completed) else message.completed
        assert run is not None
        self._end_cooldowns(broker, message)
        return self._answered(broker, message, run)

    def _failed(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        if isinstance(error, Cancelled):
            return self._settle(broker, message, "complete", "cancelled")
        if isinstance(error, Interrupted):
            return self.released(message)
        if what := shortage_of(error):
            return self._short(broker, message, error, what)
        if self._is_plain(broker, message):
            return self._plain_failed(broker, message, error)
        return self._agent_failed(broker, message, error)

    def _agent_failed(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        if (end := _end_of(error)) is not None:
            return self._settle(broker, message, *end, error=error)
        limit = rate_limit(error)
        if limit is not None:
            return self._limited(broker, message, error, limit)
        return self._retry(broker, message, error)

    def reported(self) -> dict[str, Any]:
        """What a heartbeat says of configs and tasks that do not fit each other."""
        return {"configs": self.configs, "left_alone": self.left_alone.ids()}

    def settlement_of(self, broker: dramatiq.Broker, message: ClaimedMessage) -> Settlement:
        """The settlement of a message that ended; one without is buried, and the log says why."""
        if message.stranded:
            return self.stranded(broker, message, AgentpipeError(message.stranded))
        return message.settlement or self._unmade(broker, message)

    def exceeded(self, broker: dramatiq.Broker, message: ClaimedMessage) -> Settlement:
        """The settlement of a run that went beyond its time limit and cannot be stopped."""
        error = TimeLimitExceeded(time_limit_s(broker, message))
        if message.answered is not None:
            return self._unstoppable(broker, message, message.answered, error)
        self.after_process_message(broker, message, exception=error)
        return self.settlement_of(broker, message)

    def crashed(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: AgentCrashed
    ) -> Settlement:
        """The settlement of a run that ends its process; it runs again until ``max_crashes``."""
        if message.answered is not None:
            return self._unstoppable(broker, message, message.answered, error)
        reason = self._reason(error)
        return given_back(message, "crash", reason=reason)

    def released(self, message: ClaimedMessage) -> Settlement:
        """The settlement of a run that its worker's end interrupts; an answer goes with it."""
        run, settlement = message.answered, given_back(message, "release")
        if run is None:
            return settlement
        payload = payload_with_answer(message, run)
        return replace(settlement, payload=payload) if payload else settlement

    def _unstoppable(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,
        run: Completed,
        error: BaseException,
    ) -> Settlement:
        """Evaluators that end their process break their verdicts: the answer is paid for."""
        assert message.task is not None
        _, text = checked_answer(run.answer)
        broken = all_broken(message.task.evaluators, text, AgentFailed(f"evaluators: {error}"))
        return self._answered(broker, message, replace(run, evaluations=tuple(broken)))

    def stranded(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        """The settlement of a message that ended, but what follows it cannot be sent."""
        return self._settle(
            broker, message, "bury", "infra_error", error=error, run=message.completed
        )

    def _is_plain(self, broker: dramatiq.Broker, message: ClaimedMessage) -> bool:
        actor = served_actor(broker, message.actor_name)
        return actor is not None and not actor.takes_tasks

    def _unmade(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,
        fault: BaseException | None = None,
        ended: Any = None,
    ) -> Settlement:
        actor = served_actor(broker, message.actor_name)
        return unmade(
            message,
            fault,
            ended,
            collection=actor.collection if actor else None,
            worker=self._worker,
        )

    def _answered(
        self, broker: dramatiq.Broker, message: ClaimedMessage, run: Completed
    ) -> Settlement:
        if causes := services_failed(run):
            return self._unjudged(broker, message, run, causes)
        broken = any(evaluation.broken for evaluation in run.evaluations)
        outcome = "eval_error" if broken else "ok"
        return self._settle(broker, message, "complete", outcome, run=run)

    def _unjudged(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,
        run: Completed,
        causes: list[BaseException],
    ) -> Settlement:
        """Judge again later, with the answer kept: the agent is not paid twice."""
        for what in filter(None, map(shortage_of, causes)):
            self.capacity.reduce(what)
        actor = served_actor(broker, message.actor_name)
        payload = payload_with_answer(message, run)
        tried, allowed = tries_before(message, run), actor.limits.max_retries if actor else 0
        kept = bool(payload) or run.kept is not None
        if not kept or tried >= allowed or any(map(is_permanent, causes)):
            settlement = self._settle(broker, message, "bury", "eval_error", run=run)
            return replace(settlement, payload=payload, reason=reason_of_services(causes))
        delay_s = max(retry_delay_s(cause, self._retry_delay_s, tried) for cause in causes)
        log.warning(
            "a service of an evaluator failed: %s; try %d of %d follows in %.1f s",
            kinds_of(causes),
            tried + 2,
            allowed + 1,
            delay_s,
            extra=_bound(message),
        )
        reason = reason_of_services(causes)
        failure = run_failure(broker, message, "EvaluationError", reason, causes)
        again = given_back(message, "retry", reason=reason, delay_s=delay_s, failure=failure)
        return replace(again, payload=payload) if payload else again

    def _short(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException, what: str
    ) -> Settlement:
        """The machine ran out of something: not the task's doing, unless it happens each time."""
        self.capacity.reduce(what)
        if not self.capacity.may_return(message.claim.task_id):
            return self._retry(broker, message, error)
        reason = self._reason(error)
        return given_back(message, "release", reason=reason)

    def _retry(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        actor = served_actor(broker, message.actor_name)
        delay_s = actor.retry_delay_s(message, error, self._retry_delay_s) if actor else None
        if actor is None or delay_s is None:
            outcome = "infra_error" if actor is None else actor.outcome_of(error)
            return self._settle(broker, message, "bury", outcome, error=error)
        log.warning(
            "%s; run %d of %s follows in %.1f s",
            error_kind(error),
            message.retries + 2,
            actor.most_runs(message),
            delay_s,
            extra=_bound(message),
        )
        reason = self._reason(error)
        failure = run_failure(broker, message, error_kind(error), reason, [error])
        return given_back(message, "retry", reason=reason, delay_s=delay_s, failure=failure)

    def _plain_failed(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        if isinstance(error, AnswerError):  # It did all its work: once is enough.
            return self._settle(broker, message, "complete", "agent_error", error=error)
        return self._retry(broker, message, error)

    def _limited(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,
        error: BaseException,
        limit: RateLimit,
    ) -> Settlement:
        """The service is at its limit, which is not a failure: the run does not count."""
        actor, cooled_s = served_actor(broker, message.actor_name), message.claim.cooled_s
        allowed_s = actor.limits.max_cooldown_s if actor else 0.0
        if cooled_s >= allowed_s:
            ended = endless(error, cooled_s, allowed_s)
            return self._settle(broker, message, "bury", "infra_error", error=ended)
        most_s = bound_s(cooled_s, allowed_s)
        cooldown = Cooldown(min(limit.asked_s or 0.0, most_s))
        if actor and limit.of_credential:
            cooldown = self._cooldowns.begin(actor.credential, limit, most_s)
        log_cooldown(message, error, limit, cooldown)
        return given_back(
            message,
            "cooldown",
            reason=self._reason(error),
            delay_s=cooldown.delay_s,
            cooldown_queues=cooldown.queues,
        )

    def _end_cooldowns(self, broker: dramatiq.Broker, message: ClaimedMessage) -> None:
        if actor := served_actor(broker, message.actor_name):
            self._cooldowns.end(actor.credential)

    def _reason(self, error: BaseException) -> str:
        """Why a task runs again: masked, and short."""
        return shorten(masking.masked(error_line(error)), MAX_LAST_ERROR_CHARS)

    def _settle(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,
        action: Action,
        outcome: str,
        *,
        error: BaseException | None = None,
        run: Completed | None = None,
    ) -> Settlement:
        redactor = masking.redactor()
        failure = None if error is None else error_record(error, redactor)
        rollout = rollout_of(message, run, outcome, error)
        result = self._result(broker, message, outcome, failure=failure, run=run, rollout=rollout)
        encoded = result.encode(redactor)
        # An evaluator's error may quote the answer, and that may hold a credential.
        reason = EVALUATOR_BROKE if outcome == "eval_error" else ""
        causes = causes_of(run) if error is None else [error]
        if failure is not None:
            reason = redactor.text(f"{failure['type']}: {failure['message']}")
            # An error may quote the question or the answer: only the Result has it whole.
            log.warning("%s, %s", outcome, failure["type"], extra=_bound(message))
            log.debug("%s", reason[:300], extra=_bound(message))
        return Settlement(
            message.claim,
            action,
            encoded,
            outcome,
            reason[:MAX_ERROR_CHARS],
            reward=result.reward,
            **cost_of(message),
            config_hash=result.config_hash or "",
            member=member_end(message, result),
            failure=failure_of_end(broker, message, outcome, result.error, causes),
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
        score = reward(evaluations) if outcome == "ok" else None
        ran = run is not None or message.tracer is not None
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
            rewards=rewards(evaluations) if outcome == "ok" else {},
            reward_trustworthy=score is not None,
            error=failure or evaluation_error(evaluations),
            usage=usage_of(message),
            usage_total=total_of(message),
            rollout=rollout,
            worker=self._worker,
            config_hash=(actor.config_hash or None) if actor else None,
            submitted_at=utc(claim.submitted_at),
            started_at=utc(message.started_at) if ran else None,
        )


def _end_of(error: BaseException) -> tuple[Action, str] | None:
    """How the task ends with this error; None where a service failed, and it may run again."""
    if isinstance(error, AgentCrashed):
        return "bury", "crashed"  # Unlike a worker's death this is the task's own doing.
    if is_permanent(error):
        return "bury", "infra_error"
    if is_infra(error):
        return None
    return "complete", "limit" if isinstance(error, RunLimitExceeded) else "agent_error"


def _bound(message: ClaimedMessage) -> dict[str, Bound]:
    """Binds log lines about a run to it, wherever they are logged."""
    return {"bound": Bound(message.message_id, message.claim.queue)}
