"""Spending: the cost of a run, and the total of all runs of its task.

A task that is returned carries its total in its payload, so settling a run also stores its cost.
The worker that ends the task then knows the total without a query, on any broker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from agentpipe.brokers.records import Settlement
from agentpipe.core.budgets import tokens_in
from agentpipe.core.usage import NO_TOKENS, USD, Tokens, numbers_in, sum_of
from agentpipe.errors import TaskError
from agentpipe.evaluation.kept_answer import kept_usage

if TYPE_CHECKING:
    from agentpipe.brokers.records import Action, RunFailure
    from agentpipe.worker.running.message import ClaimedMessage


class Cost(TypedDict):
    """The cost fields of a settlement."""

    usd: float
    tokens: int
    tokens_by_kind: Tokens


def usage_of(message: ClaimedMessage) -> dict[str, Any]:
    """The run's usage; for a run that only judges, including that of the answering run."""
    return message.tracer.usage.to_dict() if message.tracer else {}


def total_of(message: ClaimedMessage) -> dict[str, Any]:
    """The known usage of all runs of the task."""
    before, usage = _spent_before(message), usage_of(message)
    return sum_of(before, usage) if before or usage else {}


def cost_of(message: ClaimedMessage) -> Cost:
    """The known cost of the run; for a run that only judges, the cost of its evaluators."""
    own = _own_usage(message)
    if not own:  # An agent that reports no usage can end a thousand runs a second.
        return {"usd": 0.0, "tokens": 0, "tokens_by_kind": NO_TOKENS}
    return {
        "usd": float(own.get(USD, 0.0)),
        "tokens": tokens_in(own),
        "tokens_by_kind": Tokens.of(own),
    }


def given_back(
    message: ClaimedMessage,
    action: Action,
    *,
    reason: str = "",
    delay_s: float = 0.0,
    failure: RunFailure | None = None,
    cooldown_queues: tuple[str, ...] = (),
) -> Settlement:
    """A settlement after which the task runs again, with its cost so far."""
    return Settlement(
        message.claim,
        action,
        reason=reason,
        delay_s=delay_s,
        failure=failure,
        cooldown_queues=cooldown_queues,
        payload=_payload_with_sum(message),
        **cost_of(message),
    )


def _own_usage(message: ClaimedMessage) -> dict[str, Any]:
    """The usage without what an earlier run spent on a kept answer."""
    usage = usage_of(message)
    if not usage:
        return {}
    before = kept_usage(message.task.answered if message.task else None)
    return {name: max(0, number - before.get(name, 0)) for name, number in usage.items()}


def _spent_before(message: ClaimedMessage) -> dict[str, float]:
    return numbers_in(message.task.spent_before if message.task else None)


def _payload_with_sum(message: ClaimedMessage) -> bytes:
    """Payload with the new total; empty if the run cost nothing: the task stays as it is."""
    own = _own_usage(message)
    if message.task is None or not any(own.values()):
        return b""
    try:
        return replace(message.task, spent_before=sum_of(_spent_before(message), own)).encode()
    except TaskError:  # From another worker, and too large for this version: it stays as it is.
        return b""
