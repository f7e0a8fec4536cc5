"""What a run shows outside its Result, to other actors and middleware: without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.core import masking
from agentpipe.core.failures import error_kind, error_text
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from agentpipe.worker.running.message import ClaimedMessage


def shown_answer(message: ClaimedMessage) -> Any:
    """What a run gave; a plain actor has no secrets."""
    assert message.completed is not None
    answer, agent = message.completed.answer, message.task is not None
    return masking.redactor().value(answer) if agent else answer


def shown_error(error: BaseException) -> BaseException:
    """The error of a run, or one like it."""
    said = error_text(error)
    masked = masking.masked(said)
    if masked == said:
        return error
    kind: type[BaseException] = type(error_kind(error), (AgentpipeError,), {})
    return kind(masked)
