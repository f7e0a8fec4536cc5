"""Plain failures: whether a plain Dramatiq actor is retried, as Dramatiq documents it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dramatiq.common import compute_backoff
from dramatiq.errors import Retry

from agentpipe.core.failures import is_infra
from agentpipe.core.retry_after import asked_delay_s
from agentpipe.errors import RunLimitExceeded

if TYPE_CHECKING:
    import dramatiq

    from agentpipe.worker.running.message import ClaimedMessage

# Dramatiq's default of 20 would retry broken work for days.
MAX_RETRIES = 2
# The same as Dramatiq's.
MAX_BACKOFF_MS = 7 * 86_400_000


def option(
    message: ClaimedMessage, actor: dramatiq.Actor[..., Any], name: str, default: Any = None
) -> Any:
    """The message's option, or its actor's."""
    return message.options.get(name, actor.options.get(name, default))


def retry_delay_s(
    message: ClaimedMessage, actor: dramatiq.Actor[..., Any], error: BaseException, base_s: float
) -> float | None:
    """Delay before the message runs again; None if it does not."""
    if not _may_retry(message, actor, error):
        return None
    if isinstance(error, Retry) and error.delay is not None:
        return float(error.delay) / 1000
    least = option(message, actor, "min_backoff", base_s * 1000)
    most = min(option(message, actor, "max_backoff", MAX_BACKOFF_MS), MAX_BACKOFF_MS)
    _, backoff_ms = compute_backoff(message.retries, factor=least, max_backoff=most)
    return max(float(backoff_ms) / 1000, asked_delay_s(error) or 0.0)


def most_retries(message: ClaimedMessage, actor: dramatiq.Actor[..., Any] | None) -> int | None:
    """Most retries of the message; None for no limit."""
    of_actor = actor.options.get("max_retries", MAX_RETRIES) if actor else MAX_RETRIES
    most: int | None = message.options.get("max_retries", of_actor)
    return most


def is_thrown(actor: dramatiq.Actor[..., Any] | None, error: BaseException | None) -> bool:
    """Whether the actor raises this error on purpose, to end its message."""
    throws = actor.options.get("throws") if actor else None
    return isinstance(error, throws or ())


def most_runs(message: ClaimedMessage, actor: dramatiq.Actor[..., Any]) -> str:
    """Most runs of the message, for the log."""
    allowed = most_retries(message, actor)
    if allowed is None or actor.options.get("retry_when") is not None:
        return "any number"
    return str(allowed + 1)


def outcome_of(error: BaseException) -> str:
    """The outcome of a message whose last run raised ``error``."""
    if isinstance(error, RunLimitExceeded):
        return "limit"
    return "infra_error" if is_infra(error) else "agent_error"


def _may_retry(
    message: ClaimedMessage, actor: dramatiq.Actor[..., Any], error: BaseException
) -> bool:
    retry_when = actor.options.get("retry_when")
    if message.failed or is_thrown(actor, error):  # Failed by a middleware, or on purpose.
        return False
    if retry_when is not None:
        return bool(retry_when(message.retries, error))
    allowed = most_retries(message, actor)
    return allowed is None or message.retries < allowed
