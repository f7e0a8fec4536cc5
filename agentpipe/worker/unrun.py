"""Tasks that must not run: unreadable, crashed too often, or past their deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.core.timestamps import utc
from agentpipe.errors import AgentpipeError
from agentpipe.worker.served_actor import served_actor

if TYPE_CHECKING:
    import dramatiq

    from agentpipe.brokers.records import Action
    from agentpipe.worker.message import ClaimedMessage


def end_without_run(
    broker: dramatiq.Broker, message: ClaimedMessage
) -> tuple[Action, str, BaseException] | None:
    """What ends a message that must not run; None if it may."""
    if message.problem is not None:
        return "bury", "infra_error", message.problem
    actor, crashes, task = (
        served_actor(broker, message.actor_name),
        message.claim.crashes,
        message.task,
    )
    if actor is None:
        unknown = AgentpipeError(f"no actor {message.actor_name!r} is known to this worker")
        return "bury", "infra_error", unknown
    if actor.takes_tasks and task is None:
        return "bury", "infra_error", AgentpipeError("a plain message in an agent's queue")
    if crashes >= actor.limits.max_crashes:
        return "bury", "crashed", AgentpipeError(f"its worker died {crashes} times while it ran")
    deadline = task.deadline if task else None
    answered = task is not None and task.answered is not None  # It did start in time.
    if deadline is not None and time.time() > deadline and not answered:
        return "complete", "stale", AgentpipeError(f"not started by its deadline, {utc(deadline)}")
    return None
