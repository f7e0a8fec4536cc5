"""Results: a Dramatiq middleware that decides how each message is settled.

It only sets the settlement on the message. Dramatiq swallows exceptions from
``after_process_message`` and acks the message. So nothing that needs a server belongs here: the
consumer settles, and the outbox delivers.
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

from agentpipe.core import masking
from agentpipe.core.failures import (
    error_kind,
    error_text,
    is_infra,
    is_permanent,
    rate_limit,
)
from agentpipe.core.json_values import checked_answer
from agentpipe.core.shortage import shortage_of
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
from agentpipe.evaluation.evaluators import all_broken
from agentpipe.sending.broker import StoreBroker
from agentpipe.worker.outcomes.endings import Endings
from agentpipe.worker.outcomes.left_alone import LeftAlone
from agentpipe.worker.outcomes.returns import Returns
from agentpipe.worker.outcomes.spending import given_back
from agentpipe.worker.outcomes.unjudged import (
    payload_with_answer,
    services_failed,
)
from agentpipe.worker.outcomes.unmade import unmade
from agentpipe.worker.outcomes.unrun import end_without_run
from agentpipe.worker.running.runner import Completed
from agentpipe.worker.running.served_actor import served_actor, time_limit_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.records import Action, Settlement
    from agentpipe.worker.running.capacity import Capacity
    from agentpipe.worker.running.message import ClaimedMessage

log = logging.getLogger(__name__)


class ResultsMiddleware(dramatiq.Middleware):
    """Completes, buries, retries or releases each message, by how its run ended.

    Attributes:
        left_alone: Tasks that must not run here.
        configs: This worker's versions of its collections, for its heartbeat.
    """

    def __init__(
        self,
        worker: str,
        retry_delay_s: float,
        configs: Mapping[str, tuple[str, str, int]] = MappingProxyType({}),
    ) -> None:
        self.configs, self.left_alone = configs, LeftAlone()
        self._endings = Endings(worker)
        self._returns = Returns(self._endings, retry_delay_s)

    @property
    def capacity(self) -> Capacity:
        """Reduced when a run hits a shortage of the machine."""
        return self._returns.capacity

    def before_process_message(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,  # type: ignore[override]  # this broker passes no others
    ) -> None:
        """Skip messages that must not run: cancelled, unreadable, crashed too often, too late."""
        message.started_at = time.time()
        if message.claim.cancelled:
            message.settlement = self._endings.settle(broker, message, "complete", "cancelled")
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
            message.settlement = self._endings.settle(broker, message, action, outcome, error=error)
            message.stuff_exception(error)
            raise SkipMessage(outcome)

    def after_skip_message(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,  # type: ignore[override]  # this broker passes no others
    ) -> None:
        """Set the settlement of a message that a middleware skipped."""
        action: Action = "bury" if message.failed else "complete"
        message.settlement = self._endings.settle(
            broker, message, action, "cancelled", error=message.error
        )

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: ClaimedMessage,  # type: ignore[override]  # this broker passes no others
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Set the settlement of a run on its message."""
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
            "no result could be made of a run: %s: %s\n%s",
            kind,
            said,
            where,
            extra=message.log_extra,
        )

    def _completed(
        self, broker: dramatiq.Broker, message: ClaimedMessage, result: Any
    ) -> Settlement:
        if message.failed:
            error = AgentpipeError("a middleware marked the message as failed")
            return self._endings.settle(broker, message, "bury", "agent_error", error=error)
        run = result if isinstance(result, Completed) else message.completed
        assert run is not None
        self._returns.end_cooldowns(broker, message)
        return self._answered(broker, message, run)

    def _failed(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        if isinstance(error, Cancelled):
            return self._endings.settle(broker, message, "complete", "cancelled")
        if isinstance(error, Interrupted):
            return self.released(message)
        if what := shortage_of(error):
            return self._returns.short(broker, message, error, what)
        if self._is_plain(broker, message):
            return self._plain_failed(broker, message, error)
        return self._agent_failed(broker, message, error)

    def _agent_failed(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        if (end := _end_of(error)) is not None:
            return self._endings.settle(broker, message, *end, error=error)
        limit = rate_limit(error)
        if limit is not None:
            return self._returns.limited(broker, message, error, limit)
        return self._returns.retry(broker, message, error)

    def reported(self) -> dict[str, Any]:
        """Heartbeat fields about configs, and about tasks sent with another config."""
        return {"configs": self.configs, "left_alone": self.left_alone.ids()}

    def settlement_of(self, broker: dramatiq.Broker, message: ClaimedMessage) -> Settlement:
        """The settlement of an ended message; if it has none, bury it and log why."""
        if message.stranded:
            return self.stranded(broker, message, AgentpipeError(message.stranded))
        return message.settlement or self._unmade(broker, message)

    def exceeded(self, broker: dramatiq.Broker, message: ClaimedMessage) -> Settlement:
        """The settlement of a run that exceeded its time limit and cannot be stopped."""
        error = TimeLimitExceeded(time_limit_s(broker, message))
        if message.answered is not None:
            return self._unstoppable(broker, message, message.answered, error)
        self.after_process_message(broker, message, exception=error)
        return self.settlement_of(broker, message)

    def crashed(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: AgentCrashed
    ) -> Settlement:
        """The settlement of a run that ends its process; it is retried until ``max_crashes``."""
        if message.answered is not None:
            return self._unstoppable(broker, message, message.answered, error)
        return self._returns.crashed(message, error)

    def released(self, message: ClaimedMessage) -> Settlement:
        """The settlement of a run interrupted by its worker's end; it carries any answer."""
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
        """Keep the paid answer; evaluators that end their process get broken verdicts."""
        assert message.task is not None
        _, text = checked_answer(run.answer)
        broken = all_broken(message.task.evaluators, text, AgentFailed(f"evaluators: {error}"))
        return self._answered(broker, message, replace(run, evaluations=tuple(broken)))

    def stranded(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        """The settlement of an ended message whose follow-ups cannot be sent."""
        return self._endings.settle(
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
            worker=self._endings.worker,
        )

    def _answered(
        self, broker: dramatiq.Broker, message: ClaimedMessage, run: Completed
    ) -> Settlement:
        if causes := services_failed(run):
            return self._returns.judge_again(broker, message, run, causes)
        broken = any(evaluation.broken for evaluation in run.evaluations)
        outcome = "eval_error" if broken else "ok"
        return self._endings.settle(broker, message, "complete", outcome, run=run)

    def _plain_failed(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> Settlement:
        if isinstance(error, AnswerError):  # It did all its work, so it is not repeated.
            return self._endings.settle(broker, message, "complete", "agent_error", error=error)
        return self._returns.retry(broker, message, error)


def _end_of(error: BaseException) -> tuple[Action, str] | None:
    """How the task ends with this error; None if a service failed, and it can be retried."""
    if isinstance(error, AgentCrashed):
        return "bury", "crashed"  # Unlike a worker's death, the task itself caused this.
    if is_permanent(error):
        return "bury", "infra_error"
    if is_infra(error):
        return None
    return "complete", "limit" if isinstance(error, RunLimitExceeded) else "agent_error"
