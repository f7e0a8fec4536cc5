"""Returns: the settlements of tasks that run again, or that have used up their runs."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS
from agentpipe.core import masking
from agentpipe.core.failures import error_kind, error_line, is_permanent, retry_delay_s
from agentpipe.core.masking import shorten
from agentpipe.core.shortage import shortage_of
from agentpipe.worker.outcomes.cooldowns import (
    Cooldown,
    CredentialCooldowns,
    bound_s,
    endless,
    log_cooldown,
)
from agentpipe.worker.outcomes.run_failures import run_failure
from agentpipe.worker.outcomes.spending import given_back
from agentpipe.worker.outcomes.unjudged import (
    kinds_of,
    payload_with_answer,
    reason_of_services,
    tries_before,
)
from agentpipe.worker.running.capacity import Capacity
from agentpipe.worker.running.served_actor import served_actor

if TYPE_CHECKING:
    import dramatiq

    from agentpipe.brokers.records import Settlement
    from agentpipe.core.failures import RateLimit
    from agentpipe.errors import AgentCrashed
    from agentpipe.worker.outcomes.endings import Endings
    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.running.runner import Completed

log = logging.getLogger(__name__)


class Returns:
    """Returns tasks to their queues with a reason; ends tasks that have used up their runs.

    Attributes:
        capacity: Reduced when a run hits a shortage of the machine.
    """

    def __init__(self, endings: Endings, retry_delay_s: float) -> None:
        self.capacity = Capacity()
        self._endings, self._retry_delay_s = endings, retry_delay_s
        self._cooldowns = CredentialCooldowns()

    def retry(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        """Retry after a delay, or bury the task if its retries are used up."""
        actor = served_actor(broker, message.actor_name)
        delay_s = actor.retry_delay_s(message, error, self._retry_delay_s) if actor else None
        if actor is None or delay_s is None:
            outcome = "infra_error" if actor is None else actor.outcome_of(error)
            return self._endings.settle(broker, message, "bury", outcome, error=error)
        log.warning(
            "%s; run %d of %s follows in %.1f s",
            error_kind(error),
            message.retries + 2,
            actor.most_runs(message),
            delay_s,
            extra=message.log_extra,
        )
        reason = _reason(error)
        failure = run_failure(broker, message, error_kind(error), reason, [error])
        return given_back(message, "retry", reason=reason, delay_s=delay_s, failure=failure)

    def judge_again(
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
            settlement = self._endings.settle(broker, message, "bury", "eval_error", run=run)
            return replace(settlement, payload=payload, reason=reason_of_services(causes))
        delay_s = max(retry_delay_s(cause, self._retry_delay_s, tried) for cause in causes)
        log.warning(
            "a service of an evaluator failed: %s; try %d of %d follows in %.1f s",
            kinds_of(causes),
            tried + 2,
            allowed + 1,
            delay_s,
            extra=message.log_extra,
        )
        reason = reason_of_services(causes)
        failure = run_failure(broker, message, "EvaluationError", reason, causes)
        again = given_back(message, "retry", reason=reason, delay_s=delay_s, failure=failure)
        return replace(again, payload=payload) if payload else again

    def short(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException, what: str
    ) -> Settlement:
        """Release after a shortage of the machine: not the task's fault, unless it recurs."""
        self.capacity.reduce(what)
        if not self.capacity.may_return(message.claim.task_id):
            return self.retry(broker, message, error)
        reason = _reason(error)
        return given_back(message, "release", reason=reason)

    def limited(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,
        error: BaseException,
        limit: RateLimit,
    ) -> Settlement:
        """Wait for a service at its rate limit; that is no failure, so the run is not counted."""
        actor, cooled_s = served_actor(broker, message.actor_name), message.claim.cooled_s
        allowed_s = actor.limits.max_cooldown_s if actor else 0.0
        if cooled_s >= allowed_s:
            ended = endless(error, cooled_s, allowed_s)
            return self._endings.settle(broker, message, "bury", "infra_error", error=ended)
        most_s = bound_s(cooled_s, allowed_s)
        cooldown = Cooldown(min(limit.asked_s or 0.0, most_s))
        if actor and limit.of_credential:
            cooldown = self._cooldowns.begin(actor.credential, limit, most_s)
        log_cooldown(message, error, limit, cooldown)
        return given_back(
            message,
            "cooldown",
            reason=_reason(error),
            delay_s=cooldown.delay_s,
            cooldown_queues=cooldown.queues,
        )

    def crashed(self, message: ClaimedMessage, error: AgentCrashed) -> Settlement:
        """Settle a run that ends its process; it is retried until ``max_crashes``."""
        return given_back(message, "crash", reason=_reason(error))

    def end_cooldowns(self, broker: dramatiq.Broker, message: ClaimedMessage) -> None:
        """Note a successful run: its credential's next cooldown starts with the first pause."""
        if self._cooldowns and (actor := served_actor(broker, message.actor_name)):
            self._cooldowns.end(actor.credential)


def _reason(error: BaseException) -> str:
    """Why a task runs again: masked and short."""
    return shorten(masking.masked(error_line(error)), MAX_LAST_ERROR_CHARS)
