"""What other actors and middleware see of a run, without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.core import masking
from agentpipe.core.failures import error_kind, error_text
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from agentpipe.worker.running.message import ClaimedMessage


def shown_answer(message: ClaimedMessage) -> Any:
    """The run's answer, masked for agents; a plain actor has no secrets."""
    assert message.completed is not None
    answer, agent = message.completed.answer, message.task is not None
    return masking.redactor().value(answer) if agent else answer


def shown_error(error: BaseException) -> BaseException:
    """The run's error, or a masked substitute."""
    said = error_text(error)
    masked = masking.masked(said)
    if masked == said:
        return error
    kind: type[BaseException] = type(error_kind(error), (AgentpipeError,), {})
    return kind(masked)
