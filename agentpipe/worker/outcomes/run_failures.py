"""Run failures: what a collection's breaker counts of settled runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import RunFailure
from agentpipe.core import masking
from agentpipe.core.failure_digest import failure_digest
from agentpipe.core.shortage import shortage_of
from agentpipe.worker.running.served_actor import served_actor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import dramatiq

    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.running.runner import Completed

# Outcomes of failed runs; a run that exceeds a limit did work.
COUNTED = frozenset({"agent_error", "infra_error", "eval_error", "crashed"})


def run_failure(
    broker: dramatiq.Broker,
    message: ClaimedMessage,
    kind: str,
    text: str,
    causes: Iterable[BaseException],
) -> RunFailure | None:
    """A failure with this masked text; None without a breaker, or for a worker's shortage."""
    actor = served_actor(broker, message.actor_name)
    limit = actor.limits.breaker if actor else 0
    if not limit or any(map(shortage_of, causes)):
        return None
    own = (message.task.question, message.claim.task_id) if message.task else ()
    return RunFailure(failure_digest(kind, text, own), limit)


def failure_of_end(
    broker: dramatiq.Broker,
    message: ClaimedMessage,
    outcome: str,
    error: Mapping[str, Any] | None,
    causes: Iterable[BaseException],
) -> RunFailure | None:
    """The failure in a task's end, from its Result's ``error``; None if it is not counted."""
    ran = message.tracer is not None or outcome == "crashed"
    if outcome not in COUNTED or not ran or error is None:
        return None
    return run_failure(broker, message, error["type"], masking.masked(error["message"]), causes)


def causes_of(run: Completed | None) -> list[BaseException]:
    """The errors that broke evaluators."""
    return [each.cause for each in run.evaluations if each.cause is not None] if run else []
