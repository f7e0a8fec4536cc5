"""Answers kept with their task because a service of an evaluator failed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentpipe.core import masking
from agentpipe.core.failures import error_kind, is_permanent
from agentpipe.errors import AgentpipeError
from agentpipe.evaluation.kept_answer import KeptAnswer
from agentpipe.worker.outcomes.rollouts import rollout_of
from agentpipe.worker.outcomes.spending import usage_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.evaluation.evaluators import Evaluation
    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.running.runner import Completed


def services_failed(run: Completed) -> list[BaseException]:
    """Why no verdict was possible, if only services failed; empty if an evaluator broke."""
    causes = [evaluation.cause for evaluation in run.evaluations if evaluation.broken]
    found = [cause for cause in causes if cause is not None]
    return found if len(found) == len(causes) else []


def tries_before(message: ClaimedMessage, run: Completed) -> int:
    """How often its evaluators have been retried."""
    return message.claim.failures - run.kept.failures if run.kept else 0


def attempt_of(message: ClaimedMessage, run: Completed | None) -> int:
    """Number of the agent's run that gave the answer, or of the run that gave none."""
    if run is not None and run.kept is not None:
        return run.kept.attempt
    ran = run is not None or message.tracer is not None
    return message.claim.failures + message.claim.crashes + int(ran)


def payload_with_answer(message: ClaimedMessage, run: Completed) -> bytes:
    """The task with its answer, for a later run that only judges.

    Empty if nothing changes: the task has the answer already, or the answer cannot be kept.
    """
    task = message.task
    if task is None or not run.keepable or run.kept is not None:
        return b""
    kept = KeptAnswer(
        run.answer,
        attempt=attempt_of(message, run),
        failures=message.claim.failures,
        usage=usage_of(message),
        trace=message.tracer.spans if message.tracer else [],
        stop=run.stop,
        by_agent=run.by_agent,
        rollout=rollout_of(message, run, "ok", None),
    )
    sealed = kept.sealed(run.env, masking.redactor())
    return b"" if sealed is None else replace(task, answered=sealed).encode()


def reason_of_services(causes: Sequence[BaseException]) -> str:
    """Why they could not judge, without the error texts: those can quote the answer."""
    kinds = kinds_of(causes)
    return f"EvaluationError: an evaluator's service failed ({kinds}); the result says how"


def kinds_of(causes: Sequence[BaseException]) -> str:
    """The kinds of the services' errors, each once."""
    return ", ".join(dict.fromkeys(map(_kind_below, causes)))


def _kind_below(error: BaseException) -> str:
    """The kind of the user function's error, below our own error."""
    below = error.__cause__ if isinstance(error, AgentpipeError) else None
    return error_kind(below or error)


def evaluation_error(evaluations: Sequence[Evaluation]) -> dict[str, Any] | None:
    """The Result's error: that of the first broken evaluation."""
    for each in evaluations:
        if each.broken:
            record = {"type": "EvaluationError", "message": each.error, "traceback": None}
            lasting = each.cause is not None and is_permanent(each.cause)
            return {**record, "permanent": True} if lasting else record
    return None
