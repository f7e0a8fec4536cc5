"""Tasks that must not run: unreadable, refused, crashed too often, or past their deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dramatiq.middleware import SkipMessage

from agentpipe.core.text import counted
from agentpipe.core.timestamps import utc
from agentpipe.errors import AgentpipeError, TaskError
from agentpipe.worker.outcomes.follow_ups import what_is_wrong
from agentpipe.worker.running.served_actor import served_actor

if TYPE_CHECKING:
    from agentpipe.brokers.records import Action
    from agentpipe.sending.broker import StoreBroker
    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.running.served_actor import ServedActor


def end_without_run(
    broker: StoreBroker, message: ClaimedMessage
) -> tuple[Action, str, BaseException] | None:
    """How to end a message that must not run; None if it can run."""
    if message.problem is not None:
        return "bury", "infra_error", message.problem
    actor = served_actor(broker, message.actor_name)
    if actor is None:
        unknown = AgentpipeError(f"no actor {message.actor_name!r} is known to this worker")
        return "bury", "infra_error", unknown
    if unfit := _why_unfit(broker, message, actor):
        return "bury", "infra_error", AgentpipeError(unfit)
    if refused := actor.refusals(message):
        return "bury", "infra_error", TaskError("; ".join(refused))
    return _too_often_or_late(message, actor)


def _why_unfit(broker: StoreBroker, message: ClaimedMessage, actor: ServedActor) -> str:
    if actor.takes_tasks and message.task is None:
        return "a plain message in an agent's queue"
    return what_is_wrong(broker, message)


def _too_often_or_late(
    message: ClaimedMessage, actor: ServedActor
) -> tuple[Action, str, BaseException] | None:
    crashes, task = message.claim.crashes, message.task
    if crashes >= actor.limits.max_crashes:
        died = f"its worker died {counted(crashes, 'time')} while it ran"
        return "bury", "crashed", AgentpipeError(died)
    if actor.is_too_old(message):
        return "complete", "stale", SkipMessage("Message age limit exceeded")
    deadline = task.deadline if task else None
    answered = task is not None and task.answered is not None  # It started in time.
    if deadline is not None and time.time() > deadline and not answered:
        return "complete", "stale", AgentpipeError(f"not started by its deadline, {utc(deadline)}")
    return None
