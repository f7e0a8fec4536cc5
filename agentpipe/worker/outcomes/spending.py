"""Spending: what a run cost, and what all runs of its task did.

A task that goes back carries its sum in its payload, so that the step that settles a run keeps what
it cost: the worker that ends the task knows it without asking, on any broker.
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
    """What settlements say of it."""

    usd: float
    tokens: int
    tokens_by_kind: Tokens


def usage_of(message: ClaimedMessage) -> dict[str, Any]:
    """The usage of its run; of one that only judges, with that of the run that gave the answer."""
    return message.tracer.usage.to_dict() if message.tracer else {}


def total_of(message: ClaimedMessage) -> dict[str, Any]:
    """The usage of all runs of its task, as far as it is known."""
    before, usage = _spent_before(message), usage_of(message)
    return sum_of(before, usage) if before or usage else {}


def cost_of(message: ClaimedMessage) -> Cost:
    """The cost of the run, as far as it is known; of one that only judges, of the evaluators."""
    own = _own_usage(message)
    if not own:  # Of an agent that reports none, which may end a thousand runs a second.
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
    """A settlement after which the task runs again, with what it has cost so far."""
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
    """Without what an earlier run spent on the answer that is kept."""
    usage = usage_of(message)
    if not usage:
        return {}
    before = kept_usage(message.task.answered if message.task else None)
    return {name: max(0, number - before.get(name, 0)) for name, number in usage.items()}


def _spent_before(message: ClaimedMessage) -> dict[str, float]:
    return numbers_in(message.task.spent_before if message.task else None)


def _payload_with_sum(message: ClaimedMessage) -> bytes:
    """Empty where the run has cost nothing: then the task stays as it is."""
    own = _own_usage(message)
    if message.task is None or not any(own.values()):
        return b""
    try:
        return replace(message.task, spent_before=sum_of(_spent_before(message), own)).encode()
    except TaskError:  # Another worker's task, too large for this version: it stays as it is.
        return b""
