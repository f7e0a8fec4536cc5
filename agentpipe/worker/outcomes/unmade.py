"""Settlements of runs whose own settlement failed: the Result reports that, with the answer.

A fault while settling must not lose the answer of a paid run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.records import Settlement
from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS
from agentpipe.core import masking
from agentpipe.core.failures import error_record
from agentpipe.core.masking import shorten
from agentpipe.core.result import Result
from agentpipe.core.timestamps import utc
from agentpipe.errors import AgentpipeError
from agentpipe.worker.running.runner import Completed

if TYPE_CHECKING:
    from typing import Any

    from agentpipe.worker.running.message import ClaimedMessage

WHY = "agentpipe failed to make a result of this run"


def unmade(
    message: ClaimedMessage,
    fault: BaseException | None,
    ended: Any,
    *,
    collection: str | None,
    worker: str,
) -> Settlement:
    """Bury the task as ``infra_error``, with the answer in its Result if there is one.

    Args:
        message: The message whose run has ended.
        fault: What went wrong; None if only the log shows it.
        ended: The ``Completed`` run, or whatever else the run returned.
        collection: The name of its actor's collection.
        worker: This worker's name.
    """
    redactor = masking.redactor()
    error = AgentpipeError(f"{WHY}: {fault or 'see the log'}")
    result = Result.of(
        message.task,
        result=ended.answer if isinstance(ended, Completed) else None,
        task_id=message.claim.task_id,
        collection=collection,
        agent=message.claim.queue,
        attempt=message.claim.failures + message.claim.crashes + 1,
        outcome="infra_error",
        error=error_record(error, redactor),
        worker=worker,
        submitted_at=utc(message.claim.submitted_at),
    )
    reason = shorten(redactor.text(str(error)), MAX_LAST_ERROR_CHARS)
    return Settlement(message.claim, "bury", result.encode(redactor), "infra_error", reason)
