"""A Result's rollout: what its run recorded, and why the run ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.core.result import LENGTH
from agentpipe.errors import Cancelled, RunLimitExceeded

if TYPE_CHECKING:
    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.running.runner import Completed

STOP, CANCELLED, ERROR = "stop", "cancelled", "error"


def rollout_of(
    message: ClaimedMessage,
    run: Completed | None,
    outcome: str,
    error: BaseException | None,
) -> dict[str, Any] | None:
    """The rollout of the run that ended, or that gave the answer; None if none was recorded."""
    if run is not None and run.kept is not None:
        return run.kept.rollout
    recorded = message.tracer.rollout if message.tracer else None
    return recorded.to_dict(_stop(run, outcome, error)) if recorded else None


def _stop(run: Completed | None, outcome: str, error: BaseException | None) -> str:
    if run is not None:
        return LENGTH if run.stop == LENGTH else STOP
    if isinstance(error, RunLimitExceeded):
        return error.stop
    cancelled = outcome == CANCELLED or isinstance(error, Cancelled)
    return CANCELLED if cancelled else ERROR
