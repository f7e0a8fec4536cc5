"""Blame: whether a failed run is said to have failed of its request to a model, or of itself."""

from __future__ import annotations

from agentpipe.core.failures import is_infra, is_permanent
from agentpipe.core.shortage import shortage_of
from agentpipe.errors import AgentCrashed, AgentFailed, TimeLimitExceeded


class UnexplainedExit(AgentFailed):
    """A program ended with an exit status that does not say why."""


def explains(failure: Exception, error: Exception, *, gave_up: bool) -> bool:
    """Whether a request's ``failure`` replaces the ``error`` that the agent raised.

    ``gave_up`` says that the client hung up on the request: the error of something else also ends
    what the agent does beside it, and so closes connections.
    """
    if isinstance(error, (TimeLimitExceeded, AgentCrashed)):
        return False
    if gave_up and not (is_infra(error) or isinstance(error, UnexplainedExit)):
        return False
    return _weight(failure) >= _weight(error)


def _weight(error: Exception) -> tuple[bool, bool, bool]:
    """What an error says of the outside: the one that says more is kept."""
    return bool(shortage_of(error)), is_permanent(error), is_infra(error)
